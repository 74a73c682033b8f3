"""Experiments on what is claimed of SMT; figures.py runs and draws them: python figures.py gradient

Each returns panels, {"title", "x", "y": names of the axes, "log": which are logarithmic, "lines":
{name: [[x, mean over seeds, least, most], ..]}}, which figures.py keeps as JSON, with options and
metrics of the runs. These lie in runs/claims/CLAIM-.. and are gone on with where they were stopped.
seeds: how many of each run; quick: less of it, in ten minutes.
"""

import json
import os
import time

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bench
import bptt_baseline
import smt
from run import LARGEST, UsageError, random_bits

PRODUCTS = "AddmmBackward", "MmBackward", "BmmBackward", "ScaledDotProduct"  # nodes of the graph
CALLS = "aten::addmm", "aten::mm", "aten::bmm", "aten::_scaled_dot_product"  # the same, as called
ENDS = "", "_2x", "_4x", "_8x"  # of the names of figures at so many times the length
SMALL = "--task copy --length 4 --delay 8 --steps 1000 --dmt-steps 200"  # a minute and a half


def lines(measured: dict) -> dict:
    """{name: [{x: value} of a seed, ..]} -> {name: [[x, mean, least, most], ..]}."""
    found = {}
    for name, curves in measured.items():
        shared = [x for x in curves[0] if all(x in curve for curve in curves)]
        columns = {x: [curve[x] for curve in curves] for x in shared}
        found[name] = [[x, sum(v) / len(v), min(v), max(v)] for x, v in columns.items()]
    return found


def trained(program, name: str, options: str):
    """args, task, models of a run in runs/claims, trained first where it has not ended yet."""
    out = f"runs/claims/{name}"
    print(f"\n{out}: {options}", flush=True)
    again = ["--resume"] if os.path.exists(f"{out}/checkpoint.pt") else []
    if code := program.main([*options.split(), "--out", out, *again]):
        raise KeyboardInterrupt if code == 130 else UsageError(f"{out}: see the line above")
    return program.settings(["--out", out, "--sample", "1"])[:3]


def evaluations(directory: str) -> tuple[dict, list[dict]]:
    """A run's options, and what it measured; UsageError if there is no whole run."""
    try:
        with open(f"{directory}/config.json") as file:
            config = json.load(file)
        with open(f"{directory}/metrics.jsonl") as file:
            return config, [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory}: {error}; remove it, to train it anew") from None


def measured(program, name: str, options: str) -> list[dict]:
    """What a run in runs/claims measured, trained first where it has not ended yet."""
    out = f"runs/claims/{name}"
    rows = evaluations(out)[1] if os.path.exists(f"{out}/metrics.jsonl") else []
    if not rows or rows[-1]["phase"] != "final":
        trained(program, name, options)
    return evaluations(out)[1]


def fresh(program, options: str):
    """args, task, models of a command line, untrained."""
    return program.settings([*options.split(), "--out", "runs/claims/none"])[:3]


def cumulative(program, options: str, count):
    """step -> what count(one step: a loss and its backward pass) comes to in all steps until it."""
    args, task, models = fresh(program, options)
    rows = torch.arange(args.batch_size, device=task.device)
    batch = *task.batch("train", 0, rows), random_bits(("count",), rows, task.T), 0.5, args
    costs = [
        (steps, count(lambda: loss_of(models, *batch)[0].backward()))
        for _, loss_of, _, steps, _ in program.phases(args)
    ]

    def until(step: int):
        total = 0
        for steps, cost in costs:
            total, step = total + cost * min(step, steps), max(0, step - steps)
        return total

    return until


# ------------------------------------------------------- the gradient fades with distance, or not
def arriving(logits, target, wanted: list) -> list[torch.Tensor]:
    """d loss / d w of each w wanted, over the mean length of d loss / d logits.

    Over that, as it is small where the answer is sure, however much of it arrives.
    """
    loss = F.cross_entropy(logits, target, reduction="sum")
    first, *grads = torch.autograd.grad(loss, [logits, *wanted])
    return [grad / first.norm(dim=1).mean() for grad in grads]


def bptt_slopes(rnn, x, y, at: list[int]) -> dict:
    """{distance: |d loss / d m_t|} of the answer at T - 1 through the RNN's own steps."""
    memory, memories = rnn.empty.expand(len(x), -1, -1), []
    for token in x.unbind(1):
        memories.append(memory := rnn.step(memory, token))
    grads = arriving(rnn.readout(memory)[:, 0], y[:, -1], [memories[t] for t in at])
    return {x.shape[1] - 1 - t: norm(grad) for t, grad in zip(at, grads)}


def label_slopes(teacher, x, y, at: list[int]) -> dict:
    """{distance: |d loss / d m_t|} of the answer at T - 1 that D reads from the label m_t."""
    found = {}
    for t in at:
        labels, _ = teacher["encoder"](x, torch.full_like(x[:, :1], t))
        logits = teacher["decoder"](labels[:, 0], x[:, t + 1 :])[:, -1]
        found[x.shape[1] - 1 - t] = norm(*arriving(logits, y[:, -1], [labels]))
    return found


def needle_slopes(teacher, x, y, width: int = 8) -> dict:
    """{distance: |d loss / d x_t|} of the needle x_t, embedded, and the answer of the last label.

    Of the sequences whose needle lies from half a width less to half a width more away.
    """
    embedded = []
    hook = teacher["encoder"].embed.register_forward_hook(lambda *call: embedded.append(call[2]))
    labels, _ = teacher["encoder"](x, torch.full_like(x[:, :1], x.shape[1] - 1))
    hook.remove()
    (grad,) = arriving(teacher["decoder"](labels[:, 0])[:, 0], y[:, -1], embedded)  # (B, T, d)
    needle = (x == 8).long().argmax(1) + 1  # (B,) behind its marker
    grad, distance = grad[torch.arange(len(x)), needle], x.shape[1] - 1 - needle
    found = {}
    for begin in range(x.shape[1] // 2, x.shape[1], width):
        there = (distance >= begin) & (distance < begin + width)
        found |= {begin + width // 2: norm(grad[there])} if there.any() else {}
    return found


def norm(grad) -> float:
    """The mean over sequences of a gradient's length, at least what a float32 can tell from 0."""
    return max(1e-30, grad.flatten(1).norm(dim=1).mean().item())


def gradient(seeds: int, quick: bool) -> list[dict]:
    """Lengths of gradients against the distance to the answer: retrieval, T = 128.

    Of labels only those that can hold the needle: it lies in the first half.
    """
    task_options, at = "--task retrieval --length 128 --batch-size 32", [*range(0, 127, 7), 126]
    budget = "--steps 200" if quick else "--steps 1200"
    panels = []
    for title, scale in [("scale 0.5", 0.5), ("scale 1", 1.0), ("scale 2", 2.0), ("trained", None)]:
        found = {"BPTT, m_t": [], "SMT, label m_t": [], "SMT, the needle x_t": []}
        for seed in range(seeds):
            nets = {}
            for program in smt, bptt_baseline:
                options = f"{task_options} --seed {seed} {budget}"
                name = f"gradient-{program.METHOD}-{'quick-' * quick}{seed}"
                if scale is None:
                    _, task, nets[program] = trained(program, name, options)
                else:
                    _, task, nets[program] = fresh(program, options)
                    scaled(nets[program], scale)
            x, y = task.batch("val", 0, torch.arange(256, device=task.device))
            teacher = nets[smt]["teacher"]
            found["BPTT, m_t"].append(bptt_slopes(nets[bptt_baseline]["rnn"], x, y, at))
            past = [t for t in at if t >= 63]  # the needle, in the first half
            found["SMT, label m_t"].append(label_slopes(teacher, x, y, past))
            found["SMT, the needle x_t"].append(needle_slopes(teacher, x, y))
        axes = {"x": "distance to the answer", "y": "gradient, over that at the logits", "log": "y"}
        panels.append({"title": title, **axes, "lines": lines(found)})
    return panels


@torch.no_grad()
def scaled(models, scale: float) -> None:
    """Multiply the initial weight matrices of the cell and of all Transformers."""
    for name, weights in models.named_parameters():
        if weights.dim() == 2 and (".cell." in name or ".body." in name):
            weights.mul_(scale)


# --------------------------------------------------------------------- the longest chain of layers
class Chain(TorchDispatchMode):
    """While entered: .longest, most matrix products in a row that a result so far had to wait for.

    Counts what runs, so backward passes and what keeps no graph, too.
    """

    def __init__(self):
        super().__init__()
        self.longest, self.chains = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [h for h in tree_leaves((args, kwargs)) if isinstance(h, torch.Tensor)]
        results = function(*args, **(kwargs or {}))
        chain = max((self.chains.get(storage(h), 0) for h in given), default=0)
        chain += function.name().startswith(CALLS)
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self.chains[storage(result)] = chain
        self.longest = max(self.longest, chain)
        return results


def storage(h) -> int:
    """What a tensor shares with its views."""
    return h.untyped_storage()._cdata


def run_in_a_row(step) -> int:
    """Most matrix products in a row in a call."""
    with Chain() as chain:
        step()
    return chain.longest


def chain(loss) -> int:
    """Most matrix products in a row from the loss back to a token, in its autograd graph."""
    longest, stack = {}, [loss.grad_fn]
    while stack:
        node = stack[-1]
        below = [child for child, _ in node.next_functions if child is not None]
        if waiting := [child for child in below if child not in longest]:
            stack += waiting
            continue
        stack.pop()
        ends = [longest[child] for child in below if longest[child] is not None]
        starts = node.name().startswith("EmbeddingBackward")
        here = node.name().startswith(PRODUCTS)
        longest[node] = 0 if starts else max(ends) + here if ends else None
    return longest[loss.grad_fn]


def path(seeds: int, quick: bool) -> list[dict]:
    """Matrix products in a row between a token and the loss against T: copy, default sizes."""
    losses = {"SMT": (smt, 0), "DMT, H = 16": (smt, -1), "BPTT": (bptt_baseline, 0)}
    found = {name: {} for name in losses}
    for T in [32, 64, 128, 256] if quick else [32, 64, 128, 256, 512, 1024]:
        for name, (program, phase) in losses.items():
            options = f"--task copy --delay {T - 16} --batch-size 2"
            args, task, models = fresh(program, options)
            x, y = task.batch("train", 0, torch.arange(2, device=task.device))
            loss_of = program.phases(args)[phase][1]
            loss, _ = loss_of(models, x, y, torch.arange(2 * T).view(2, T).to(x.device), 0.5, args)
            found[name][T] = chain(loss)
    axes = {"x": "T", "y": "matrix products in a row", "log": "xy"}
    return [{"title": "a step's graph", **axes, "lines": lines({k: [v] for k, v in found.items()})}]


# ----------------------------------------------------------------------------------- drift and DMT
@torch.no_grad()
def drift_by_time(task, models) -> dict:
    """{t: MSE(m̂_t, m_t) over the labels' variance across sequences and times}, 512 sequences."""
    x, _ = task.batch("test", 0, torch.arange(512, device=task.device))
    times = torch.arange(task.T, device=x.device).expand(x.shape)
    labels, _ = models["teacher"]["encoder"](x, times)
    error = (models["rnn"].rollout(x) - labels).square().mean((0, 2, 3))  # (T,)
    variance = labels.var((0, 1), correction=0).mean()
    return dict(enumerate((error / variance).tolist()))


def drift(seeds: int, quick: bool) -> list[dict]:
    """Drift against t before DMT and after its variants, from one SMT run each: a small copy."""
    variants = {
        "H = 1": "--window 1",
        "H = 4": "--window 4",
        "H = 16, all of T": "--window 16",
        # As many labels a step as the others: 4 in each of four times the sequences.
        "H = R = 4, from labels alone": "--window 4 --rollout 4 --batch-size 128",
    }
    found = {"before DMT": [], **{name: [] for name in variants}}
    for seed in range(seeds):
        begin = f"drift-smt-{seed}"
        _, task, models = trained(smt, begin, f"{SMALL} --dmt-steps 0 --seed {seed}")
        found["before DMT"].append(drift_by_time(task, models))
        for k, (name, options) in enumerate(variants.items()):
            options = f"--init runs/claims/{begin} --steps 0 --dmt-steps 200 {options}"
            _, task, models = trained(smt, f"drift-{k}-{seed}", options)
            found[name].append(drift_by_time(task, models))
    axes = {"x": "t", "y": "drift", "log": "y"}
    return [{"title": "copy of 4 over a delay of 8", **axes, "lines": lines(found)}]


# ------------------------------------------------------------------------------- cost per token
def cost(seeds: int, quick: bool) -> list[dict]:
    """Seconds of a further token, and numbers kept for it, against the tokens before: text.

    The teacher reads all again. A one-pass one could keep its tokens' keys and values instead, and
    read those, as Transformers do: not measured.
    """
    seconds, kept = {"RNN": {}, "teacher": {}}, {"RNN": {}, "teacher": {}}
    for T in [64, 256, 1024] if quick else [64, 128, 256, 512, 1024, 2048]:
        args, task, models = fresh(smt, f"--task text --length {T} --device cpu")
        x, _ = task.batch("val", 0, torch.arange(1))
        last, memory = torch.tensor([[T - 1]]), models["rnn"].empty[None]
        encoder, decoder, rnn = *models["teacher"].values(), models["rnn"]
        ways = {
            "RNN": lambda: rnn.readout(rnn.step(memory, x[:, -1])),
            "teacher": lambda: decoder(encoder(x, last)[0][:, 0]),
        }
        for name, way in ways.items():
            spent = []
            for _ in range(11):
                begin = time.perf_counter()
                with torch.no_grad():
                    way()
                spent.append(time.perf_counter() - begin)
            seconds[name][T] = sorted(spent)[5]
        kept["RNN"][T], kept["teacher"][T] = memory.numel(), T
    titles = {"median seconds of a token": seconds, "numbers kept: memory, or all tokens": kept}
    return [
        {"title": title, "x": "tokens before", "y": title, "log": "xy",
         "lines": lines({name: [values] for name, values in found.items()})}
        for title, found in titles.items()
    ]  # fmt: skip


# ------------------------------------------------------- less sequential compute for the same loss
def as_good(curve: list, loss: float) -> float | None:
    """The x at which points (x, y, ..) first come down to a loss; None: never, or before them."""
    for (a, high, *_), (b, low, *_) in zip(curve, curve[1:]):
        if low <= loss < high and curve[0][1] > loss:
            return a + (b - a) * (high - loss) / (high - low)


def sequential(seeds: int, quick: bool) -> list[dict]:
    """Nats of the RNN alone against the layers that ran in a row so far, three cells.

    Text is CPython's language reference, pixels are strokes of 8 x 8. The ratios, of means over
    seeds: depth at which BPTT is as good as SMT → DMT at a depth, over that. A layer of an encoder
    takes more than one of a cell, and a backward pass as long as the graph: so the same again in
    matrix products, of all that runs. BPTT's learning rate was chosen on seed 4, of these tasks and
    sizes; it has not come down where the two are as good, as SMT's has at its end.
    """
    tasks = {  # their options; those of SMT and of BPTT
        "text": (
            "--task text --dim 64",
            "--steps 400 --dmt-steps 100 --eval-every 50",
            "--steps 400 --lr 3e-3 --eval-every 25",
        ),
        "pixels": (
            "--task pixels --side 8 --dim 32",
            "--steps 300 --dmt-steps 150 --eval-every 50",
            "--steps 300 --lr 3e-3 --eval-every 25",
        ),
    }
    kinds, cells = ("SMT → DMT", "BPTT"), ["mlp"] if quick else [*smt.CELLS]
    panels, ratios = [], {"layers": {}, "matrix products": {}}
    for task, (options, *budgets) in tasks.items():
        found, spent = {}, {unit: {} for unit in ratios}  # {unit: {name: {step: so many until it}}}
        for cell in cells:
            for name, program, budget in zip(kinds, (smt, bptt_baseline), budgets):
                name, shown = f"{cell}, {name}", f"{options} --cell {cell} {budget}"
                for seed in range(seeds):
                    out = f"sequential-{task}-{program.METHOD}-{cell}-{seed}"
                    rows = measured(program, out, f"{shown} --seed {seed}")[:-1]
                    curve = {row["step"]: row["val_loss"] for row in rows}
                    found.setdefault(name, []).append(curve)
                until = cumulative(program, f"{shown} --batch-size 2", run_in_a_row)
                spent["layers"][name] = {row["step"]: row["depth"] for row in rows}
                spent["matrix products"][name] = {step: until(step) for step in curve}
        against = {}  # {unit: {name: points}}
        for unit, at in spent.items():
            against[unit] = {
                name: [[at[name][step], *losses] for step, *losses in points]
                for name, points in lines(found).items()
            }
            for cell in cells:
                ours, other = (against[unit][f"{cell}, {name}"] for name in kinds)
                there = [[x, as_good(other, loss)] for x, loss, *_ in ours]
                if points := [[x, *[at / x] * 3] for x, at in there if at]:
                    ratios[unit][f"{task}, {cell}"] = points
        axes = {"x": "sequential depth in layers", "y": "nats", "log": "x"}
        panels.append({"title": task, **axes, "lines": against["layers"]})
    for unit, found in ratios.items():
        axes = {"x": f"{unit} of SMT → DMT", "y": "those of BPTT, over them", "log": "xy"}
        panels.append({"title": f"at equal loss, in {unit}", **axes, "lines": found})
    return panels


# ------------------------------------------------------------------------------ long-range memory
def delay(seeds: int, quick: bool) -> list[dict]:
    """Accuracy of the RNN alone against the length over which it must remember: MLP, or GRU.

    Copy of 2 symbols over a delay; retrieval in sequences of so many, the needle in the first half.
    Each length begins with the weights of half the length: from none, a teacher takes too long to
    find a needle among 256. Both methods take as many optimiser steps, of the same sequences.
    """
    small = "--dim 32 --heads 2 --batch-size 16 --eval-rows 64"
    teacher = f"--labels 8 --decoded 2 --future {LARGEST} --context {LARGEST} --rollout 64"
    tasks = {  # options; steps of SMT, of DMT, rate: at first, and at each further length
        "copy": ("--length 2 --delay", (500, 100, 2e-3), (60, 240, 5e-4)),
        "retrieval": ("--length", (600, 150, 2e-3), (120, 180, 2e-3)),
    }
    kinds = {  # program, its part of the runs' names, options; BPTT's rates were chosen on seed 4
        "SMT → DMT": (smt, "smt", teacher),
        "BPTT": (bptt_baseline, "bptt", f"--truncate {LARGEST} --lr 3e-4"),
        "BPTT, GRU": (bptt_baseline, "bptt-gru", f"--truncate {LARGEST} --lr 3e-3 --cell gru"),
    }
    panels = []
    for task, (length, *budgets) in tasks.items():
        found = {kind: [] for kind in kinds}
        for seed in range(seeds):
            for kind, (program, called, own) in kinds.items():
                curve = {}
                for T in [32, 64] if quick else [32, 64, 128, 256, 512]:
                    steps, dmt, rate = budgets[T > 32]
                    name = f"delay-{task}-{called}-{T}-{seed}"
                    options = f"--task {task} {length} {T} {small} --seed {seed} {own}"
                    if T > 32:
                        options += f" --init runs/claims/delay-{task}-{called}-{T // 2}-{seed}"
                    if program is smt:
                        options += f" --steps {steps} --dmt-steps {dmt} --lr {rate}"
                    else:
                        options += f" --steps {steps + dmt}"
                    curve[T] = measured(program, name, options)[-1]["val_acc"]
                found[kind].append(curve)
        axes = {"x": "delay, or length", "y": "accuracy", "log": "x"}
        panels.append({"title": task, **axes, "lines": lines(found)})
    return panels


# ----------------------------------------------------------------- more compute, a smaller memory
def floating_point(step) -> int:
    """FLOP of the products in a call."""
    with bench.Counter() as counter:
        step()
    return counter.flops


def memory(seeds: int, quick: bool) -> list[dict]:
    """Loss of the RNN alone against steps for memories of K x 32 numbers, and the FLOP to a loss.

    CPython's language reference, SMT alone. The losses are those at which the worst, the median and
    the second best end; at each FLOP, and step, the smallest memory that has reached it.
    """
    sizes, steps = ([1, 2, 4], 200) if quick else ([1, 2, 4, 8, 16, 32], 800)
    found, flops = {}, {}
    for K in sizes:
        options = f"--task text --dim 32 --memory {K} --steps {steps} --dmt-steps 0 --eval-every 50"
        flops[32 * K] = cumulative(smt, options, floating_point)
        for seed in range(seeds):
            name = f"memory-{'quick-' * quick}{32 * K}-{seed}"
            rows = measured(smt, name, f"{options} --seed {seed}")[:-1]
            curve = {row["step"]: row["val_loss"] for row in rows}
            found.setdefault(f"{32 * K} numbers", []).append(curve)
    curves = lines(found)
    ends = sorted(points[-1][1] for points in curves.values())
    axes = {"x": "steps, from a quarter of them on", "y": "nats", "log": ""}
    late = {name: [p for p in points if p[0] >= steps // 4] for name, points in curves.items()}
    panels = [{"title": "text, by size of the memory", **axes, "lines": late}]
    for unit, until in {"FLOP": flops, "steps": dict.fromkeys(flops, int)}.items():
        needed = {}
        for loss in ends[-1], ends[len(ends) // 2], ends[1]:
            spent = {}  # {size: what it took until the mean over seeds was there}
            for size, points in zip(flops, curves.values()):
                reached = [step for step, mean, *_ in points if mean <= loss]
                spent |= {size: until[size](step) for step in reached[:1]}
            least = [s for s in spent if all(spent[s] < spent[t] for t in spent if t < s)]
            needed[f"{loss:.3f} nats"] = [[spent[size], *[size] * 3] for size in least[::-1]]
        across = {"x": unit, "y": "numbers in the memory", "log": "xy"}
        title = f"smallest memory with a loss, by {unit}"
        panels.append({"title": title, **across, "lines": needed})
    return panels


# ------------------------------------------------------------------------- the memory's geometry
@torch.no_grad()
def components(task, models, t: int, symbols) -> list[list[float]]:
    """The first two principal components of m̂_t and what to colour them by: 400 sequences."""
    x, _ = task.batch("test", 0, torch.arange(400, device=task.device))
    memories = models["rnn"].rollout(x)[:, t].flatten(1)  # (400, K d)
    centred = memories - memories.mean(0)
    plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T  # (400, 2)
    return [[*point, symbol] for point, symbol in zip(plane.tolist(), symbols(x).tolist())]


def geometry(seeds: int, quick: bool) -> list[dict]:
    """Points (component 1, component 2, symbol) of memories that hold one symbol, or four."""
    panels = []
    _, task, models = trained(smt, "geometry-retrieval", "--task retrieval")
    _, y = task.batch("test", 0, torch.arange(400, device=task.device))
    points = components(task, models, task.T - 2, lambda x: y[:, -1])
    panels.append({"title": "retrieval, before the query: the needle", "points": points})
    _, task, models = trained(smt, "geometry-copy", SMALL)
    points = components(task, models, task.T - 5, lambda x: x[:, 0])
    panels.append({"title": "copy, before the answer: the first of 4", "points": points})
    return panels


# ---------------------------------------------------------------------------- what each part does
PARTS = {  # what is changed: the options for it. --lambda-dyn 0 is to detach the labels from f
    "all as it is: Tf = T = 16": "",
    "labels detached from f": "--lambda-dyn 0",
    "Tf = 1": "--future 1",
    "labels detached, f learns as long": "--lambda-dyn 0 --steps 1700 --cell-only 0.588",
    "Tf = 4": "--future 4",
    "λ_unif 0": "--lambda-unif 0",
    "λ_dyn 1, λ_unif 0.01": "--lambda-dyn 1 --lambda-unif 0.01",
    "λ_dyn 1, λ_unif 0.1": "--lambda-dyn 1",
    "λ_dyn 1, λ_unif 1": "--lambda-dyn 1 --lambda-unif 1",
    "λ_dyn 10, λ_unif 0.01": "--lambda-unif 0.01",
    "λ_dyn 10, λ_unif 1": "--lambda-unif 1",
    "λ_dyn 100, λ_unif 0.01": "--lambda-dyn 100 --lambda-unif 0.01",
    "λ_dyn 100, λ_unif 0.1": "--lambda-dyn 100",
    "λ_dyn 100, λ_unif 1": "--lambda-dyn 100 --lambda-unif 1",
    "bidirectional encoder": "--encoder bidirectional",
    "the same, a third of the steps": "--encoder bidirectional --steps 333",
}


def parts(seeds: int, quick: bool) -> list[dict]:
    """Accuracy of RNN and teacher with parts left out or reweighted: a small copy.

    shares: {what is measured: [[what was changed, share of a seed, ..], ..]}; after SMT those of
    the 128 validation sequences, else of the test's 1,024.
    """
    found = {"RNN after SMT": [], "RNN after DMT": [], "teacher": []}
    for name, options in list(PARTS.items())[: 3 if quick else None]:
        measures = []
        for seed in range(seeds):
            out = f"parts-{options.replace('-', '').replace(' ', '-')}-{seed}"
            *rows, last = measured(smt, out, f"{SMALL} --seed {seed} {options}")
            before = [row for row in rows if row["phase"] == "smt"][-1]
            measures.append([before["val_acc"], last["val_acc"], last["teacher_acc"]])
        for kind, shares in zip(found.values(), zip(*measures)):
            kind.append([name, *shares])
    return [{"title": "copy of 4 over a delay of 8", "x": "accuracy", "shares": found}]


# --------------------------------------------------------------------- longer than in training
def extrapolation(seeds: int, quick: bool) -> list[dict]:
    """Accuracy on sequences 1 to 8 times as long as those trained on: defaults of parity, stack."""
    tasks = {"parity": [2, 3, 5], "stack": [0, 2, 3]}  # seeds that the recipe was not chosen on
    panels = []
    for task in ["parity"] if quick else tasks:
        found = {}
        for program in smt, bptt_baseline:
            for seed in tasks[task][:seeds]:
                name = f"extrapolation-{task}-{program.METHOD}-{seed}"
                last = measured(program, name, f"--task {task} --eval-length 8 --seed {seed}")[-1]
                kinds = {"RNN, SMT → DMT": "val_acc", "its teacher": "teacher_acc"}
                for kind, figure in (kinds if program is smt else {"RNN, BPTT": "val_acc"}).items():
                    curve = {k: last[figure + end] for k, end in zip((1, 2, 4, 8), ENDS)}
                    found.setdefault(kind, []).append(curve)
        axes = {"x": "times the length trained on", "y": "accuracy", "log": "x"}
        panels.append({"title": task, **axes, "lines": lines(found)})
    return panels


CLAIMS = {"gradient": gradient, "path": path, "drift": drift, "cost": cost, "geometry": geometry}
CLAIMS |= {"parts": parts, "extrapolation": extrapolation, "sequential": sequential}
CLAIMS |= {"delay": delay, "memory": memory}
