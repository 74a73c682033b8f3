"""gpu.py runs through at small sizes, on the CPU, too."""

import json

import gpu


def test_the_gpu_script_measures_all_parts(tmp_path, capsys):
    gpu.main([str(tmp_path / "out"), "--small"])
    found = json.loads((tmp_path / "out/gpu.json").read_text())
    assert set(found["copy"]) == {"fp32", "bf16"}
    assert all(metrics[-1]["phase"] == "final" for metrics in found["copy"].values())
    assert set(found["updates"]) == {f"{method} default" for method in gpu.PROGRAMS}
    assert all(figures["ms"] > 0 for figures in found["updates"].values())
    assert found["resume"] < 1e-3
