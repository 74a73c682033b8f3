"""The table of runs, results/runs.jsonl, and the READMEs' tables that are made of it.

    python experiments/results.py add NAME RUN --command TEXT --machine TEXT
    python experiments/results.py tables
    python experiments/results.py export RUN DIR

add writes the metrics of the finished run in the directory RUN into the table, with the
command, the commit that is checked out, and the machine; a run of the same NAME is
replaced. tables writes the tables of both READMEs anew. export copies a run without
what only training needs: --sample and smt.load take it.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import data
import smt

RUNS = ROOT / "results/runs.jsonl"
PAGES = [ROOT / "README.md", ROOT / "experiments/README.md"]

# Task, and what the RNN must say.
TASKS = {
    "copy": "8 symbols after 32 blanks",
    "retrieval": "the one marked symbol of 64",
    "stack": "what each pop takes off",
    "parity": "odd or even so far",
    "modular": "w a + b mod 7, w and b hidden",
    "recall": "the value of one of 8 keys",
    "text": "the next byte",
    "pixels": "the next pixel",
}
# The entropy of the test split's single bytes or pixels.
ENTROPY = {"text": "3.33 nats", "pixels": "0.66 nats"}
CELLS = {"mlp": "MLP", "gru": "GRU", "transformer": "Transformer"}


def read_runs() -> dict[str, dict]:
    """The runs by name."""
    lines = RUNS.read_text().splitlines()
    return {run["run"]: run for run in map(json.loads, lines)}


def add(name: str, directory: str, command: str, machine: str):
    """Put a finished run into the table."""
    state = smt.read_run(directory, "add")["state"]
    if not state["finished"]:
        raise smt.WrongInput(f"add: {directory} is not finished; --resume it")
    metrics = state["metrics"]
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


def first_run(task: str) -> str:
    """The name of a task's first run of SMT -> DMT with the MLP."""
    return "retrieval, seed 2" if task == "retrieval" else f"{task}, seed 0"


def runs_of_seeds(runs: dict[str, dict], name: str) -> list[dict]:
    """The runs of this name, and of this name with seeds 0, 2 and 3."""
    names = (name, f"{name}, seed 0", f"{name}, seed 2", f"{name}, seed 3")
    return [runs[name] for name in names if name in runs]


def of_seeds(runs: dict[str, dict], name: str) -> list[dict]:
    """Their final figures."""
    return [run["final"] for run in runs_of_seeds(runs, name)]


def figure_of(text: str) -> float:
    """The number in a text that shown() made."""
    return float(text.split()[0])


def spread(texts: list[str]) -> str:
    """The least and the most of several figures that shown() made."""
    least, *_, most = sorted([*texts, *texts], key=figure_of)
    return least if least == most else f"{least.split()[0]}–{most}"


def of_default_size(name: str) -> data.Task:
    """A generated task with its default options."""
    task = data.TASKS[name]
    return task(**{option: default for option, default, *_ in task.options})


def table_of_tasks(runs: dict[str, dict]) -> str:
    """The RNN alone in all tasks, on the test split; before DMT on validation."""
    columns = "task|chance|SMT|SMT → DMT|BPTT|GRU, SMT → DMT|GRU, BPTT"
    rows = []
    for task in TASKS:
        if task in ENTROPY:
            chance = ENTROPY[task]
        else:
            chance = f"{100 / of_default_size(task).answers:.3g} %"
        names = (task, f"bptt, {task}, mlp", f"smt, {task}, gru", f"bptt, {task}, gru")
        methods = [of_seeds(runs, name) for name in names]
        ours = methods[0]
        for times, called in (("", ""), ("_8x", ", 8 times as long")):
            if f"rnn_acc{times}" not in ours[0]:
                continue
            found = [
                [shown(task, f, times=times) for f in finals] for finals in methods
            ]
            values = [[figure_of(text) for text in texts] for texts in found if texts]
            best = (min if task in ("text", "pixels") else max)(values, key=mean)
            ranges = []
            for texts in found:
                ranges.append(spread(texts) if texts else "")
                numbers = [figure_of(text) for text in texts]
                # The best is bold, and so is what overlaps its range.
                if texts and max(numbers) >= min(best) and min(numbers) <= max(best):
                    ranges[-1] = f"**{ranges[-1]}**"
            before = [end_of_phase(run, "smt") for run in runs_of_seeds(runs, task)]
            recipe = data.TASKS[task].recipe.get("smt", {})
            star = "\\*" if recipe.get("attach_readout") else ""
            row = [task + star, chance, spread([shown(task, f) for f in before])]
            if times:
                row = [task + called, "", ""]
            rows.append([*row, *ranges])
    return table(columns.split("|"), rows)


def end_of_phase(run: dict, phase: str) -> dict:
    """The last metrics of a phase, on validation."""
    return [line for line in run["metrics"] if line["phase"] == phase][-1]


def table_of_two_tasks(runs: dict[str, dict]) -> str:
    """Copy and retrieval by all methods, from the same seeds as all tasks."""
    columns = (
        "right answers of the RNN alone|SMT|then DMT, H = 1|then DMT, H = 64|BPTT|"
        "BPTT of a GRU"
    )
    rows = []
    for task, steps in (("copy", 48), ("retrieval", 64)):
        before = [end_of_phase(run, "smt") for run in runs_of_seeds(runs, task)]
        names = (f"{task}, H = 1", task, f"bptt, {task}, mlp", f"bptt, {task}, gru")
        found = [before, *(of_seeds(runs, name) for name in names)]
        row = [spread([shown(task, final) for final in finals]) for finals in found]
        rows.append([f"{task}, {steps} steps", *row])
    return table(columns.split("|"), rows)


def up_to(run: dict, name: str, limit: float) -> dict:
    """The last metrics of a run, on validation, at which name is within the limit."""
    lines = [line for line in run["metrics"] if line["phase"] != "final"]
    within = [line for line in lines if line[name] <= limit]
    return within[-1]


def table_of_methods(runs: dict[str, dict]) -> str:
    """SMT -> DMT with each cell, and BPTT after as many seconds or at equal depth."""
    columns = (
        "task, cell|SMT, on validation|SMT → DMT|seconds|depth|"
        "its teacher|BPTT, about as many seconds|its seconds|BPTT, equal depth"
    )
    rows = []
    for task in TASKS:
        for cell, called in CELLS.items():
            smt, bptt = f"smt, {task}, {cell}", f"bptt, {task}, {cell}"
            if bptt not in runs:
                continue
            ours = runs.get(first_run(task) if cell == "mlp" else smt)
            others = [bptt, f"{bptt}, equal depth"]
            finals = [ours and ours["final"]]
            finals += [runs[name]["final"] if name in runs else None for name in others]
            there = [final for final in finals if final]
            in_nats = task in ("text", "pixels")
            best = min(f["rnn_loss"] if in_nats else -f["rnn_acc"] for f in there)
            found = []
            for final in finals:
                text = shown(task, final) if final else ""
                is_best = final and best in (final["rnn_loss"], -final["rnn_acc"])
                if is_best and len(there) > 1:
                    text = f"**{text}**"
                found.append(text)
            row = ["", found[0], "", "", ""]
            if ours:
                assert finals[1]["seconds"] <= 1.1 * finals[0]["seconds"]
                row[0] = shown(task, end_of_phase(ours, "smt"))
                row[2:4] = [f"{finals[0]['seconds']:.0f}", f"{finals[0]['depth']:,}"]
                row[4] = shown(task, ours["final"], "teacher")
            row += [found[1], f"{finals[1]['seconds']:.0f}", *found[2:]]
            rows.append([f"{task}, {called}", *row])
    return table(columns.split("|"), rows)


def table_of_finetuning(runs: dict[str, dict]) -> str:
    """BPTT from scratch beside SMT and then BPTT, on the test split."""
    columns = "task, seed|BPTT from scratch|seconds|depth|SMT, then BPTT|seconds|depth"
    rows = []
    for name in runs:
        if not name.startswith("finetune, ") or not name.endswith(", then bptt"):
            continue
        _, task, seed, _ = name.split(", ")
        pretrained = runs[f"finetune, {task}, {seed}, smt"]["final"]
        scratch = earlier(runs, f"bptt, {task}, mlp", (task, "bptt"), f", {seed}")
        tuned = runs[name]["final"]
        row = [f"{task}, {seed}"]
        for final, before in (
            (scratch, {"seconds": 0, "depth": 0}),
            (tuned, pretrained),
        ):
            seconds = before["seconds"] + final["seconds"]
            layers = before["depth"] + final["depth"]
            row += [shown(task, final), f"{seconds:.0f}", f"{layers:,}"]
        rows.append(row)
    return table(columns.split("|"), rows)


def option(run: dict, name: str) -> str:
    """The value of an option in the command of a run, or nothing."""
    words = run["commands"][-1]["command"].split()
    return words[words.index(name) + 1] if name in words else ""


# Some runs had settings that their tasks no longer have; their names say so.
EARLIER = {
    ("modular", "smt"): ["1,500 + 400 updates, detached"],
    ("recall", "smt"): ["2,500 + 1,500 updates", "16 tokens of 16"],
    ("recall", "bptt"): ["9,800 updates", "16 tokens of 16"],
    ("pixels", "smt"): ["550 + 450 updates"],
    ("pixels", "bptt"): ["800 updates"],
}


def earlier(runs: dict[str, dict], begins: str, kind: tuple, ends: str) -> dict:
    """The final figures of the run with earlier settings, or else of today's."""
    names = [f"{begins}, {settings}{ends}" for settings in EARLIER.get(kind, [])]
    names += [begins + ends, begins]
    return next(runs[name]["final"] for name in names if name in runs)


def table_of_continued(runs: dict[str, dict]) -> str:
    """SMT -> DMT, then BPTT at two rates, and BPTT alone, on the test split."""
    columns = (
        "task, cell, seed|SMT → DMT|seconds|then BPTT at a tenth of its rate|"
        "then BPTT at its rate, instead|its rate|seconds|BPTT alone|its seconds"
    )
    rows = []
    for name in runs:
        if not name.startswith("continued, ") or not name.endswith(", low"):
            continue
        _, task, cell, seed, _ = name.split(", ")
        begins = task if cell == "mlp" else f"smt, {task}, {cell}"
        ends = f", {seed}" if cell == "mlp" else ""
        before = earlier(runs, begins, (task, "smt"), ends)
        alone = f"bptt, {task}, {cell}"
        alone = earlier(runs, alone, (task, "bptt"), f", {seed}")
        row = [f"{task}, {CELLS[cell]}, {seed.split()[1]}"]
        row += [shown(task, before), f"{before['seconds']:.0f}"]
        for then in (runs[name], runs[name.replace(", low", ", high")]):
            row.append(shown(task, then["final"]))
        row += [option(then, "--lr"), f"{then['final']['seconds']:.0f}"]
        row += [shown(task, alone), f"{alone['seconds']:.0f}"]
        rows.append(row)
    return table(columns.split("|"), rows)


def table_of_nextlat(runs: dict[str, dict]) -> str:
    """NextLat -> DMT beside SMT -> DMT: the figures of the test split."""
    columns = (
        "task, seed|SMT → DMT|seconds|depth|NextLat → DMT|before DMT|"
        "teacher|drift|seconds|depth|horizon"
    )
    rows = []
    for name in runs:
        method, task, seed = [*name.split(", "), "", ""][:3]
        if method != "nextlat" or not seed.startswith("seed"):
            continue
        theirs = runs[name]
        final = theirs["final"]
        before = end_of_phase(theirs, "nextlat")
        row = [f"{task}, {seed}"]
        ours = runs.get(f"{task}, {seed}")
        if ours is None:
            row += ["", "", ""]
        else:
            end = ours["final"]
            if end["update"] != final["update"]:  # NextLat's run is an earlier one
                end = earlier(runs, task, (task, "smt"), f", {seed}")
            row += [shown(task, end), f"{end['seconds']:.0f}", f"{end['depth']:,}"]
        row += [shown(task, final), shown(task, before), shown(task, final, "teacher")]
        row += [f"{final['drift']:.2f}", f"{final['seconds']:.0f}"]
        row += [f"{final['depth']:,}", option(theirs, "--horizon") or "8"]
        rows.append(row)
    return table(columns.split("|"), rows)


# What copy was trained without (see ablations.py), and how the names of its runs begin.
PARTS = {
    "nothing": "nothing",
    "growth: λ_dyn is 5 throughout": "growth",
    "growth: λ_dyn is 2.5 throughout": "growth at 2.5",
    "growth: λ_dyn is 0.1 throughout": "growth at 0.1",
    "L_read": "read",
    "L_unif": "uniformity",
    "gathering from the prefix (writing)": "writing",
    "timestamps (the paper's)": "timestamps",
    "convolution": "convolution",
}


def table_of_parts(runs: dict[str, dict]) -> str:
    """What copy's RNN reads at the end of SMT without a part, with three seeds."""
    rows = []
    for part, name in PARTS.items():
        names = [f"without-{name}, copy, seed {seed}" for seed in (1, 2, 3)]
        ends = [end_of_phase(runs[name], "smt") for name in names]
        right = spread([shown("copy", end) for end in ends])
        drift = spread([f"{end['drift']:.2f}" for end in ends])
        names = [f"without-{name}, copy, then DMT, seed {seed}" for seed in (1, 2, 3)]
        finals = [runs[name]["final"] for name in names if name in runs]
        after = spread([shown("copy", final) for final in finals]) if finals else ""
        rows.append([part, right, drift, after])
    return table(["without", "RNN alone, before DMT", "drift", "after DMT"], rows)


# The runs that end DMT after a growing λ_dyn, and after a constant one of 0.1.
GROWTH = {
    "copy, DMT with H = 1, seed 1": ("copy, H = 1", "copy, then DMT with H = 1"),
    "copy, DMT with H = 1, seed 2": ("copy, H = 1", "copy, then DMT with H = 1"),
    "retrieval, DMT with H = 1, seed 2": (
        "retrieval, H = 1",
        "retrieval, then DMT with H = 1",
    ),
    "copy, seed 1": ("without-nothing, copy, then DMT", "copy, then DMT"),
    "copy, seed 2": ("without-nothing, copy, then DMT", "copy, then DMT"),
    "stack, seed 1": ("stack", "stack, then DMT"),
    "recall, seed 1": (
        "recall, 4,000 updates, DMT of 1,500 updates",
        "recall, then DMT",
    ),
    "modular, seed 1": ("modular, 1,200 + 800 updates", "modular, then DMT"),
    "parity, seed 1": ("parity, 400 + 600 updates", "parity, then DMT"),
    "text, seed 1": ("text, DMT of 250 updates", "text, then DMT"),
}


def table_of_growth(runs: dict[str, dict]) -> str:
    """What the growth of λ_dyn is worth after DMT, on the test split."""
    rows = []
    for called, (grown, constant) in GROWTH.items():
        task, seed = called.split(",")[0], called.split(", ")[-1]
        names = (f"{grown}, {seed}", f"without-growth at 0.1, {constant}, {seed}")
        finals = [runs[name]["final"] for name in names]
        rows.append([called, *(shown(task, final) for final in finals)])
        if "rnn_acc_8x" in finals[0]:
            longer = [shown(task, final, times="_8x") for final in finals]
            rows.append([f"{called}, 8 times as long", *longer])
    return table(["task", "λ_dyn grows from 0 to 5", "λ_dyn is 0.1"], rows)


# What long sequences are called here, and in the names of their runs.
LONG = {
    "digits, T = 784": "pixels 28 x 28",
    "digits, T = 196": "pixels 14 x 14",
    "text, T = 512": "text 512",
}


def reached(runs: dict[str, dict], method: str, task: str, cost: str) -> list[tuple]:
    """The lowest loss that the RNN alone reached within each depth, or seconds.

    It is the best of all runs and evaluations on validation: [(cost, nats), ..].
    """
    before = runs[f"smt, {task}"]["final"][cost] if method == "smt" else 0
    points = []
    for name, run in runs.items():
        if name.startswith(f"{method}, {task}, "):
            lines = [line for line in run["metrics"] if line["phase"] != "final"]
            points += [(before + line[cost], line["rnn_loss"]) for line in lines]
    best = []
    for spent, nats in sorted(points):
        if not best or nats < best[-1][1]:
            best.append((spent, nats))
    return best


def times_more(ours: list[tuple], theirs: list[tuple]) -> str:
    """How many times the cost the others need for our losses, as far as they do.

    Between two of their points the loss is taken to fall on a straight line.
    """
    found = []
    for spent, nats in ours:
        for (before, high), (after, low) in itertools.pairwise(theirs):
            if low <= nats < high:
                enough = before + (after - before) * (high - nats) / (high - low)
                found.append(round(enough / spent))
    if not found:
        raise smt.WrongInput(f"{RUNS.name} has too few runs of long sequences")
    return f"{min(found)} to {max(found)}"


def table_of_long(runs: dict[str, dict]) -> str:
    """What BPTT and SMT -> DMT in segments need for the same loss."""
    columns = (
        "task|lowest loss of SMT → DMT|of BPTT|"
        "BPTT needs .. times the depth|SMT → DMT needs .. times the seconds"
    )
    rows = []
    for called, task in LONG.items():
        row = [called]
        for method in ("smt", "bptt"):
            row.append(f"{reached(runs, method, task, 'depth')[-1][1]:.3f} nats")
        for cost, (ours, theirs) in {
            "depth": ("smt", "bptt"),
            "seconds": ("bptt", "smt"),
        }.items():
            curves = (reached(runs, method, task, cost) for method in (ours, theirs))
            row.append(times_more(*curves))
        rows.append(row)
    return table(columns.split("|"), rows)


def table_of_speed(_) -> str:
    """An update against T, as speed.py measured it."""
    found = json.loads((ROOT / "results/speed.json").read_text())["growth"]
    called = {"smt": "SMT", "nextlat": "NextLat", "dmt": "DMT", "bptt": "BPTT"}
    rows = []
    for T in dict.fromkeys(line["T"] for line in found):
        lines = {line["method"]: line for line in found if line["T"] == T}
        cells = [f"{lines[m]['ms']:,.0f} ms; {lines[m]['layers']:,}" for m in called]
        rows.append([f"{T:,}", *cells])
    return table(["T", *called.values()], rows)


def table_of_sizes(_) -> str:
    """What an update and a label cost at the default sizes and at the authors'."""
    found = json.loads((ROOT / "results/speed.json").read_text())["sizes"]
    called = {"smt": "SMT", "dmt": "DMT", "bptt": "BPTT"}
    rows = []
    for line in found:
        costs = f"{line['ms']:,.0f} ms|{line['ms a label']:.2f} ms|{line['share']:.0%}"
        rows.append([called[line["method"]], line["size"], *costs.split("|")])
    columns = ["method", "sizes", "an update", "a label", "share of the matrix rate"]
    return table(columns, rows)


def in_words(options: dict) -> str:
    """Options as they are given on the command line."""
    words = []
    for option, value in options.items():
        option = option.replace("_", "-")
        words.append(f"--{option}" if value is True else f"--{option} {value:g}")
    return f"`{' '.join(words)}`" if words else ""


def table_of_settings(_) -> str:
    """Where the tasks' settings differ from the defaults, from data.py."""
    rows = []
    for name, asks in TASKS.items():
        task = data.TASKS[name]
        timestamps = "yes" if task.has_timestamps else "no"
        ours = in_words(task.sizes | task.recipe.get("smt", {}))
        rows.append([name, asks, timestamps, ours, in_words(task.recipe["bptt"])])
    head = "task|the RNN must say|timestamps|SMT → DMT|BPTT"
    return table(head.split("|"), rows)


TABLES = {
    "settings": table_of_settings,
    "speed": table_of_speed,
    "sizes": table_of_sizes,
    "tasks": table_of_tasks,
    "two tasks": table_of_two_tasks,
    "parts": table_of_parts,
    "growth": table_of_growth,
    "continued": table_of_continued,
    "finetuning": table_of_finetuning,
    "methods": table_of_methods,
    "nextlat": table_of_nextlat,
    "long": table_of_long,
}


def with_tables(text: str, runs: dict[str, dict]) -> str:
    """The text with its tables anew, each between the comments that mark it."""
    for name, made in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", f"\n<!-- end: {name} -->"
        if begin not in text:
            continue
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = before + begin + made(runs) + end + after
    return text


def export(directory: str, goal: str):
    """Copy a run without encoder, decoder and optimisers; the RNN in fp16."""
    run = smt.read_run(directory, "export")
    run["optimizers"] = {}
    run["models"] = {
        name: value.half()
        for name, value in run["models"].items()
        if name.startswith("rnn.")
    }
    if (Path(goal) / "checkpoint.pt").exists():
        raise smt.WrongInput(f"export: {goal} holds a run; name another directory")
    try:
        Path(goal).mkdir(parents=True, exist_ok=True)
        torch.save(run, Path(goal) / "checkpoint.pt")
    except OSError as error:
        raise smt.WrongInput(f"export: can't write {goal}: {error}") from None


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
    try:
        if args.what == "add":
            add(args.name, args.run, args.command, args.machine)
        elif args.what == "export":
            export(args.run, args.dir)
            print(f"The RNN of {args.run} is in {args.dir}.")
        else:
            for page in PAGES:
                page.write_text(with_tables(page.read_text(), read_runs()))
                print(f"The tables of {page} are those of {RUNS.name}.")
    except smt.WrongInput as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
