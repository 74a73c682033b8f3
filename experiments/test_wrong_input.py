"""Wrong input gets one line that names the option and exit 2; nothing is changed."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import smt
import torch
from test_smt import COPY, TINY_SMT
from test_smt import in_an_empty_folder  # noqa: F401

LONG = "x" * 300  # longer than a file's name may be


WRONG = {
    "--task": ["--task chess"],
    "--cell": ["--cell lstm"],
    "--dim": ["--dim 24", "--dim x", "--dim 0"],
    "--width": ["--width 20", "--width 65536 --encoder-depth 10"],
    "--lr": ["--lr 0", "--lr nan", "--lr -1"],
    "--updates": ["--updates -1", "--updates 1.5", "--updates 0", "--updatez 3"],
    "here it is --updates": ["--steps 3", "--epochs 3"],
    "taken: holds a run; --sample 4 shows it; to train": ["--out taken"],
    "sample: smt.py has no such option for the task copy; did you mean --sample": [
        "sample"
    ],
    "extra: --task list takes nothing else": ["--task list extra"],
    "--eval-every: --task list takes nothing else": ["--task list --eval-every 3"],
    "task: smt.py has no such option for the task copy; did you mean --task": [
        "task copy"
    ],
    "steps: smt.py has no such option for the task copy; here it is --updates": [
        "steps 3"
    ],
    "results/copy holds one": ["--sample 1 --out missing"],
    "--preset": ["--preset paper --init taken"],
    "--eval-length": [
        "--task recall --eval-length 2",
        "--eval-length 3",
        "--sample 1 --out taken --eval-length 2",
    ],
    "--lambda-dyn": ["--lambda-dyn -1", "--lambda-dyn inf"],
    "--device": ["--device gpu", "--device xpu"],
    "--truncate": ["--truncate 0"],
    "--delay": ["--delay -1", "--task parity --delay 3"],
    "--modulus": ["--task modular --modulus 6"],
    "--length": ["--task retrieval --length 3", "--task stack --length 1"],
    "--data": [
        "--task text --data missing",
        "--task text --data .",
        "--task text --data short",
        "--task pixels --data short",
        "--task pixels --data float.npy",
        "--task pixels --data flat.npy",
        "--task pixels --data of16levels.npy",
        "--task text --data utf16",
        "--task text --data packed",
        "--task text --data latin1",
        "--sample 1 --out taken --data short",
        "--task pixels --data photo.npy",
        "--task pixels --data colours.npy",
        "--task pixels --data objects.npz",
        "--task text --data zeros",
        f"--task text --data {LONG}",
        "--task text --data=",
        "--task copy --data short",
    ],
    "--cell-depth": ["--cell gru --cell-depth 2"],
    "--dmt-lr": ["--dmt-updates 0 --dmt-lr 1e-3"],
    "--future": ["--init taken --updates 0 --future 4"],
    "--compile": ["--sample 1 --out taken --compile"],
    "--pairs": ["--task copy --pairs 3"],
    "--out": [
        "--out short",
        "--out taken",
        "--out unfinished",
        "--out short/run",
        f"--out {LONG}",
        "--out=",
    ],
    "--resume": ["--resume --out missing", "--resume --out damaged", "--resume=1"],
    "--sample": [
        "--sample 0",
        "--sample 1 --out missing",
        "--sample 1 --resume --out taken",
    ],
    "--init": [
        "--init missing",
        "--init damaged",
        f"--init {LONG}",
        "--init=",
        "--init untrained --updates 0",
    ],
    "--seed": ["--resume --out taken --seed 5"],
    "--memory-tokens": [
        "--resume --out taken --memory-tokens 3",
        "--init taken --memory-tokens 3",
    ],
    "--prompt": ["--prompt x"],
    "--nonsense": ["--nonsense"],
}


CALLS = [(option, call) for option, calls in WRONG.items() for call in calls]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """The directory of a small finished run."""
    out = str(tmp_path_factory.mktemp("run"))
    updates = "--updates 1 --dmt-updates 1 --out".split()
    assert smt.main([*TINY_SMT, *COPY, *updates, out]) == 0
    return out


@pytest.mark.parametrize("option, call", CALLS)
def test_wrong_input_gets_one_line_that_names_the_option(option, call, a_run, capsys):
    Path("short").write_text("short")
    np.save("float.npy", np.zeros((30, 8, 8)))
    np.save("flat.npy", np.zeros((30, 0, 0), np.uint8))
    np.save("of16levels.npy", np.full((30, 8, 8), 15, np.uint8))
    np.save("colours.npy", np.full((30, 8, 8, 3), 255, np.uint8))
    np.savez("objects.npz", x=np.array(["a", 1], object))
    Path("utf16").write_text("to be or not " * 100, encoding="utf-16")
    Path("latin1").write_text("déjà vu " * 1000, encoding="latin-1")
    np.save("photo.npy", np.full((48, 64, 3), 255, np.uint8))
    Path("packed").write_bytes(gzip.compress(b"to be or not " * 100))
    Path("zeros").write_bytes(bytes(5000))
    Path("damaged").mkdir()
    Path("damaged/checkpoint.pt").write_text("damaged")
    shutil.copytree(a_run, "taken", ignore=shutil.ignore_patterns("lock"))
    if "untrained" in call:
        shutil.copytree("taken", "untrained")
        run = torch.load("untrained/checkpoint.pt", weights_only=True)
        run["state"]["update"] = 0
        torch.save(run, "untrained/checkpoint.pt")
    Path("unfinished").mkdir()
    shutil.copy("taken/metrics.jsonl", "unfinished")
    before = Path("taken/checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit) as stop:
        smt.main(call.split())
    assert stop.value.code == 2
    usage, line = capsys.readouterr().err.strip().splitlines()
    assert usage.startswith("usage:") and option in line
    assert Path("taken/checkpoint.pt").read_bytes() == before
    assert not Path("taken/lock").exists()
    assert not Path("runs").exists()  # nothing is left of a run that could not begin


def test_an_out_that_is_a_file_is_called_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes").write_text("mine")
    with pytest.raises(SystemExit):
        smt.main(["--out", "notes"])
    assert "--out notes: is a file; give a directory" in capsys.readouterr().err
    assert Path("notes").read_text() == "mine"
