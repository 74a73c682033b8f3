"""How much memory an update takes at most, counted from shapes: needs no GPU, no data.

    python experiments/memory.py smt|dmt|bptt [options of the program]

The update runs on the device "meta", whose tensors have shapes and no numbers. What is
alive at a time is added up: weights, optimisers, activations and gradients, in fp32.
The allocator of a GPU, its libraries and its kernels' own space come on top. Attention
is counted as a fused kernel, which keeps no matrix of all pairs.
"""

import argparse
import sys
import weakref
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent.parent))

import bptt_baseline
import smt

PROGRAMS = {"smt": smt, "dmt": smt, "bptt": bptt_baseline}


class LiveMemory(TorchDispatchMode):
    """Adds up the bytes of all tensors that are alive, and keeps the highest sum."""

    def __init__(self):
        super().__init__()
        self.known = set()  # the storages that are alive
        self.live = self.peak = 0

    def add(self, tensor: torch.Tensor):
        """Count a tensor's storage until it is freed; views share one."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.free, key, size)

    def free(self, key: int, size: int):
        self.known.remove(key)
        self.live -= size

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result


def fused_attention(q, k, v, is_causal=False):
    """What F.scaled_dot_product_attention does on a GPU; on "meta" it is not fused."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(q, k, v, 0.0, is_causal)[0]


def peak_bytes(name: str, options: list[str]) -> tuple[int, smt.Phase]:
    """The most bytes of the second update of a phase, and the phase."""
    program = PROGRAMS[name]
    args, _, _ = program.settings(["--device", "cpu", "--out", "runs/none", *options])
    args.compile = False
    task = program.make_task(args)
    phase = next(p for p in program.phases(args) if p.name == name)
    batch = program.draw_batch(task, phase.batch_size, 0, 0.5, args)
    batch = batch._replace(x=batch.x.to("meta"), y=batch.y.to("meta"))
    memory = LiveMemory()
    usual = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = fused_attention
    try:
        with memory:
            with torch.device("meta"):
                models = program.Models(args, task)
            program.set_trained(models, phase)
            optimizers = program.make_optimizers(models, phase.peak_rate)
            program.set_rates(optimizers, 1, 100)
            loss = program.Loss(models, phase.loss_fn, args)
            for _ in range(2):  # the second one finds the optimisers' state in place
                memory.peak = memory.live
                program.update(models, optimizers, loss, batch)
    finally:
        F.scaled_dot_product_attention = usual
    return memory.peak, phase


if __name__ == "__main__":
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("phase", choices=PROGRAMS)
    args, options = parser.parse_known_args()
    try:
        peak, phase = peak_bytes(args.phase, options)
    except smt.WrongInput as error:
        parser.error(str(error))
    print(f"{args.phase}: {peak / 2**30:.2f} GiB for {phase.batch_size} sequences")
