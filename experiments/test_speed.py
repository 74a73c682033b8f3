"""speed.py measures each method."""

import pytest
import speed


def test_each_method_is_measured(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    assert speed.main(["--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [*speed.gpu.PROGRAMS, *speed.COMPARED]
    growth, sizes = lines[:4], lines[4:]
    assert all(float(line.split()[3]) > 0 for line in growth)
    assert growth[0].split()[5] == "4" and growth[3].split()[5] == "21"  # SMT, BPTT
    assert all(float(line.split()[-1]) > 0 for line in sizes)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        speed.main(["quick"])
    assert stopped.value.code == 2
