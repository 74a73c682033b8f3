"""Do the tests of method and tasks find bugs? Put bugs into copies, and see.

    python experiments/mutants.py            all of them; some 20 s each
    python experiments/mutants.py N ..       only these

A mutant names a function and what to replace in it. Code is compared without its layout
and comments (ast.unparse), so a mutant outlives a new layout. A function that several
programs share is changed in all of them. The exit status is 1 if a bug is not found.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = ("smt.py", "bptt_baseline.py", "nextlat.py", "data.py")

# (class or function, what stands there, what the mutant has instead)
MUTANTS = [
    ("rotary", "angle.sin()", "angle.cos()"),
    ("attention", "is_causal=causal", "is_causal=True"),
    ("Block", "h + self.out(attended)", "self.out(attended)"),
    ("Encoder", "F.pad(h.transpose(1, 2), (3, 0))", "F.pad(h.transpose(1, 2), (2, 1))"),
    ("Encoder", "causal=True)\n        labels", "causal=False)\n        labels"),
    ("Decoder", "h[:, K - 1:]", "h[:, K - 2:-1]"),
    ("Readout", "h[:, -1]", "h[:, 0]"),
    ("RNN", "memory = memory.detach()", "pass"),
    ("cross_entropy", "(y >= 0).sum()", "(y >= -1).sum()"),
    ("read_loss", "memories[:, first:]", "memories[:, :memories.shape[1] - first]"),
    ("smt_loss", "args.lambda_dyn * batch.progress", "args.lambda_dyn"),
    (
        "dynamics_loss",
        "all_labels[:, :-1].flatten",
        "all_labels[:, :-1].detach().flatten",
    ),
    ("decode_loss", "x[:, t + 1:end]", "x[:, t:end - 1]"),
    ("uniformity_loss", "offset=1", "offset=0"),
    ("random_times", "batch.first_target + 1", "batch.first_target"),
    ("hand_over_to_rnn", "rnn.empty_memory.copy_(all_labels[0, 0])", "pass"),
    ("random_cuts", "range(first_cut, T, H)", "range(first_cut, T, H + 1)"),
    ("dmt_loss", "0.1 * (1 - batch.progress)", "0.1 * batch.progress"),
    ("dmt_loss", "to_read = memories.detach()", "to_read = memories"),
    ("nextlat_loss", "labels[:, a:].detach()", "labels[:, a:]"),
    ("nextlat_loss", "batch.x[:, a:]", "batch.x[:, :T - a]"),
    ("draw_batch", "seeded(args.seed, index, ", "seeded(args.seed, "),
    ("train", "progress = done / total", "progress = index / total"),
    ("make_optimizers", "5 * peak", "peak"),
    ("score", "ignore_index=-1", "ignore_index=0"),
    ("Copy", "answer[:, :-1]", "answer[:, 1:]"),
]


def mutate(source: str, name: str, old: str, new: str) -> str:
    """The source with a bug in its class or function of this name, if it has one."""
    tree = ast.parse(source)
    for i, node in enumerate(tree.body):
        if getattr(node, "name", None) == name:
            code = ast.unparse(node)
            if code.count(old) != 1:
                sys.exit(f"mutant of {name}: {old!r} stands there {code.count(old)} x")
            tree.body[i] = ast.parse(code.replace(old, new)).body[0]
    return ast.unparse(tree)


def is_found(name: str, old: str, new: str) -> bool:
    """Whether test_smt.py or test_data.py fails on copies with this bug."""
    with tempfile.TemporaryDirectory() as folder:
        for program in PROGRAMS:
            source = (ROOT / program).read_text()
            (Path(folder) / program).write_text(mutate(source, name, old, new))
        for tests in ("test_smt.py", "experiments/test_data.py"):
            shutil.copy(ROOT / tests, folder)
        # These compare texts, and so would find any bug.
        others = ["--deselect=test_smt.py::test_lines_have_at_most_88_columns"]
        others += ["-k", "not to_the_letter"]
        call = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*call, *others], cwd=folder, env=environment, capture_output=True
        )
    if done.returncode not in (0, 1):
        sys.exit(done.stdout.decode())
    return done.returncode == 1


def main(argv: list[str]) -> int:
    """Try the mutants of these numbers, or all."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("numbers", nargs="*", type=int, metavar="N")
    chosen = parser.parse_args(argv).numbers or range(len(MUTANTS))
    if not set(chosen) <= set(range(len(MUTANTS))):
        parser.error(f"N {max(chosen)}: give numbers in 0 .. {len(MUTANTS) - 1}")
    missed = 0
    for number in chosen:
        name, old, new = MUTANTS[number]
        found = is_found(name, old, new)
        missed += not found
        verdict = "found" if found else "NOT FOUND"
        print(f"{number:2} {verdict}  {name}: {old} -> {new}".replace("\n", " "))
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
