"""How fast a step of SMT, DMT and BPTT is, and what share of the machine that takes.

    python bench.py --preset paper --batch-size 16 --json bench.json
    python bench.py --growth                    seconds and memory against T, of SMT and of BPTT
    python bench.py --profile smt               where a step's time goes, by operation

Options other than those below go to smt.py and bptt_baseline.py, where they have them. Each method
is measured in a process of its own: the peak of its memory is its alone. --preset paper means text,
T = 256, 16 labels a sequence, each decoded, and for DMT batches of 32; other options go over that.
On CUDA it also sets --compile, --seconds 60 and --long 1024: all that is asked of a GPU, in one
call of less than ten minutes.

labels_per_second     SMT: transitions n B; DMT: labels n B that memories are compared with; BPTT:
                      targets scored; each over the median seconds of a whole optimiser step
flops_per_second      products of matrices alone, from the sizes met in the step: 2 a weight and
                      row, 4 d a pair of tokens that attend to one another (masked pairs count
                      nothing), thrice that where a gradient flows back
share_of_matrix_rate  of the rate that the step's own products reach alone, one after another
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import bptt_baseline
import smt
from run import Parser, UsageError, number, random_bits, whole, write

METHODS = {"smt": (smt, 0), "dmt": (smt, -1), "bptt": (bptt_baseline, 0)}  # program, its phase
GROWTH = [64, 128, 256, 512, 1024, 2048]
PAPER = "--task text --length 256 --labels 16 --decoded 16 --future 64 --context 256".split()
LABELS, STEPS = 19.2e6, 1500  # the authors' labels in SMT, steps of DMT (their notebook)


def options(program) -> set[str]:
    """The names of a program's options."""
    return {name for action in program.parser()._actions for name in action.option_strings}


def one_step(method: str, argv: list[str], flags: list[str]):
    """-> args, step: a function that takes an optimiser step of the method -> its targets y."""
    program, phase = METHODS[method]
    own = []
    for name, value in zip(argv[::2], argv[1::2]):
        own += [name, value] if name in options(program) else []
    args, task, models, _ = program.settings([*own, *flags, "--out", "runs/bench"])
    _, loss_of, names, _, rate = program.phases(args)[phase]
    trained = nn.ModuleList(models[name] for name in names)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=rate / 100, **program.ADAMW)
    rows = torch.arange(args.batch_size, device=args.device)

    def step(n):
        x, y = task.batch("train", n, rows)
        bits = random_bits((args.seed, method, n), rows, task.T)
        program.update(models, trained, optimizer, loss_of, (x, y, bits, 0.5), args)
        return y

    return args, step


def clock(device: str) -> float:
    """Seconds, once all work that the device was given is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work, repeat: int, device: str, least: float = 0) -> list[float]:
    """Seconds of each of so many calls, and more until the least is spent, in order of size.

    After one call that is not counted.
    """
    times = []
    while len(times) <= repeat or sum(times[1:]) < least:
        start = clock(device)
        work(len(times))
        times.append(clock(device) - start)
    return sorted(times[1:])


class Counter:
    """While entered: flops of the products made, and shapes (rows, in, out) of the linear ones."""

    def __enter__(self):
        self.flops, self.shapes = 0, {}
        self.hook = nn.modules.module.register_module_forward_hook(self.count)
        return self

    def __exit__(self, *_):
        self.hook.remove()

    def linear(self, rows, size, out, times):
        self.flops += times * 2 * rows * size * out
        self.shapes[rows, size, out] = self.shapes.get((rows, size, out), 0) + times

    def count(self, module, inputs, output):
        passes = 3 if output.__class__ is torch.Tensor and output.requires_grad else 1
        if isinstance(module, nn.Linear):
            size, out = module.in_features, module.out_features
            self.linear(inputs[0].numel() // size, size, out, passes)
        elif isinstance(module, nn.GRUCell):
            for size in module.input_size, module.hidden_size:
                self.linear(len(inputs[0]), size, 3 * module.hidden_size, passes)
        elif isinstance(module, (smt.Block, bptt_baseline.Block)):
            h, _, mask = inputs
            N, S, d = h.shape
            pairs = N * S * S if mask is None else mask.expand(N, 1, S, S).sum().item()
            self.flops += passes * 4 * d * pairs


def matrix_rate(shapes: dict, args) -> float:
    """FLOP/s of products of these shapes, each as often as told, one after another."""
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    flops = spent = 0
    for (rows, size, out), times in shapes.items():
        a = torch.randn(rows, size, device=args.device, dtype=dtype)
        b = torch.randn(out, size, device=args.device, dtype=dtype)
        spent += times * statistics.median(seconds(lambda n: F.linear(a, b), 5, args.device))
        flops += times * 2 * rows * size * out
    return flops / spent


def measure(method: str, repeat: int, least: float, argv: list[str], flags: list[str]) -> dict:
    """The figures of one method, as bench.py writes them."""
    args, step = one_step(method, argv, flags)
    times = seconds(step, repeat, args.device, least)
    middle = statistics.median(times)
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, step = one_step(method, argv, [])  # compiled networks tell the counter nothing
    with Counter() as counter:
        targets = int((step(0) >= 0).sum())
    labels = targets if method == "bptt" else args.batch_size * args.labels
    own, large = matrix_rate(counter.shapes, args), matrix_rate({(4096,) * 3: 1}, args)
    return {
        "labels_per_second": labels / middle,
        "seconds_per_step": middle,
        "seconds_fastest": times[0],
        "seconds_slowest": times[-1],
        "peak_bytes": peak,
        "flops_per_second": counter.flops / middle,
        "share_of_matrix_rate": counter.flops / middle / own,
        "matrix_rate": own,
        "matrix_rate_4096": large,
        "options": [*argv, *flags],
    }


def in_child(method: str, args, argv: list[str], name: str = "") -> dict:
    """measure() in a new process, printed too; UsageError with its own line if that fails."""
    command = [sys.executable, __file__, "--only", method, "--repeat", str(args.repeat)]
    command += ["--seconds", str(args.seconds), *["--compile"] * args.compile, *argv]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["stopped"])[-1]
        raise UsageError(last.removeprefix("bench.py: "))
    found = json.loads(child.stdout.splitlines()[-1])
    print(line(name or method, found), flush=True)
    return found


def best_batch(method: str, args, argv: list[str], first: dict, batch: int) -> dict:
    """Double the batch until no more labels a second come of it, or memory ends -> the best."""
    best = first | {"batch_size": batch}
    while True:
        try:
            batch *= 2
            more = [*argv, "--batch-size", str(batch)]
            found = in_child(method, args, more, f"{method} x{batch}") | {"batch_size": batch}
        except UsageError as error:  # mostly memory
            print(f"{method:>9}  batch {batch}: {error}", flush=True)
            return best
        if found["labels_per_second"] < 1.05 * best["labels_per_second"]:
            return best
        best = found


def compare(args, others: list[str]) -> dict:
    """Steps of SMT and of BPTT at T = args.long: at batch 32, and of the best batch."""
    args, found = argparse.Namespace(**vars(args) | {"seconds": 0.0, "repeat": 3}), {}
    for method in "smt", "bptt":
        argv = [*others, "--length", str(args.long)]
        at_32 = in_child(method, args, [*argv, "--batch-size", "32"], f"{method} {args.long}")
        found[method] = {"batch_32": at_32, "best": best_batch(method, args, argv, at_32, 32)}
    steps = [found[method]["batch_32"]["seconds_per_step"] for method in ("bptt", "smt")]
    found["bptt_over_smt"] = steps[0] / steps[1]
    print(f"an optimiser step of BPTT takes {found['bptt_over_smt']:.1f} times as long as SMT's")
    return found


def profile(method: str, argv: list[str], flags: list[str]) -> str:
    """Where a step's time goes, by operation: a table."""
    args, step = one_step(method, argv, flags)
    step(0)
    with torch.profiler.profile() as found:
        step(1)
        clock(args.device)
    order = f"self_{args.device}_time_total"
    return found.key_averages().table(sort_by=order, row_limit=16, max_name_column_width=50)


def line(name, found: dict) -> str:
    """The figures of a method in a line of text."""
    return (
        f"{name:>9}  {found['labels_per_second']:9.1f} labels/s  {found['seconds_per_step']:8.4f} s"
        f" ({found['seconds_fastest']:.4f} to {found['seconds_slowest']:.4f})"
        f"  {found['peak_bytes'] / 2**20:6.0f} MiB  {found['flops_per_second'] / 1e9:8.1f} GFLOP/s:"
        f" {found['share_of_matrix_rate']:4.0%} of its own products'"
        f" {found['matrix_rate'] / 1e9:.0f}, at 4096^3 {found['matrix_rate_4096'] / 1e9:.0f}"
    )


def settings(argv: list[str]) -> tuple:
    """The options -> bench.py's own, the programs'; UsageError for wrong ones."""
    p = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add("--repeat", 7, whole(1), "steps timed, of which the median counts")
    p.add("--seconds", 0.0, number(0), "time more steps until so many seconds are spent")
    p.add("--json", None, str, "file to write the figures to")
    p.add("--long", 0, whole(0), "compare SMT and BPTT at this T, too, at batch 32 and the best")
    p.add_argument("--growth", action="store_true", help=f"of copy at T = {GROWTH}")
    p.add_argument("--compile", action="store_true", help="compile the networks")
    p.add("--profile", None, [*METHODS], "print where a step of a method spends its time")
    p.add("--only", None, [*METHODS], "a method; prints its figures as JSON")
    args, others = p.parse_known_args(argv)
    if len(others) % 2:
        raise UsageError(f"{' '.join(others)}: give each option of the programs with its value")
    known = options(smt) | options(bptt_baseline)
    if wrong := [f"{k} {v}" for k, v in zip(others[::2], others[1::2]) if k not in known]:
        raise UsageError(f"{wrong[0]}: neither program has it; python smt.py --help lists all")
    home = os.path.dirname(args.json or "") or "."
    if args.json and (os.path.isdir(args.json) or not os.access(home, os.W_OK)):
        raise UsageError(
            f"--json {args.json}: can't be written; give a path in a directory of yours"
        )
    return args, others


def run(argv: list[str]):
    """Measure what the command line asks for, print it and write it down."""
    args, others = settings(argv)
    paper = "--preset" in others
    others = PAPER * paper + others
    if paper and not args.only and torch.cuda.is_available() and "cpu" not in others:
        args.compile, args.long, args.seconds = True, args.long or 1024, args.seconds or 60.0
    flags = ["--compile"] * args.compile
    if args.only:
        return print(json.dumps(measure(args.only, args.repeat, args.seconds, others, flags)))
    if args.profile:
        return print(profile(args.profile, others, flags))
    found = {"machine": {"cpu": platform.processor(), "threads": torch.get_num_threads()}}
    found["machine"] |= {"torch": torch.__version__, "options": others}
    if torch.cuda.is_available():
        found["machine"]["gpu"] = torch.cuda.get_device_name()
    if args.growth:
        for method in "smt", "bptt":
            for T in GROWTH:
                longer = ["--task", "copy", "--delay", str(T - 16), *others]
                found.setdefault(method, {})[T] = in_child(method, args, longer, f"{method} {T}")
    else:
        for method in METHODS:
            batch = ["--batch-size", "32"] if paper and method == "dmt" else []
            found[method] = in_child(method, args, batch + others)
        if paper:
            found["paper_minutes"] = paper_minutes(found)
        if args.long:
            found["long"] = compare(args, others)
    if args.json:
        write(args.json, json.dumps(found, indent=1).encode())


def paper_minutes(found: dict) -> dict:
    """Minutes for the authors' labels in SMT and their steps of DMT, at the rates found."""
    spent = {"smt": LABELS / found["smt"]["labels_per_second"] / 60}
    spent["dmt"] = STEPS * found["dmt"]["seconds_per_step"] / 60
    print("{smt:,.1f} minutes for 19.2 million labels, {dmt:,.1f} for DMT".format(**spent))
    return spent


def main(argv=None) -> int:
    """The exit status: 0, or 2 for wrong input."""
    try:
        run(sys.argv[1:] if argv is None else argv)
        return 0
    except KeyboardInterrupt:
        print("bench.py: stopped", file=sys.stderr)
        return 130
    except UsageError as error:
        message = str(error)
    except OSError as error:
        message = f"--json: can't write {error.filename} ({error.strerror})"
    print(f"bench.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
