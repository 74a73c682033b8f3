"""memory.py counts each storage once, while it is alive."""

import memory
import pytest
import torch

TINY = "--dim 16 --memory-tokens 2 --batch-size 4 --delay 3".split()
TINY_SMT = [*TINY, *"--encoder-depth 1 --windows 2".split()]


def test_live_memory_counts_what_is_alive():
    with memory.LiveMemory() as counted:
        a = torch.zeros(1000)
        view = a.view(10, 100)
        b = view + 1
        del a, view
        c = b[:5] + 1
        del b
    assert counted.peak == 4 * (1000 + 1000)
    assert counted.live == c.nbytes == 4 * 500


@pytest.mark.parametrize("name", memory.PROGRAMS)
def test_an_update_keeps_the_activations_of_all_times(name):
    sizes = TINY if name == "bptt" else TINY_SMT
    short, _ = memory.peak_bytes(name, [*sizes, "--length", "2"])
    long, phase = memory.peak_bytes(name, [*sizes, "--length", "12"])
    assert long > 1.2 * short and phase.name == name
