"""Pictures of runs, from the config.json and metrics.jsonl that smt.py and bptt_baseline.py wrote.

    python figures.py RUN RUN... --out picture.png

draws validation loss and accuracy of the RNN alone against training time, sequential depth and
tokens: one line a run, a dot where its phase changes.
"""

import json
import os
import sys

from data import Parser, UsageError

ACROSS = {
    "seconds": "training time in seconds",
    "depth": "sequential depth in layers",
    "tokens": "input tokens seen",
}
UPWARDS = {"val_loss": "nats per target", "val_acc": "accuracy"}
NAMES = {"smt": "SMT → DMT", "bptt": "BPTT"}
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
    plt.rcParams |= {"font.size": 15, "lines.linewidth": 2.5, "axes.grid": True, "grid.alpha": 0.3}
    for part in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        plt.rcParams[part] = GREY
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
    for panel in panels.flat:
        panel.set_facecolor("none")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{runs[0]['config']['task']}: the RNN alone, on held-out sequences")
    figure.get_layout_engine().set(h_pad=0.1)
    figure.savefig(out, transparent=True, dpi=80)


def pyplot():
    """matplotlib's pyplot, drawing to files; UsageError if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("matplotlib is not installed; pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    matplotlib.pyplot.rcParams["figure.constrained_layout.use"] = True
    return matplotlib.pyplot


def main(argv=None) -> int:
    """The exit status: 0, or 2 for wrong input."""
    p = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("runs", nargs="+", metavar="RUN", help="the --out of a run")
    p.add("--out", "runs.png", str, "the picture's file")
    try:
        args = p.parse_args(argv)
        runs = [read(directory) for directory in args.runs]
        for run in runs:
            add_origin(run, runs)
        draw(runs, args.out)
        return 0
    except UsageError as error:
        message = str(error)
    except (OSError, ValueError) as error:  # ValueError: a kind of picture that is not known
        message = f"--out {args.out}: can't be written ({error})"
    print(f"figures.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
