"""Sanity checks of smt.py, bptt_baseline.py and data.py, run by `python -m pytest`."""

import ast
import contextlib
import difflib
import gzip
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bptt_baseline
import data
import smt

PROGRAMS = {"smt": smt, "bptt": bptt_baseline}
# Small enough that a step takes milliseconds.
TINY = "--dim 16 --memory-tokens 2 --batch-size 4 --device cpu --eval-every 2".split()
TINY_SMT = [*TINY, *"--width 16 --encoder-depth 1 --dmt-batch-size 8".split()]
COPY = "--task copy --length 2 --delay 3".split()  # T = 7


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def made(*argv, program=smt):
    """Options, task and fresh networks of a small run."""
    tiny = TINY_SMT if program is smt else TINY
    args, run, source = program.settings([*tiny, *COPY, *argv])
    task, models = program.start(args, run, source)
    return args, task, models


def batch_of(args, task, step=0):
    return smt.draw_batch(task, args.batch_size, step, 0.25, args)


def weights(directory) -> dict:
    return smt.read_run(directory, "test")["models"]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------- the networks
def test_attention_is_softmax_of_turned_queries_and_keys():
    B, S, heads, size = 2, 5, 3, smt.HEAD_SIZE
    qkv = torch.randn(B, S, 3 * heads * size)
    found = smt.attention(qkv, causal=True).view(B, S, heads, size)
    q, k, v = qkv.view(B, S, 3, heads, size).unbind(2)
    for h in range(heads):
        turned_q = smt.rotary(q[:, None, :, h])[:, 0]
        turned_k = smt.rotary(k[:, None, :, h])[:, 0]
        for t in range(S):
            weight = turned_q[:, t, None] @ turned_k[:, : t + 1].mT / math.sqrt(size)
            wanted = weight.softmax(-1) @ v[:, : t + 1, h]
            torch.testing.assert_close(found[:, t, h], wanted[:, 0])


def test_rotary_positions_tell_distances_alone():
    q, k = torch.randn(2, 8)
    at = lambda vector, t: smt.rotary(vector.expand(1, 1, 12, 8))[0, 0, t]  # noqa: E731
    near = at(q, 3) @ at(k, 1)
    torch.testing.assert_close(near, at(q, 11) @ at(k, 9))
    assert (near - at(q, 3) @ at(k, 2)).abs() > 1e-3
    torch.testing.assert_close(at(q, 7).norm(), q.norm())


@pytest.mark.parametrize("timestamps", [True, False])
def test_labels_see_their_prefix_and_not_the_future(timestamps, monkeypatch):
    monkeypatch.setattr(data.Copy, "fixed_length", timestamps)
    args, task, models = made()
    assert (models["encoder"].timestamps is not None) == timestamps
    torch.nn.init.normal_(models["encoder"].short_conv.weight)  # it begins at zero
    x, _ = task.held_out("val", 3)
    changed = x.clone()
    changed[:, 4] = (x[:, 4] + 1) % task.vocab
    labels = models["encoder"](x)
    others = models["encoder"](changed)
    assert labels.shape == (3, task.T + 1, args.memory_tokens, args.dim)
    difference = (labels - others).abs().amax((0, 2, 3))  # (T + 1,): m_∅, m_0, ..
    assert (difference[:5] == 0).all() and (difference[5:] > 1e-5).all()
    square = labels.square().mean(-1)
    torch.testing.assert_close(square, torch.ones_like(square), atol=1e-3, rtol=0)


def test_the_empty_memory_is_the_label_of_nothing():
    _, task, models = made()
    x, _ = task.held_out("val", 3)
    smt.hand_over_to_rnn(models)
    labels = models["encoder"](x)
    empty = models["rnn"].empty_memory.expand(3, -1, -1)
    torch.testing.assert_close(labels[:, 0], empty)
    found = models["rnn"].readout(labels[:, 3])
    torch.testing.assert_close(found, models["decoder"].readout(labels[:, 3]))


def test_the_decoder_reads_y_t_first_and_is_causal():
    args, task, models = made("--decoder-depth", "2")
    decoder = models["decoder"]
    memory = torch.randn(3, args.memory_tokens, args.dim)
    future = torch.randint(task.vocab, (3, 4))
    logits = decoder(memory, future)
    assert logits.shape == (3, 5, task.vocab)
    torch.testing.assert_close(logits[:, 0], decoder.readout(memory))
    torch.testing.assert_close(logits[:, :3], decoder(memory, future[:, :2]))
    other = decoder(memory, (future + 1) % task.vocab)
    assert (logits - other)[:, 1:].abs().amax((0, 2)).min() > 1e-5
    memory[:, 0] += 1  # the last memory token has to see the first
    assert (logits[:, 0] - decoder.readout(memory)).abs().max() > 1e-5


@pytest.mark.parametrize("cell", smt.CELLS)
def test_a_rollout_is_steps_from_the_empty_memory(cell):
    deep = [] if cell == "gru" else ["--cell-depth", "2"]
    args, task, models = made("--cell", cell, *deep)
    rnn = models["rnn"]
    x, _ = task.held_out("val", 3)
    memories = rnn.rollout(x)
    memory = rnn.empty_memory.expand(3, -1, -1)
    for t in range(task.T):
        before = memory
        memory = rnn.step(memory, x[:, t])
        torch.testing.assert_close(memories[:, t], memory)
    other = rnn.step(before, (x[:, -1] + 1) % task.vocab)
    assert (other - memory).abs().max() > 1e-4  # the input counts
    square = memory.square().mean(-1)
    torch.testing.assert_close(square, torch.ones_like(square), atol=1e-3, rtol=0)
    assert rnn.readout(memories).shape == (3, task.T, task.vocab)


# --------------------------------------------------------------------------- the losses
def test_cross_entropy_is_the_mean_over_what_is_asked():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    y = torch.tensor([[1, -1, 4], [-1, -1, 0]])
    nats = -logits.log_softmax(-1)
    wanted = (nats[0, 0, 1] + nats[0, 2, 4] + nats[1, 2, 0]) / 3
    torch.testing.assert_close(smt.cross_entropy(logits, y), wanted)
    nothing = smt.cross_entropy(logits, torch.full_like(y, -1))
    nothing.backward()
    assert nothing == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_transformer_leaves_out_what_nobody_reads(causal):
    body = smt.Transformer(32, 2, causal)
    h = torch.randn(2, 5, 32)
    torch.testing.assert_close(body(h, keep_from=3), body(h)[:, 3:])


def test_uniformity_by_hand():
    labels = torch.randn(3, 2, 2, 5)
    u = labels / labels.norm(dim=-1, keepdim=True)
    terms = []
    for time in range(2):
        for slot in range(2):
            for a in range(3):
                for b in range(3):
                    if a != b:
                        apart = u[a, time, slot] - u[b, time, slot]
                        terms.append((-2 * apart.square().sum()).exp())
    wanted = torch.stack(terms).mean().log()
    longer = torch.cat([torch.randn(3, 1, 2, 5), labels], 1)
    torch.testing.assert_close(smt.uniformity_loss(longer, [1, 2]), wanted)
    collapsed = smt.uniformity_loss(labels[:1].expand(3, -1, -1, -1), [0, 1])
    torch.testing.assert_close(collapsed, torch.tensor(0.0), atol=1e-5, rtol=0)
    assert smt.uniformity_loss(labels[:1], [0]).isfinite()


def test_the_smt_loss_by_hand():
    sizes = "--future 3 --decoded 2 --decoder-depth 2"
    args, task, models = made(*sizes.split())
    encoder, decoder, rnn = models["encoder"], models["decoder"], models["rnn"]
    batch = batch_of(args, task)
    loss, parts = smt.smt_loss(models, batch, args)
    x, y, first = batch.x, batch.y, batch.first_target
    assert first == 5  # copy of 2 after a delay of 3 asks at the times 5 and 6

    labels = encoder(x)
    draws = batch_of(args, task).generator
    times = torch.randint(3, 7, (2,), generator=draws).tolist()  # t + 2 >= first
    decode = 0
    for t in times:
        logits = decoder(labels[:, t + 1], x[:, t + 1 : t + 3])
        asked = y[:, t : t + 3]
        nats = -logits.log_softmax(-1).gather(2, asked.clamp(min=0)[..., None])[..., 0]
        decode = decode + nats[asked >= 0].mean() / 2
    torch.testing.assert_close(parts["decode"], decode)

    nats = [F.cross_entropy(decoder.readout(labels[:, t + 1]), y[:, t]) for t in (5, 6)]
    torch.testing.assert_close(parts["read"], sum(nats) / 2)
    errors = []
    for t in range(task.T):
        errors.append(rnn.step(labels[:, t], x[:, t]) - labels[:, t + 1])
    torch.testing.assert_close(parts["dynamics"], torch.stack(errors).square().mean())
    uniformity = smt.uniformity_loss(labels[:, 1:], times)
    torch.testing.assert_close(parts["uniformity"], uniformity)
    wanted = parts["decode"] + parts["read"]
    wanted = wanted + batch.progress * args.lambda_dyn * parts["dynamics"]
    wanted = wanted + args.lambda_unif * parts["uniformity"]
    torch.testing.assert_close(loss, wanted)


def test_the_smt_loss_has_the_gradient_of_finite_differences(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    args, task, models = made()
    models.double()
    batch = batch_of(args, task)
    drawn = batch.generator.get_state()

    def loss():
        batch.generator.set_state(drawn)
        return smt.smt_loss(models, batch, args)[0]

    loss().backward()
    trained = [p for p in models.parameters() if p.grad is not None]
    generator = torch.Generator().manual_seed(0)
    ways = [torch.randn(p.shape, generator=generator).double() for p in trained]
    slope = sum((p.grad * way).sum() for p, way in zip(trained, ways))
    found = []
    with torch.no_grad():
        for size in (1e-5, -2e-5):
            for p, way in zip(trained, ways):
                p += size * way
            found.append(loss())
    torch.testing.assert_close((found[0] - found[1]) / 2e-5, slope, rtol=1e-6, atol=0)


def gradients_of(part: torch.Tensor, models) -> set:
    """The networks that a part of the loss trains."""
    models.zero_grad()
    part.backward(retain_graph=True)
    names = set()
    for name, p in models.named_parameters():
        if p.grad is not None and p.grad.abs().max() > 0:
            names.add(".".join(name.split(".")[: 2 if name[:3] == "rnn" else 1]))
    return names


def test_each_part_of_the_smt_loss_trains_what_it_should():
    args, task, models = made()
    smt.set_trained(models, "smt")
    _, parts = smt.smt_loss(models, batch_of(args, task), args)
    step = {"rnn.embed", "rnn.cell"}
    assert gradients_of(parts["decode"], models) == {"encoder", "decoder"}
    assert gradients_of(parts["read"], models) == {"encoder", "decoder"}
    assert gradients_of(parts["dynamics"], models) == {"encoder"} | step
    assert gradients_of(parts["uniformity"], models) == {"encoder"}


def test_dynamics_draws_both_labels(monkeypatch):
    args, task, models = made()
    kept = []
    encode = models["encoder"].write
    monkeypatch.setattr(
        models["encoder"], "write", lambda h: kept.append(encode(h)) or kept[-1]
    )
    _, parts = smt.smt_loss(models, batch_of(args, task), args)
    (slope,) = torch.autograd.grad(parts["dynamics"], kept[0])
    length = slope.flatten(2).norm(dim=2).amin(0)  # (T + 1,)
    assert (length > 0).all()  # m_∅ is drawn as a start alone, the last as an end alone


def test_dmt_by_hand_trains_cell_and_readout_alone():
    args, task, models = made()
    smt.hand_over_to_rnn(models)
    smt.set_trained(models, "dmt")
    batch = batch_of(args, task)
    loss, parts = smt.dmt_loss(models, batch, args)
    memories = models["rnn"].rollout(batch.x)
    labels = models["encoder"](batch.x)
    error = (memories - labels[:, 1:]).square().mean()
    torch.testing.assert_close(parts["labels"], error)
    logits = models["rnn"].readout(memories[:, 5:])
    read = F.cross_entropy(logits.flatten(0, 1), batch.y[:, 5:].flatten())
    torch.testing.assert_close(parts["read"], read)
    torch.testing.assert_close(loss, error + read)
    step = {"rnn.embed", "rnn.cell"}
    assert gradients_of(parts["labels"], models) == step
    assert gradients_of(parts["read"], models) == {"rnn.readout"}
    args.attach_readout = True
    loss, parts = smt.dmt_loss(models, batch, args)
    wanted = 0.75 * 0.1 * error + read  # a quarter of the steps is done
    torch.testing.assert_close(loss, wanted)
    assert gradients_of(parts["read"], models) == step | {"rnn.readout"}


def cuts(program, T: int, H: int, step: int) -> list[int]:
    """The times t at which the gradient does not reach the memory before x_t."""
    options = ["--truncate", str(H), "--delay", str(T - 4)]
    args, task, models = made(*options, program=program)
    rnn, kept = models["rnn"], []
    once = rnn.step

    def noted(memory, x):
        kept.append(memory)
        return once(memory, x)

    rnn.step = noted
    loss_of = smt.dmt_loss if program is smt else bptt_baseline.bptt_loss
    program.set_trained(models, "dmt")
    if program is smt:
        rnn.empty_memory.requires_grad_(True)
    loss_of(models, batch_of(args, task, step), args)
    return [t for t, memory in enumerate(kept) if not memory.requires_grad]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_gradient_is_cut_every_h_steps_from_a_drawn_offset(program):
    seen = {tuple(cuts(program, 8, 3, step)) for step in range(12)}
    assert seen == {(3, 6), (2, 5), (1, 4, 7)}
    assert cuts(program, 8, 1, 0) == list(range(1, 8))  # the DMT of the paper
    assert cuts(program, 8, 8, 0) == cuts(program, 8, 9, 0) == []


# ----------------------------------------------------------------------- the optimisers
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("cell", smt.CELLS)
def test_muon_has_the_inner_matrices_and_adamw_the_rest(program, cell):
    _, _, models = made("--cell", cell, program=program)
    for phase in [phase.name for phase in program.phases(made(program=program)[0])]:
        program.set_trained(models, phase)
        optimizers = program.make_optimizers(models, 1e-3)
        owner = {}
        for kind, optimizer in optimizers.items():
            for p in optimizer.param_groups[0]["params"]:
                assert p not in owner
                owner[p] = kind
        for name, p in models.named_parameters():
            outer = any(
                part in name
                for part in ("embed", "to_logits", "empty_memory", "timestamps")
            )
            kind = "muon" if p.ndim == 2 and not outer else "adamw"
            assert owner.get(p) == (kind if p.requires_grad else None)


def test_rates_rise_and_fall_and_muons_is_five_times_as_large():
    _, _, models = made()
    optimizers = smt.make_optimizers(models, 1e-3)
    rates = []
    for step in range(100):
        smt.set_rates(optimizers, step, 100)
        adamw, muon = (optimizers[n].param_groups[0]["lr"] for n in ("adamw", "muon"))
        assert muon == pytest.approx(5 * adamw)
        rates.append(adamw)
    assert 0 < rates[0] < 0.5e-3 and max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[50] == pytest.approx(0.5e-3) and 0 < rates[99] < 1e-6


def test_muon_makes_the_same_step_in_full_precision():
    steps = []
    for mode in (smt.nullcontext(), smt.FullPrecision()):
        p = torch.nn.Parameter(torch.zeros(24, 16))
        p.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
        gradient = p.grad.clone()
        with mode:
            torch.optim.Muon([p], lr=1.0, weight_decay=0.0).step()
        assert torch.equal(p.grad, gradient)
        steps.append(p.detach())
    assert not torch.equal(*steps)
    torch.testing.assert_close(*steps, atol=0.02, rtol=0.05)


# ------------------------------------------------------------------ a GPU, without one
class Gpu(TorchDispatchMode):
    """Takes the device "meta", which keeps shapes and no data, for a GPU.

    Operands on two devices are refused. copies counts what goes from one device to
    another: there a GPU and the CPU may have to wait for each other. Anything else that
    needs the data, such as .item() or a boolean index, is an error on "meta" itself.
    """

    copies = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        goal = torch.device(kwargs.get("device") or "cpu").type
        copied = operation is torch.ops.aten._to_copy.default
        if copied and kwargs.get("device") and {goal} != devices:
            self.copies += 1
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.ones(args[0].shape, dtype=dtype, device=goal)
        assert len(devices) < 2, f"{operation} has operands on {devices}"
        for tensor in tensors:
            assert not tensor.is_complex() and tensor.dtype != torch.float64, operation
        return operation(*args, **kwargs)


@pytest.mark.parametrize("name", data.TASKS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_gpu_has_all_operands_and_a_step_waits_for_none(program, name):
    tiny = TINY_SMT if program is smt else TINY
    short = {
        "copy": "--delay 3",
        "retrieval": "--length 8",
        "recall": "--pairs 3",
        "modular": "--pairs 4",
        "text": "--length 8 --write 9",
        "pixels": "--side 4",
    }
    sizes = short.get(name, "--length 8").split()
    args, _, _ = program.settings([*tiny, "--task", name, *sizes])
    task = program.make_task(args)
    models = program.build(args, task).to("meta")
    for phase in program.phases(args):
        program.set_trained(models, phase.name)
        optimizers = program.make_optimizers(models, phase.peak)
        program.set_rates(optimizers, 1, 100)
        batch = program.draw_batch(task, 4, 0, 0.5, args)
        batch = batch._replace(x=batch.x.to("meta"), y=batch.y.to("meta"))
        with Gpu() as gpu:
            program.update(models, optimizers, phase.loss_of, batch, args)
        assert gpu.copies == 0
    x, y = task.held_out("val", 4)
    with Gpu(), torch.no_grad():
        logits = models["rnn"].readout(models["rnn"].rollout(x.to("meta")))
        assert program.score(logits, y.to("meta")).shape == (3,)
        if program is smt:
            smt.hand_over_to_rnn(models)
        program.show(models["rnn"], task, 2, args)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize(
    "limit, value, parts",
    [("MAX_ROWS", 3, [3, 3, 1]), ("MAX_NUMBERS", 64, [2, 2, 2, 1])],
)
def test_many_rows_come_in_parts(program, limit, value, parts, monkeypatch):
    """The same result and gradient as at once, and fewer numbers kept for backward."""
    args, task, models = made("--cell", "transformer", program=program)
    rnn, x = models["rnn"], torch.arange(7) % task.vocab
    memory = torch.randn(7, 2, 16, requires_grad=True)
    usual, rows, kept = F.scaled_dot_product_attention, [], []

    def counted(q, *args, **kwargs):
        rows.append(len(q))
        assert "attn_mask" not in kwargs  # a mask would keep CUDA from flash attention
        return usual(q, *args, **kwargs)

    def gradient() -> torch.Tensor:
        kept.append(0)
        keep = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with keep:
            stepped = program.in_parts(rnn.step, memory, x)
            logits = rnn.readout(stepped)
        return torch.autograd.grad((stepped * memory).sum() + logits.sum(), memory)[0]

    def count(tensor):
        kept[-1] += tensor.numel()
        return tensor

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    whole = gradient()
    assert rows == [7, 7]  # of the cell and of the readout
    monkeypatch.setattr(program, limit, value)
    rows.clear()
    torch.testing.assert_close(gradient(), whole)
    assert rows[: 2 * len(parts)] == parts + parts
    assert kept[1] < kept[0] / 4


def test_a_compiled_run_makes_few_graphs(monkeypatch):
    """Three networks, four graphs each at most, and no more for evaluation."""
    graphs = []

    def as_it_is(graph, inputs):
        graphs.append(graph)
        return graph

    usual = torch.nn.Module.compile
    compile_quickly = lambda network: usual(network, backend=as_it_is)  # noqa: E731
    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    argv = [*TINY_SMT, *COPY, "--compile", "--steps", "2", "--dmt-steps", "2"]
    assert smt.main([*argv, "--eval-every", "1"]) == 0
    assert 3 <= len(graphs) <= 12
    assert not torch._dynamo.utils.counters["unimplemented"]


class Precision(TorchFunctionMode):
    """Notes the precision of what norms and losses take."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.rms_norm, F.mse_loss, F.cross_entropy, torch.cdist):
            self.seen.setdefault(function.__name__, set()).add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("cell", smt.CELLS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_in_bf16_norms_and_losses_are_in_fp32(program, cell):
    args, task, models = made("--cell", cell, "--precision", "bf16", program=program)
    # On CUDA the GRU's result is in bf16.
    models["rnn"].cell.register_forward_hook(
        lambda _, inputs, memory: memory.bfloat16()
    )
    for phase in program.phases(args):
        program.set_trained(models, phase.name)
        optimizers = program.make_optimizers(models, phase.peak)
        program.set_rates(optimizers, 1, 100)
        batch = program.draw_batch(task, 4, 0, 0.5, args)
        with Precision() as precision:
            program.update(models, optimizers, phase.loss_of, batch, args)
        others = {"smt": {"mse_loss", "cdist"}, "dmt": {"mse_loss"}, "bptt": set()}
        wanted = {"rms_norm", "cross_entropy"} | others[phase.name]
        assert precision.seen.keys() == wanted
        for seen in precision.seen.values():
            assert seen == {torch.float32}


# ---------------------------------------------------------------------------- the tasks
def answers_of_copy(x):
    return [-1] * 40 + x[:8]


def answers_of_retrieval(x):
    assert x.index(8) < 32
    return [-1] * 63 + [x[x.index(8) + 1]]


def answers_of_stack(x):
    stack, y = [], []
    for token in x:
        y.append(stack.pop() if token == 4 else -1)
        if token != 4:
            stack.append(token)
        assert len(stack) <= 8
    return y


def answers_of_recall(x):
    values = {}
    for at in range(0, 16, 2):
        if x[at + 1] >= 8:  # no more pairs
            break
        values[x[at]] = x[at + 1]
    asked = range(2 * len(values), 17)
    return [values[x[t]] if t in asked else -1 for t in range(17)]


def answers_of_modular(x, first=8):
    a, c = x[0::2], x[1::2]
    fits = []
    for w in range(1, 7):
        for b in range(7):
            if all((w * p + b) % 7 == q for p, q in zip(a, c)):
                fits.append((w, b))
    assert fits and (len(fits) == 1 or len(set(a)) == 1)
    return [-1 if t % 2 or t < 2 * first else x[t + 1] for t in range(32)]


def answers_of_parity(x):
    return [sum(x[: t + 1]) % 2 for t in range(32)]


GENERATED = ["copy", "retrieval", "stack", "recall", "modular", "parity"]


@pytest.mark.parametrize("name", GENERATED)
def test_the_answers_of_the_generated_tasks(name):
    kind = data.TASKS[name]
    task = kind(**{option: default for option, default, *_ in kind.options})
    answers = globals()[f"answers_of_{name}"]
    x, y = task.held_out("test", 50)
    assert x.shape == y.shape == (50, task.T) and x.dtype == y.dtype == torch.int64
    assert 0 <= x.min() and x.max() < task.vocab and y.max() < task.vocab
    assert y.tolist() == [answers(row) for row in x.tolist()]
    again, _ = task.held_out("test", 50)
    assert torch.equal(x, again) and not torch.equal(x, task.held_out("val", 50)[0])
    batches = []
    for seed in (1, 1, 2):
        x, y = task.batch(50, torch.Generator().manual_seed(seed))
        batches.append(x)
        if name == "modular":
            assert y.tolist() == [answers_of_modular(row, 2) for row in x.tolist()]
        else:
            assert y.tolist() == [answers(row) for row in x.tolist()]
    assert torch.equal(*batches[:2]) and not torch.equal(*batches[1:])
    longer = task.longer(4)
    assert longer is None or longer.T >= 3 * task.T


def test_text_is_shifted_behind_a_start_token_and_held_out(tmp_path):
    content = "".join(map(chr, range(256, 306))).encode() * 10  # 100 bytes, 10 times
    Path("text").write_bytes(b"\xef\xbb\xbf" + content)
    task = data.Text("text", length=10)
    x, y = task.batch(200, torch.Generator().manual_seed(0))
    assert (x[:, 0] == 256).all() and torch.equal(x[:, 1:], y[:, :-1])
    assert all(bytes(row) in content[:900] for row in y.tolist())
    splits = [task.held_out(split, 1000)[1].tolist() for split in ("val", "test")]
    assert splits[0][0] == list(content[:10]) and splits[1][0] == list(content[10:20])
    assert len(splits[0]) == len(splits[1]) == 5
    assert task.draw(torch.tensor([256, 72, 105])) == "Hi"
    assert task.draw(torch.tensor([27, 91, 10, 9, 255])) == "\ufffd[\n\t\ufffd"


def images_for_a_test(count=40, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)


def test_pixels_are_levels_of_the_file(tmp_path):
    images = images_for_a_test()
    np.save("images.npy", images)
    np.savez("images.npz", labels=np.zeros(40), images=images)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    Path("images.idx").write_bytes(header + images.tobytes())
    for name in ("images.npy", "images.npz", "images.idx"):
        task = data.Pixels(name, side=4, levels=3)
        small = images.reshape(40, 4, 2, 4, 2).mean((2, 4)) / 256
        levels = torch.from_numpy((small * 3).astype(int)).flatten(1)
        assert torch.equal(task.images, levels)
    x, y = task.held_out("val", 100)
    assert torch.equal(y, levels[[9, 29]]) and (x[:, 0] == 3).all()
    assert torch.equal(task.held_out("test", 100)[1], levels[[19, 39]])
    _, y = task.batch(2000, torch.Generator().manual_seed(0))
    seen = [levels.tolist().index(row) for row in y.unique(dim=0).tolist()]
    assert sorted(seen) == [n for n in range(40) if n % 10 != 9]


def test_the_images_of_a_file_are_found_among_its_arrays():
    images = images_for_a_test()
    others = {"labels": np.zeros(40, np.uint8), "names": np.array(["a", 1], object)}
    np.savez("one.npz", x_test=255 - images, x_train=images, **others)
    np.savez("colours.npz", rgb=np.stack(3 * [images], 3), grey=images[:, None])
    np.save("wide.npy", images[:, :, :4])
    one_hot = np.full((40, 1, 10), 255, np.uint8)
    np.savez("many.npz", train_y=one_hot, constraints=255 - images, train_x=images)
    with zipfile.ZipFile("many.npz", "a") as archive:
        archive.writestr("README.txt", "not an array")
    end = "of 8 x 8, resized to 4 x 4; they use 3 of 3 levels."
    sentences = {
        "one.npz": f"one.npz, array x_train: 40 {end}",
        "colours.npz": f"colours.npz, array grey: 40 {end}",
        "wide.npy": f"wide.npy: 40 {end.replace('8 x 8', '8 x 4')}",
        "many.npz": f"many.npz, array train_x: 40 {end}",
    }
    for name, sentence in sentences.items():
        task = data.Pixels(name, side=4, levels=3)
        assert task.about() == f"The images are {sentence}"
        wanted = images[:, :, :4] if name == "wide.npy" else images
        assert np.array_equal(task.file[1], wanted)


# -------------------------------------------------------------- evaluating and sampling
def test_evaluate_measures_the_rnn_alone_and_its_teacher():
    args, task, models = made()
    smt.hand_over_to_rnn(models)
    figures = smt.evaluate(models, task, "val", 64)
    x, y = task.held_out("val", 64)
    memories, labels = models["rnn"].rollout(x), models["encoder"](x)[:, 1:]
    for name, memory in (("rnn", memories), ("teacher", labels)):
        logits = models["decoder"].readout(memory)[:, 5:].flatten(0, 1)
        target = y[:, 5:].flatten()
        loss = F.cross_entropy(logits, target)
        accuracy = (logits.argmax(-1) == target).float().mean()
        assert figures[f"{name}_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert figures[f"{name}_acc"] == pytest.approx(accuracy.item(), rel=1e-5)
    variance = labels.flatten(0, 1).var(0, unbiased=False).mean()
    drift = (memories - labels).square().mean() / variance
    assert figures["drift"] == pytest.approx(drift.item(), rel=1e-4)


def test_a_trained_run_is_used_in_three_lines():
    run = "--steps 2 --dmt-steps 1 --out run".split()
    assert smt.main([*TINY_SMT, *COPY, *run]) == 0
    rnn, task = smt.load("run")
    x, _ = task.held_out("test", 3)
    logits = rnn.readout(rnn.rollout(x))
    assert logits.shape == (3, task.T, task.vocab)
    assert torch.equal(rnn.empty_memory, weights("run")["rnn.empty_memory"])


@pytest.mark.parametrize("name", ["text", "pixels"])
def test_samples_go_on_from_what_is_given_and_repeat(name, capsys):
    Path("text").write_bytes(b"to be or not to be. " * 40)
    options = {"text": "--data text --length 8", "pixels": "--side 6"}[name]
    run = f"--task {name} {options} --steps 1 --dmt-steps 1 --out run".split()
    smt.main(TINY_SMT + run)
    capsys.readouterr()
    shown = []
    prompt = ["--prompt", "to be"] if name == "text" else []
    for _ in range(2):
        smt.main(["--out", "run", "--sample", "2", "--task", name, *prompt])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    smt.main(["--out", "run", "--sample", "2", "--seed", "5", *prompt])
    assert capsys.readouterr().out != shown[0]
    assert shown[0].count("--- ") == (2 if name == "text" else 4)
    if name == "text":
        assert "--- sample\nto be" in shown[0]


# ------------------------------------------------------------------------ running a run
@pytest.mark.parametrize("killed", [1, 3, 4, 6])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_killed_run_resumes_to_the_same_weights(program, killed, monkeypatch):
    tiny = TINY_SMT if program is smt else TINY
    steps = ["--steps", "4", "--dmt-steps", "3"] if program is smt else ["--steps", "7"]
    assert program.main([*tiny, *COPY, *steps, "--out", "whole"]) == 0
    usual, taken = program.update, []

    def update(*inputs):
        if len(taken) == killed:
            raise ZeroDivisionError
        taken.append(True)
        return usual(*inputs)

    monkeypatch.setattr(program, "update", update)
    with pytest.raises(ZeroDivisionError):
        program.main([*tiny, *COPY, *steps, "--out", "parts"])
    monkeypatch.setattr(program, "update", usual)
    assert program.main(["--resume", "--out", "parts"]) == 0
    assert same(weights("whole"), weights("parts"))
    phases = [json.loads(line)["phase"] for line in open("parts/metrics.jsonl")]
    assert phases == [json.loads(line)["phase"] for line in open("whole/metrics.jsonl")]


def test_ctrl_c_saves_after_the_step_and_the_run_goes_on(monkeypatch, capsys):
    run = [*TINY_SMT, *COPY, "--steps", "5", "--dmt-steps", "1"]
    smt.main([*run, "--out", "whole"])
    usual, taken = smt.update, []

    def update(*inputs):
        taken.append(True)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(*inputs)

    monkeypatch.setattr(smt, "update", update)
    assert smt.main([*run, "--out", "parts"]) == 130
    assert smt.read_run("parts", "test")["state"]["step"] == 3
    assert "--resume" in capsys.readouterr().err
    assert smt.main(["--resume", "--out", "parts"]) == 0
    assert same(weights("whole"), weights("parts"))


def test_a_seed_gives_the_same_weights_again_and_another_seed_others():
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        seeded = ["--seed", str(seed), "--out", name]
        smt.main([*TINY_SMT, *COPY, "--steps", "2", "--dmt-steps", "1", *seeded])
    assert same(weights("a"), weights("b")) and not same(weights("a"), weights("c"))


def test_the_checkpoint_holds_plain_values_and_metrics_name_the_parts():
    smt.main([*TINY_SMT, *COPY, "--steps", "2", "--dmt-steps", "2", "--out", "run"])
    run = torch.load("run/checkpoint.pt", weights_only=True)
    lines = [json.loads(line) for line in open("run/metrics.jsonl")]
    assert run["state"]["metrics"] == lines
    assert [line["phase"] for line in lines] == ["smt", "dmt", "final"]
    assert {"decode", "read", "dynamics", "uniformity"} <= lines[0].keys()
    assert {"labels", "read"} <= lines[1].keys()
    assert not list(Path("run").glob("*.tmp"))


def test_init_begins_with_the_networks_of_another_run():
    smt.main([*TINY_SMT, *COPY, "--steps", "2", "--dmt-steps", "1", "--out", "run"])
    smt.main("--init run --steps 0 --dmt-steps 0 --out copy".split())
    assert same(weights("run"), weights("copy"))
    bptt_baseline.main("--init run --steps 0 --device cpu --out bptt".split())
    found = weights("bptt")
    assert all(torch.equal(found[name], weights("run")[name]) for name in found)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_loss_that_is_not_finite_ends_the_run(program, monkeypatch, capsys):
    tiny = TINY_SMT if program is smt else TINY
    usual = program.cross_entropy
    monkeypatch.setattr(program, "cross_entropy", lambda *a: usual(*a) * math.nan)
    with pytest.raises(SystemExit) as stop:
        program.main([*tiny, *COPY, "--steps", "2", "--out", "run"])
    assert stop.value.code == 2 and "at step 1, in phase" in capsys.readouterr().err
    assert smt.read_run("run", "test")["state"]["step"] == 0


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_small_run_learns(program):
    tiny = "--task copy --length 2 --delay 2 --dim 32 --memory-tokens 2"
    more = " --width 32 --decoded 2 --dmt-steps 40" if program is smt else ""
    run = f"{tiny}{more} --steps 180 --eval-every 1000 --device cpu --out run"
    program.main(run.split())
    final = json.loads(open("run/metrics.jsonl").readlines()[-1])
    assert final["rnn_acc"] > 0.97
    assert program is bptt_baseline or final["teacher_acc"] > 0.97


def test_two_processes_train_on_the_mean_of_their_gradients(monkeypatch):
    run = [*TINY_SMT, *COPY, *"--steps 2 --dmt-steps 2 --out run".split()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = Path(smt.__file__)
    call = [*torchrun, "--nproc-per-node=2", str(program), *run]
    subprocess.run(call, check=True, env=environment, capture_output=True)

    args, task, models = made(*run[len(TINY_SMT) + len(COPY) :][:4])
    for phase in smt.phases(args):
        smt.set_trained(models, phase.name)
        optimizers = smt.make_optimizers(models, phase.peak)
        for step in range(phase.steps):
            smt.set_rates(optimizers, step, phase.steps)
            models.zero_grad()
            for rank in range(2):
                monkeypatch.setattr(smt, "process", lambda rank=rank: (rank, 2))
                B, at = phase.batch_size, phase.begin + step
                batch = smt.draw_batch(task, B, at, step / 2, args)
                assert len(batch.x) == (2 if phase.name == "smt" else 4)
                (phase.loss_of(models, batch, args)[0] / 2).backward()
            torch.nn.utils.clip_grad_norm_(models.parameters(), 1.0)
            with smt.FullPrecision():
                for optimizer in optimizers.values():
                    optimizer.step()
        if phase.name == "smt":
            smt.hand_over_to_rnn(models)
    found = weights("run")
    for name, value in models.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)


def test_runs_of_other_cells_and_seeds_have_directories_of_their_own():
    sizes = [*TINY_SMT, *COPY, "--steps", "1", "--dmt-steps", "1"]
    for more in ([], ["--seed", "2"], ["--cell", "gru", "--seed", "2"]):
        assert smt.main([*sizes, *more]) == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert names == ["copy-smt", "copy-smt-2", "copy-smt-gru-2"]
    assert smt.main(["--resume", "--seed", "2"]) == 0


def test_a_directory_belongs_to_one_process(capsys):
    run = [*TINY_SMT, *COPY, *"--steps 2 --dmt-steps 1 --out run".split()]
    Path("run").mkdir()
    with filelock.FileLock("run/lock"):
        with pytest.raises(SystemExit) as stop:
            smt.main(run)
        assert stop.value.code == 2
        assert "--out run: another process" in capsys.readouterr().err
        assert os.listdir("run") == ["lock"]
    assert smt.main(run) == 0


def test_a_run_that_failed_before_its_first_update_can_begin_anew(monkeypatch):
    run = [*TINY_SMT, *COPY, *"--steps 2 --dmt-steps 1 --out run".split()]
    with monkeypatch.context() as patch:
        patch.setattr(smt, "update", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            smt.main(run)
    assert smt.main([*run, "--seed", "1"]) == 0
    assert smt.read_run("run", "--out")["config"]["seed"] == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_does_not_end_the_run(stream, monkeypatch):
    run = [*TINY_SMT, *COPY, *"--steps 2 --dmt-steps 1".split()]
    closed = io.StringIO()
    closed.close()
    for out, value in (("none", None), ("closed", closed)):
        monkeypatch.setattr(sys, stream, value)
        assert smt.main([*run, "--out", out]) == 0


def test_a_run_that_another_process_went_on_with_is_not_resumed(monkeypatch, capsys):
    run = [*TINY_SMT, *COPY, *"--steps 2 --dmt-steps 1 --out run".split()]
    smt.main(run)
    usual = smt.start

    def start(args, run, source):  # meanwhile the checkpoint changes
        run["state"]["step"] -= 1
        return usual(args, run, source)

    monkeypatch.setattr(smt, "start", start)
    with pytest.raises(SystemExit):
        smt.main(["--resume", "--out", "run"])
    assert "--resume: another process" in capsys.readouterr().err


def test_data_may_move_but_not_change(capsys):
    Path("text").write_bytes(b"to be or not to be. " * 40)
    options = "--task text --data text --length 8 --steps 1 --dmt-steps 1 --out run"
    assert smt.main(TINY_SMT + options.split()) == 0
    Path("text").rename("moved")
    assert smt.main("--sample 1 --out run".split()) == 0
    rnn, task = smt.load("run")  # the file is not needed yet
    again = "--resume --out run --data".split()
    assert smt.main([*again, "moved"]) == 0
    Path("moved").write_bytes(b"to be or not to bee " * 40)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        smt.main([*again, "moved"])
    assert stop.value.code == 2
    assert "--data moved: the run began with" in capsys.readouterr().err


def test_a_notebook_or_a_thread_can_train():
    run = [*TINY_SMT, *COPY, *"--steps 2 --dmt-steps 1 --out run".split()]
    written, status = io.StringIO(), []
    with contextlib.redirect_stdout(written):
        thread = threading.Thread(target=lambda: status.append(smt.main(run)))
        thread.start()
        thread.join()
    assert status == [0] and "rnn_acc" in written.getvalue()


def test_several_processes_without_torchrun_get_one_line(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        smt.main([*TINY_SMT, *COPY])
    assert stop.value.code == 2 and "torchrun" in capsys.readouterr().err


def test_a_reader_that_ends_does_not_end_the_run():
    run = [*TINY_SMT, *COPY, *"--steps 6 --dmt-steps 2 --out run".split()]
    call = [sys.executable, smt.__file__, *run]
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 0
    assert smt.read_run("run", "--out")["state"]["finished"]


# -------------------------------------------------------------------------- wrong input
LONG = "x" * 300  # longer than a file's name may be
WRONG = {
    "--task": ["--task chess"],
    "--cell": ["--cell lstm"],
    "--dim": ["--dim 24", "--dim x", "--dim 0"],
    "--width": ["--width 20", "--width 16384 --encoder-depth 1000"],
    "--lr": ["--lr 0", "--lr nan", "--lr -1"],
    "--steps": ["--steps -1", "--steps 1.5", "--steps 0"],
    "--preset": ["--preset paper --init taken"],
    "--eval-length": [
        "--task recall --eval-length 2",
        "--eval-length 3",
        "--sample 1 --out taken --eval-length 2",
    ],
    "--lambda-dyn": ["--lambda-dyn -1", "--lambda-dyn inf"],
    "--device": ["--device gpu", "--device xpu"],
    "--truncate": ["--truncate 0"],
    "--delay": ["--delay -1", "--task parity --delay 3"],
    "--modulus": ["--task modular --modulus 6"],
    "--length": ["--task retrieval --length 3", "--task stack --length 1"],
    "--data": [
        "--task text --data missing",
        "--task text --data .",
        "--task text --data short",
        "--task pixels --data short",
        "--task pixels --data float.npy",
        "--task pixels --data flat.npy",
        "--task pixels --data of16levels.npy",
        "--task text --data utf16",
        "--task text --data packed",
        "--task text --data latin1",
        "--sample 1 --out taken --data short",
        "--task pixels --data photo.npy",
        "--task pixels --data colours.npy",
        "--task pixels --data objects.npz",
        "--task text --data zeros",
        f"--task text --data {LONG}",
        "--task text --data=",
        "--task copy --data short",
    ],
    "--cell-depth": ["--cell gru --cell-depth 2"],
    "--dmt-lr": ["--dmt-steps 0 --dmt-lr 1e-3"],
    "--future": ["--init taken --steps 0 --future 4"],
    "--compile": ["--sample 1 --out taken --compile"],
    "--out": [
        "--out taken",
        "--out unfinished",
        "--out short/run",
        f"--out {LONG}",
        "--out=",
    ],
    "--resume": ["--resume --out missing", "--resume --out damaged", "--resume=1"],
    "--sample": [
        "--sample 0",
        "--sample 1 --out missing",
        "--sample 1 --resume --out taken",
    ],
    "--init": ["--init missing", "--init damaged", f"--init {LONG}", "--init="],
    "--seed": [
        "--resume --out taken --seed 5",
        "--sample 1 --out taken --seed 5",  # the questions of copy are always the same
    ],
    "--memory-tokens": [
        "--resume --out taken --memory-tokens 3",
        "--init taken --memory-tokens 3",
    ],
    "--prompt": ["--prompt x"],
    "--nonsense": ["--nonsense"],
}


CALLS = [(option, call) for option, calls in WRONG.items() for call in calls]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """The directory of a small finished run."""
    out = str(tmp_path_factory.mktemp("run"))
    steps = "--steps 1 --dmt-steps 1 --out".split()
    assert smt.main([*TINY_SMT, *COPY, *steps, out]) == 0
    return out


@pytest.mark.parametrize("option, call", CALLS)
def test_wrong_input_gets_one_line_that_names_the_option(option, call, a_run, capsys):
    Path("short").write_text("short")
    np.save("float.npy", np.zeros((30, 8, 8)))
    np.save("flat.npy", np.zeros((30, 0, 0), np.uint8))
    np.save("of16levels.npy", images_for_a_test() // 16)
    np.save("colours.npy", np.full((30, 8, 8, 3), 255, np.uint8))
    np.savez("objects.npz", x=np.array(["a", 1], object))
    Path("utf16").write_text("to be or not " * 100, encoding="utf-16")
    Path("latin1").write_text("déjà vu " * 1000, encoding="latin-1")
    np.save("photo.npy", np.full((48, 64, 3), 255, np.uint8))
    Path("packed").write_bytes(gzip.compress(b"to be or not " * 100))
    Path("zeros").write_bytes(bytes(5000))
    Path("damaged").mkdir()
    Path("damaged/checkpoint.pt").write_text("damaged")
    shutil.copytree(a_run, "taken")
    Path("unfinished").mkdir()
    shutil.copy("taken/metrics.jsonl", "unfinished")
    before = Path("taken/checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit) as stop:
        smt.main(call.split())
    assert stop.value.code == 2
    usage, line = capsys.readouterr().err.strip().splitlines()
    assert usage.startswith("usage:") and option in line
    assert Path("taken/checkpoint.pt").read_bytes() == before
    assert not Path("runs").exists()  # nothing is left of a run that could not begin


def test_a_task_has_steps_of_its_own_for_smt_alone():
    for program, steps in ((smt, 400), (bptt_baseline, 1500)):
        args, _, _ = program.settings(["--task", "parity", "--device", "cpu"])
        assert args.steps == steps
        args, _, _ = program.settings(["--task", "stack", "--device", "cpu"])
        assert args.cell_depth == 2  # a size belongs to both


def test_a_full_memory_gets_one_line(monkeypatch, capsys):
    def train(*_):
        raise error

    monkeypatch.setattr(smt, "train", train)
    full = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
    for error in (torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError(full)):
        with pytest.raises(SystemExit) as stop:
            smt.main([*TINY_SMT, *COPY])
        assert stop.value.code == 2
        assert "--batch-size: the memory is full" in capsys.readouterr().err
    error = RuntimeError("another")
    with pytest.raises(RuntimeError, match="another"):
        smt.main([*TINY_SMT, *COPY])


# --------------------------------------------------------------------- the two programs
def test_the_python_of_the_readme_runs(monkeypatch):
    encoder = smt.Encoder
    root = Path(smt.__file__).parent
    shutil.copytree(root / "results/copy", "results/copy")
    readme = (root / "README.md").read_text()
    blocks = re.findall("```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        monkeypatch.setattr(smt, "Encoder", encoder)  # blocks put others there
        quick = re.sub(r"--(dmt-)?steps \d+|--eval-length 8", "", block)
        exec(quick.replace("--out", "--steps 2 --dmt-steps 0 --out"), {})


def test_the_commands_of_the_readme_run_in_their_order(capsys):
    root = Path(smt.__file__).parent
    commands = re.findall(r"python smt\.py ([^`\n]*)", (root / "README.md").read_text())
    commands = [c for c in commands if "TASK" not in c and "torchrun" not in c]
    assert len(commands) == 5
    shutil.copytree(root / "results/copy", "results/copy")
    Path("input.txt").write_text("To be, or not to be. " * 100)
    for command in commands:
        argv = shlex.split(command)
        if "--sample" not in argv:
            argv += [*TINY_SMT, "--steps", "2", "--dmt-steps", "1"]
        assert smt.main(argv) == 0, command
    assert "--- sample\nROMEO:" in capsys.readouterr().out


def parts_of(program) -> dict:
    """The source of each function, class and constant by name."""
    source = Path(program.__file__).read_text()
    parts = {}
    for node in ast.parse(source).body:
        names = [getattr(node, "name", None)]
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets]
        parts |= {name: ast.get_source_segment(source, node) for name in names if name}
    return parts


def test_a_run_of_another_machine_can_be_sampled(a_run, monkeypatch, capsys):
    run = torch.load(f"{a_run}/checkpoint.pt", weights_only=True)
    run["config"]["ranks"] = 4
    run["config"]["precision"] = "bf16"  # as auto was on the machine of the run
    Path("run").mkdir()
    torch.save(run, "run/checkpoint.pt")
    call = "--sample 2 --precision auto --device cpu --out run".split()
    assert smt.settings(call)[0].precision == "bf16"
    assert smt.main(call) == 0
    assert capsys.readouterr().out.count("RNN:") == 2


def test_what_both_programs_have_is_the_same_to_the_letter():
    ours, theirs = parts_of(smt), parts_of(bptt_baseline)
    both = ours.keys() & theirs.keys()
    assert {name for name in both if ours[name] != theirs[name]} == {
        "METHOD",
        "evaluate",
        "phases",
        "set_trained",
        "layers_in_a_row",
        "train_phase",
        "NETWORKS",
        "TRAINING",
        "PAPER",
        "build",
        "idle_options",
        "check",
    }
    assert theirs.keys() - ours.keys() == {"bptt_loss"}
    order = [name for name in ours if name in theirs]
    assert order == [name for name in theirs if name in ours]
    lines = [Path(p.__file__).read_text().splitlines() for p in (smt, bptt_baseline)]
    added = [line for line in difflib.ndiff(*lines) if line.startswith("+ ")]
    assert len(added) < 60


def test_lines_have_at_most_88_columns():
    for program in (smt, bptt_baseline, data, sys.modules[__name__]):
        for line in Path(program.__file__).read_text().splitlines():
            assert len(line) <= 88, line
