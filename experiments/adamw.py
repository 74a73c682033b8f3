"""A run of a program with AdamW alone, without Muon.

    python experiments/adamw.py PROGRAM [options of the program]

PROGRAM is smt, bptt_baseline or nextlat. --lr is AdamW's rate for all weights. All else
is the program; the run goes to --out, or to runs/adamw.
"""

import argparse
import importlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

PROGRAMS = ("smt", "bptt_baseline", "nextlat")


def make_optimizers(models: torch.nn.ModuleDict, peak: float) -> dict:
    """AdamW for all that is trained; it has the programs' decay and betas."""
    trained = [p for p in models.parameters() if p.requires_grad]
    group = {"params": trained, "peak": peak}
    adamw = torch.optim.AdamW([group], weight_decay=0.1, betas=(0.9, 0.95))
    return {"adamw": adamw}


def main(argv: list[str]) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("program", choices=PROGRAMS)
    args, options = parser.parse_known_args(argv)
    program = importlib.import_module(args.program)
    program.make_optimizers = make_optimizers
    return program.main(["--out", "runs/adamw", *options])  # a later --out wins


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
