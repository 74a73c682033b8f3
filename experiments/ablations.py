"""What does a part of smt.py do? Train without it.

    python experiments/ablations.py PART [options of smt.py]

PART is one of those below, or nothing, which changes nothing. The run goes to --out, or
to runs/without-PART. Compare the lines of two runs that differ in PART alone.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import data
import smt


def without_convolution():
    """The encoder's tokens see themselves alone before the first attention."""

    class Nothing(torch.nn.Module):
        def forward(self, padded):
            return torch.zeros_like(padded[..., 3:])

    class Encoder(smt.Encoder):
        def __init__(self, *inputs):
            super().__init__(*inputs)
            self.short_conv = Nothing()

    smt.Encoder = Encoder


def without_writing():
    """A label is a map of one token's state: the writing attention is gone."""

    class Encoder(smt.Encoder):
        def write_labels(self, h):
            labels = self.label_from_token(h).unflatten(2, (self.K, -1))
            labels = labels + self.label_mlp(labels)
            return torch.nn.functional.rms_norm(labels, labels.shape[-1:])

    smt.Encoder = Encoder


def without_read():
    """The readout learns from the first target of the decoded labels alone."""
    usual = smt.smt_loss

    def smt_loss(models, batch, args):
        loss, parts = usual(models, batch, args)
        return loss - parts["read"], parts

    smt.smt_loss = smt_loss


def without_timestamps():
    """No task has timestamps, also where sequences have a fixed length."""
    for task in data.TASKS.values():
        task.has_timestamps = False


def without_growth():
    """L_dyn has its full weight from the first update of SMT on."""
    usual = smt.smt_loss

    def smt_loss(models, batch, args):
        return usual(models, batch._replace(progress=1.0), args)

    smt.smt_loss = smt_loss


PARTS = {
    "nothing": lambda: None,
    "growth": without_growth,
    "convolution": without_convolution,
    "writing": without_writing,
    "read": without_read,
    "timestamps": without_timestamps,
}

if __name__ == "__main__":
    part, options = (sys.argv + [""])[1], sys.argv[2:]
    if part in ("-h", "--help"):
        print(__doc__)
        sys.exit(0)
    if part not in PARTS:
        message = f"PART {part!r}: give one of {', '.join(PARTS)}"
        print(f"ablations.py: {message}", file=sys.stderr)
        sys.exit(2)
    PARTS[part]()
    options = ["--out", f"runs/without-{part}", *options]  # a later --out wins
    sys.exit(smt.main(options))
