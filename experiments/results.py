"""The table of runs, results/runs.jsonl, and the README's tables that are made of it.

    python experiments/results.py add NAME RUN --command TEXT --machine TEXT
    python experiments/results.py tables
    python experiments/results.py export RUN DIR

add writes the metrics of the finished run in the directory RUN into the table, with the
command, the commit that is checked out, and the machine; a run of the same NAME is
replaced. tables writes the README's tables anew. export copies a run without what only
training needs: --sample and smt.load take it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "results/runs.jsonl"
README = ROOT / "README.md"

# Name of a run by SMT -> DMT, what the README calls it, and the level of chance.
TASKS = {
    "copy, seed 0": ("copy, seed 0", "12.5 %"),
    "copy, seed 2": ("copy, seed 2", "12.5 %"),
    "copy, seed 3": ("copy, seed 3", "12.5 %"),
    "retrieval, seed 2": ("retrieval, seed 2", "12.5 %"),
    "stack, seed 0": ("stack", "25 %"),
    "parity, seed 0": ("parity", "50 %"),
    "modular, seed 0": ("modular", "14.3 %"),
    "recall, seed 0": ("recall", "12.5 %"),
    "text, seed 2": ("text, seed 2", "5.55 nats"),
    "pixels, seed 0": ("pixels", "1.39 nats"),
}
CELLS = {"mlp": "MLP", "gru": "GRU", "transformer": "Transformer"}


def read_runs() -> dict[str, dict]:
    """The runs by name."""
    lines = RUNS.read_text().splitlines()
    return {run["run"]: run for run in map(json.loads, lines)}


def add(name: str, directory: str, command: str, machine: str):
    """Put a finished run into the table."""
    lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    if metrics[-1]["phase"] != "final":
        sys.exit(f"{directory}: this run is not finished")
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True)
    run = {
        "run": name,
        "commands": [{"command": command, "commit": commit.stdout.strip()}],
        "machine": machine,
        "final": metrics[-1],
        "metrics": metrics,
    }
    runs = read_runs() | {name: run}
    RUNS.write_text("".join(json.dumps(run) + "\n" for run in runs.values()))


def shown(task: str, figures: dict, who: str = "rnn", times: str = "") -> str:
    """The figure that counts in a task: nats, or the share of right answers."""
    if task in ("text", "pixels"):
        return f"{figures[f'{who}_loss{times}']:.3f} nats"
    return f"{100 * figures[f'{who}_acc{times}']:.2f} %"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_of_tasks(runs: dict[str, dict]) -> str:
    """SMT -> DMT in all tasks."""
    head = "task|chance|before DMT|RNN alone|its teacher|updates|seconds".split("|")
    rows = []
    for name, (called, chance) in TASKS.items():
        task, final = name.split(",")[0], runs[name]["final"]
        phases = [line["phase"] for line in runs[name]["metrics"]]
        smt = runs[name]["metrics"][phases.index("dmt") - 1]
        alone = f"**{shown(task, final)}**"
        if "rnn_acc_8x" in final:
            alone += f"; at 8 times the length {shown(task, final, times='_8x')}"
        before, teacher = shown(task, smt), shown(task, final, "teacher")
        updates = f"{smt['step']:,} + {final['step'] - smt['step']:,}"
        seconds = f"{final['seconds']:.0f}"
        rows.append([called, chance, before, alone, teacher, updates, seconds])
    return table(head, rows)


def table_of_methods(runs: dict[str, dict]) -> str:
    """SMT -> DMT beside BPTT, with each cell, in two tasks."""
    head = ["task, cell", "method", "rate", "RNN alone", "seconds", "layers in a row"]
    rows = []
    for task in ("copy", "text"):
        for cell, called in CELLS.items():
            pair = {}
            for method in ("SMT → DMT", "BPTT"):
                prefix = "bptt" if method == "BPTT" else "smt"
                pair[method] = runs[f"{prefix}, {task}, {cell}"]
            losses = {method: run["final"]["rnn_loss"] for method, run in pair.items()}
            for method, run in pair.items():
                final = run["final"]
                found = shown(task, final)
                if losses[method] == min(losses.values()):
                    found = f"**{found}**"
                seconds, depth = f"{final['seconds']:.0f}", f"{final['depth']:,}"
                rate = option(run, "--lr") or "default"
                rows.append([f"{task}, {called}", method, rate, found, seconds, depth])
    return table(head, rows)


def option(run: dict, name: str) -> str:
    """The value of an option in the command of a run, or nothing."""
    words = run["commands"][-1]["command"].split()
    return words[words.index(name) + 1] if name in words else ""


TABLES = {"tasks": table_of_tasks, "methods": table_of_methods}


def with_tables(text: str, runs: dict[str, dict]) -> str:
    """The text with each table anew, between the comments that mark it."""
    for name, made in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", f"\n<!-- end: {name} -->"
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = before + begin + made(runs) + end + after
    return text


def export(directory: str, goal: str):
    """Copy a run without encoder, decoder and optimisers; the RNN in fp16."""
    run = torch.load(Path(directory) / "checkpoint.pt", weights_only=True)
    run["optimizers"] = {}
    run["models"] = {
        name: value.half()
        for name, value in run["models"].items()
        if name.startswith("rnn.")
    }
    Path(goal).mkdir(parents=True, exist_ok=True)
    torch.save(run, Path(goal) / "checkpoint.pt")


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("name")
    adding.add_argument("run")
    adding.add_argument("--command", required=True)
    adding.add_argument("--machine", required=True)
    commands.add_parser("tables")
    exporting = commands.add_parser("export")
    exporting.add_argument("run")
    exporting.add_argument("dir")
    args = parser.parse_args(argv)
    if args.what == "add":
        add(args.name, args.run, args.command, args.machine)
    elif args.what == "export":
        export(args.run, args.dir)
    else:
        README.write_text(with_tables(README.read_text(), read_runs()))


if __name__ == "__main__":
    main()
