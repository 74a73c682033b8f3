"""What does each part of smt.py that the paper does not have do? Train without it.

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
        def write(self, h):
            m = self.own_state(h).unflatten(2, (self.K, -1))
            m = m + self.mlp(m)
            return torch.nn.functional.rms_norm(m, m.shape[-1:])

    smt.Encoder = Encoder


def change_loss(change):
    """Let the loss of SMT be change(loss, its parts by name, batch, args)."""
    usual = smt.smt_loss

    def smt_loss(models, batch, args):
        loss, parts = usual(models, batch, args)
        return change(loss, parts, batch, args), parts

    smt.smt_loss = smt_loss


def without_guess():
    """The encoder's own guesses of the targets are not trained."""
    change_loss(lambda loss, parts, batch, args: loss - parts["guess"])


def without_read():
    """The readout learns from the first target of the decoded labels alone."""
    change_loss(lambda loss, parts, batch, args: loss - parts["read"])


def without_growth():
    """The dynamics loss has its full weight from the first step on."""

    def full(loss, parts, batch, args):
        missing = 1 - min(1, batch.progress / 0.8)
        return loss + missing * args.lambda_dyn * parts["dynamics"]

    change_loss(full)


def without_timestamps():
    """No task has timestamps, also where sequences have a fixed length."""
    for task in data.TASKS.values():
        task.fixed_length = False


PARTS = {
    "nothing": lambda: None,
    "convolution": without_convolution,
    "writing": without_writing,
    "guess": without_guess,
    "read": without_read,
    "growth": without_growth,
    "timestamps": without_timestamps,
}

if __name__ == "__main__":
    part, options = (sys.argv + [""])[1], sys.argv[2:]
    if part not in PARTS:
        print(f"ablations.py: PART {part!r}: give one of {', '.join(PARTS)}")
        sys.exit(2)
    PARTS[part]()
    if "--out" not in options:
        options += ["--out", f"runs/without-{part}"]
    sys.exit(smt.main(options))
