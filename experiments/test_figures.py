"""Each picture can be drawn."""

import itertools
import types
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

import bptt_baseline
import figures
import smt

TINY = "--dim 16 --memory-tokens 2 --width 16 --encoder-depth 1 --batch-size 4".split()
RUN = "--updates 4 --dmt-updates 2 --eval-every 2 --device cpu --out run".split()


@pytest.mark.parametrize("what", figures.PICTURES)
def test_a_picture_is_drawn(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [what]
    if what in figures.OF_RUNS:
        task = "--task pixels --side 6" if what == "digits" else "--task copy --delay 3"
        assert smt.main([*TINY, *task.split(), *RUN]) == 0
        argv.append("run")
    line = {"phase": "smt", "update": 1, "seconds": 1.0, "rnn_acc": 0.5}
    line |= {"rnn_loss": 0.5, "depth": 9}
    all_phases = [line | {"phase": phase} for phase in ("smt", "dmt", "bptt")]
    run = {"metrics": all_phases, "final": line}
    names = []
    for at_32, other in figures.BY_DELAY.values():
        names += [at_32, *(f"{other}, delay {D}" for D in figures.DELAYS)]
    names += [name for name, *_ in figures.RETRIEVAL.values()]
    for task in figures.results.TASKS:
        names += [f"{task}, seed 0", f"bptt, {task}, mlp"]
    runs = dict.fromkeys(names, run)
    for method, losses in {"smt": (0.4, 0.3), "bptt": (0.5, 0.35, 0.2)}.items():
        lines = [
            line | {"depth": i, "seconds": i, "rnn_loss": nats}
            for i, nats in enumerate(losses, 1)
        ]
        for name in (figures.LONG, f"{figures.LONG}, 1 updates"):
            runs[f"{method}, {name}"] = {"metrics": lines, "final": line}
    monkeypatch.setattr(figures.results, "read_runs", lambda: runs)
    assert figures.main([*argv, "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{what}.png").stat().st_size > 10_000


def test_the_curves_of_bptt_are_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = "--task copy --delay 3 --dim 16 --device cpu --out run"
    argv = f"{sizes} --updates 4 --eval-every 2"
    assert bptt_baseline.main(argv.split()) == 0
    assert figures.main(["run", "run"]) == 0
    assert Path("run/run.png").stat().st_size > 10_000


def test_a_task_has_its_runs_by_method():
    """Those of the MLP with the reported seeds, of a GRU, and no others."""
    names = ("copy, seed 0", "copy, seed 1", "copy, seed 3", "bptt, copy, mlp")
    names += ("bptt, copy, mlp, seed 2", "bptt, copy, gru", "nextlat, copy, seed 0")
    phases = [{"phase": phase, "number": i} for i, phase in enumerate(["smt"] * 2)]
    phases.append({"phase": "dmt"})
    runs = {name: {"final": name, "metrics": phases} for name in names}
    found = figures.figures_by_method(runs, "copy")
    assert found["smt"] == [phases[1]] * 2
    assert found["dmt"] == ["copy, seed 0", "copy, seed 3"]
    assert found["bptt"] == ["bptt, copy, mlp", "bptt, copy, mlp, seed 2"]
    assert found["bptt gru"] == ["bptt, copy, gru"]


def test_the_picture_of_the_tasks_is_of_todays_runs():
    runs = figures.results.read_runs()
    picture = (figures.results.ROOT / "results/tasks.png").read_bytes()
    assert figures.what_tasks_shows(runs).encode() in picture


def test_an_input_that_is_forgotten_gets_no_gradient():
    rnn = types.SimpleNamespace(embed=torch.nn.Embedding(5, 16))
    readout = torch.nn.Linear(16, 5)

    def memories_of(x):  # each memory knows the last two inputs
        embedded = [rnn.embed(x[:, t]) for t in range(x.shape[1])]
        memories = [embedded[0]]
        memories += [a + 2 * b for a, b in itertools.pairwise(embedded)]
        return torch.stack(memories, 1)

    x = torch.randint(5, (3, 6))
    found = figures.gradient_of_inputs(rnn.embed, memories_of, readout, x, x)
    assert (found[:4] == 0).all()
    assert torch.allclose(found[5], 2 * found[4])


@pytest.mark.parametrize("what", figures.OF_TABLE)
def test_a_table_that_lacks_runs_gets_one_line(what, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(figures.results, "read_runs", dict)
    with pytest.raises(SystemExit) as stopped:
        figures.main([what, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "runs.jsonl lacks the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "cat",
        "run",
        "run missing",
        "run run run",
        "run empty",
        "run run --out run/lock",
        "digits pixels other",
        "digits run",
        "drift bptt",
        "method run",
    ],
)
def test_wrong_input_gets_no_traceback(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "run" in argv:
        assert smt.main([*TINY, *"--task copy --delay 3".split(), *RUN]) == 0
    if "empty" in argv:
        nothing = "--dim 16 --updates 0 --dmt-updates 0 --device cpu --out empty"
        assert smt.main(nothing.split()) == 0
        assert smt.main("--resume --out empty --eval-length 2".split()) == 0
    if "pixels" in argv:
        for side, out in ((4, "pixels"), (6, "other")):
            task = f"--task pixels --side {side} --updates 1 --dmt-updates 1"
            assert smt.main([*TINY, *f"{task} --device cpu --out {out}".split()]) == 0
    if "bptt" in argv:
        tiny = "--task copy --delay 3 --dim 16 --updates 1 --device cpu --out bptt"
        assert bptt_baseline.main(tiny.split()) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        figures.main(argv.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("figures.py: error")
