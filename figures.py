"""Pictures and measurements of runs that smt.py and bptt_baseline.py made.

    python figures.py RUN RUN... --out runs.png

draws validation loss and accuracy of the RNN alone against training time, sequential depth and
tokens: one line a run, a dot where its phase changes. It needs config.json and metrics.jsonl alone,
as does

    python figures.py table RUN RUN...                 a line of figures for each run, in Markdown
    python figures.py tasks RUN RUN...                 a line for each task: cell by method
    python figures.py growth FILE --out growth.png     cost of a step, from bench.py --growth
    python figures.py samples RUN --out samples.png    what the RNN drew, from samples.npz: pixels
    python figures.py depth RUN       accuracy of the RNN alone by depth of the stack: stack
    python figures.py forgetting RUN  what a linear probe reads from its last memory: retrieval
    python figures.py position RUN    its loss by position, to 8 times the training length: text
    python figures.py holds RUN       what can be had from a label alone: stack, recall
    python figures.py spreads RUN     how far labels and memories lie apart: have they collapsed?
    python figures.py explain         a batch through a tiny untrained SMT, as on a board
    python figures.py CLAIM           an experiment of claims.py: gradient, path, drift, cost,
                                      parts, geometry, extrapolation, sequential, delay,
                                      memory; --quick: less of it
    python figures.py all             draws all that was found of claims anew

depth, forgetting, position, holds and spreads need checkpoint.pt; they print what they find and
keep it in the run, as JSON.
"""

import argparse
import glob
import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import bptt_baseline
import smt
from claims import CLAIMS, evaluations
from run import Parser, UsageError, random_bits, write

ACROSS = {
    "seconds": "training time in seconds",
    "depth": "sequential depth in layers",
    "tokens": "input tokens seen",
}
UPWARDS = {"val_loss": "nats per target", "val_acc": "accuracy"}
NAMES = {"smt": "SMT → DMT", "bptt": "BPTT"}
NATS = "text", "pixels"  # tasks whose answers can't be known: measured in nats a target
# What is told of a run if it differs between the runs of one method.
TELLING = "task memory dim length delay encoder future window rollout truncate lr seed".split()
GREY = "#808080"  # of text and axes: readable on white and on black, and the background is clear
COLOURS = ["#e69f00", "#0090d0", "#d55e00", "#009e73", "#cc79a7", "#8a7fd0", "#a0a020", "#808080"]


def read(directory: str) -> dict:
    """A run: {"config": its options, "lines": its evaluations}; UsageError if it holds none."""
    try:
        with open(f"{directory}/config.json") as file:
            config = json.load(file)
        with open(f"{directory}/metrics.jsonl") as file:
            lines = [json.loads(line) for line in file]
        config["method"], [line["phase"] for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{directory}: holds no readable run; name the --out of one") from None
    if not lines:
        raise UsageError(f"{directory}: has no evaluation yet; wait for the first")
    return {"config": config, "lines": lines, "directory": os.path.realpath(directory)}


def add_origin(run: dict, runs: list[dict]) -> None:
    """A run that goes on from another of the pictured ones begins where that one ended."""
    origin = run["config"]["init"] and os.path.realpath(run["config"]["init"])
    for other in runs:
        if other["directory"] == origin:
            run["origin"] = other
            last = other["lines"][-1]
            run["lines"] = [
                line | {name: line[name] + last[name] for name in ACROSS} for line in run["lines"]
            ]


def label(run: dict, runs: list[dict]) -> str:
    """The run's method and cell, and what tells it from other runs of its method."""
    config = run["config"]
    origin = [NAMES[run["origin"]["config"]["method"]]] if "origin" in run else []
    words = [" → ".join([*origin, NAMES[config["method"]]]), config["cell"]]
    peers = [r["config"] for r in runs if r["config"]["method"] == config["method"]]
    for name in TELLING:
        if name in config and any(peer[name] != config[name] for peer in peers if name in peer):
            words.append(f"{name} {config[name]}")
    return ", ".join(words)


def draw(runs: list[dict], out: str) -> None:
    """The picture of the runs: losses above, accuracies below, against each of ACROSS."""
    plt = pyplot()
    figure, panels = plt.subplots(2, 3, figsize=(18, 10), sharex="col", sharey="row")
    cells = sorted({run["config"]["cell"] for run in runs})
    for run in runs:
        lines = [line for line in run["lines"] if line["phase"] != "final"]
        config = run["config"]
        style = "-" if config["method"] == "smt" else ":" if "origin" in run else "--"
        colour = COLOURS[cells.index(config["cell"]) if len(cells) > 1 else runs.index(run) % 8]
        changes = [a for a, b in zip(lines, lines[1:]) if a["phase"] != b["phase"]]
        for row, figure_name in zip(panels, UPWARDS):
            for panel, name in zip(row, ACROSS):
                panel.plot(
                    [line[name] for line in lines],
                    [line[figure_name] for line in lines],
                    style,
                    color=colour,
                    label=label(run, runs),
                )
                for line in changes:
                    panel.plot(line[name], line[figure_name], "o", color=colour, markersize=9)
    for row, title in zip(panels, UPWARDS.values()):
        row[0].set_ylabel(title)
    for panel, title in zip(panels[1], ACROSS.values()):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(plt.matplotlib.ticker.LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter(plt.matplotlib.ticker.EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter("")
        panel.set_xlabel(title)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{runs[0]['config']['task']}: the RNN alone, on held-out sequences")
    figure.get_layout_engine().set(h_pad=0.1)
    figure.savefig(out, transparent=True, dpi=80)


def table(directories: list[str]) -> str:
    """The runs' last lines, and what each took to read 99 % right on validation, as Markdown."""
    head = "run|RNN alone|nats|teacher|before DMT|drift|seconds|depth|99 % after seconds|depth"
    lines = [f"|{head}|", "|---" * (head.count("|") + 1) + "|"]
    for directory in directories:
        evaluations = read(directory)["lines"]
        last, *found = evaluations[-1], *(e for e in evaluations if e["val_acc"] >= 0.99)
        before = [e for e in evaluations if e["phase"] == "smt"]
        shares = last["val_acc"], last["teacher_acc"], before and before[-1]["val_acc"]
        alone, taught, before = (f"{100 * share:.2f} %" if share else "" for share in shares)
        drift = "" if last["drift"] is None else f"{last['drift']:.4f}"
        cells = [os.path.basename(directory.rstrip("/")), alone, f"{last['val_loss']:.3f}", taught]
        cells += [before, drift, *spent(last), *(spent(found[0]) if found else ("never", ""))]
        lines.append("|" + "|".join(cells) + "|")
    return "\n".join(lines)


def tasks(directories: list[str]) -> str:
    """Runs' results by task, cell and method, mean and range over seeds, as Markdown.

    Accuracy in per cent where answers can be known, else nats a target. SMT: before DMT, measured
    on the validation rows; the others: the last line, of the test split.
    """
    found = {}  # {(task, cell): {method: [value of a seed, ..]}}
    for run in map(read, directories):
        config, lines = run["config"], run["lines"]
        if lines[-1]["phase"] != "final" or config["init"]:
            raise UsageError(f"{run['directory']}: has not ended, or went on from another run")
        here = found.setdefault((config["task"], config["cell"]), {})
        name, factor = ("val_loss", 1) if config["task"] in NATS else ("val_acc", 100)
        before = [line for line in lines if line["phase"] == "smt"]
        if before:
            here.setdefault("SMT", []).append(factor * before[-1][name])
        here.setdefault(NAMES[config["method"]], []).append(factor * lines[-1][name])
    methods = ["SMT", *NAMES.values()]
    head = "|".join(f"{cell}: {method}" for cell in smt.CELLS for method in methods)
    rows = [f"|task|{head}|", "|---" * (head.count("|") + 2) + "|"]
    for task in smt.TASKS:
        cells = [found.get((task, cell), {}).get(m, []) for cell in smt.CELLS for m in methods]
        if any(cells):
            digits = 3 if task in NATS else 1
            rows.append("|".join(["", task, *(spread(values, digits) for values in cells), ""]))
    return "\n".join(rows)


def spread(values: list[float], digits: int) -> str:
    """Their mean, and of several the least and the greatest."""
    if not values:
        return ""
    least, mean, most = min(values), sum(values) / len(values), max(values)
    beside = f" ({least:.{digits}f} to {most:.{digits}f})" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{beside}"


def spent(line: dict) -> tuple[str, str]:
    """Seconds of training and sequential depth until an evaluation."""
    return f"{line['seconds']:.0f}", f"{line['depth']:,}"


def growth(path: str, out: str) -> None:
    """Seconds and memory of an optimiser step against T, as bench.py --growth --json wrote them."""
    try:
        with open(path) as file:
            measured = json.load(file)
        curves = {
            (figure, method): [(int(T), found[figure]) for T, found in measured[method].items()]
            for figure in ("seconds_per_step", "peak_bytes")
            for method in NAMES
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: give a file that bench.py --growth --json wrote") from None
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(13, 5.5))
    for panel, (name, title) in zip(
        panels, {"seconds_per_step": "seconds a step", "peak_bytes": "peak memory in bytes"}.items()
    ):
        for method, style in zip(NAMES, ("-o", "--s")):
            panel.plot(*zip(*curves[name, method]), style, label=method.upper())
        panel.set(xscale="log", yscale="log", xlabel="T", ylabel=title)
        panel.xaxis.set_major_formatter(plt.matplotlib.ticker.EngFormatter(sep=""))
        panel.legend(frameon=False)
    figure.savefig(out, transparent=True, dpi=80)


def pyplot():
    """matplotlib's pyplot, drawing to files; UsageError if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("matplotlib is not installed; pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    plt = matplotlib.pyplot
    plt.rcParams |= {"figure.constrained_layout.use": True, "axes.facecolor": "none"}
    plt.rcParams |= {"font.size": 15, "lines.linewidth": 2.5, "axes.grid": True, "grid.alpha": 0.3}
    for part in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        plt.rcParams[part] = GREY
    return plt


def samples(directory: str, out: str) -> None:
    """The sheet of the pictures that a run drew: a row of them for each kind of prompt."""
    config = read(directory)["config"]
    try:
        with np.load(f"{directory}/samples.npz", allow_pickle=False) as file:
            rows = {name: file[name][:, 1:] for name in file}  # without the start token
        side, levels = config["side"], config["levels"]
        pictures = {name: row.reshape(len(row), side, side) for name, row in rows.items()}
    except Exception:  # what damaged files make numpy raise is of many kinds
        raise UsageError(f"{directory}: holds no pictures; give a run of --task pixels") from None
    plt = pyplot()
    most = max(map(len, pictures.values()))
    figure, axes = plt.subplots(
        len(pictures), most, figsize=(most, 1.3 * len(pictures)), squeeze=False
    )
    for row, (name, images) in zip(axes, pictures.items()):
        for panel, image in zip(row, images):
            panel.imshow(image, "gray", vmin=0, vmax=levels - 1)
        row[0].set_title(name, loc="left", color=GREY)
    for panel in axes.flat:
        panel.axis("off")
    figure.savefig(out, transparent=True, dpi=80)


def restore(directory: str, wanted: str):
    """The task of a finished run and its models; UsageError if it is not of a task wanted."""
    program = {"smt": smt, "bptt": bptt_baseline}[read(directory)["config"]["method"]]
    args, task, models, _ = program.settings(["--out", directory, "--sample", "1"])
    if args.task not in wanted.split(" or "):
        raise UsageError(f"{directory}: is of task {args.task}; give a run of --task {wanted}")
    return task, models


@torch.no_grad()
def depth(directory: str) -> dict:
    """{depth before the pop: share of right answers}, 8,192 held-out sequences."""
    task, models = restore(directory, "stack")
    rnn = models["rnn"]
    hits, pops = torch.zeros(2, task.depth + 1, dtype=torch.double)
    for rows in torch.arange(8192, device=task.device).split(1024):
        x, y = task.batch("test", 0, rows)
        push = torch.where(x == task.vocab - 1, -1, 1)  # (B, T)
        before = (push.cumsum(1) - push)[y >= 0].cpu()  # (number of pops,)
        right = rnn.readout(rnn.rollout(x)[y >= 0])[:, 0].argmax(-1) == y[y >= 0]
        hits.index_add_(0, before, right.cpu().double())
        pops.index_add_(0, before, torch.ones(len(before), dtype=torch.double))
    return {k: (hits[k] / pops[k]).item() for k in range(1, task.depth + 1) if pops[k]}


@torch.no_grad()
def forgetting(directory: str) -> dict:
    """{what: share of held-out sequences in which a linear probe reads it from the last memory}."""
    task, models = restore(directory, "retrieval")
    rnn = models["rnn"]
    if not task.distractors:
        raise UsageError(
            f"{directory}: has no distractors; give a run with --distractors 1 or more"
        )
    memories, symbols = {}, {}
    for split in "train", "test":  # of the probe; both are new to the RNN
        rows = torch.arange(8192 if split == "train" else 1024, device=task.device)
        x, y = task.batch("probe " + split, 0, rows)
        last = torch.cat([rnn.rollout(part)[:, -1].flatten(1) for part in x.split(256)])
        memories[split] = F.pad(last, (0, 1), value=1.0).double().cpu()  # (rows, K d + 1)
        distractor = x.gather(1, (x == 9).long().argmax(1, keepdim=True) + 1)  # behind the first -
        symbols[split] = {"needle": y[:, -1].cpu(), "distractor": distractor[:, 0].cpu()}
    found = {}
    for what, answers in symbols["train"].items():
        # Ridge regression on the one-hot symbol.
        M = memories["train"]
        weights = torch.linalg.solve(
            M.mT @ M + torch.eye(M.shape[1], dtype=M.dtype), M.mT @ F.one_hot(answers, 8).double()
        )
        read_out = (memories["test"] @ weights).argmax(1)
        found[what] = (read_out == symbols["test"][what]).double().mean().item()
    return found | {"chance": 1 / 8}


@torch.no_grad()
def position(directory: str) -> dict:
    """{positions: nats a character} of the RNN alone, in windows from every T-th held-out one."""
    task, models = restore(directory, "text")
    rnn = models["rnn"]
    T, text = task.T, task.held_out
    begin = torch.arange(0, len(text) - 8 * T, T, device=text.device)
    if not len(begin):
        raise UsageError(f"{directory}: the held-out text is shorter than 8 x {T} characters")
    y = text[begin[:, None] + torch.arange(8 * T, device=text.device)].long()  # (windows, 8 T)
    x = F.pad(y[:, :-1], (1, 0), value=task.start)
    memory, losses = rnn.empty.expand(len(x), -1, -1), []
    for now, target in zip(x.unbind(1), y.unbind(1)):
        memory = rnn.step(memory, now)
        losses.append(F.cross_entropy(rnn.readout(memory)[:, 0], target).double())
    losses = torch.stack(losses).view(8, T).mean(1).tolist()
    return {f"{k * T}..{(k + 1) * T - 1}": loss for k, loss in enumerate(losses)}


@torch.no_grad()
def holds(directory: str) -> dict:
    """{what: share right} that is had from a label alone, without the inputs before: 1,024 rows.

    Stack: the RNN goes on from the last label and pops all that it holds. Recall: from the label
    before the query, the decoder and the RNN tell the value.
    """
    task, models = restore(directory, "stack or recall")
    if "teacher" not in models:
        raise UsageError(f"{directory}: has no labels; give a run of smt.py")
    teacher, rnn = models["teacher"], models["rnn"]
    x, y = task.batch("test", 0, torch.arange(1024, device=task.device))
    if task.options.get("pairs"):
        label = teacher["encoder"](x, torch.full_like(x[:, :1], task.T - 2))[0][:, 0]
        told = {
            "decoder": teacher["decoder"](label, x[:, -1:])[:, -1],
            "RNN": rnn.readout(rnn.step(label, x[:, -1]))[:, 0],
        }
        right = {name: logits.argmax(-1) == y[:, -1] for name, logits in told.items()}
        return {
            f"{name}, from the query": hits.double().mean().item() for name, hits in right.items()
        }
    label = teacher["encoder"](x, torch.full_like(x[:, :1], task.T - 1))[0][:, 0]
    pops = torch.full_like(x[:, : task.depth], task.vocab - 1)
    memories = rnn.rollout(pops, label)  # (1024, depth, K, d)
    told = rnn.readout(memories.flatten(0, 1))[:, 0].argmax(-1).view_as(pops).tolist()
    hits, number = [0] * task.depth, [0] * task.depth
    for inputs, answers in zip(x.tolist(), told):
        stack = []
        for token in inputs:
            stack = stack[:-1] if token == task.vocab - 1 else [*stack, token]
        for k, (truth, answer) in enumerate(zip(reversed(stack), answers)):
            hits[k], number[k] = hits[k] + (truth == answer), number[k] + 1
    return {f"pop {k + 1}": hits[k] / number[k] for k in range(task.depth) if number[k]}


@torch.no_grad()
def spreads(directory: str) -> dict:
    """{what: L_unif} of labels, and of the RNN's memories at the same times: 512 sequences.

    0: all are one, they have collapsed; some -4: they are spread as random directions are.
    """
    task, models = restore(directory, " or ".join(smt.TASKS))
    if "teacher" not in models:
        raise UsageError(f"{directory}: has no labels; give a run of smt.py")
    x, _ = task.batch("test", 0, torch.arange(512, device=task.device))
    times = torch.linspace(0, task.T - 1, 8, device=x.device).long().expand(len(x), -1)
    labels, _ = models["teacher"]["encoder"](x, times)  # (512, 8, K, d)
    memories = models["rnn"].rollout(x)[:, times[0]]  # the same
    return {"labels": smt.uniformity(labels).item(), "RNN": smt.uniformity(memories).item()}


def rows_of(title: str, names: list[str], rows: list) -> None:
    """Print a small table: a title, then each row behind its name."""
    print(f"\n{title}")
    for name, row in zip(names, rows):
        print(f"  {name:>9}  {row}")


def slopes(loss, models) -> str:
    """Which networks a loss trains: the norms of its gradient in each."""
    networks = dict(models["teacher"].items()) | {"cell": models["rnn"].cell}
    networks |= {"readout": models["rnn"].readout}
    found = []
    for name, network in networks.items():
        grads = torch.autograd.grad(loss, [*network.parameters()], None, True, allow_unused=True)
        norm = sum(g.square().sum() for g in grads if g is not None) ** 0.5
        found.append(f"{name} {norm:.3f}" if norm else f"{name} -")
    return "  ".join(found)


def explain() -> None:
    """Print what one step of SMT and one of DMT do with a sequence: a tiny model, untrained."""
    sizes = (
        "--task copy --length 3 --delay 2 --batch-size 4 --memory 2 --dim 8 --heads 2 --labels 3"
    )
    options = "--decoded 1 --window 2 --rollout 6 --registers start --device cpu --out runs/explain"
    args, task, models, _ = smt.settings(f"{sizes} {options}".split())
    teacher, rnn, rows = models["teacher"], models["rnn"], torch.arange(4)
    x, y = task.batch("train", 0, rows)
    bits = random_bits(("explain",), rows, task.T)
    B, T, n, K, d = *x.shape, args.labels, args.memory, args.dim

    def shown(tokens) -> str:
        return " ".join(task.letters[k] if k >= 0 else " " for k in tokens)

    clock = " ".join(map(str, range(T)))
    print(f"A batch of B = {B} sequences, T = {T} times; K = {K} memory tokens of d = {d} numbers")
    names = ["t", "input x_t", "target"]
    rows_of("The first sequence (no target: no loss)", names, [clock, shown(x[0]), shown(y[0])])

    times = smt.consecutive(y, bits, n)
    labels, states = teacher["encoder"](x, times)
    asked = ", ".join("m_∅" if t < 0 else f"m_{t}" for t in times[0].tolist())
    print(f"\n1. The encoder writes n + 1 = {n + 1} labels in one pass: {asked}; {shape(labels)}")
    mask = smt.encoder_mask(times, T, K, args.context, False)[0, 0]  # (T + (n + 1) K, the same)
    blocks = [f"m_{t}" if t >= 0 else "m_∅" for t in times[0].tolist() for _ in range(K)]
    grid = [" ".join("#" if seen else "." for seen in row) for row in mask.tolist()]
    tokens = [f"token {t}" for t in range(T)]
    title = f"Who (row) attends to whom (column): tokens 0..{T - 1}, then K registers a label"
    rows_of(title, [*tokens, *blocks], [f"{row[: 2 * T]} {row[2 * T :]}" for row in grid])

    t = max(0, times[0, 1].item())
    print(
        f"\n2. The decoder tells the future from m_{t} and the inputs behind it, not those before"
    )
    rows_of(
        "given, answered", ["inputs", "targets"], ["m " + shown(x[0, t + 1 :]), shown(y[0, t:])]
    )
    print("\n3. The cell goes from label to label, each step on its own: no unrolling")
    print(f"  f(m_t, x_t+1) -> m_t+1 for {B} x {n} pairs at once, {shape(labels[:, 1:])}")
    dyn = smt.dynamics(rnn, labels, labels, times, x)
    dec = smt.decoding(teacher["decoder"], labels[:, 1:2], times[:, 1:2].clamp(min=0), x, y, args)
    unif = smt.uniformity(labels[:, 1:])
    dmt, depth = smt.dmt_loss(models, x, y, bits, 0, args)
    guess = smt.guessing(teacher["decoder"], states, times, y)
    names = ["L_dec", "L_tok", "L_dyn", "L_unif"]
    rows_of(
        "What each loss trains: norms of its gradient",
        names,
        [slopes(loss, models) for loss in (dec, guess, dyn, unif)],
    )

    run = smt.consecutive(y, bits, args.rollout)[0].tolist()
    print(f"\n4. DMT: the RNN alone R = {args.rollout} steps, gradient cut every H = {args.window}")
    steps = [f"{'| ' if k % args.window == 0 else ''}m̂_{t}" for k, t in enumerate(run[1:])]
    begin = "m_∅" if run[0] < 0 else f"m_{run[0]}"
    print(f"  label {begin} -> {' -> '.join(steps)}   (|: detached)")
    picked = sorted(run[1 + k] for k in bits[0, : args.rollout].argsort()[:n].tolist())
    print("  compared with the labels of", ", ".join(f"t = {t}" for t in picked))
    rows_of("What it trains", ["L_dmt"], [slopes(dmt, models)])
    print(
        f"\n5. What remains: f, g and m_∅. A step costs the same at each t: {shape(rnn.empty)} in,"
    )
    print(f"  {shape(rnn.empty)} out. {sum(p.numel() for p in rnn.parameters()):,} parameters.")


def shape(tensor) -> str:
    """Its shape, as the comments of smt.py write it."""
    return str(tuple(tensor.shape))


def claim(name: str, quick: bool) -> None:
    """Run an experiment of claims.py; keep and draw what it found, in results/claims if in full."""
    home = "runs/claims" if quick else "results/claims"
    os.makedirs(home, exist_ok=True)
    begin = time.perf_counter()
    found = {"panels": CLAIMS[name](1 if quick else 3, quick), "title": CLAIMS[name].__doc__}
    found |= {"seconds": time.perf_counter() - begin, "torch": torch.__version__}
    kept = [] if quick else sorted(glob.glob(f"runs/claims/{name}-*/metrics.jsonl"))
    runs = [os.path.dirname(path) for path in kept if "-quick-" not in path]
    found["runs"] = {os.path.basename(run): evaluations(run) for run in runs}
    write(f"{home}/{name}.json", json.dumps(found).encode())
    for panel in found["panels"]:
        print(panel["title"])
        for label, points in panel.get("lines", {}).items():
            print(f"{label:>24}", *(f"{x}: {y:.3g}" for x, y, *_ in points), sep="  ")
        if "shares" in panel:
            print(shares(panel["shares"]))
    draw_claim(f"{home}/{name}")


def shares(found: dict) -> str:
    """Shares of right answers by what was changed, mean and range in per cent, as Markdown."""
    lines = [f"||{'|'.join(found)}|", "|---" * (len(found) + 1) + "|"]
    for points in zip(*found.values()):
        cells = [spread([100 * share for share in values], 1) for _, *values in points]
        lines.append("|".join(["", points[0][0], *cells, ""]))
    return "\n".join(lines)


def draw_claim(path: str) -> None:
    """Draw path.json, as claim() keeps it, as path.png: panels side by side, four in two rows."""
    with open(f"{path}.json") as file:
        panels = json.load(file)["panels"]
    plt = pyplot()
    names = max(
        len(points) for panel in panels for points in panel.get("shares", {"": ""}).values()
    )
    rows = 2 if len(panels) == 4 else 1
    size = 1 + (10 if names else 6) * len(panels) // rows, max(5.5, 0.6 * names) * rows
    figure, axes = plt.subplots(rows, len(panels) // rows, figsize=size, squeeze=False)
    colours = {}
    for axis, panel in zip(axes.flat, panels):
        axis.set_title(panel["title"], color=GREY)
        if "points" in panel:
            axis.scatter(*zip(*[point[:2] for point in panel["points"]]), s=14, cmap="tab10",
                         c=[point[2] for point in panel["points"]])  # fmt: skip
            axis.set(xlabel="first principal component", ylabel="second")
            continue
        if "shares" in panel:
            for k, ((label, points), colour) in enumerate(zip(panel["shares"].items(), COLOURS)):
                names, *values = zip(*[(name, *sorted(values)) for name, *values in points])
                at = np.arange(len(names)) + 0.2 * (k - 1)
                axis.plot(values[len(values) // 2], at, "o", color=colour, label=label)
                axis.hlines(at, values[0], values[-1], color=colour)
            axis.set_yticks(np.arange(len(names)), names)
            axis.invert_yaxis()
            axis.set_xlabel(panel["x"])
            figure.legend(loc="outside lower center", ncols=3, frameon=False)
            continue
        for label, points in panel["lines"].items():
            # A label has the same colour in each panel, as has a cell, whatever trained it there.
            kind = label.removesuffix(", BPTT").removesuffix(", SMT → DMT")
            colour = colours.setdefault(kind, COLOURS[len(colours) % len(COLOURS)])
            x, mean, least, most = zip(*points)
            style = "--s" if "BPTT" in label else "-o"
            axis.plot(x, mean, style, color=colour, label=label, markersize=4)
            axis.fill_between(x, least, most, color=colour, alpha=0.25, linewidth=0)
        axis.set(xlabel=panel["x"], ylabel=panel["y"])
        points = [point for points in panel["lines"].values() for point in points]
        for name, column in zip("xy", zip(*points)):
            if name in panel["log"]:
                scale(axis, name, sorted({*column}))
        if panel["lines"]:
            axis.legend(frameon=False, fontsize=12)
    figure.savefig(f"{path}.png", transparent=True, dpi=70)


def scale(axis, name: str, values: list) -> None:
    """Make an axis, x or y, logarithmic, with ticks that these values can be read by."""
    line, ticker = getattr(axis, name + "axis"), pyplot().matplotlib.ticker
    thousands = ticker.EngFormatter(sep="")  # but for what is small: not 100m, which is 0.1
    doubled = len(values) > 2 and all(b == 2 * a for a, b in zip(values, values[1:]))
    getattr(axis, f"set_{name}scale")("log", base=2 if doubled else 10)
    if doubled:
        line.set_ticks(values, [f"{value:g}" for value in values])
    elif values and values[-1] < 2000 * values[0]:
        line.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        line.set_major_formatter(lambda v, _: thousands(v) if v >= 1 else f"{v:g}")
        line.set_minor_formatter("")


DRAWN = {"samples": samples, "growth": growth}
ALONE = {"explain", "all", *CLAIMS}  # need no run
MEASURES = {"depth": depth, "forgetting": forgetting, "position": position, "holds": holds}
MEASURES |= {"spreads": spreads}


def measure(what: str, directory: str) -> None:
    """Measure a run's RNN, print the figures and keep them in the run as JSON."""
    found = MEASURES[what](directory)
    for name, value in found.items():
        print(f"{name:>12}  {value:.4f}")
    write(f"{directory}/{what}.json", json.dumps(found, indent=1).encode())


def main(argv=None) -> int:
    """The exit status: 0, or 2 for wrong input."""
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="+", metavar="RUN", help="the --out of a run, or as told above")
    p.add("--out", "runs.png", str, "the picture's file")
    p.add_argument("--quick", action="store_true", help="of a claim: one seed, fewer points")
    try:
        args = p.parse_args(argv)
        what, *directories = args.what
        if (what in ("table", "tasks")) != bool(directories) and what in ALONE | {"table", "tasks"}:
            raise UsageError(f"{what}: {len(directories)} runs given; see --help")
        if what == "explain":
            explain()
            return 0
        if what in CLAIMS:
            claim(what, args.quick)
            return 0
        if what == "all":
            for path in sorted(glob.glob("results/claims/*.json")):
                draw_claim(path.removesuffix(".json"))
            return 0
        if what in ("table", "tasks"):
            print(table(directories) if what == "table" else tasks(directories))
            return 0
        if what in (*MEASURES, *DRAWN):
            if len(directories) != 1:
                raise UsageError(f"{what}: {len(directories)} given; give one")
            DRAWN[what](*directories, args.out) if what in DRAWN else measure(what, *directories)
            return 0
        runs = [read(directory) for directory in args.what]
        for run in runs:
            add_origin(run, runs)
        draw(runs, args.out)
        return 0
    except KeyboardInterrupt:
        print("figures.py: stopped; the same command goes on", file=sys.stderr)
        return 130
    except UsageError as error:
        message = str(error)
    except (OSError, ValueError) as error:  # ValueError: a kind of picture that is not known
        where = what if what in ALONE else f"--out {args.out}: can't be written"
        message = f"{where} ({error})"
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        message = f"{' '.join(args.what)}: holds something else than it should ({error!r})"
    print(f"figures.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
