"""Kill a run at random moments, resume it, and compare it with one that went through.

    python experiments/kills.py PROGRAM [options of the program]

PROGRAM is smt.py, bptt_baseline.py or nextlat.py. Each process is killed by SIGKILL
after a random time. The exit status is 1 if the weights differ in the end.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
SMALL = "--task copy --delay 3 --dim 16 --device cpu --eval-every 10 --updates 200"


def weights(directory: str) -> dict:
    """The networks of a run."""
    return torch.load(f"{directory}/checkpoint.pt", weights_only=True)["models"]


def main(argv: list[str]) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    programs = ["smt.py", "bptt_baseline.py", "nextlat.py"]
    parser.add_argument("program", choices=programs)
    args, options = parser.parse_known_args(argv)
    program = args.program
    call = [sys.executable, str(ROOT / program)]
    train = [*call, *SMALL.split(), *options]
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = f"{folder}/whole", f"{folder}/killed"
        begin = time.perf_counter()
        first = subprocess.run([*train, "--out", whole], capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if first.returncode:
            parser.error(first.stderr.strip().splitlines()[-1])
        kills = 0
        while True:
            begun = Path(killed, "checkpoint.pt").exists()
            more = ["--resume"] if begun else train[len(call) :]
            try:
                subprocess.run(
                    [*call, *more, "--out", killed],
                    check=True,
                    capture_output=True,
                    # The process is killed when it is over. It grows, so that the run
                    # gets to its end, too.
                    timeout=seconds * draws.uniform(0.3, 0.4 + kills / 20),
                )
                break
            except subprocess.TimeoutExpired:
                kills += 1
        there, found = weights(whole), weights(killed)
        same = all(torch.equal(there[name], found[name]) for name in there)
    print(f"{program}: killed {kills} times, weights {'equal' if same else 'DIFFER'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
