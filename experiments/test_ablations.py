"""Each part that ablations.py leaves out can be left out of today's smt.py."""

import ablations
import data
import pytest
import smt

TINY = (
    "--task copy --length 2 --delay 3 --dim 16 --memory-tokens 2 --width 16 "
    "--encoder-depth 1 --batch-size 4 --updates 2 --dmt-updates 1 "
    "--device cpu --out run"
)


@pytest.mark.parametrize("part", ablations.PARTS)
def test_smt_trains_without_a_part(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(smt, "Encoder", smt.Encoder)  # undone after the test
    monkeypatch.setattr(smt, "smt_loss", smt.smt_loss)
    for task in data.TASKS.values():
        monkeypatch.setattr(task, "has_timestamps", task.has_timestamps)
    ablations.PARTS[part]()
    assert smt.main(TINY.split()) == 0
