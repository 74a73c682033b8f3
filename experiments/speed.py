"""How the time and the depth of an update grow with the length T of the sequences.

    python experiments/speed.py [--quick]

Milliseconds of an update on copy with 4 sequences, in fp32 and on one thread of a CPU,
with the layers that have to run one after another. It writes results/speed.json, from
which `python experiments/results.py tables` makes a table. With --quick it takes one
short length, and writes nothing.
"""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import gpu

LENGTHS = (64, 256, 1024, 4096)
OPTIONS = "--batch-size 4 --device cpu --precision fp32".split()


def measure(method: str, T: int, updates: int) -> dict:
    """Milliseconds and layers in a row of an update, in sequences of length T."""
    program = gpu.PROGRAMS[method]
    options = [*OPTIONS, "--delay", str(T - 16)]
    if method != "bptt":
        options += ["--dmt-batch-size", "4"]
    figures = gpu.measure_updates(method, options, updates)
    args, _, _ = program.settings(options)
    layers = program.layers_in_a_row(method, T, args)
    return {"method": method, "T": T, "ms": figures["ms"], "layers": layers}


def main(argv: list[str]) -> int:
    quick = argv == ["--quick"]
    if argv and not quick:
        print(__doc__, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    found = []
    for T in (20,) if quick else LENGTHS:
        for method in gpu.PROGRAMS:
            updates = 1 if quick else max(1, 1024 // T)
            found.append(measure(method, T, updates))
            print(
                "{method:8} T {T:5} {ms:9.1f} ms {layers:6} layers".format(**found[-1])
            )
    if not quick:
        (ROOT / "results/speed.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
