"""What both programs need around a run: its command line, whose mistakes are told in one line; its
files, written whole or not at all; its random numbers; the processes that share it.
"""

import argparse
import atexit
import gzip
import hashlib
import io
import json
import math
import os
import shutil
import signal
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

# This process's number and how many there are, as torchrun tells them. The first alone writes.
try:
    RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= RANK < RANKS:
        raise ValueError
except ValueError:
    print("RANK, WORLD_SIZE: leave them to torchrun, or 0 <= RANK < WORLD_SIZE", file=sys.stderr)
    sys.exit(2)
LARGEST = 2**20  # bound of lengths and delays: far beyond what memory allows, to catch typos
START = {"step": 0, "seconds": 0.0, "depth": 0, "tokens": 0, "lines": [], "ended": False}
FORMAT = 2  # of checkpoint.pt; to be raised when its content changes

# --preset paper: the authors' sizes, weights and rates (their notebook), of which a program takes
# those that it has an option for.
PAPER = {"cell": "transformer", "memory": 16, "dim": 256, "heads": 8, "cell_depth": 8}
PAPER |= {"encoder_depth": 8, "decoder_depth": 4, "context": 256, "future": 64, "batch_size": 128}
PAPER |= {"lambda_dyn": 0.1, "lambda_unif": 0.001, "lambda_tok": 0.0, "lambda_readout": 0.0}
PAPER |= {"registers": "now", "cell_only": 0.0, "lr": 3e-4, "dmt_lr": 3e-5, "dmt_steps": 1500}
PAPER |= {"rollout": 256, "window": 1}


class UsageError(Exception):
    """Wrong input by the user; its text is the one line to print."""


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are told as all wrong input is."""

    def add(self, name: str, default, kind, meaning: str):
        """An option with its default and its kind: a type, or a list of the values it can have."""
        kind = {"choices": kind} if isinstance(kind, list) else {"type": kind}
        self.add_argument(name, default=default, help=f"{meaning} (default: {default})", **kind)

    def error(self, message):
        raise UsageError(message.removeprefix("argument "))


def whole(low: int, high: int = 2**62):
    """An option's type: a whole number from low to high."""

    def parse(text: str) -> int:
        try:
            if low <= int(text) <= high:
                return int(text)
        except ValueError:
            pass
        upper = "" if high == 2**62 else f" and at most {high}"
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {low}{upper}")

    return parse


def number(low: float, high: float = 1e30, above: bool = False):
    """An option's type: a number from low to high; above: not low itself."""

    def parse(text: str) -> float:
        try:
            value = float(text)
            if (low < value if above else low <= value) and value <= high:
                return value
        except ValueError:
            pass
        upper = "" if high == 1e30 else f" and at most {high}"
        least = "above" if above else "of at least"
        raise argparse.ArgumentTypeError(f"{text} is not a number {least} {low}{upper}")

    return parse


def device(text: str) -> str:
    """An option's type: a device that is here, or auto for the best of them."""
    there = ["cpu"]
    if torch.accelerator.is_available():
        there.insert(0, torch.accelerator.current_accelerator().type)
    if text not in ("auto", *there):
        raise argparse.ArgumentTypeError(f"{text} is not to be had here; give {' or '.join(there)}")
    chosen = there[0] if text == "auto" else text
    if chosen == "cuda":  # of several processes on a machine each has its own
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return chosen


def random_bits(key: tuple, rows: torch.Tensor, columns: int) -> torch.Tensor:
    """Hash of (key, row, column): int64 (B, columns), uniform in 0 .. 2^62 - 1.

    key: plain values that name the draw, (seed, split, step). rows: int64 (B,). A counter, not a
    generator's hidden state: this is SplitMix64 (Steele, Lea and Flood, 2014) on int64 tensors,
    whose products wrap around as those of unsigned numbers do.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    column = torch.arange(columns, device=rows.device)
    z = (rows[:, None] * LARGEST + column) * -7046029254386353131  # 0x9E3779B97F4A7C15
    z = z + int.from_bytes(digest, "big", signed=True)
    # >> repeats the sign bit; the mask makes the shift a logical one.
    z = (z ^ ((z >> 30) & (2**34 - 1))) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ ((z >> 27) & (2**37 - 1))) * -7723592293110705685  # 0x94D049BB133111EB
    return (z ^ ((z >> 31) & (2**33 - 1))) & (2**62 - 1)


def origin(args, method: str):
    """The checkpoint to go on with, that to start from (the same, or --init's), or None."""
    run = load(args.out, "--resume or --sample") if args.resume or args.sample else None
    if run and run["config"]["method"] != method:
        raise UsageError(f"--out {args.out}: {run['config']['method']} made this run, not {method}")
    if not run and not free(args.out):
        raise UsageError(f"--out {args.out}: holds a run; --resume it, or give another --out")
    return run, load(args.init, "--init") if args.init and not run else run


def free(out) -> bool:
    """Whether a run can begin there: it holds no files of a run, or of one that made no step."""
    if os.path.exists(f"{out}/checkpoint.pt"):
        try:
            state = load(out, "--out")["state"]
        except UsageError:
            return False
        return state["step"] == 0 and not state["ended"]
    if os.path.exists(f"{out}/config.json"):
        try:
            with open(f"{out}/config.json") as file:
                json.load(file)["method"]
        except (ValueError, TypeError, KeyError, OSError):
            return False  # something else's
    return not os.path.exists(f"{out}/metrics.jsonl")


def inherited(source, args) -> dict:
    """The options that a run takes over from the one that it starts from."""
    own = ("method", "out", "resume", "sample", "prompt", "device")
    config = source["config"] if source else {}
    return {k: v for k, v in config.items() if k in vars(args) and k not in own}


def resolve(p: Parser, argv: list[str] | None, method: str, tasks: dict) -> tuple:
    """Options -> args, the checkpoint to go on with, that to start from (None: there is none).

    What is not given comes from the run that this one starts from, --preset or the task's defaults.
    """
    args = p.parse_args(argv)
    preset = {k: v for k, v in PAPER.items() if args.preset and k in vars(args)}
    args.out = args.out or f"runs/{args.task}-{method}"
    run, source = origin(args, method)
    earlier = inherited(source, args)
    for action in p._actions:  # what is inherited was not read from the command line
        value = earlier.get(action.dest)
        if value is not None and not valid(action, value):
            where = args.out if run else args.init
            raise UsageError(f"{where}: has {action.dest} {value}, which no run can have: damaged")
    task = tasks[earlier.get("task", args.task)]
    p.set_defaults(**task.options | task.sizes | getattr(task, method) | preset | earlier)
    args = p.parse_args(argv)  # once more, with these defaults
    args.method, args.out = method, args.out or f"runs/{args.task}-{method}"
    agree(args, {k: v for k, v in earlier.items() if k == "task"})
    check(args)
    return args, run, source


def valid(action, value) -> bool:
    """Whether an option could have this value, by its type and choices."""
    try:
        parsed = action.type(str(value)) if action.type else value
    except argparse.ArgumentTypeError:
        return False
    return parsed == value and (not action.choices or value in action.choices)


def check(args):
    """Settle what depends on device and processes; UsageError if options don't go together."""
    args.precision = args.precision or ("bf16" if args.device == "cuda" else "fp32")
    if args.dim % (2 * args.heads):
        raise UsageError(f"--dim {args.dim}: give a multiple of 2 x --heads, {2 * args.heads}")
    if args.compile and not shutil.which((os.environ.get("CXX") or "g++").split()[0]):
        raise UsageError("--compile: needs a C++ compiler; install g++, or name yours in CXX")
    if args.batch_size % RANKS:
        raise UsageError(f"--batch-size {args.batch_size}: give a multiple of {RANKS} processes")


def restore(models, source, args):
    """Load the weights of the run that this one starts from, if any; UsageError if they don't fit.

    The run may hold more than these models: smt.py's has a teacher, which bptt_baseline.py has not.
    """
    try:
        if source:
            models.load_state_dict({name: source["models"][name] for name in models.state_dict()})
    except (KeyError, RuntimeError):
        where = args.out if args.resume or args.sample else args.init
        raise UsageError(f"--init/--resume {where}: other sizes, or has no teacher") from None


def agree(args, earlier: dict):
    """UsageError if an option asks for something else than the earlier run has."""
    for name, value in earlier.items():
        if getattr(args, name) != value:
            option = f"--{name.replace('_', '-')} {getattr(args, name)}"
            raise UsageError(f"{option}: the earlier run has {value}; give that, or leave it out")


def status(work, program: str, writes: str = "--out") -> int:
    """Call work() -> the exit status: 0, 2 for wrong input or output, 130 for Ctrl-C."""
    sys.stdout.reconfigure(errors="replace")  # a terminal that can't show all
    try:
        work()
        return 0
    except UsageError as error:
        message, code = str(error), 2
    except OSError as error:
        shown = error.filename or "output"
        message, code = f"{writes}: can't write {shown} ({error.strerror})", 2
    except KeyboardInterrupt:
        message, code = "stopped; --resume goes on from the last checkpoint", 130
    except (MemoryError, RuntimeError) as error:
        full = "allocate memory", "out of memory", "Storage size"
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in full):
            raise
        sizes = "--batch-size, --length, --dim, --memory, --eval-rows or --data"
        message, code = f"out of memory; give a smaller {sizes}", 2
    print(f"{os.path.basename(program)}: {message}".replace("\n", "\\n"), file=sys.stderr)
    return code


def write(path, content):
    """Write a file whole or not at all: under another name first, then renamed."""
    if RANK:
        return
    try:
        Path(path + ".tmp").write_bytes(content)
        os.replace(path + ".tmp", path)
    except OSError as error:
        Path(path + ".tmp").unlink(missing_ok=True)  # half of it would keep a full disk full
        error.filename = path
        raise


def load(directory, option):
    """The checkpoint of a run; UsageError naming the option if there is none or it is damaged."""
    path = f"{directory}/checkpoint.pt"
    if not os.path.isfile(path):
        raise UsageError(f"{option}: {directory} holds no run; name the --out of an earlier one")
    try:
        if zipfile.ZipFile(path).testzip():  # torch.load does not look at the checksums
            raise ValueError
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["config"]["method"], checkpoint["models"].items()
        found, state = int(checkpoint["format"]), checkpoint["state"]
        sound = all(type(state[name]) is type(value) for name, value in START.items())
        if found == FORMAT and not (
            sound and all(isinstance(line, str) for line in state["lines"])
        ):
            raise ValueError
    except Exception:  # what damaged files make torch raise is of many kinds
        raise UsageError(f"{option}: {path} is damaged, or of another program") from None
    if found != FORMAT:
        raise UsageError(f"{option}: {path} is of format {found}; this program reads {FORMAT}")
    return checkpoint


def share(models):
    """The models as DistributedDataParallel: gradients are the mean over all processes."""
    if RANKS == 1:
        return models
    torch.distributed.init_process_group()  # waits for all of them to be here
    atexit.register(torch.distributed.destroy_process_group)
    return DistributedDataParallel(models, find_unused_parameters=True)


def open_run(args, models, checkpoint) -> dict:
    """Make the run's directory, config.json and metrics.jsonl -> how far the run is."""
    state = checkpoint["state"] if checkpoint else START | {"lines": []}
    os.makedirs(args.out, exist_ok=True)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    sizes = {k: sum(p.numel() for p in model.parameters()) for k, model in models.items()}
    facts = {"device_name": machine, "parameters": sizes, "torch": torch.__version__}
    write(f"{args.out}/config.json", json.dumps(vars(args) | facts, indent=1).encode())
    if state["step"]:
        write(f"{args.out}/metrics.jsonl", "".join(state["lines"]).encode())
    else:
        save(args, models, None, state)
    return state


def save(args, models, optimizer, state):
    """Write checkpoint.pt, tensors and plain values alone: loading one can run no code."""
    content = {"format": FORMAT, "config": vars(args), "state": state}
    content |= {"models": models.state_dict(), "optimizer": optimizer and optimizer.state_dict()}
    torch.save(content, buffer := io.BytesIO())
    write(f"{args.out}/checkpoint.pt", buffer.getvalue())
    write(f"{args.out}/metrics.jsonl", "".join(state["lines"]).encode())


def take_up(optimizer, checkpoint, args):
    """Go on with the optimizer of a checkpoint; UsageError if that is of something else."""
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
    except Exception:  # what damaged states make torch raise is of many kinds
        raise UsageError(f"--resume {args.out}: its optimizer's state is damaged") from None


def until_ctrl_c(steps):
    """The steps; after Ctrl-C no further one, but the begun one's end. A second stops that too."""
    asked = []

    def handler(*_):
        asked.append(True)
        signal.signal(signal.SIGINT, usual)

    usual = signal.getsignal(signal.SIGINT)
    if usual != signal.SIG_IGN:  # ignored: a background job, which the keyboard does not mean
        signal.signal(signal.SIGINT, handler)
    try:
        for step in steps:
            if asked:
                return
            yield step
    finally:
        signal.signal(signal.SIGINT, usual)
    if asked:  # in the last one, whose checkpoint is written
        raise KeyboardInterrupt


def learning_rate(step, steps, peak):
    """Linear warm-up over 2 % of the steps, then half a cosine down to 0."""
    warm_up = min(1, (step + 1) / (0.02 * steps + 1))
    return peak * warm_up * (1 + math.cos(math.pi * step / steps)) / 2


def mean_loss(losses, phase, step):
    """Mean of the losses since the last evaluation, the last of step; UsageError if not finite."""
    losses = torch.stack(losses).tolist()
    for at, loss in enumerate(losses, step + 2 - len(losses)):
        if not math.isfinite(loss):
            raise UsageError(f"loss or gradient {loss} at step {at} of {phase}; try a lower --lr")
    return sum(losses) / len(losses)


def report(state, phase, train_loss, figures):
    """Add a line to metrics.jsonl and print it; UsageError if the weights are no numbers."""
    if not math.isfinite(figures["val_loss"]):
        cause = "a lower --lr for weights that are no numbers, or more --eval-rows to hold a target"
        raise UsageError(f"no finite loss on validation at step {state['step']}; try {cause}")
    row = {"phase": phase} | {k: state[k] for k in ("step", "seconds", "depth", "tokens")}
    figures = {k: v if math.isfinite(v) else None for k, v in figures.items()}
    state["lines"].append(json.dumps(row | {"train_loss": train_loss} | figures) + "\n")
    shown = "  ".join(f"{k} {v:.4f}" for k, v in figures.items() if v is not None)
    if not RANK:
        tqdm.write(f"{phase:5}  step {state['step']:5}  {state['seconds']:4.0f} s  {shown}")


def task_of(tasks: dict):
    """An option's type: one of the tasks by its name; "list" prints them, and ends the program."""

    def parse(text: str) -> str:
        if text == "list":
            print(*(described(name, task) for name, task in tasks.items()), sep="\n")
            sys.exit(0)
        if text not in tasks:
            known = ", ".join(tasks)
            raise argparse.ArgumentTypeError(f"{text} is not a task; give list, {known}")
        return text

    return parse


def described(name: str, kind) -> str:
    """A task's name, what it probes, its options and an example, in lines."""
    task = kind(0, "cpu", **kind.options)
    options = (f"    --{key} {value}".rstrip() for key, value in task.options.items())
    x, y = task.batch("test", 0, torch.zeros(1, dtype=torch.long))
    example = (
        task.draw(torch.cat([y[0, :1], y[0]])) if hasattr(task, "prompts") else task.show(x, y, y)
    )
    example = example.strip("\n").splitlines()[:8]
    return "\n".join([f"{name}: {task.__doc__.splitlines()[0]}", *options, *example, ""])


def read_images(path: str):
    """Images uint8 (N, H, W) of a .npz, .npy or idx file (.gz); UsageError if there are none."""
    raw = read_bytes(path)
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        if raw[:4] == b"\0\0\x08\x03":  # idx: unsigned bytes, three axes
            shape = struct.unpack(">3I", raw[4:16])
            images = np.frombuffer(raw, np.uint8, offset=16).reshape(shape).copy()
        else:
            images = np.load(io.BytesIO(raw), allow_pickle=False)
            if not isinstance(images, np.ndarray):
                images = next(array for array in images.values() if array.ndim == 3)
        if images.dtype != np.uint8 or images.ndim != 3 or not images.size or len(images) < 10:
            raise ValueError
    except Exception:  # what damaged files make their readers raise is of many kinds
        raise UsageError(
            f"--data {path}: no images; give uint8 (N, H, W), N at least 10, as .npz, .npy or idx"
        ) from None
    return images


def npz(arrays: dict) -> bytes:
    """The content of an .npz file of arrays by their names."""
    np.savez(buffer := io.BytesIO(), **arrays)
    return buffer.getvalue()


def read_bytes(path: str) -> bytes:
    """The bytes of a file; UsageError if it can't be read."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or device may have no end
        raise UsageError(f"--data {path}: is no file; give a readable one")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"--data {path}: can't be read ({error.strerror}); give a readable file"
        ) from None


def default_text() -> bytes:
    """CPython's language reference, some 700 kB of English and code that each CPython carries."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UsageError(
            "--task text: this Python has no pydoc_data; give a file with --data FILE"
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics)).encode()
