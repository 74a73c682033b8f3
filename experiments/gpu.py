"""What a GPU does with SMT, DMT, NextLat and BPTT: all measurements in one call.

    python experiments/gpu.py OUT [--small]

It is made to take less than ten minutes on one GPU (not measured yet). It writes
OUT/gpu.json and, if matplotlib is installed, OUT/gpu.png. With --small the networks and
the runs are tiny, and it works on the CPU, too.

  copy      whole runs of the task copy, in bf16 and in fp32: the RNN against seconds
  updates   milliseconds of an update and the most memory that it takes: each method
            at the default sizes, with --compile, and at the authors' sizes
  resume    whether a run that was stopped and resumed ends at the same weights
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import bptt_baseline
import nextlat
import smt

SMALL = "--dim 16 --memory-tokens 2 --batch-size 4 --length 2 --delay 3".split()
SMALL_SMT = "--width 16 --encoder-depth 1 --dmt-batch-size 4".split()
PROGRAMS = {"smt": smt, "nextlat": nextlat, "dmt": smt, "bptt": bptt_baseline}
COLOURS = {"smt": "#0072B2", "dmt": "#009E73", "bptt": "#D55E00", "nextlat": "#CC79A7"}
# Options of an update by name. At the authors' sizes T = 256: 2 * 8 + 240.
SIZES = {
    "default": [],
    "default, compiled": ["--compile"],
    "authors' sizes": ["--preset", "paper", "--delay", "240"],
}


def wait_for_the_device(device: str):
    """Return when the device has done all that it was asked for."""
    if device != "cpu":
        torch.accelerator.synchronize()


def whole_run(precision: str, out: Path, options: list[str]) -> list[dict]:
    """The metrics of a run of copy."""
    directory = out / f"copy-{precision}"
    argv = ["--task", "copy", "--precision", precision, "--out", str(directory)]
    if smt.main(argv + options) != 0:
        raise SystemExit(f"the run in {directory} failed")
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def make_update(name: str, options: list[str]) -> tuple:
    """A function that does an update in the phase of this name; the device, T and B."""
    program = PROGRAMS[name]
    argv = ["--task", "copy", "--out", "runs/none", *options]
    args, run, source = program.settings(argv)
    task, models = program.start(args, run, source)
    phase = next(p for p in program.phases(args) if p.name == name)
    program.set_trained(models, phase)
    optimizers = program.make_optimizers(models, phase.peak_rate)
    program.set_rates(optimizers, 1, 100)
    loss = program.Loss(models, phase.loss_fn, args)

    def update(index: int):
        batch = program.draw_batch(task, phase.batch_size, index, 0.5, args)
        program.update(models, optimizers, loss, batch)

    return update, args.device, task.T, phase.batch_size


def measure_updates(name: str, options: list[str], updates: int) -> dict:
    """Milliseconds of an update and GiB at most, in the phase of this name."""
    update, device, T, B = make_update(name, options)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for index in range(3):  # these warm up, and compile
        update(index)
    wait_for_the_device(device)
    begin = time.perf_counter()
    for index in range(3, 3 + updates):
        update(index)
    wait_for_the_device(device)
    milliseconds = 1000 * (time.perf_counter() - begin) / updates
    figures = {"ms": milliseconds, "batch": B, "T": T}
    if device == "cuda":
        figures["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def resumed_alike(out: Path, updates: int, options: list[str]) -> float:
    """The largest difference of weights between a run and one that went on halfway.

    updates is even. Each of the two phases has as many, and two evaluations.
    """
    few_updates = (
        f"--updates {updates} --dmt-updates {updates} --eval-every {updates // 2}"
    )
    short = [*options, *few_updates.split()]
    weights = []
    for name, stopped in (("whole", False), ("stopped", True)):
        argv = ["--task", "copy", "--out", str(out / name), *short]
        if stopped:
            usual, smt.evaluate = smt.evaluate, stop_at_the_third(smt.evaluate)
            status = smt.main(argv)
            smt.evaluate = usual
            if status != 130:
                raise SystemExit("the run that had to stop went on to its end")
            argv.append("--resume")
        smt.main(argv)
        run = torch.load(out / name / "checkpoint.pt", weights_only=True)
        weights.append(run["models"])
    gaps = [(weights[0][n] - weights[1][n]).abs().max().item() for n in weights[0]]
    return max(gaps)


def stop_at_the_third(evaluate):
    """An evaluation that acts as Ctrl-C does when it is called for the third time."""
    calls = []

    def evaluate_or_stop(*inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*inputs)

    return evaluate_or_stop


def draw(found: dict, path: Path):
    """Left the RNN of copy against seconds, right milliseconds of an update."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for precision, metrics in found["copy"].items():
        seconds = [line["seconds"] for line in metrics]
        left.plot(seconds, [line["rnn_acc"] for line in metrics], label=precision)
    left.set(xlabel="seconds of training", ylabel="RNN alone, share right", ylim=(0, 1))
    left.legend()
    names = [name for name, what in found["updates"].items() if "ms" in what]
    values = [found["updates"][name]["ms"] for name in names]
    right.barh(names, values, color=[COLOURS[name.split()[0]] for name in names])
    right.set(xlabel="milliseconds of an update", xscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a new directory")
    parser.add_argument("--small", action="store_true", help="tiny, also on a CPU")
    args = parser.parse_args(argv)
    if not (args.small or torch.cuda.is_available()):
        parser.error("there is no GPU here; --small works on a CPU")
    args.out.mkdir(parents=True)
    tiny = SMALL if args.small else []
    tiny_smt = [*tiny, *SMALL_SMT] if args.small else []
    short = ["--updates", "2", "--dmt-updates", "2"] if args.small else []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {"torch": torch.__version__, "device": device, "copy": {}, "updates": {}}
    if device == "cuda":
        found["device"] = torch.cuda.get_device_name()
    for precision in ("fp32", "bf16"):
        found["copy"][precision] = whole_run(precision, args.out, tiny_smt + short)
    found["resume"] = resumed_alike(args.out, 4 if args.small else 20, tiny_smt)
    for size, options in SIZES.items():
        if args.small and size != "default":
            continue
        for name in PROGRAMS:
            more = tiny if name == "bptt" else tiny_smt
            try:
                figures = measure_updates(name, options + more, 2 if args.small else 20)
            except torch.OutOfMemoryError:
                figures = {"failed": "out of memory"}
            found["updates"][f"{name} {size}"] = figures
            (args.out / "gpu.json").write_text(json.dumps(found, indent=1))
    if importlib.util.find_spec("matplotlib"):
        draw(found, args.out / "gpu.png")
    print(json.dumps(found["updates"], indent=1))


if __name__ == "__main__":
    main()
