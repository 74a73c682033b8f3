"""speed.py measures each method."""

import speed


def test_each_method_is_measured(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    assert speed.main(["--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*speed.gpu.PROGRAMS]
    assert all(float(line.split()[3]) > 0 for line in lines)
    assert lines[0].split()[5] == "4" and lines[3].split()[5] == "21"  # SMT, BPTT
    assert not list(tmp_path.iterdir()) and speed.main(["quick"]) == 2
