"""Sanity checks of smt.py, bptt_baseline.py and nextlat.py: `python -m pytest`.

The folder experiments has the tests of tasks, wrong input and the program around the
method.
"""

import ast
import difflib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import bptt_baseline
import data
import nextlat
import smt

PROGRAMS = {"smt": smt, "bptt": bptt_baseline, "nextlat": nextlat}
# Small enough that an update takes milliseconds.
TINY = "--dim 16 --memory-tokens 2 --batch-size 4 --device cpu --eval-every 2".split()
TINY_SMT = [*TINY, *"--width 16 --encoder-depth 1 --dmt-batch-size 8".split()]
COPY = "--task copy --length 2 --delay 3".split()  # T = 7


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def tiny(program) -> list[str]:
    """Options that make a run of a program small. BPTT has no encoder and no DMT."""
    return TINY if program is bptt_baseline else TINY_SMT


def made(*argv, program=smt):
    """Options, task and fresh networks of a small run."""
    args, run, source = program.settings([*tiny(program), *COPY, *argv])
    task, models = program.start(args, run, source)
    return args, task, models


def batch_of(args, task, index=0):
    return smt.draw_batch(task, args.batch_size, index, 0.25, args)


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


def test_a_block_adds_to_its_input_what_attention_and_the_mlp_say():
    block = smt.Block(32, causal=True)
    h = torch.randn(2, 5, 32)
    attended = h + block.out(smt.attention(block.qkv(block.norm(h)), True))
    torch.testing.assert_close(block(h), attended + block.mlp(attended))


@pytest.mark.parametrize("timestamps", [True, False])
def test_labels_see_their_prefix_and_not_the_future(timestamps, monkeypatch):
    monkeypatch.setattr(data.Copy, "has_timestamps", timestamps)
    args, task, models = made()
    assert (models.encoder.timestamps is not None) == timestamps
    torch.nn.init.normal_(models.encoder.short_conv.weight)  # it begins at zero
    x, _ = task.held_out("val", 3)
    changed = x.clone()
    changed[:, 4] = (x[:, 4] + 1) % task.vocab
    labels = models.encoder(x)
    others = models.encoder(changed)
    assert labels.shape == (3, task.T + 1, args.memory_tokens, args.dim)
    difference = (labels - others).abs().amax((0, 2, 3))  # (T + 1,): m_∅, m_0, ..
    assert (difference[:5] == 0).all() and (difference[5:] > 1e-5).all()
    square = labels.square().mean(-1)
    torch.testing.assert_close(square, torch.ones_like(square), atol=1e-3, rtol=0)


def test_the_empty_memory_is_the_label_of_nothing():
    _, task, models = made()
    x, _ = task.held_out("val", 3)
    smt.hand_over_to_rnn(models)
    labels = models.encoder(x)
    empty = models.rnn.empty_memory.expand(3, -1, -1)
    torch.testing.assert_close(labels[:, 0], empty)
    found = models.rnn.readout(labels[:, 3])
    torch.testing.assert_close(found, models.decoder.readout(labels[:, 3]))


def test_the_decoder_reads_y_t_first_and_is_causal():
    args, task, models = made("--decoder-depth", "2")
    decoder = models.decoder
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
    rnn = models.rnn
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
    assert rnn.readout(rnn.empty_memory).shape == (task.vocab,)


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
    sizes = "--future 3 --windows 2 --decoder-depth 2"
    args, task, models = made(*sizes.split())
    encoder, decoder, rnn = models.encoder, models.decoder, models.rnn
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
    smt.set_trained(models, smt.phases(args)[0])
    _, parts = smt.smt_loss(models, batch_of(args, task), args)
    step = {"rnn.embed", "rnn.cell"}
    assert gradients_of(parts["decode"], models) == {"encoder", "decoder"}
    assert gradients_of(parts["read"], models) == {"encoder", "decoder"}
    assert gradients_of(parts["dynamics"], models) == {"encoder"} | step
    assert gradients_of(parts["uniformity"], models) == {"encoder"}


def test_dynamics_draws_both_labels(monkeypatch):
    args, task, models = made()
    kept = []
    encode = models.encoder.write_labels
    monkeypatch.setattr(
        models.encoder, "write_labels", lambda h: kept.append(encode(h)) or kept[-1]
    )
    _, parts = smt.smt_loss(models, batch_of(args, task), args)
    (slope,) = torch.autograd.grad(parts["dynamics"], kept[0])
    length = slope.flatten(2).norm(dim=2).amin(0)  # (T + 1,)
    assert (length > 0).all()  # m_∅ is drawn as a start alone, the last as an end alone


def test_the_nextlat_loss_by_hand():
    """T = 7, and the RNN makes up to two steps from each label."""
    args, task, models = made("--horizon", "2", "--lambda-kl", "0.5", program=nextlat)
    batch = batch_of(args, task)
    batch.y[0, 5] = -1  # the first of two answers is asked of three rows of four
    nextlat.set_trained(models, nextlat.phases(args)[0])
    loss, parts = nextlat.nextlat_loss(models, batch, args)
    readout, step = models.readout, models.rnn.step
    labels = models.encoder(batch.x)
    said = readout(labels).log_softmax(-1)
    read = F.cross_entropy(
        said[:, 6:].flatten(0, 1), batch.y[:, 5:].flatten(), ignore_index=-1
    )
    dynamics, kl = [0, 0], [0, 0]
    for a in (0, 1):
        for t in range(7 - a):
            guess = step(labels[:, t], batch.x[:, t])
            if a == 1:
                guess = step(guess, batch.x[:, t + 1])
            error = (guess - labels[:, t + 1 + a]).abs()
            smooth = torch.where(error < 1, error.square() / 2, error - 0.5)
            dynamics[a] += smooth.mean() / (7 - a)
            p, q = said[:, t + 1 + a], readout(guess).log_softmax(-1)
            nats = (p.exp() * (p - q)).sum(-1)
            kl[a] += nats[batch.y[:, t + a] >= 0].sum() / 7
    wanted = {"read": read, "dynamics": sum(dynamics) / 2, "kl": sum(kl) / 2}
    assert parts.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(parts[name], value)
    weighted = (
        read + args.lambda_dyn * wanted["dynamics"] + args.lambda_kl * wanted["kl"]
    )
    torch.testing.assert_close(loss, weighted)


def test_each_part_of_the_nextlat_loss_trains_what_it_should(monkeypatch):
    args, task, models = made("--horizon", "1", program=nextlat)
    batch = batch_of(args, task)
    nextlat.set_trained(models, nextlat.phases(args)[0])
    _, parts = nextlat.nextlat_loss(models, batch, args)
    step = {"rnn.embed", "rnn.cell"}
    assert gradients_of(parts["read"], models) == {"encoder", "readout"}
    assert gradients_of(parts["dynamics"], models) == {"encoder"} | step
    assert gradients_of(parts["kl"], models) == {"encoder"} | step
    # The label that is predicted is detached, and the one that predicts it is not.
    labels = models.encoder(batch.x).detach().requires_grad_(True)
    models.encoder.forward = lambda x: labels
    _, parts = nextlat.nextlat_loss(models, batch, args)
    (parts["dynamics"] + parts["kl"]).backward()
    moved = labels.grad.abs().amax((0, 2, 3)) > 0
    assert moved.tolist() == [True] * 7 + [False]


def test_dmt_by_hand_trains_cell_and_readout_alone():
    args, task, models = made()
    smt.hand_over_to_rnn(models)
    smt.set_trained(models, smt.phases(args)[1])
    batch = batch_of(args, task)
    loss, parts = smt.dmt_loss(models, batch, args)
    memories = models.rnn.rollout(batch.x)
    labels = models.encoder(batch.x)
    error = (memories - labels[:, 1:]).square().mean()
    torch.testing.assert_close(parts["labels"], error)
    logits = models.rnn.readout(memories[:, 5:])
    read = F.cross_entropy(logits.flatten(0, 1), batch.y[:, 5:].flatten())
    torch.testing.assert_close(parts["read"], read)
    torch.testing.assert_close(loss, error + read)
    step = {"rnn.embed", "rnn.cell"}
    assert gradients_of(parts["labels"], models) == step
    assert gradients_of(parts["read"], models) == {"rnn.readout"}
    args.attach_readout = True
    loss, parts = smt.dmt_loss(models, batch, args)
    wanted = 0.75 * 0.1 * error + read  # a quarter of the updates is done
    torch.testing.assert_close(loss, wanted)
    assert gradients_of(parts["read"], models) == step | {"rnn.readout"}


def cuts(program, T: int, H: int, index: int) -> list[int]:
    """The times t at which the gradient does not reach the memory before x_t."""
    options = ["--truncate", str(H), "--delay", str(T - 4)]
    args, task, models = made(*options, program=program)
    rnn, kept = models.rnn, []
    once = rnn.step

    def noted(memory, x):
        kept.append(memory)
        return once(memory, x)

    rnn.step = noted
    last = program.phases(args)[-1]  # DMT or BPTT
    program.set_trained(models, last)
    rnn.empty_memory.requires_grad_(True)
    last.loss_fn(models, batch_of(args, task, index), args)
    return [t for t, memory in enumerate(kept) if not memory.requires_grad]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_gradient_is_cut_every_h_steps_from_a_drawn_offset(program):
    seen = {tuple(cuts(program, 8, 3, index)) for index in range(12)}
    assert seen == {(3, 6), (2, 5), (1, 4, 7)}
    assert cuts(program, 8, 1, 0) == list(range(1, 8))  # the DMT of the paper
    assert cuts(program, 8, 8, 0) == cuts(program, 8, 9, 0) == []


# ----------------------------------------------------------------------- the optimisers
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("cell", smt.CELLS)
def test_muon_has_the_inner_matrices_and_adamw_the_rest(program, cell):
    args, _, models = made("--cell", cell, program=program)
    for phase in program.phases(args):
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
    for index in range(100):
        smt.set_rates(optimizers, index, 100)
        adamw, muon = (optimizers[n].param_groups[0]["lr"] for n in ("adamw", "muon"))
        assert muon == pytest.approx(5 * adamw)
        rates.append(adamw)
    assert 0 < rates[0] < 0.5e-3 and max(rates) == pytest.approx(1e-3, rel=0.01)
    assert rates[50] == pytest.approx(0.5e-3) and 0 < rates[99] < 1e-6


def test_muon_makes_the_same_update_in_full_precision():
    results = []
    for mode in (smt.nullcontext(), smt.FullPrecision()):
        p = torch.nn.Parameter(torch.zeros(24, 16))
        p.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
        gradient = p.grad.clone()
        with mode:
            torch.optim.Muon([p], lr=1.0, weight_decay=0.0).step()
        assert torch.equal(p.grad, gradient)
        results.append(p.detach())
    assert not torch.equal(*results)
    torch.testing.assert_close(*results, atol=0.02, rtol=0.05)


# -------------------------------------------------------------- evaluating and sampling
def test_evaluate_measures_the_rnn_alone_and_its_teacher():
    args, task, models = made()
    smt.hand_over_to_rnn(models)
    figures = smt.evaluate(models, task, "val", 64)
    x, y = task.held_out("val", 64)
    memories, labels = models.rnn.rollout(x), models.encoder(x)[:, 1:]
    for name, memory in (("rnn", memories), ("teacher", labels)):
        logits = models.decoder.readout(memory)[:, 5:].flatten(0, 1)
        target = y[:, 5:].flatten()
        loss = F.cross_entropy(logits, target)
        accuracy = (logits.argmax(-1) == target).float().mean()
        assert figures[f"{name}_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert figures[f"{name}_acc"] == pytest.approx(accuracy.item(), rel=1e-5)
    variance = labels.flatten(0, 1).var(0, unbiased=False).mean()
    drift = (memories - labels).square().mean() / variance
    assert figures["drift"] == pytest.approx(drift.item(), rel=1e-4)


def test_a_trained_run_is_used_in_three_lines():
    run = "--updates 2 --dmt-updates 1 --out run".split()
    assert smt.main([*TINY_SMT, *COPY, *run]) == 0
    rnn, task = smt.load("run")
    x, _ = task.held_out("test", 3)
    logits = rnn.readout(rnn.rollout(x))
    assert logits.shape == (3, task.T, task.vocab)
    assert torch.equal(rnn.empty_memory, weights("run")["rnn.empty_memory"])


# ------------------------------------------------------------------------ running a run
@pytest.mark.parametrize(
    "program, killed",
    [(smt, 1), (smt, 4), (smt, 6), (nextlat, 4), (bptt_baseline, 3)],
)
def test_a_killed_run_resumes_to_the_same_weights(program, killed, monkeypatch):
    updates = ["--updates", "7"]
    if program is not bptt_baseline:
        updates = ["--updates", "4", "--dmt-updates", "3"]
    assert program.main([*tiny(program), *COPY, *updates, "--out", "whole"]) == 0
    usual, taken = program.update, []

    def update(*inputs):
        if len(taken) == killed:
            raise ZeroDivisionError
        taken.append(True)
        return usual(*inputs)

    monkeypatch.setattr(program, "update", update)
    with pytest.raises(ZeroDivisionError):
        program.main([*tiny(program), *COPY, *updates, "--out", "parts"])
    monkeypatch.setattr(program, "update", usual)
    assert program.main(["--resume", "--out", "parts"]) == 0
    assert same(weights("whole"), weights("parts"))
    phases = [json.loads(line)["phase"] for line in open("parts/metrics.jsonl")]
    assert phases == [json.loads(line)["phase"] for line in open("whole/metrics.jsonl")]


def test_depth_counts_the_layers_that_wait_for_one_another():
    """T = 7; the encoder has a layer and one that writes, the cell two."""
    depths = {}
    for name, program in PROGRAMS.items():
        args, _, _ = made("--cell-depth", "2", program=program)
        for phase in program.phases(args):
            depth = program.sequential_depth(phase.name, 7, args)
            depths[name, phase.name] = depth
    assert depths == {
        ("smt", "smt"): 2 + 2,
        ("smt", "dmt"): 7 * 2 + 1,
        ("bptt", "bptt"): 7 * 2 + 1,
        ("nextlat", "nextlat"): 2 + 7 * 2 + 1,  # a horizon of 8, but 7 steps
        ("nextlat", "dmt"): 7 * 2 + 1,
    }


def test_progress_rises_in_each_phase_from_0(monkeypatch):
    usual, seen = smt.update, []

    def update(models, optimizers, compute_loss, batch):
        seen.append(batch.progress)
        return usual(models, optimizers, compute_loss, batch)

    monkeypatch.setattr(smt, "update", update)
    smt.main([*TINY_SMT, *COPY, "--updates", "4", "--dmt-updates", "2", "--out", "run"])
    assert seen == [0, 0.25, 0.5, 0.75, 0, 0.5]


def test_a_seed_gives_the_same_weights_again_and_another_seed_others():
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        seeded = ["--seed", str(seed), "--out", name]
        smt.main([*TINY_SMT, *COPY, "--updates", "2", "--dmt-updates", "1", *seeded])
    assert same(weights("a"), weights("b")) and not same(weights("a"), weights("c"))


def test_the_checkpoint_holds_plain_values_and_metrics_name_the_parts():
    smt.main([*TINY_SMT, *COPY, "--updates", "2", "--dmt-updates", "2", "--out", "run"])
    run = torch.load("run/checkpoint.pt", weights_only=True)
    lines = [json.loads(line) for line in open("run/metrics.jsonl")]
    assert run["state"]["metrics"] == lines
    assert [line["phase"] for line in lines] == ["smt", "dmt", "final"]
    assert {"decode", "read", "dynamics", "uniformity"} <= lines[0].keys()
    assert {"labels", "read"} <= lines[1].keys()
    assert not list(Path("run").glob("*.tmp"))


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_loss_that_is_not_finite_ends_the_run(program, monkeypatch, capsys):
    usual = program.cross_entropy
    monkeypatch.setattr(program, "cross_entropy", lambda *a: usual(*a) * math.nan)
    with pytest.raises(SystemExit) as stop:
        program.main([*tiny(program), *COPY, "--updates", "2", "--out", "run"])
    assert stop.value.code == 2 and "at update 1, in phase" in capsys.readouterr().err
    assert smt.read_run("run", "test")["state"]["update"] == 0


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_small_run_learns(program, capsys):
    sizes = "--task copy --length 1 --delay 2 --dim 32 --memory-tokens 2"
    more = {
        "smt": "--width 32 --windows 1 --dmt-updates 10 --dmt-lr 4e-3",
        "nextlat": "--width 32 --horizon 2 --dmt-updates 10 --dmt-lr 4e-3",
        "bptt": "",
    }
    training = "--updates 60 --lr 4e-3 --eval-every 1000 --device cpu"
    run = f"{sizes} {more[program.METHOD]} {training}"
    program.main([*run.split(), "--out", "run"])
    assert f"{program.METHOD}: 60 updates, about" in capsys.readouterr().out
    final = json.loads(open("run/metrics.jsonl").readlines()[-1])
    assert final["rnn_acc"] > 0.97
    assert program is bptt_baseline or final["teacher_acc"] > 0.97


# -------------------------------------------------------------- the same to the letter
def parts_of(program) -> dict:
    """The lines of each function, class and constant by name."""
    source = Path(program.__file__).read_text()
    lines = source.splitlines()
    parts = {}
    for node in ast.parse(source).body:
        names = [getattr(node, "name", None)]
        if isinstance(node, ast.Assign):
            names = [ast.unparse(target) for target in node.targets]
        decorators = getattr(node, "decorator_list", [])
        begin = min(part.lineno for part in (node, *decorators))
        own_lines = lines[begin - 1 : node.end_lineno]
        parts |= {name: own_lines for name in names if name}
    return parts


# Functions and constants that another program has, too, and not to the letter.
DIFFERENT = {
    "bptt": "METHOD evaluate phases sequential_depth train Recorder "
    "NETWORK_OPTIONS TRAINING_OPTIONS PAPER Models idle_options check",
    "nextlat": "METHOD evaluate phases hand_over_to_rnn train Recorder "
    "sequential_depth TRAINING_OPTIONS PAPER special_defaults Models idle_options",
}
OWN = {"bptt": {"bptt_loss"}, "nextlat": {"nextlat_loss"}}


@pytest.mark.parametrize("method", OWN)
def test_what_the_programs_have_in_common_is_the_same_to_the_letter(method):
    ours, theirs = parts_of(smt), parts_of(PROGRAMS[method])
    both = ours.keys() & theirs.keys()
    different = {name for name in both if ours[name] != theirs[name]}
    assert different == set(DIFFERENT[method].split())
    assert theirs.keys() - ours.keys() == OWN[method]
    order = [name for name in ours if name in theirs]
    assert order == [name for name in theirs if name in ours]
    lines = [Path(p.__file__).read_text().splitlines() for p in (smt, PROGRAMS[method])]
    diff = [*difflib.unified_diff(*lines, n=0)][2:]  # without the names of the files
    assert sum(line[0] == "+" and line != "+" for line in diff) <= 60


def test_lines_have_at_most_88_columns():
    for program in (*PROGRAMS.values(), data, sys.modules[__name__]):
        for line in Path(program.__file__).read_text().splitlines():
            assert len(line) <= 88, line
