"""DMT in segments starts from labels, and each time is in a segment."""

import segments
import smt
import torch
import torch.nn.functional as F
from test_smt import batch_of, made
from test_smt import in_an_empty_folder  # noqa: F401


def test_dmt_in_segments_by_hand():
    args, task, models = made("--delay", "4")  # T = 8
    smt.hand_over_to_rnn(models)
    batch, rnn = batch_of(args, task), models.rnn
    B, labels = len(batch.x), models.encoder(batch.x)
    cuts = set()
    for seed in range(9):
        batch = batch._replace(generator=torch.Generator().manual_seed(seed))
        cut, theirs = segments.segments(batch, labels, 3)
        starts = []
        for i in range(0, len(cut.x), B):
            rows = slice(i, i + B)
            same = [s for s in range(6) if labels[:, s].equal(theirs[rows, 0])]
            starts += same
            s = same[0]
            assert cut.x[rows].equal(batch.x[:, s : s + 3])
            assert cut.y[rows].equal(batch.y[:, s : s + 3])
            assert theirs[rows].equal(labels[:, s : s + 4])
        assert starts[0] == 0 and starts[-1] == 5
        assert {s + i for s in starts for i in range(3)} == set(range(8))
        cuts.add(tuple(starts))
    assert len(cuts) == 3

    batch = batch._replace(generator=torch.Generator().manual_seed(seed))
    _, parts = segments.dmt_loss(models, batch, args, 3)
    memories = []
    for s in starts:
        memory = labels[:, s]
        for t in range(s, s + 3):
            memory = rnn.step(memory, batch.x[:, t])
            memories.append(memory)
    memories = torch.stack(memories)  # (n R, B, K, d)
    times = [t for s in starts for t in range(s, s + 3)]
    m = torch.stack([labels[:, t + 1] for t in times])
    torch.testing.assert_close(parts["labels"], F.mse_loss(memories, m))
    y = torch.stack([batch.y[:, t] for t in times])
    read = smt.cross_entropy(rnn.readout(memories), y)
    torch.testing.assert_close(parts["read"], read)


def test_a_run_in_segments_has_fewer_sequential_depth(monkeypatch):
    monkeypatch.setattr(smt, "dmt_loss", smt.dmt_loss)
    monkeypatch.setattr(smt, "sequential_depth", smt.sequential_depth)
    sizes = "--length 2 --delay 3 --dim 16 --memory-tokens 2 --width 16"  # T = 7
    run = f"{sizes} --batch-size 4 --updates 1 --dmt-updates 1 --device cpu --out run"
    depths = []
    for R in (100, 4):
        segments.use_segments(R)
        assert smt.main(f"{run}{R}".split()) == 0
        depths.append(smt.read_run(f"run{R}", "test")["state"]["depth"])
    assert depths[0] - depths[1] == 3
