"""What an update costs on one thread of a CPU, against T and at the authors' sizes.

    python experiments/speed.py [--quick]

growth: milliseconds of an update on copy with 4 sequences, and the layers that have to
run one after another, by T. sizes: at T = 256, with the default sizes and with the
authors' (--preset paper), also per label, and which share of the thread's rate in
multiplying large matrices that is. All is in fp32. It writes results/speed.json, from
which `python experiments/results.py tables` makes tables. With --quick it takes one
short length, and writes nothing.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import gpu

LENGTHS = (64, 256, 1024, 4096)
COMPARED = ("smt", "dmt", "bptt")  # at both sizes
SIZES = {"default": [], "authors'": ["--preset", "paper"]}
OPTIONS = "--batch-size 4 --device cpu --precision fp32".split()


def options_of(method: str, T: int) -> list[str]:
    """The options of an update on 4 sequences of length T."""
    options = [*OPTIONS, "--delay", str(T - 16)]
    return options if method == "bptt" else [*options, "--dmt-batch-size", "4"]


def growth(method: str, T: int, updates: int) -> dict:
    """Milliseconds and sequential depth of an update, in sequences of length T."""
    options = options_of(method, T)
    figures = gpu.measure_updates(method, options, updates)
    program = gpu.PROGRAMS[method]
    args, _, _ = program.settings(options)
    layers = program.sequential_depth(method, T, args)
    return {"method": method, "T": T, "ms": figures["ms"], "layers": layers}


def matrix_rate(n: int) -> float:
    """Operations in a second when n x n matrices are multiplied: the best of five."""
    seconds = []
    matrix = torch.randn(n, n)
    for _ in range(5):
        begin = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - begin)
    return 2 * n**3 / min(seconds)


def cost(method: str, size: str, T: int, updates: int, rate: float) -> dict:
    """Milliseconds of an update and of a label, and the share of the matrix rate.

    A label is one time of one sequence; BPTT has none, and there it is a memory.
    """
    options = [*SIZES[size], *options_of(method, T)]
    figures = gpu.measure_updates(method, options, updates)
    update, _, T, B = gpu.make_update(method, options)
    # Fused attention is not counted on a CPU, so its products are counted one by one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        update(0)
    ms = figures["ms"]
    share = counter.get_total_flops() / (ms / 1000) / rate
    found = {"method": method, "size": size, "ms": ms}
    return found | {"ms a label": ms / (B * T), "share": share}


def main(argv: list[str]) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--quick", action="store_true", help="one short length")
    quick = parser.parse_args(argv).quick
    torch.set_num_threads(1)
    found = {"growth": [], "sizes": []}
    for T in (20,) if quick else LENGTHS:
        for method in gpu.PROGRAMS:
            updates = 1 if quick else max(1, 1024 // T)
            line = growth(method, T, updates)
            found["growth"].append(line)
            print("{method:8} T {T:5} {ms:9.1f} ms {layers:6} layers".format(**line))
    rate = matrix_rate(256 if quick else 2048)
    for size in ("default",) if quick else SIZES:
        for method in COMPARED:
            line = cost(method, size, 20 if quick else 256, 1, rate)
            found["sizes"].append(line)
            shown = (
                "{method:8} {size} {ms:.1f} ms {ms a label:.3f} ms a label {share:.3f}"
            )
            print(shown.format(**line))
    if not quick:
        (ROOT / "results/speed.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
