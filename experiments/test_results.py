"""The READMEs' tables are those of results/runs.jsonl, and an exported run works."""

from pathlib import Path

import pytest
import results
import smt
import torch

TINY = (
    "--task copy --length 2 --delay 3 --dim 16 --memory-tokens 2 --width 16 "
    "--encoder-depth 1 --batch-size 4 --updates 2 --dmt-updates 1 "
    "--device cpu --out run"
)


def test_the_tables_of_both_readmes_are_those_of_the_runs():
    pages = [page.read_text() for page in results.PAGES]
    for text in pages:
        assert results.with_tables(text, results.read_runs()) == text
    for name in results.TABLES:
        assert sum(f"<!-- end: {name} -->" in text for text in pages) == 1


def test_a_run_is_added_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs.jsonl")
    Path("runs.jsonl").write_text('{"run": "another"}\n')
    lines = [{"phase": "smt", "update": 1}, {"phase": "final", "update": 2}]
    state = {"metrics": lines, "finished": False}
    monkeypatch.setattr(results.smt, "read_run", lambda *_: {"state": state})
    adding = ["add", "name", "run", "--command", "c", "--machine"]
    with pytest.raises(SystemExit):
        results.main([*adding, "old"])
    state["finished"] = True
    for machine in ("old", "new"):
        results.main([*adding, machine])
    runs = results.read_runs()
    assert list(runs) == ["another", "name"]
    assert runs["name"]["final"] == lines[1] and runs["name"]["machine"] == "new"


def test_an_exported_run_is_small_and_can_be_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert smt.main(TINY.split()) == 0
    results.main(["export", "run", "small"])
    sizes = [Path(f"{d}/checkpoint.pt").stat().st_size for d in ("run", "small")]
    assert sizes[1] < sizes[0] / 3
    rnn, task = smt.load("run")
    small, _ = smt.load("small")
    x, _ = task.held_out("test", 4)
    torch.testing.assert_close(small.rollout(x), rnn.rollout(x), atol=0.02, rtol=0.02)
    capsys.readouterr()
    assert smt.main(["--sample", "2", "--out", "small"]) == 0
    assert capsys.readouterr().out.count("RNN:") == 2
    for goal in ("run", "small", "small/checkpoint.pt"):
        with pytest.raises(SystemExit) as stopped:
            results.main(["export", "run", goal])
        assert stopped.value.code == 2


def test_times_more_counts_the_layers_to_the_same_loss():
    ours, theirs = [(10, 0.5), (20, 0.4)], [(20, 0.7), (40, 0.5), (90, 0.41)]
    assert results.times_more(ours, theirs) == "4 to 4"  # theirs do not get to 0.4
    assert results.times_more(ours, [(20, 0.7), (40, 0.4)]) == "2 to 3"
