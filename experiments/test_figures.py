"""Each picture can be drawn."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import bptt_baseline
import figures
import smt

TINY = "--dim 16 --memory-tokens 2 --width 16 --encoder-depth 1 --batch-size 4".split()
RUN = "--steps 4 --dmt-steps 2 --eval-every 2 --device cpu --out run".split()


@pytest.mark.parametrize("what", figures.PICTURES)
def test_a_picture_is_drawn(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [what]
    if what in ("run", "digits"):
        task = "--task copy --delay 3" if what == "run" else "--task pixels --side 6"
        assert smt.main([*TINY, *task.split(), *RUN]) == 0
        argv.append("run")
    line = {"phase": "dmt", "step": 1, "seconds": 1.0, "rnn_acc": 0.5}
    line |= {"rnn_loss": 0.5, "depth": 9}
    run = {"metrics": [line], "final": line}
    names = [f"{m}, copy, delay {D}" for m in figures.METHODS for D in figures.DELAYS]
    names += [*figures.AT_32.values(), "smt, pixels 28 x 28"]
    for method, (_, updates) in figures.LONG.items():
        names += [f"{method}, pixels 28 x 28, {n} updates" for n in updates]
    monkeypatch.setattr(figures.results, "read_runs", lambda: dict.fromkeys(names, run))
    assert figures.main([*argv, str(tmp_path)]) == 0
    assert (tmp_path / f"{what}.png").stat().st_size > 10_000


def test_the_curves_of_bptt_are_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = (
        "--task copy --delay 3 --dim 16 --steps 4 --eval-every 2 --device cpu --out run"
    )
    assert bptt_baseline.main(argv.split()) == 0
    assert figures.main(["run", "run"]) == 0
    assert Path("run/run.png").stat().st_size > 10_000


@pytest.mark.parametrize("argv", ["", "cat", "run", "run missing", "digits run"])
def test_wrong_input_gets_no_traceback(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if argv == "digits run":
        assert smt.main([*TINY, *"--task copy --delay 3".split(), *RUN]) == 0
    assert figures.main(argv.split()) == 2
    assert capsys.readouterr().err
