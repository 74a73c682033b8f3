"""Pictures of the method, of runs, and of the table of runs.

    python experiments/figures.py method            what SMT, DMT and BPTT do
    python experiments/figures.py run RUN           answers and losses, by updates
    python experiments/figures.py digits RUN ..     what RNNs of runs of pixels draw
    python experiments/figures.py drift RUN ..      how far RNNs get from their labels
    python experiments/figures.py gradient RUN ..   how much of the gradient arrives
    python experiments/figures.py tasks             all tasks by SMT -> DMT and by BPTT
    python experiments/figures.py retrieval         retrieval by several methods
    python experiments/figures.py layers            loss in long sequences, by depth
    python experiments/figures.py delay             copy by several methods, by delay

Pictures of runs are written into the first run's directory, the others into results/;
--out takes another directory, and --title another title. It needs matplotlib: pip
install matplotlib. A method has one colour in all pictures.
"""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path

try:
    import matplotlib
except ModuleNotFoundError:
    sys.exit("figures.py needs matplotlib: pip install matplotlib")

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator, ScalarFormatter

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import bptt_baseline
import nextlat
import results
import smt

COLOURS = {
    "smt": "#0072B2",
    "dmt": "#009E73",
    "bptt": "#D55E00",
    "nextlat": "#CC79A7",
}
PROGRAMS = {"smt": smt, "bptt": bptt_baseline, "nextlat": nextlat}
plt.rcParams.update({"font.size": 13, "savefig.facecolor": "white"})


CELL_STYLES = {"mlp": "-", "transformer": "-.", "gru": "--"}  # of lines


def networks(directory: str) -> tuple:
    """The networks of a run, its task and its options; WrongInput if there are none."""
    run = smt.read_run(directory, "figures.py")
    args = argparse.Namespace(**run["config"])
    program = PROGRAMS[args.method]
    task = program.make_task(args)
    models = program.Models(args, task)
    try:
        program.load_weights(models, run["models"], directory)
    except smt.WrongInput:
        message = "holds the RNN alone; name a run that was trained here"
        raise smt.WrongInput(f"{directory}: {message}") from None
    return models, task, args


def name_of_rnn(args) -> tuple[str, str]:
    """What the RNN of a run is called, and its colour: the one of its last phase."""
    called = {"smt": "SMT", "bptt": "BPTT", "nextlat": "NextLat"}[args.method]
    then_dmt = args.method != "bptt" and args.dmt_updates > 0
    colour = COLOURS["dmt" if then_dmt else args.method]
    cell = results.CELLS[args.cell]
    return f"{called}{' → DMT' if then_dmt else ''}, {cell}", colour


# ------------------------------------------------------------ the picture of the method
def box(axes, x, y, text, colour, width=0.8, height=0.6):
    """A box with a text, its middle at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0.02,rounding_size=0.08"
    face = matplotlib.colors.to_rgba(colour, 0.15)
    axes.add_patch(
        FancyBboxPatch(corner, width, height, style, fc=face, ec=colour, lw=2)
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=13)


def arrow(
    axes, begin, end, colour="#444444", bend=0.0, dashed=False, width=1.8, head="-|>"
):
    """An arrow from begin to end, both (x, y)."""
    axes.add_patch(
        FancyArrowPatch(
            begin,
            end,
            arrowstyle=head,
            mutation_scale=14,
            connectionstyle=f"arc3,rad={bend}",
            linestyle="--" if dashed else "-",
            color=colour,
            lw=width,
        )
    )


def panel(axes, title, colour, text):
    """An empty panel with a title above and a sentence below."""
    axes.set(xlim=(0, 5.4), ylim=(-1.95, 4.4))
    axes.axis("off")
    axes.set_title(title, color=colour, fontsize=16, fontweight="bold")
    axes.text(2.7, -1.9, text, ha="center", va="bottom", fontsize=12)


def chain(axes, y, colour, name):
    """Four memories of an RNN with their inputs below, and arrows between them."""
    for i, t in enumerate(("t-1", "t", "t+1", "t+2")):
        x = 0.7 + 1.35 * i
        box(axes, x, y, f"${name}_{{{t}}}$", colour)
        axes.text(x, y - 1.15, f"$x_{{{t}}}$", ha="center", va="center")
        arrow(axes, (x, y - 0.9), (x, y - 0.38))
        if i:
            arrow(axes, (x - 0.9, y), (x - 0.46, y))


BOTH = "<|-|>"  # an arrow with two heads: both ends learn


def draw_bptt(axes):
    colour = COLOURS["bptt"]
    panel(
        axes,
        "BPTT",
        colour,
        "The RNN runs on its own memories $\\hat{m}$. The gradient\n"
        "of the loss goes back through all steps.",
    )
    chain(axes, 1.5, colour, "\\hat{m}")
    for x in (3.4, 4.75):
        box(axes, x, 3.3, "loss", colour)
        arrow(axes, (x - 0.12, 1.85), (x - 0.12, 2.95))
        arrow(axes, (x + 0.12, 2.95), (x + 0.12, 1.85), colour, dashed=True, width=2.5)
    for i in range(3):
        begin = 4.75 - 1.35 * i
        fading = matplotlib.colors.to_rgba(colour, (1.0, 0.65, 0.4)[i])
        arrow(axes, (begin, 1.85), (begin - 1.35, 1.85), fading, 0.5, True, 2.5)
    axes.text(1.4, 2.4, "gradient", color=colour, ha="center")


def draw_smt(axes):
    colour, green = COLOURS["smt"], COLOURS["dmt"]
    panel(
        axes,
        "SMT",
        colour,
        "A Transformer writes labels $m$ that hold what later answers\n"
        "need. The RNN's steps $f$ between them are learnt all at once.",
    )
    axes.text(2.72, 4.15, "$x_0 \\,..\\, x_{t+2}$", ha="center", va="center")
    arrow(axes, (2.72, 3.98), (2.72, 3.72))
    box(axes, 2.72, 3.42, "encoder (causal)", colour, width=4.85, height=0.5)
    for i, t in enumerate(("t-1", "t", "t+1", "t+2")):
        x = 0.7 + 1.35 * i
        arrow(axes, (x, 3.13), (x, 2.66))
        box(axes, x, 2.3, f"$m_{{{t}}}$", colour)
        if i == 0:
            continue
        middle = x - 0.675
        box(axes, middle, 1.05, "$f$", green, width=0.5, height=0.5)
        arrow(axes, (x - 1.2, 1.94), (middle - 0.12, 1.38))
        arrow(axes, (middle + 0.12, 1.38), (x - 0.15, 1.94), colour, 0, True, 2.2, BOTH)
        axes.text(middle, 0.4, f"$x_{{{t}}}$", ha="center", va="center")
        arrow(axes, (middle, 0.52), (middle, 0.75))
    axes.text(4.62, 1.4, "pulled\ntogether", color=colour, fontsize=12)
    axes.text(1.37, 2.8, "labels", color=colour, fontsize=12, ha="center")
    orange = COLOURS["bptt"]  # of gradients, in all panels
    for i in range(3):
        left = 1.1 + 1.35 * i
        arrow(axes, (left, 1.1), (left - 0.42, 1.94), orange, -0.35, True, 2)
    axes.text(4.42, 0.75, "gradient:\none step", color=orange, fontsize=12)
    arrow(axes, (0.55, 1.94), (0.55, 0.02))
    arrow(axes, (0.38, -0.02), (0.38, 1.92), orange, 0, True, 2)  # of L_dec
    box(axes, 0.85, -0.3, "decoder", colour, width=1.3, height=0.5)
    axes.text(0.85, -1.02, "$x_t,\\, x_{t+1} \\,..$", ha="center", va="center")
    arrow(axes, (0.85, -0.85), (0.85, -0.57))
    arrow(axes, (1.55, -0.3), (1.95, -0.3))
    answers = "answers $y_{t-1},\\, y_t,\\, y_{t+1} \\,..$"
    axes.text(2.05, -0.3, answers, va="center")


def draw_dmt(axes):
    colour = COLOURS["dmt"]
    panel(
        axes,
        "DMT",
        colour,
        "The RNN runs on its own memories $\\hat{m}$, and each is pulled\n"
        "to its label. It learns through up to 64 steps (paper: one).",
    )
    chain(axes, 1.1, colour, "\\hat{m}")
    for i, t in enumerate(("t-1", "t", "t+1", "t+2")):
        x = 0.7 + 1.35 * i
        box(axes, x, 3.2, f"$m_{{{t}}}$", COLOURS["smt"])
        arrow(axes, (x, 1.47), (x, 2.83), colour, dashed=True, width=2.5)
    axes.text(2.72, 3.85, "labels of the encoder, frozen", ha="center")
    axes.texts[-1].set_color(COLOURS["smt"])
    for i in range(3):
        begin, end = 2.05 + 1.35 * i, 0.7 + 1.35 * i
        arrow(axes, (begin, 1.45), (end, 1.45), COLOURS["bptt"], 0.4, True, 2)
    axes.text(0.85, 2.3, "pulled", color=colour, fontsize=12)
    axes.text(2.72, 1.8, "gradient", color=COLOURS["bptt"], ha="center", fontsize=12)
    arrow(axes, (5.1, 0.8), (4.45, -0.8), bend=-0.45)
    box(axes, 3.75, -0.8, "readout", colour, width=1.3, height=0.5)
    arrow(axes, (3.05, -0.8), (2.6, -0.8))
    axes.text(2.5, -0.8, "answer $y_{t+2}$", ha="right", va="center")


def method(_, path: Path, title: str):
    """Three panels: BPTT, SMT and DMT."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5))
    draw_bptt(left)
    draw_smt(middle)
    draw_dmt(right)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# ------------------------------------------------------------------------------ a run
PARTS = {  # as the metrics name them: as smt.py's header does
    "decode": "L_dec",
    "read": "L_read",
    "dynamics": "L_dyn",
    "uniformity": "exp L_unif",
    "labels": "L_labels",
    "kl": "L_kl",
}


def run(directories: list[str], path: Path, title: str):
    """Answers of RNN and teacher against updates; below, the parts of the loss."""
    directory = directories[0]
    lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    metrics = [line for line in metrics if line["phase"] != "final"]
    phases = {}  # name: its metrics
    for line in metrics:
        phases.setdefault(line["phase"], []).append(line)
    figure = plt.figure(figsize=(11, 7))
    grid = figure.add_gridspec(2, len(phases))
    answers = figure.add_subplot(grid[0, :])
    draw_answers(answers, metrics, phases)
    config = smt.read_run(directory, "run")["config"]
    name = f"{config['task']}, seed {config['seed']}"
    answers.set_title(title or f"{name}: answers on held-out sequences")
    possible = smt.make_task(argparse.Namespace(**config)).answers
    if possible:
        chance = 100 / possible
        answers.axhline(chance, color="#777777", ls=":", lw=2, label="chance")
    answers.set_xlabel("updates")
    answers.legend(fontsize=12, loc="center right")
    axes, panels = None, []
    for column, (phase, own) in enumerate(phases.items()):
        axes = figure.add_subplot(grid[1, column], sharey=axes)
        panels.append((axes, draw_parts(axes, phase, own)))
    panels[0][0].set_ylabel("parts of the loss")
    low, high = axes.get_ylim()  # of all panels
    axes.set_ylim(low, high * (high / low) ** 0.1)  # room for names
    for axes, ends in panels:
        name_parts(axes, ends)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_answers(axes, metrics: list[dict], phases: dict[str, list]):
    """The share of right answers of the RNN alone, and of its teacher."""
    axes.set(ylabel="right answers in %", ylim=(0, 103))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if "teacher_acc" in metrics[0]:
        updates = [line["update"] for line in metrics]
        teacher = [100 * line["teacher_acc"] for line in metrics]
        called = "teacher: readout of the labels"
        style = few(metrics) + "-"  # dashed
        axes.plot(updates, teacher, style, color="#777777", lw=2, label=called)
    before = []  # the last line of the phase before: its curve goes on from there
    for phase, own in phases.items():
        curve = before + own
        updates = [line["update"] for line in curve]
        alone = [100 * line["rnn_acc"] for line in curve]
        label = f"RNN alone, in {phase.upper()}"
        axes.plot(updates, alone, few(curve), color=COLOURS[phase], lw=3, label=label)
        if before:
            axes.axvline(before[0]["update"], color="black", lw=1)
            axes.text(before[0]["update"], 3, f"  {phase.upper()} begins")
        before = own[-1:]


def draw_parts(axes, phase: str, own: list[dict]) -> list[tuple]:
    """The parts of a phase's loss against updates: where each ends, and its name."""
    axes.set(xlabel="updates", title=f"{phase.upper()}'s losses", yscale="log")
    updates = [line["update"] for line in own]
    room = 0.5 * (updates[-1] - updates[0]) or 10  # for the names
    axes.set_xlim(updates[0] - room / 8, updates[-1] + room)
    ticks = [update for update in axes.get_xticks() if 0 < update <= updates[-1]]
    axes.set_xticks(ticks if len(updates) > 3 else updates)
    ends = []
    for name, called in PARTS.items():
        if name in own[0]:
            values = [line[name] for line in own]
            if name == "uniformity":  # the logarithm of a mean
                values = [math.exp(value) for value in values]
            axes.plot(updates, values, few(own), color=COLOURS[phase], lw=2)
            if values[-1] > 0:  # 0 has no place on this axis
                ends.append((values[-1], updates[-1], called))
    return ends


def few(own: list[dict]) -> str:
    """The style of a line: with dots where there are few."""
    return "-" if len(own) > 3 else "o-"


def name_parts(axes, ends: list[tuple]):
    """Write the name of each part at the end of its line, none over another."""
    low, high = axes.get_ylim()
    y = 0
    for value, update, called in sorted(ends):
        y = max(value, y * (high / low) ** 0.08)
        axes.annotate(f"  {called}", (update, y), va="center", annotation_clip=False)
    if high < 10 * low:  # there may be no power of ten to name
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())


# ------------------------------------------------------------------------------ digits
EACH = 6  # images of a kind in a row


def digits(directories: list[str], path: Path, title: str):
    """A row of held-out images and one of each RNN: lower halves, and from nothing."""
    config = smt.read_run(directories[0], "digits")["config"]
    kind = config["side"], config["levels"]
    rows = []
    for directory in directories:
        models, task, args = networks(directory)
        _, images = task.held_out("test", EACH)  # those that the prompts begin with
        _, more = task.held_out("test", 2 * EACH)
        images = torch.cat([images, more[1::2]])
        if len(images) < 2 * EACH:
            raise smt.WrongInput(
                f"digits: {directory} has under {2 * EACH} test images"
            )
        if (args.side, args.levels) != kind:
            raise smt.WrongInput(f"digits: {directory} has images of another kind")
        method, colour = name_of_rnn(args)
        end = smt.read_run(directory, "digits")["state"]["metrics"][-1]
        drawn = [
            smt.generate(models.rnn, tokens, length, args)[:, 1:]
            for _, tokens, length in task.prompts(EACH)
        ]
        name = f"{method}\n{end['rnn_loss']:.3f} nats"
        if not rows:
            rows.append(("held-out\nimages", images, "black"))
        rows.append((name, torch.cat(drawn), colour))
    white, side = task.levels - 1, task.side
    size = (13, 1.1 + 1.0 * len(rows))
    figure, grid = plt.subplots(len(rows), 2 * EACH, figsize=size)
    for row, ((name, images, colour), line) in enumerate(zip(rows, grid)):
        for image, axes in zip(images, line):
            axes.imshow(image.view(side, side), cmap="gray", vmin=0, vmax=white)
            axes.axis("off")
        if row > 0:
            for axes in line[:EACH]:
                axes.axhline(side // 2 - 0.5, color=colour, lw=1.5)
        line[0].text(
            -0.15,
            0.5,
            name,
            ha="right",
            va="center",
            color=colour,
            transform=line[0].transAxes,
        )
    grid[1, 0].set_title("the RNN draws below the line", loc="left", fontsize=13)
    grid[1, EACH].set_title("the RNN draws all", loc="left", fontsize=13)
    figure.suptitle(title)
    figure.subplots_adjust(0.13, 0.02, 0.99, 0.88, wspace=0.06, hspace=0.3)
    figure.savefig(path, dpi=110)


# --------------------------------------------------------------------------- drift
def drift(directories: list[str], path: Path, title: str):
    """The distance of the RNN's memories from the labels against time, run by run."""
    figure, axes = plt.subplots(figsize=(9, 5))
    for directory in directories:
        models, task, args = networks(directory)
        x, _ = task.held_out("test", 256)
        with torch.no_grad():
            labels = models.encoder(x)[:, 1:]  # (B, T, K, d)
            memories = models.rnn.rollout(x)
        squared = (memories - labels).square().mean((0, 2, 3))  # (T,)
        variance = labels.var((0, 1)).mean()
        called, colour = name_of_rnn(args)
        axes.plot(
            squared / variance, CELL_STYLES[args.cell], color=colour, lw=3, label=called
        )
    axes.axhline(1, color="#777777", ls=":", lw=2, label="the mean label's distance")
    if args.task == "copy":
        blanks = (args.length, args.length + args.delay - 1)
        axes.axvspan(*blanks, color="#eeeeee", label="nothing but blanks comes in")
    axes.set(xlabel="time t in steps", ylabel="squared distance of memory and label")
    axes.set(yscale="log", title=title or f"{args.task}: distance from the labels")
    axes.legend(fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# ------------------------------------------------------------------------ gradient
def gradient_of_inputs(embed, memories_of, readout, x, y):
    """The gradient that each input gets from the last answer: x, y (B, T) -> (T,).

    It is the norm of the gradient of the right answer's logit with respect to the
    embedding of the input, as the mean over sequences.
    """
    embeddings = []
    hook = embed.register_forward_hook(lambda *call: embeddings.append(call[2]))
    last = memories_of(x)[:, -1]  # (B, K, d)
    hook.remove()
    right = readout(last).gather(1, y[:, -1:])  # (B, 1)
    gradients = torch.autograd.grad(right.sum(), embeddings)
    # The encoder embeds all inputs at once, behind its start token; an RNN one a step.
    together = len(gradients) == 1
    gradient = gradients[0][:, 1:] if together else torch.stack(gradients, 1)
    return gradient.norm(dim=2).mean(0)


def gradient(directories: list[str], path: Path, title: str):
    """The gradient that an input gets from the last answer, against its distance."""
    figure, axes = plt.subplots(figsize=(9, 5))
    for directory in directories:
        models, task, args = networks(directory)
        x, y = task.held_out("test", 64)
        if (y[:, -1] < 0).any():
            raise smt.WrongInput(f"gradient: {args.task} asks nothing at the last time")
        rnn = models.rnn
        lines = [(*name_of_rnn(args), rnn.embed, rnn.rollout, rnn.readout)]
        if args.method == "smt":
            encoder, readout = models.encoder, models.decoder.readout
            line = ("SMT's encoder", "#000000")
            lines.append((*line, encoder.embed, encoder, readout))
        for called, colour, embed, memories_of, readout in lines:
            found = gradient_of_inputs(embed, memories_of, readout, x, y).flip(0)
            style = CELL_STYLES[args.cell]
            axes.plot(found / found[0], style, color=colour, lw=3, label=called)
    if args.task == "retrieval":
        where = (task.T / 2 - 0.5, task.T - 0.5)  # the first half of the sequence
        note = "here the marked symbol stands"
        axes.axvspan(*where, color="#DDDDDD", label=note)
    axes.set(xlabel="steps between the input and the answer", yscale="log")
    axes.set(ylabel="gradient, 1 for the last input", ylim=(1e-12, None))
    axes.set(title=title or f"{args.task}: the gradient that inputs get from an answer")
    axes.legend(fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# ------------------------------------------------------------------------------- tasks
MARKERS = {  # what is shown of a task: place in its row, marker, colour, name
    "smt": (-0.3, "o", COLOURS["smt"], "SMT alone (validation)"),
    "dmt": (-0.15, "o", COLOURS["dmt"], "SMT, then DMT"),
    "bptt": (0.0, "D", COLOURS["bptt"], "BPTT"),
    "dmt gru": (0.15, "o", COLOURS["dmt"], "SMT, then DMT of a GRU"),
    "bptt gru": (0.3, "D", COLOURS["bptt"], "BPTT of a GRU"),
}
FOUND_BY_TASK = (
    "An RNN without gates, the MLP: SMT → DMT is far ahead in two tasks,\n"
    "about level with BPTT in four, and behind in text and pixels"
)


def figures_by_method(runs: dict[str, dict], task: str) -> dict[str, list[dict]]:
    """Figures of a task's runs with the MLP, and of a GRU; KeyError if none.

    Those of "smt" are the last of SMT's phase, on validation. The others are final.
    """
    figures = {}
    for method, name in (("dmt", task), ("bptt", f"bptt, {task}, mlp")):
        figures[method] = results.of_seeds(runs, name)
        if not figures[method]:
            raise KeyError(name)
    ours = results.runs_of_seeds(runs, task)
    figures["smt"] = [results.end_of_phase(run, "smt") for run in ours]
    for method, name in (("dmt", f"smt, {task}"), ("bptt", f"bptt, {task}")):
        gru = runs.get(f"{name}, gru")
        figures[f"{method} gru"] = [gru["final"]] if gru else []
    return figures


def draw_tasks(axes, names: list[str], runs: dict[str, dict], figure: str, scale=1.0):
    """A row a task, a dot a seed: the methods below one another in each row."""
    for row, task in enumerate(names):
        for method, lines in figures_by_method(runs, task).items():
            values = [scale * line[figure] for line in lines]
            if not lines and method == "bptt gru":
                axes.text(0.5, 0.06, "a GRU was not run", transform=axes.transAxes)
                axes.texts[-1].set(color=COLOURS["bptt"], fontsize=10, ha="center")
            if method == "smt" and task in results.ENTROPY:
                ends = results.spread([f"{value:.2f} nats" for value in values])
                text = f"SMT alone (not shown): {ends}"
                axes.text(0.5, 0.88, text, transform=axes.transAxes, ha="center")
                axes.texts[-1].set(color=COLOURS["smt"], fontsize=10)
                continue
            place, marker, colour, _ = MARKERS[method]
            fill = "none" if "gru" in method else colour
            y = [row + place] * len(values)
            axes.plot(values, y, marker, color=colour, mfc=fill, mew=1.5, ms=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="#DDDDDD")
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color="#DDDDDD", lw=1)


def what_tasks_shows(runs: dict[str, dict]) -> str:
    """A fingerprint of all that the picture of the tasks shows; the PNG holds it."""
    shown = [figures_by_method(runs, task) for task in results.TASKS]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def tasks(_, path: Path, title: str):
    """All tasks with the MLP, by SMT -> DMT and by BPTT: results/runs.jsonl."""
    runs = results.read_runs()
    in_nats = list(results.ENTROPY)
    asked = [task for task in results.TASKS if task not in in_nats]
    figure = plt.figure(figsize=(11, 6))
    grid = figure.add_gridspec(2, 2, width_ratios=(2, 1))
    axes = figure.add_subplot(grid[:, 0])
    draw_tasks(axes, asked, runs, "rnn_acc", 100)
    for row, task in enumerate(asked):
        chance = 100 / results.of_default_size(task).answers
        edges = (row - 0.4, row + 0.4)
        label = "chance" if row == 0 else None
        axes.plot((chance, chance), edges, color="#777777", lw=3, label=label)
    for method, (_, marker, colour, called) in MARKERS.items():
        fill = "none" if "gru" in method else colour
        axes.plot([], [], marker, color=colour, mfc=fill, mew=1.5, ms=8, label=called)
    axes.set(xlim=(0, 104), xlabel="right answers of the RNN alone, %")
    figure.legend(fontsize=11, loc="lower center", ncols=3)
    for row, task in enumerate(in_nats):
        axes = figure.add_subplot(grid[row, 1])
        draw_tasks(axes, [task], runs, "rnn_loss")
        low, high = axes.get_xlim()
        axes.set_xlim(low - 0.5 * (high - low), high + 0.5 * (high - low))
        axes.set_xlabel("loss in nats; lower is better")
    figure.suptitle(title or FOUND_BY_TASK)
    figure.tight_layout(rect=(0, 0.1, 1, 1))  # room for the legend
    figure.savefig(path, dpi=110, metadata={"Comment": what_tasks_shows(runs)})


# --------------------------------------------------------------------------- retrieval
RETRIEVAL = {  # what a line is called: the run, the phase, the line's style
    "SMT": ("retrieval, seed 2", "smt", "-"),
    "then DMT": ("retrieval, seed 2", "dmt", "-"),
    "or then DMT with H = 1": ("retrieval, H = 1, seed 2", "dmt", ":"),
    "BPTT of the same RNN": ("bptt, retrieval, mlp", "bptt", "-"),
    "BPTT of a GRU": ("bptt, retrieval, gru", "bptt", "--"),
}


def retrieval(_, path: Path, title: str):
    """Right answers of retrieval against seconds: the runs of results/runs.jsonl."""
    runs = results.read_runs()
    figure, axes = plt.subplots(figsize=(9, 4.8))
    for called, (name, phase, style) in RETRIEVAL.items():
        metrics = [line for line in runs[name]["metrics"] if line["phase"] != "final"]
        own = [line for line in metrics if line["phase"] == phase]
        before = metrics[: metrics.index(own[0])]
        curve = before[-1:] + own  # it begins where the phase before ended
        seconds = [line["seconds"] for line in curve]
        right = [100 * line["rnn_acc"] for line in curve]
        axes.plot(seconds, right, "." + style, color=COLOURS[phase], lw=3, label=called)
    axes.axhline(12.5, color="#777777", ls=":", lw=2, label="chance")
    axes.set(xlabel="seconds on one core", ylabel="right answers, %", ylim=(0, 103))
    finding = (
        "Retrieval, seed 2: the MLP learns by SMT, and not by BPTT;\n"
        "a GRU learns by BPTT"
    )
    axes.set(title=title or finding)
    axes.legend(fontsize=11, loc="center right", bbox_to_anchor=(1, 0.45))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# ------------------------------------------------------------------------------- delay
FOUND_BY_DELAY = "Copy: the MLP fails at 256 by SMT and by BPTT, a GRU by BPTT does not"
DELAYS = (32, 64, 128, 256)
BY_DELAY = {  # what a line is called: names of its runs at a delay of 32 and at another
    "SMT, then DMT": ("copy, seed 0", "smt, copy"),
    "NextLat, then DMT": ("nextlat, copy, seed 0", "nextlat, copy"),
    "BPTT": ("bptt, copy, mlp", "bptt, copy"),
    "BPTT of a GRU": ("bptt, copy, gru", "bptt, copy, gru"),
}


def by_delay(runs: dict[str, dict], called: str) -> list[float]:
    """Right answers in per cent at each delay, in at most the seconds of SMT -> DMT."""
    right = []
    for D in DELAYS:
        name, smts = (
            at_32 if D == 32 else f"{other}, delay {D}"
            for at_32, other in (BY_DELAY[called], BY_DELAY["SMT, then DMT"])
        )
        is_bptt = name.startswith("bptt")
        limit = runs[smts]["final"]["seconds"] if is_bptt else math.inf
        end = results.up_to(runs[name], "seconds", limit)
        right.append(100 * end["rnn_acc"])
    return right


def delay(_, path: Path, title: str):
    """Right answers of copy against its delay: the runs of results/runs.jsonl."""
    runs = results.read_runs()
    figure, axes = plt.subplots(figsize=(9, 5))
    for called, (_, other) in BY_DELAY.items():
        style = CELL_STYLES["gru" if "GRU" in called else "mlp"]
        method = other.split(",")[0]
        colour = COLOURS["dmt" if method == "smt" else method]
        right = by_delay(runs, called)
        axes.plot(DELAYS, right, "o" + style, color=colour, lw=3, label=called)
    axes.axhline(12.5, color="#777777", ls=":", lw=2, label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(DELAYS, [str(D) for D in DELAYS])
    axes.set(xlabel="delay in steps", ylabel="right answers of the RNN alone, %")
    axes.set(ylim=(0, 103), title=title or FOUND_BY_DELAY)
    axes.legend(fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# ------------------------------------------------------------------------------ layers
LONG = "pixels 28 x 28"  # the name of the task in the table of runs


def layers(_, path: Path, title: str):
    """Nats of long sequences against sequential depth, and against seconds."""
    runs = results.read_runs()
    figure, panels = plt.subplots(1, 2, figsize=(13, 5), sharey=True)
    for axes, cost in zip(panels, ("depth", "seconds")):
        smts = results.reached(runs, "smt", LONG, cost)
        bptts = results.reached(runs, "bptt", LONG, cost)
        called = "SMT, then DMT in segments"
        axes.plot(*zip(*smts), "o-", color=COLOURS["dmt"], lw=3, label=called)
        axes.plot(*zip(*bptts), "o-", color=COLOURS["bptt"], lw=3, label="BPTT")
        axes.set(xscale="log")
        axes.legend()
        if cost == "depth":
            axes.set_title(
                f"BPTT needs {results.times_more(smts, bptts)} times the depth .."
            )
            depth = "sequential depth: layers one after another, in all updates"
            axes.set(xlabel=depth)
            axes.set(ylabel="nats of a pixel, RNN alone")
        else:
            times = results.times_more(bptts, smts)
            axes.set_title(f".. and SMT → DMT {times} times the seconds")
            axes.set(xlabel="seconds of training, on one core")
    finding = "digits of 28 x 28 need less depth by SMT → DMT, and far more seconds"
    figure.suptitle(title or f"T = 784: {finding}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


OF_RUNS = {"run": run, "digits": digits, "drift": drift, "gradient": gradient}
OF_TABLE = {
    "tasks": tasks,
    "delay": delay,
    "layers": layers,
    "retrieval": retrieval,
}
PICTURES = {"method": method} | OF_TABLE | OF_RUNS


def main(argv: list[str]) -> int:
    """Draw a picture; the exit status is 2 for wrong input."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("figures.py", None, __doc__, formatter_class=raw)
    parser.add_argument("what", choices=PICTURES, metavar="PICTURE")
    parser.add_argument("runs", nargs="*", metavar="RUN", default=[])
    parser.add_argument("--out", metavar="DIR")
    parser.add_argument("--title", default="")
    args = parser.parse_args(argv)
    if bool(args.runs) != (args.what in OF_RUNS):
        how = "name" if args.what in OF_RUNS else "leave out"
        parser.error(f"{args.what}: {how} the directory of a run")
    if args.what == "run" and len(args.runs) > 1:
        parser.error(f"run: {len(args.runs)} runs; name one")
    folder = Path(args.out or [*args.runs, ROOT / "results"][0])
    path = folder / f"{args.what}.png"
    try:
        for directory in args.runs:
            check_run(args.what, directory)
        folder.mkdir(parents=True, exist_ok=True)
        PICTURES[args.what](args.runs, path, args.title)
    except smt.WrongInput as error:
        parser.error(str(error))
    except KeyError as error:
        parser.error(f"{args.what}: {results.RUNS} lacks the run {error}")
    except OSError as error:
        parser.error(f"can't write {path}: {error}")
    print(f"The picture is in {path}.")
    return 0


def check_run(what: str, directory: str):
    """WrongInput if the directory does not hold what the picture needs."""
    run = smt.read_run(directory, what)
    config = run["config"]
    if what == "digits" and config["task"] != "pixels":
        raise smt.WrongInput(f"digits: {directory} is a run of {config['task']}")
    if what == "drift" and config["method"] == "bptt":
        raise smt.WrongInput(f"drift: {directory} is a run of BPTT, without labels")
    if what == "run" and not Path(directory, "metrics.jsonl").exists():
        message = "holds no metrics.jsonl; an exported run has none"
        raise smt.WrongInput(f"run: {directory} {message}")
    evaluated = [line["phase"] for line in run["state"]["metrics"]]
    if what in ("run", "digits") and {*evaluated} <= {"final"}:
        raise smt.WrongInput(f"{what}: {directory} has no evaluation in training")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
