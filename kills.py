"""Runs that are killed again and again end as if nothing had happened: python kills.py [100]

Runs of smt.py and bptt_baseline.py get SIGKILL at random moments, in all phases and in the midst of
writing, and go on with --resume. Their weights and metrics must be those of an undisturbed run, bit
for bit but for the seconds. The number is that of kills; 100 take some ten minutes.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

HOME = Path(__file__).parent
RUNS = {  # evaluated and saved at each step, large enough for writing to take its time
    "smt.py": "--steps 12 --cell-only 0.4 --dmt-steps 8 --labels 4 --decoded 2",
    "bptt_baseline.py": "--steps 20",
}
COMMON = "--length 3 --delay 2 --memory 4 --dim 256 --eval-every 1 --eval-rows 4 --batch-size 2"


def start(program: str, out: Path) -> subprocess.Popen:
    """Begin the run, or go on with it where it has a checkpoint."""
    command = [sys.executable, HOME / program, "--device", "cpu", "--out", out]
    command += [*COMMON.split(), *RUNS[program].split()]
    if (out / "checkpoint.pt").exists():
        command.append("--resume")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def outcome(out: Path) -> tuple[dict, list]:
    """A run's final weights, and its metrics without the seconds."""
    weights = torch.load(out / "checkpoint.pt", weights_only=True)["models"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return weights, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def same(a: tuple[dict, list], b: tuple[dict, list]) -> bool:
    return a[1] == b[1] and all(torch.equal(b[0][name], w) for name, w in a[0].items())


def disturbed(program: str, out: Path, loading: float, kills: int) -> int:
    """Kill the run so many times, or until it has ended -> how many times that was."""
    for kill in range(kills + 1):
        process = start(program, out)
        try:
            wait = loading + random.expovariate(1) if kill < kills else None
            _, error = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            if process.returncode:
                sys.exit(f"{program} after {kill} kills: {error}")
            return kill


def main(kills: int):
    with tempfile.TemporaryDirectory() as directory:
        wanted, loading = {}, {}
        for program in RUNS:
            out, begun = Path(directory, program), time.perf_counter()
            process = start(program, out)
            while not (out / "metrics.jsonl").exists() and process.poll() is None:
                time.sleep(0.01)
            loading[program] = time.perf_counter() - begun
            process.communicate()
            wanted[program] = outcome(out)
        done = runs = 0
        while done < kills:
            program, out = list(RUNS)[runs % 2], Path(directory, f"run{runs}")
            done += disturbed(program, out, loading[program] - 0.3, min(20, kills - done))
            runs += 1
            if not same(outcome(out), wanted[program]):
                sys.exit(f"{program}: other weights or metrics after its kills")
            print(f"{done} kills, {runs} runs that ended as they should", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
