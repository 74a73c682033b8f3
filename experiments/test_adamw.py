"""adamw.py trains by AdamW alone."""

import adamw
import bptt_baseline
import pytest
import torch


def test_all_weights_are_trained_by_adamw(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    usual = bptt_baseline.make_optimizers
    monkeypatch.setattr(bptt_baseline, "make_optimizers", usual)  # restored at the end
    tiny = "--task copy --delay 3 --dim 16 --updates 2 --device cpu"
    assert adamw.main(["bptt_baseline", *tiny.split()]) == 0
    assert bptt_baseline.make_optimizers is adamw.make_optimizers
    run = torch.load("runs/adamw/checkpoint.pt", weights_only=True)
    assert run["config"]["method"] == "bptt" and run["state"]["finished"]
    models = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3)})
    optimizers = adamw.make_optimizers(models, 1e-3)
    trained = optimizers["adamw"].param_groups[0]["params"]
    assert len(optimizers) == 1 and len(trained) == 2
    with pytest.raises(SystemExit):
        adamw.main(["copy"])
