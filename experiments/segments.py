"""DMT in segments: the RNN runs R steps from a label, in all segments at once.

    python experiments/segments.py R [options of smt.py]

In smt.py DMT runs the RNN through the whole sequence, so T steps wait for one another.
Here sequences are cut into segments of R times, and the RNN starts in each from the
label before it. So only R steps wait. The price is that DMT never sees how far the RNN
drifts in more than R steps. All else is smt.py; the run goes to --out, or to
runs/segments.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

import smt


def segments(batch: smt.Batch, all_labels: Tensor, R: int) -> tuple[smt.Batch, Tensor]:
    """Cut sequences into n segments of R times, as rows of a larger batch.

    x, y (B, T), all_labels (B, T + 1, K, d) -> the same with B as n B and T as R.
    A segment's first label is the one before its first input.
    There is a segment at the beginning and one at the end. Those between stand side by
    side from a random time on. T = 8, R = 3, first = 1 gives four of them:
    x_0 x_1 x_2   x_1 x_2 x_3   x_4 x_5 x_6   x_5 x_6 x_7
    """
    T = batch.x.shape[1]
    if R >= T:
        return batch, all_labels
    first = torch.randint(R, (1,), generator=batch.generator).item()
    starts = [0, *range(first, T - R + 1, R), T - R]
    x = torch.cat([batch.x[:, s : s + R] for s in starts])
    y = torch.cat([batch.y[:, s : s + R] for s in starts])
    all_labels = torch.cat([all_labels[:, s : s + R + 1] for s in starts])
    first_target = max(0, batch.first_target - (T - R))  # in the last segment
    return batch._replace(x=x, y=y, first_target=first_target), all_labels


def dmt_loss(models, batch: smt.Batch, args, R: int) -> tuple[Tensor, dict]:
    """As smt.dmt_loss, but in segments of R times."""
    with torch.no_grad():
        all_labels = models.encoder(batch.x)  # (B, T + 1, K, d)
    batch, all_labels = segments(batch, all_labels, R)
    rnn = models.rnn
    memory, labels = all_labels[:, 0], all_labels[:, 1:]
    memories = []
    for t in range(labels.shape[1]):
        memory = rnn.step(memory, batch.x[:, t])
        memories.append(memory)
    memories = torch.stack(memories, 1)  # (n B, R, K, d)
    memories_to_read = memories if args.attach_readout else memories.detach()
    weight = 0.1 * (1 - batch.progress) if args.attach_readout else 1.0
    L_labels = F.mse_loss(memories, labels)
    L_read = smt.read_loss(rnn.readout, memories_to_read, batch)
    return weight * L_labels + L_read, {"labels": L_labels, "read": L_read}


def use_segments(R: int):
    """Let smt.py's DMT run in segments of R times."""
    usual = smt.sequential_depth

    def loss_in_segments(models, batch, args):
        return dmt_loss(models, batch, args, R)

    def sequential_depth(phase, T, args):
        steps = min(R, T) if phase == "dmt" else T
        return usual(phase, steps, args)

    smt.dmt_loss = loss_in_segments
    smt.sequential_depth = sequential_depth


if __name__ == "__main__":
    R, options = (sys.argv + [""])[1], sys.argv[2:]
    if R in ("-h", "--help"):
        print(__doc__)
        sys.exit(0)
    if not R.isdecimal() or int(R) < 1:
        print(f"segments.py: R {R!r}: give a number of steps", file=sys.stderr)
        sys.exit(2)
    use_segments(int(R))
    sys.exit(smt.main(["--out", "runs/segments", *options]))  # a later --out wins
