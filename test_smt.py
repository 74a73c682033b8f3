"""Tests of the tasks, the networks, the losses and of whole runs, all with tiny networks.

Where a loss has to be right to the digit, stand-ins take the place of the networks: labels that are
their own time, m_t = t, and inputs x_t = t. Then every memory, input and target tells where it is
from, and a shift by one shows.
"""

import ast
import difflib
import gzip
import itertools
import json
import math
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from tqdm import tqdm

import bench
import bptt_baseline
import claims
import data
import figures
import smt
from run import UsageError, load, random_bits, take_up, until_ctrl_c

torch.set_num_threads(1)  # with matrices this small a second thread only gets in the way

NETWORKS = "--memory 2 --dim 8 --heads 2 --encoder-depth 2 --decoder-depth 1 --cell-depth 1"
TRAINING = "--labels 4 --decoded 2 --batch-size 2 --eval-every 2 --eval-rows 4 --device cpu"
COPY = "--length 3 --delay 2"  # T = 8
# Evaluated and saved after step 2, 4, 5 of SMT, 7, 8 of the cell alone, 10, 12, 13 of DMT.
PHASES = "--steps 8 --cell-only 0.4 --dmt-steps 5"
TEXT = bytes(range(200))

ENCODERS = pytest.mark.parametrize("encoder", ["one-pass", "bidirectional"])
REGISTERS = pytest.mark.parametrize("registers", ["start", "now"])


@pytest.fixture(autouse=True)
def directory_of_its_own(tmp_path, monkeypatch):
    """Runs, and whatever should not have been written, lie in a directory of the test's own.

    They run on the CPU, where equal inputs give equal bits, even if the machine has better.
    """
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it


def build(*options, of=COPY):
    """args, task, models of a command line, as a run would have them at its start."""
    args, task, models, _ = smt.settings([*f"{NETWORKS} {TRAINING} {of}".split(), *options])
    return args, task, models


def copy_task(seed=0):
    return build("--seed", str(seed))[1]


def toy_task(name, seed=0, **options):
    """A task by its name, with its default options but for those given."""
    task = data.TASKS[name]
    return task(seed, "cpu", **{**task.options, **options})


def text_task(seed=0, content=TEXT, length=5):
    Path("text").write_bytes(content)
    return build("--seed", str(seed), of=f"--task text --data text --length {length}")[1]


def run(*options):
    """A whole run, or part of one, in this process -> its exit status."""
    return smt.main([*f"{NETWORKS} {TRAINING} {COPY} {PHASES} --out run".split(), *options])


def metrics(out="run"):
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


def checkpoint(out="run"):
    return torch.load(Path(out, "checkpoint.pt"), weights_only=True)


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def labels_of(models):
    """The encoder, without what its tokens guess."""
    return lambda x, times: models["teacher"]["encoder"](x, times)[0]


def some_inputs(task, rows=3):
    return torch.randint(task.vocab, (rows, task.T), generator=torch.Generator().manual_seed(1))


def other(x, vocab):
    """Other tokens at every place."""
    return (x + 1) % vocab


# -------------------------------------------------------------------------------------------- tasks
def test_random_bits_are_spread_evenly():
    bits = random_bits((0, "train", 0), torch.arange(4000), 4)
    assert bits.dtype == torch.int64 and bits.min() >= 0 and bits.max() < 2**62
    assert len(bits.unique()) == bits.numel()
    # Low, middle and high bits: 2,000 of each of 8 values, with a standard deviation of 42.
    for low in (0, 20, 59):
        counts = (bits >> low).remainder(8).flatten().bincount(minlength=8)
        assert counts.min() > 1800 and counts.max() < 2200


TOYS = [
    name for name in data.TASKS if name != "text"
]  # pixels too: without a file they are generated


@pytest.mark.parametrize("make", [*[partial(toy_task, name) for name in TOYS], text_task])
def test_a_row_depends_on_seed_split_step_and_itself_alone(make):
    rows = torch.arange(16)
    x, y = make().batch("train", 3, rows)
    assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape == (16, make().T)
    torch.rand(1)  # the global generator has no say
    for some in (rows, rows[5:6], rows[[7, 0, 3]]):
        again = make().batch("train", 3, some)
        assert torch.equal(again[0], x[some]) and torch.equal(again[1], y[some])
    for task, split, step in [(make(1), "train", 3), (make(), "val", 3), (make(), "train", 4)]:
        assert not torch.equal(task.batch(split, step, rows)[0], x)
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(make().batch("train", 3, rows + 1)[0], x)


@pytest.mark.parametrize("name", TOYS)
def test_generated_tasks_have_fresh_held_out_sequences(name):
    task = toy_task(name)
    assert task.test_rows >= 1000
    val, test = (task.batch(split, 0, torch.arange(16))[0] for split in ("val", "test"))
    assert not torch.equal(val, test)


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_copy_by_hand(delay, reverse):
    options = ["--reverse"] if reverse else []
    task = build(*options, of=f"--length 3 --delay {delay}")[1]
    x, y = task.batch("train", 0, torch.arange(64))
    assert task.vocab == 10 and task.T == x.shape[1] == 6 + delay
    assert x[:, :3].unique().tolist() == list(range(8))
    for inputs, targets in zip(x.tolist(), y.tolist()):
        said = inputs[:3]
        answer = said[::-1] if reverse else said
        assert inputs == said + [8] * delay + [9] + answer[:2]
        assert targets == [-1] * (3 + delay) + answer


def test_copy_shows_what_is_wrong():
    task = build()[1]
    x, y = task.batch("test", 0, torch.arange(2))
    answers = y.clamp(min=0)
    answers[1, -1] += 1
    right, wrong = task.show(x, y, answers).splitlines()
    said, truth = ("".join(map(str, row[:3].tolist())) for row in x)
    assert right == f"{said}..|{said[:2]}  {said}  right"
    assert wrong.endswith(f"  1 wrong: {truth}")
    long = toy_task("copy", delay=100)
    x, y = long.batch("test", 0, torch.arange(1))
    assert "..." in long.show(x, y, y) and len(long.show(x, y, y)) < 90


@pytest.mark.parametrize("distractors", [0, 2])
def test_retrieval_by_hand(distractors):
    task = toy_task("retrieval", length=12, distractors=distractors)
    x, y = task.batch("train", 0, torch.arange(500))
    assert task.T == x.shape[1] == 12 and task.vocab == 11
    assert (x[:, :-1] < 10).all() and (x[:, -1] == 10).all()  # the query, and nowhere else
    assert (y[:, :-1] == -1).all() and y[:, -1].unique().tolist() == list(range(8))
    places = set()
    for inputs, targets in zip(x.tolist(), y.tolist()):
        assert inputs.count(8) == 1 and inputs.count(9) == distractors
        places.add(inputs.index(8))
        assert targets[-1] == inputs[inputs.index(8) + 1]
        false = [inputs[t + 1] for t, token in enumerate(inputs) if token == 9]
        assert all(symbol < 8 for symbol in false) and inputs[6:].count(9) == 0
    assert places == {0, 2, 4}  # the first half is 0..5


def test_stack_by_hand():
    task = toy_task("stack", length=40, depth=3)
    x, y = task.batch("train", 0, torch.arange(200))
    assert task.T == x.shape[1] == 40 and task.vocab == 5
    reached = set()
    for inputs, targets in zip(x.tolist(), y.tolist()):
        stack = []
        for token, target in zip(inputs, targets):
            if token == 4:
                assert target == stack.pop()
            else:
                assert target == -1
                stack.append(token)
            reached.add(len(stack))
    assert reached == {0, 1, 2, 3}
    assert x.flatten().bincount().float()[:4].std() < 60  # of some 1,000 pushes of each symbol
    free = (x[:, 1:] == 4).float().mean()
    assert 0.45 < free < 0.55
    # In training alone they come in runs: one of 8 pops empties a full stack.
    task = toy_task("stack", length=32, depth=8)
    pops = {
        split: (task.batch(split, 0, torch.arange(200))[0] == 4).float()
        for split in ("train", "val", "test")
    }
    runs = {
        split: (p.unfold(1, 8, 1).sum(2) == 8).any(1).float().mean() for split, p in pops.items()
    }
    assert runs["train"] > 0.1 and runs["val"] < 0.05 and runs["test"] < 0.05


def test_recall_by_hand():
    task = toy_task("recall", pairs=3)
    assert task.T == 7 and task.vocab == 8 + 6
    for split, fewest in ("test", 3), ("train", 2):  # in training: 2 or 3 pairs, then questions
        x, y = task.batch(split, 0, torch.arange(500))
        asked, numbers = set(), set()
        for inputs, targets in zip(x.tolist(), y.tolist()):
            pairs = sum(target < 0 for target in targets) // 2
            keys, values = inputs[0 : 2 * pairs : 2], inputs[1 : 2 * pairs : 2]
            assert len(set(keys)) == pairs and min(keys) >= 8 and max(values) < 8
            asked.add(keys.index(inputs[-1]))
            answers = [dict(zip(keys, values))[key] for key in inputs[2 * pairs :]]
            assert targets == [-1] * 2 * pairs + answers
            numbers.add(pairs)
        assert numbers == {fewest, 3} and asked == {0, 1, 2}
        assert x[:, 0].unique().tolist() == list(range(8, 14))


def test_modular_by_hand():
    task = toy_task("modular", pairs=6, modulus=5)
    trained = task.batch("train", 0, torch.arange(50))
    for inputs, targets in zip(*(z.tolist() for z in trained)):  # from the third pair on
        assert targets == [-1] * 4 + [z for c in inputs[5::2] for z in (c, -1)]
    x, y = task.batch("test", 0, torch.arange(500))
    assert task.T == x.shape[1] == 12 and task.vocab == 5
    seen = set()
    for inputs, targets in zip(x.tolist(), y.tolist()):
        pairs = list(zip(inputs[0::2], inputs[1::2]))
        assert targets == [-1] * 6 + [z for _, c in pairs[3:] for z in (c, -1)]
        found = {
            (w, b)
            for w in range(5)
            for b in range(5)
            if all((w * a + b) % 5 == c for a, c in pairs)
        }
        assert len(found) == 1 or len({a for a, _ in pairs}) == 1
        seen |= found
    assert seen == {(w, b) for w in range(1, 5) for b in range(5)}  # w = 0 would ask for nothing


def test_parity_by_hand():
    x, y = toy_task("parity", length=9).batch("train", 0, torch.arange(50))
    assert x.shape == (50, 9) and x.unique().tolist() == [0, 1]
    for inputs, targets in zip(x.tolist(), y.tolist()):
        assert targets == [sum(inputs[: t + 1]) % 2 for t in range(9)]


@pytest.mark.parametrize("name", TOYS)
def test_a_longer_task_has_its_options_but_for_the_length(name):
    task = toy_task(name, seed=3)
    if task.axis is None:
        return
    longer = task.longer(4)
    assert getattr(longer, task.axis) == 4 * getattr(task, task.axis)
    assert {k: v for k, v in vars(longer).items() if k != task.axis}.items() <= vars(task).items()
    assert longer.vocab == task.vocab and longer.T > task.T
    assert longer.batch("test", 0, torch.arange(3))[0].shape == (3, longer.T)


def test_longer_text_is_read_in_longer_windows():
    task = text_task(length=5)
    longer = task.longer(2)
    assert longer.T == 10 and longer.test_rows == 2  # of 20 held-out bytes
    assert torch.equal(longer.batch("test", 0, torch.tensor([0]))[1][0], task.held_out[:10])


def test_the_list_of_tasks_shows_each_with_its_options(capsys):
    with pytest.raises(SystemExit) as end:
        smt.main(["--task", "list"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and not Path("runs").exists()
    for name, task in data.TASKS.items():
        assert f"\n{name}: " in f"\n{shown}" and all(
            f"    --{key}" in shown for key in task.options
        )


def test_text_by_hand():
    task = text_task()  # bytes 0..199, of which 180..199 are held out
    x, y = task.batch("train", 0, torch.arange(2000))
    assert task.T == 5 and task.vocab == 257
    assert (x[:, 0] == 256).all() and torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(y, y[:, :1] + torch.arange(5))
    assert y.min() == 0 and y.max() == 179  # both ends, and nothing that is held out
    assert task.test_rows == 4
    for split in ("val", "test"):
        x, y = task.batch(split, 0, torch.arange(4))
        assert (x[:, 0] == 256).all() and torch.equal(x[:, 1:], y[:, :-1])
        assert y.flatten().sort().values.tolist() == list(range(180, 200))


def test_text_is_tested_on_100_000_held_out_characters():
    task = text_task(content=bytes(1_200_000), length=32)
    assert 100_000 <= task.test_rows * task.T < 100_000 + 32
    assert task.batch("test", 0, torch.arange(task.test_rows))[1].shape == (task.test_rows, 32)


def test_text_encodes_and_decodes():
    task = text_task()
    ((_, tokens, length),) = task.prompts("é", torch.arange(2))
    assert tokens.tolist() == 2 * [[256, 0xC3, 0xA9]] and length == 3 + 4 * 5
    ((_, tokens, _),) = task.prompts("déjà vu", torch.arange(1))
    assert task.draw(tokens[0]) == "déjà vu"
    assert task.draw(torch.tensor([0xFF, 65]))[-1] == "A"  # half a character is no reason to stop


def test_text_has_a_default_that_needs_no_network():
    task = build(of="--task text --length 64")[1]
    y = task.batch("train", 0, torch.arange(500))[1]
    assert "statement" in task.draw(y.flatten())


def images(count=20, height=6, width=4):
    """Image i is grey 10 i in its upper half, black below."""
    grey = torch.arange(count)[:, None, None].expand(-1, height, width).clone() * 10
    grey[:, height // 2 :] = 0
    return grey.to(torch.uint8).numpy()


def idx(array):
    return struct.pack(">4i", 0x803, *array.shape) + array.tobytes()


def test_pixels_by_hand():
    np.save("images.npy", images())
    task = toy_task("pixels", data="images.npy", side=4, levels=8)
    assert task.T == 16 and task.vocab == 9 and task.test_rows == 2
    x, y = task.batch("train", 0, torch.arange(500))
    assert (x[:, 0] == 8).all() and torch.equal(x[:, 1:], y[:, :-1])
    assert y[:, 0].unique().tolist() == [0, 1, 2, 3, 4, 5]  # 10 i * 8 // 256 for i up to 17
    assert torch.equal(y[:, 7], y[:, 0]) and (y[:, 8:] == 0).all()  # raster order
    for split in ("val", "test"):
        assert task.batch(split, 0, torch.arange(2))[1][:, 0].tolist() == [5, 5]  # 190, 180
    upper, nothing = task.prompts("", torch.arange(2))
    assert upper[1].tolist() == 2 * [[8] + 8 * [5]] and nothing[1].tolist() == 2 * [[8]]
    assert upper[2] == nothing[2] == 17
    assert (
        task.draw(torch.tensor([8] + 4 * [7] + 4 * [4] + [7, 0, 0, 3] + [0, 0, 4, 3]))
        == "████\n▀ ▄ "
    )


@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "idx.gz"])
def test_images_are_read_from_files_of_each_kind(kind):
    if kind == "npz":
        np.savez("file", labels=np.zeros(20), images=images())
        Path("file.npz").rename("file")
    elif kind == "npy":
        np.save("file.npy", images())
        Path("file.npy").rename("file")
    else:
        Path("file").write_bytes(gzip.compress(idx(images())) if "gz" in kind else idx(images()))
    assert (data.read_images("file") == images()).all()


def test_the_last_tenth_of_the_images_is_held_out():
    np.save("grey.npy", np.arange(20, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2))
    task = toy_task("pixels", data="grey.npy", side=4, levels=256)
    seen = {
        split: task.batch(split, 0, torch.arange(500))[1].unique() for split in ("train", "val")
    }
    assert seen["train"].tolist() == [*range(18)] and seen["val"].tolist() == [18, 19]


def test_strokes_are_thin_and_connected():
    u = torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.0, 1.0, 1.0, 1.0]])  # right along row 1, then down
    picture = data.strokes(u, 8)[0]
    assert (picture[1, 1:7] == 1).all() and (picture[1:7, 6] == 1).all()
    assert picture[4:, :4].sum() == 0 and picture[0].max() <= 0.5
    y = toy_task("pixels").batch("train", 0, torch.arange(200))[1]
    assert y.unique().tolist() == [0, 1, 2, 3] and 0.05 < (y > 0).float().mean() < 0.4


@pytest.mark.parametrize("program", [smt, bptt_baseline])
def test_the_rnn_completes_and_draws_pictures(program, capsys):
    task = toy_task("pixels", side=4, levels=2)
    args = SimpleNamespace(out=".", prompt="", seed=0, device=torch.device("cpu"))
    program.show(LastToken(100 * torch.eye(3)[[0, 1, 0]]), task, 2, args)  # as the pixel before
    shown = capsys.readouterr().out
    given, nothing = shown.split("--- from nothing")[0], shown.split("--- from nothing")[1:]
    assert given.count("--- upper half given") == 2 and len(nothing) == 2
    assert all(picture.strip() == "" for picture in nothing)
    with np.load("samples.npz") as kept:
        assert {name: kept[name].shape for name in kept} == {
            "upper half given": (2, 17),
            "from nothing": (2, 17),
        }
        x, _ = task.batch("test", 0, torch.arange(2))
        assert (kept["upper half given"][:, :9] == x[:, :9].numpy()).all()
        assert (kept["from nothing"][:, 1:] == 0).all()


# ------------------------------------------------------------------------------------------- labels
@ENCODERS
@REGISTERS
def test_labels_know_nothing_of_the_future(encoder, registers):
    _, task, models = build("--encoder", encoder, "--registers", registers)
    encode, x = labels_of(models), some_inputs(task)
    times = torch.arange(-1, task.T).expand(3, -1)
    labels = encode(x, times)
    for i, t in enumerate(times[0, :-1].tolist()):
        changed = x.clone()
        changed[:, t + 1 :] = other(x[:, t + 1 :], task.vocab)
        after = encode(changed, times)
        assert torch.equal(after[:, : i + 1], labels[:, : i + 1])
        assert (after[:, i + 1 :] != labels[:, i + 1 :]).flatten(2).any(2).all()


@ENCODERS
@REGISTERS
def test_labels_are_the_same_however_they_are_asked_for(encoder, registers):
    _, task, models = build("--encoder", encoder, "--registers", registers)
    encode, x = labels_of(models), some_inputs(task)
    times = torch.tensor([[4, -1, 0, task.T - 1], [2, 3, 4, 5], [7, 6, -1, 1]])
    together = encode(x, times)
    assert together.shape == (3, 4, 2, 8)
    assert (together.square().mean(-1) - 1).abs().max() < 1e-3
    for i, t in enumerate(times[0].tolist()):
        alone = encode(x[:1], times[:1, i : i + 1])
        prefix = encode(x[:1, : max(t + 1, 1)], times[:1, i : i + 1])
        torch.testing.assert_close(alone[0, 0], together[0, i], atol=1e-5, rtol=0)
        torch.testing.assert_close(prefix[0, 0], together[0, i], atol=1e-5, rtol=0)


@ENCODERS
@REGISTERS
def test_the_empty_memory_depends_on_no_input(encoder, registers):
    _, task, models = build("--encoder", encoder, "--registers", registers)
    x, before = some_inputs(task), torch.full((3, 1), -1)
    encode = labels_of(models)
    empty = encode(x, before)
    assert torch.equal(empty, encode(other(x, task.vocab), before))
    smt.hand_over(**models)
    torch.testing.assert_close(models["rnn"].empty.expand_as(empty), empty, atol=1e-5, rtol=0)


@REGISTERS
@pytest.mark.parametrize(
    "encoder, reach",
    # 2 layers, a context of 3 positions, and each token knows the one before it.
    [("one-pass", 2 * (3 - 1) + 1), ("bidirectional", 3 - 1 + 1)],
)
def test_the_context_window_bounds_what_a_label_sees(encoder, reach, registers):
    options = f"--encoder {encoder} --registers {registers} --context 3 --length 5 --delay 2"
    _, task, models = build(of=options)
    encode, x = labels_of(models), some_inputs(task, rows=1)
    for t in (task.T - 2, 1):
        label = encode(x, torch.tensor([[t]]))
        seen = []
        for s in range(task.T):
            changed = x.clone()
            changed[:, s] = other(x[:, s], task.vocab)
            if not torch.equal(encode(changed, torch.tensor([[t]])), label):
                seen.append(s)
        assert seen == list(range(max(0, t - reach), t + 1))


@ENCODERS
@REGISTERS
def test_labels_know_the_order_of_their_inputs(encoder, registers):
    _, task, models = build("--encoder", encoder, "--registers", registers)
    x, end = some_inputs(task), torch.full((3, 1), task.T - 1)
    encode = labels_of(models)
    assert not torch.allclose(encode(x, end), encode(x.flip(1), end), atol=1e-3)


@ENCODERS
def test_registers_know_the_latest_input_without_attention(encoder):
    _, task, models = build("--encoder", encoder)
    for block in models["teacher"]["encoder"].body.blocks:
        nn.init.zeros_(block.out.weight)
    encode, x, times = labels_of(models), some_inputs(task), torch.tensor([[-1, 4]]).expand(3, -1)
    labels = encode(x, times)
    for s in range(task.T):
        changed = x.clone()
        changed[:, s] = other(x[:, s], task.vocab)
        differs = (encode(changed, times) != labels).flatten(2).any(2)  # (3, 2)
        assert differs.all(0).tolist() == differs.any(0).tolist() == [False, s == 4]


@ENCODERS
def test_registers_stand_at_the_start_or_move_along(encoder):
    """Only where they move along does the same window give the same label at another time."""
    options = f"--encoder {encoder} --context 2 --registers".split()
    for registers, moves_along in ("now", True), ("start", False):
        _, task, models = build(*options, registers)
        encode, x = labels_of(models), some_inputs(task)
        later = encode(x.roll(3, dims=1), torch.full((3, 1), 7))
        label = encode(x, torch.full((3, 1), 4))
        assert torch.allclose(label, later, atol=1e-4) == moves_along


# ---------------------------------------------------------------------------- decoder and the cells
def test_the_decoder_is_causal_and_the_readout_is_its_beginning():
    _, task, models = build()
    decode, future = models["teacher"]["decoder"], some_inputs(task)
    memory = torch.randn(3, 2, 8)
    logits = decode(memory, future)
    assert logits.shape == (3, task.T + 1, task.vocab)
    for i in range(task.T):
        changed = future.clone()
        changed[:, i:] = other(future[:, i:], task.vocab)
        after = decode(memory, changed)
        assert torch.equal(after[:, : i + 1], logits[:, : i + 1])
        assert not torch.equal(after[:, i + 1], logits[:, i + 1])
    torch.testing.assert_close(decode(memory)[:, 0], logits[:, 0], atol=1e-5, rtol=0)
    for k in range(2):  # y_t is read behind all of the memory
        changed = memory.clone()
        changed[:, k] += 1
        assert not torch.allclose(decode(changed)[:, 0], logits[:, 0], atol=1e-4)


def test_the_decoder_s_context_bounds_what_it_sees_of_the_future():
    args, task, models = build("--decoder-depth", "2")
    decoder, memory = models["teacher"]["decoder"], torch.randn(3, 2, 8)
    future = some_inputs(task)[:, :7]
    changed = future.clone()
    changed[:, 1] = other(future, task.vocab)[:, 1]
    for context, reach in (1, 1), (2, 3), (3, 5):  # depth x (context - 1) + 1
        a, b = (decoder(memory, z, context) for z in (future, changed))
        differs = [not torch.equal(a[:, i], b[:, i]) for i in range(8)]
        assert differs == [2 <= i < 2 + reach for i in range(8)]
    # And the memory is always seen.
    a, b = decoder(memory, future, 1), decoder(memory + 1, future, 1)
    assert (a != b).any(-1).all()


def test_the_rnn_takes_a_copy_of_the_decoder_as_its_readout():
    _, _, models = build()
    smt.hand_over(**models)
    decoder, readout = models["teacher"]["decoder"], models["rnn"].readout
    assert same_weights(decoder.state_dict(), readout.state_dict())
    nn.init.zeros_(readout.head.weight)
    assert decoder.head.weight.abs().sum() > 0


@pytest.mark.parametrize("cell", smt.CELLS)
def test_a_cell_keeps_shape_and_norm(cell):
    _, task, models = build("--cell", cell, "--cell-depth", "3")
    rnn, x = models["rnn"], some_inputs(task, rows=5)[:, 0]
    memory = torch.randn(5, 2, 8) * 10
    step = rnn.step(memory, x)
    assert step.shape == memory.shape
    assert (step.square().mean(-1) - 1).abs().max() < 1e-3
    assert not torch.allclose(rnn.step(memory, other(x, task.vocab)), step, atol=1e-4)
    assert not torch.allclose(rnn.step(-memory, x), step, atol=1e-4)
    assert rnn.cell.depth == (1 if cell == "gru" else 3)


@pytest.mark.parametrize("cell", smt.CELLS)
def test_a_rollout_is_its_steps_one_by_one(cell):
    _, task, models = build("--cell", cell)
    rnn, x = models["rnn"], some_inputs(task)
    memories = rnn.rollout(x)
    assert memories.shape == (3, task.T, 2, 8)
    memory = rnn.empty.expand(3, -1, -1)
    for t in range(task.T):
        memory = rnn.step(memory, x[:, t])
        assert torch.equal(memory, memories[:, t])
    torch.testing.assert_close(rnn.rollout(x[:, 3:], memories[:, 2]), memories[:, 3:])
    changed = x.clone()
    changed[:, 4:] = other(x[:, 4:], task.vocab)
    assert torch.equal(rnn.rollout(changed)[:, :4], memories[:, :4])


@pytest.mark.parametrize("cell", ["transformer", "mlp"])
def test_a_cell_whose_branches_say_nothing_keeps_the_memory_in_place(cell):
    cell = build("--cell", cell)[2]["rnn"].cell
    with torch.no_grad():
        for name, weights in cell.named_parameters():
            if name.endswith("out.weight") or ".3." in name:  # the last layer of a branch
                weights.zero_()
    memory, e = torch.randn(3, 2, 8), torch.randn(3, 8)
    assert torch.equal(cell(memory, e), memory)


# ---------------------------------------------------------------------------- the parts of the loss
def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [7.0, -7.0]], requires_grad=True)
    y = torch.tensor([1, 0, -1])
    loss = smt.cross_entropy(logits, y, smt.scored(y))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    nothing = torch.full((3,), -1)
    none = smt.cross_entropy(logits, nothing, smt.scored(nothing))
    none.backward()
    assert none.item() == 0 and not logits.grad.any()


def test_uniformity_by_hand():
    u, v = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.5])  # only their directions count
    far = math.exp(-8)  # |u - (-u)|^2 = 4

    def sequences(*sequences):  # each: its times, each time: its slots
        labels = [torch.stack([torch.stack(slots) for slots in times]) for times in sequences]
        return smt.uniformity(torch.stack(labels)).item()

    assert sequences([[u]], [[-u]]) == pytest.approx(-8, rel=1e-4)
    assert sequences([[u]], [[v]]) == pytest.approx(-4, rel=1e-4)
    third = math.log((1 + 2 * far) / 3)
    assert sequences([[u]], [[u]], [[-u]]) == pytest.approx(third, rel=1e-4)
    # Two slots. The first tells the labels apart, the second does not.
    half = math.log((1 + far) / 2)
    assert sequences([[u, v]], [[-u, v]]) == pytest.approx(half, rel=1e-4)
    # Slots that differ from each other don't make up for labels that are all the same.
    assert sequences([[u, -u]], [[u, -u]]) == pytest.approx(0, abs=1e-5)
    # A label may stand still in time, and a time's label need not differ from other times' ones.
    assert sequences([[u], [u]], [[-u], [-u]]) == pytest.approx(-8, rel=1e-4)
    assert sequences([[u], [-u]], [[-u], [u]]) == pytest.approx(-8, rel=1e-4)
    assert sequences([[u], [-u]], [[u], [-u]]) == pytest.approx(0, abs=1e-5)


def test_runs_of_times_stay_inside_and_reach_both_ends():
    for length, T in [(4, 40), (1, 40), (39, 40), (40, 40), (1, 1)]:
        bits = random_bits((0,), torch.arange(4000), T)
        times = smt.consecutive(torch.zeros_like(bits), bits, length)
        assert times.shape == (4000, length + 1)
        assert times.min() == -1 and times.max() == T - 1
        assert (times.diff(dim=-1) == 1).all()
        # Every transition comes up, in a quarter of the runs about as often.
        anywhere = times[bits[:, -1] % 4 == 1]
        counts = anywhere[:, 1:].flatten().bincount(minlength=T)
        assert counts.min() > 0 and counts.max() < 4 * counts.min()
        assert (times[bits[:, -1] % 4 == 0, 0] == -1).all()  # in another quarter the first


def test_half_the_runs_hold_a_target():
    bits = random_bits((0,), torch.arange(8000), 100)
    y = torch.full_like(bits, -1)
    y[:, [3, 50, 51, 99]] = 0
    runs = smt.consecutive(y, bits, 5)[bits[:, -1] % 4 > 1, 1:]
    assert 3800 < len(runs) < 4200
    held = [(runs == t).any(1) for t in (3, 50, 51, 99)]
    assert (held[0] | held[1] | held[2] | held[3]).all()
    assert min(h.sum() for h in held) > 800  # whichever, and wherever in the run
    assert (runs == 50).sum(0).min() > 100


def test_a_run_depends_on_its_own_row_alone():
    bits = random_bits((0,), torch.arange(16), 9)
    runs = smt.consecutive(torch.zeros_like(bits), bits, 3)
    for row in range(16):
        alone = smt.consecutive(torch.zeros(1, 9), bits[row : row + 1], 3)
        assert torch.equal(alone, runs[row : row + 1])


# ------------------------------------------------------------------------------------- the SMT loss
def label_is_time(x, times):
    """Stands in for the encoder: m_t = t."""
    return times[..., None, None].float(), torch.zeros(*x.shape, 8)


def knows_nothing(memory, future, context):
    """Stands in for the decoder: all logits are 0."""
    return torch.zeros(len(memory), future.shape[1] + 1, 8)


def given_logits(decoder):
    """A decoder whose last layer knows nothing either."""
    decoder.logits = lambda h: torch.zeros(*h.shape[:-1], 8)
    return decoder


given_logits(knows_nothing)


def stays(memory, x):
    """Stands in for the cell."""
    return memory


def smt_stand_ins(encoder=label_is_time, decoder=knows_nothing, step=stays):
    rnn = SimpleNamespace(step=step, cell=SimpleNamespace(depth=1))
    return {"teacher": {"encoder": encoder, "decoder": decoder}, "rnn": rnn}


def time_is_token(rows=40, T=8):
    """x_t = y_t = t, and the loss's random bits."""
    x = torch.arange(T).expand(rows, T)
    return x, x, random_bits((0,), torch.arange(rows), T)


def weights(dec, dyn, unif, *options, tok=0):
    """args with these weights of the parts of the SMT loss."""
    four = f"--lambda-dec {dec} --lambda-tok {tok} --lambda-dyn {dyn} --lambda-unif {unif}"
    return build(*four.split(), *options)[0]


def test_the_dynamics_loss_by_hand():
    # Right at every t but for the 2 too many, if m_t comes with x_{t+1} and goes to m_{t+1}.
    def step(memory, x):
        return (memory + 1 + x[:, None, None]) / 2 + 2

    models, args = smt_stand_ins(step=step), weights(0, 0.5, 0)
    begin, middle, end = (
        smt.smt_loss(models, *time_is_token(), done, args)[0].item() for done in (0, 0.5, 1)
    )
    assert end == pytest.approx(0.5 * 2**2)
    assert begin == pytest.approx(end / 100) and begin < middle < end  # its weight grows


@pytest.mark.parametrize("future", [1, 3, 8])
def test_the_decoding_loss_by_hand(future):
    x, y, bits = time_is_token()
    args, seen = weights(2, 0, 0, "--future", str(future)), []

    @given_logits
    def knows(memory, inputs, context):
        """y_t = t from m_t, then y_{t+1} = x_{t+1} from the input, and so on."""
        seen.append(inputs.shape[1])
        tokens = torch.cat([memory[:, :, 0].long(), inputs], 1)
        return 50 * nn.functional.one_hot(tokens, 8).float()

    assert smt.smt_loss(smt_stand_ins(decoder=knows), x, y, bits, 0, args)[0].item() < 1e-5
    # At t = 7 one target is left, at t = 0 all: what is short need not be decoded to the end.
    assert max(seen) == future - 1 and seen == sorted(seen)
    # One that knows nothing: log V per scored target, however many there are; y_t counts more.
    guess = smt.smt_loss(smt_stand_ins(), x, y, bits, 0, args)[0].item()
    assert guess == pytest.approx(2 * (1 + args.lambda_readout) * math.log(8))


def test_decoding_in_parts_changes_nothing():
    args, task, models = build("--lambda-readout", "0.5", of="--length 3 --delay 20")
    rows, decoder = torch.arange(8), models["teacher"]["decoder"]
    x, y = task.batch("train", 0, rows)
    y[:, :5] = x[:, :5]  # targets early on as well: futures of all lengths
    times = random_bits((1,), rows, 6) % task.T
    labels = torch.randn(8, 6, 2, 8)
    loss, nats, now = smt.decoding(decoder, labels, times, x, y, args), [], []
    for row, t, label in zip(rows.repeat_interleave(6), times.flatten(), labels.flatten(0, 1)):
        logits = decoder(label[None], x[row, None, t + 1 :], args.decoder_context)[0]
        each = nn.functional.cross_entropy(logits, y[row, t:], reduction="none", ignore_index=-1)
        nats.append(each[y[row, t:] >= 0])
        now.append(nats[-1][:1] if y[row, t] >= 0 else nats[-1][:0])
    by_hand = torch.cat(nats).mean() + 0.5 * torch.cat(now).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_decoding_loss_ignores_masked_targets():
    x, y, bits = time_is_token()
    args = weights(1, 0, 0, "--lambda-readout", "0")
    for scored, loss in (y == 6, math.log(8)), (y < 0, 0):
        masked = torch.where(scored, y, -1)
        result = smt.smt_loss(smt_stand_ins(), x, masked, bits, 0, args)[0]
        assert result.item() == pytest.approx(loss)


def test_the_tokens_guess_at_each_target_from_what_their_label_may_see():
    x, y, bits = time_is_token(rows=2)
    args = weights(0, 0, 0, tok=0.5)
    right = 50 * nn.functional.one_hot(y, 8).float()  # (B, T, V)

    def says(memory, future, context):
        return knows_nothing(memory, future, context)

    says.logits = lambda h: h

    def loss(guesses, y=y):
        models = smt_stand_ins(encoder=lambda x, times: (label_is_time(x, times)[0], guesses))
        models["teacher"]["decoder"] = says
        return smt.smt_loss(models, x, y, bits, 0, args)[0].item()

    assert loss(right) == pytest.approx(0)
    assert loss(0 * right) == pytest.approx(0.5 * math.log(8))
    assert loss(right.roll(1, 1)) > 20
    assert loss(right.roll(1, 1), torch.full_like(y, -1)) == 0
    # Bidirectional, a pass a label: token s of label t sees x_<=t, and guesses only if s = t.
    times = torch.tensor([[3, 0], [7, 2]])
    guesses = torch.zeros(4, 8, 8)
    guesses[torch.arange(4), times.flatten()] = right[0, times.flatten()]
    assert smt.guessing(says, guesses, times, y).item() == pytest.approx(0)
    for s in range(8):  # of whichever other token it can't be the concern
        guesses[0, s] = right[0, 3] if s == 3 else right[0, s - 1]
    assert smt.guessing(says, guesses, times, y).item() == pytest.approx(0)
    y = torch.stack([y[0], (y[0] + 1) % 8])  # the last two labels are of the second row
    right = 50 * nn.functional.one_hot(y, 8).float()
    guesses[torch.arange(4), times.flatten()] = right[[0, 0, 1, 1], times.flatten()]
    assert smt.guessing(says, guesses, times, y).item() == pytest.approx(0)


def test_noise_blurs_the_labels_that_decoder_and_cell_start_from():
    rows = torch.arange(400)
    bits, labels = random_bits((0,), rows, 3), torch.randn(400, 5, 2, 8)
    error = smt.blur(labels, bits, 0.5) - labels
    assert abs(error.mean()) < 0.01 and abs(error.std() - 0.5) < 0.01
    flat = error.flatten(1)
    assert not torch.allclose(flat[0], flat[1])
    torch.testing.assert_close(smt.blur(labels[7:8], bits[7:8], 0.5) - labels[7:8], error[7:8])
    assert smt.blur(labels, bits, 0) is labels

    seen, args = [], weights(0, 1, 0, "--noise", "0.5")

    @given_logits
    def decoder(memory, future, context):
        seen.append(memory)
        return knows_nothing(memory, future, context)

    batch = time_is_token(rows=2000)
    loss, _ = smt.smt_loss(smt_stand_ins(decoder=decoder), *batch, 1, args)
    assert loss.item() == pytest.approx(1 + 0.5**2, rel=0.05)  # m_t + noise against m_t + 1
    off = torch.cat(seen) - torch.cat(seen).round()
    assert off.abs().mean() > 0.1
    assert smt.cell_loss(smt_stand_ins(), *batch, 1, args)[0].item() == pytest.approx(loss.item())


def test_uniformity_is_a_part_of_the_loss():
    def alternates(x, times):  # from row to row, the same at all times
        sign = 1.0 - 2 * (torch.arange(len(x)) % 2)
        return sign[:, None, None, None].expand(*times.shape, 1, 1), torch.zeros(*x.shape, 8)

    x, y, bits = time_is_token(rows=4)
    loss, _ = smt.smt_loss(smt_stand_ins(encoder=alternates), x, y, bits, 0, weights(0, 0, 0.5))
    assert loss.item() == pytest.approx(0.5 * math.log((4 + 8 * math.exp(-8)) / 12), rel=1e-4)


def test_the_dynamics_gradient_reaches_the_labels_of_both_sides():
    table = torch.randn(9, 1, 1, requires_grad=True)  # the labels of t = -1 .. 7
    models = smt_stand_ins(encoder=lambda x, times: (table[times + 1], torch.zeros(*x.shape, 8)))
    x, y, bits = time_is_token(rows=1)
    smt.smt_loss(models, x, y, bits, 0, weights(0, 1, 0))[0].backward()
    reached = table.grad.flatten().nonzero().flatten().tolist()
    assert len(reached) == 5  # 4 transitions: the first label is only where f starts, the last only
    assert reached == list(range(reached[0], reached[0] + 5))  # where it should arrive


@pytest.mark.parametrize("cell", smt.CELLS)
def test_smt_trains_encoder_decoder_and_cell(cell):
    args, task, models = build("--cell", cell)
    rows = torch.arange(32)
    x, y = task.batch("train", 0, rows)
    smt.smt_loss(models, x, y, random_bits((0,), rows, task.T), 0, args)[0].backward()
    for name, p in models.named_parameters():
        trained = not name.startswith(("rnn.readout", "rnn.empty"))  # these come from the teacher
        assert (p.grad is not None and p.grad.abs().sum() > 0) == trained, name


def test_the_cell_alone_learns_from_all_transitions_and_the_teacher_stays():
    args, task, models = build()
    rows = torch.arange(32)
    x, y = task.batch("train", 0, rows)
    bits = random_bits((0,), rows, task.T)
    smt.cell_loss(models, x, y, bits, 0, args)[0].backward()
    for name, p in models.named_parameters():
        trained = name.startswith(("rnn.cell", "rnn.embed"))
        assert (p.grad is not None and p.grad.abs().sum() > 0) == trained, name
    # As the dynamics loss at the end of SMT, with the weight 1.
    stand_ins, batch = smt_stand_ins(step=lambda m, x: m + 3), time_is_token()
    loss, depth = smt.cell_loss(stand_ins, *batch, 0, args)
    assert loss.item() == pytest.approx(2**2) and depth == 2 + 1
    assert loss.item() == smt.smt_loss(stand_ins, *batch, 1, weights(0, 1, 0))[0].item()


# ---------------------------------------------------------------------------------------------- DMT
class RolloutStandIn:
    """Memories x_t + 2, so 2 more than the label; notes what it was asked for."""

    def __init__(self):
        self.cell, self.calls = SimpleNamespace(depth=1), []
        self.one = torch.ones((), requires_grad=True)

    def rollout(self, x, memory=None):
        self.calls.append((x, memory))
        return (x[..., None, None] + 2) * self.one

    def readout(self, memory):
        return 50 * nn.functional.one_hot(memory.long()[:, :, 0] - 2, 8).float()


def dmt_stand_ins():
    return {"teacher": {"encoder": label_is_time}, "rnn": RolloutStandIn()}


@pytest.mark.parametrize("window, rollout", [(1, 3), (4, 4), (4, 8), (3, 7), (8, 8)])
def test_the_dmt_loss_by_hand(window, rollout):
    """A run starts at a label; windows begin there and where the RNN's own steps lead."""
    models = dmt_stand_ins()
    args = build("--window", str(window), "--rollout", str(rollout))[0]
    loss, depth = smt.dmt_loss(models, *time_is_token(), 1, args)
    assert args.rollout == rollout // window * window
    assert loss.item() == pytest.approx(2**2)  # the labels' part; the readout is always right
    assert depth == 2 + args.rollout * 1 + 1  # encoder, cells, readout
    *runs, (x, begins) = models["rnn"].calls
    assert x.shape[1] == window and not begins.requires_grad
    x, begins = x.view(-1, args.rollout), begins.view(-1, args.rollout // window)
    assert (x.diff() == 1).all()
    assert torch.equal(begins[:, 0], x[:, 0] - 1.0)  # the label
    assert torch.equal(begins[:, 1:], x[:, window - 1 : -1 : window] + 2.0)
    assert len(runs) == (args.rollout > window)
    for inputs, memory in runs:
        assert torch.equal(memory.flatten(), x[:, 0] - 1.0)
        assert torch.equal(inputs, x[:, :-window])


def test_dmt_s_windows_side_by_side_are_those_of_a_run_whose_gradient_is_cut():
    args, task, models = build("--window", "2", "--rollout", "6", "--labels", "99")
    x, y = task.batch("train", 0, torch.arange(4))
    bits = random_bits((0,), torch.arange(4), task.T)
    smt.dmt_loss(models, x, y, bits, 1, args)[0].backward()
    weights = [p for name, p in models["rnn"].named_parameters() if "cell" in name]
    found = [p.grad for p in weights]
    times = smt.consecutive(y, bits, 6)
    labels = models["teacher"]["encoder"](x, times)[0].detach()
    memory, memories, inputs = labels[:, 0], [], x.gather(1, times[:, 1:])
    for k in range(6):
        memory = memory.detach() if k % 2 == 0 else memory
        memory = models["rnn"].step(memory, inputs[:, k])
        memories.append(memory)
    loss = nn.functional.mse_loss(torch.stack(memories, 1), labels[:, 1:])
    for wanted, got in zip(torch.autograd.grad(loss, weights), found):
        torch.testing.assert_close(got, wanted)


def test_the_dmt_gradient_s_window_is_bounded_whatever_the_sequence_s_length():
    args, task, _ = build(of="--length 3 --delay 200")
    assert args.window <= 16 < args.rollout < task.T
    args, task, _ = build("--window", "1000000", of="--length 3 --delay 200")
    assert args.window == args.rollout == task.T  # all of it, for those who ask for it


@pytest.mark.parametrize("window", ["1", "4"])
def test_dmt_trains_cell_and_readout_and_nothing_of_the_teacher(window):
    args, task, models = build("--window", window, "--rollout", "6")
    smt.hand_over(**models)
    rows = torch.arange(16)
    x, y = task.batch("train", 0, rows)
    bits = random_bits((0,), rows, task.T)

    def gradients():
        models.zero_grad()
        smt.dmt_loss(models, x, y, bits, 1, args)[0].backward()
        return {name: p.grad for name, p in models.named_parameters()}

    before, trained = gradients(), ("rnn.cell", "rnn.embed", "rnn.readout.body", "rnn.readout.head")
    for name, gradient in before.items():
        if name.startswith(trained):
            assert gradient.any(), name
        if name.startswith("teacher"):
            assert gradient is None, name
    # What the readout says has no influence on the cell: another one, the same gradient.
    nn.init.normal_(models["rnn"].readout.head.weight)
    after = gradients()
    for name, gradient in before.items():
        if name.startswith(("rnn.cell", "rnn.embed")):
            assert torch.equal(gradient, after[name]), name


def test_dmt_in_bf16_has_the_gradient_of_fp32():
    """older torch (2.6) reuses weights cast without a graph: the cell would learn nothing."""
    args, task, models = build("--window", "2", "--rollout", "6")
    rows = torch.arange(4)
    batch = *task.batch("train", 0, rows), random_bits((0,), rows, task.T), 1
    weight = next(p for name, p in models.named_parameters() if "cell" in name and p.dim() == 2)
    gradients = []
    for enabled in False, True:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, _ = smt.dmt_loss(models, *batch, args)
        gradients += torch.autograd.grad(loss, weight)
    assert nn.functional.cosine_similarity(*[g.flatten() for g in gradients], dim=0) > 0.99


def test_dmt_ignores_masked_targets():
    x, y, bits = time_is_token()
    args = build("--window", "4")[0]
    for scored, loss in (y == 6, 4 + 50), (y < 0, 4):
        masked = torch.where(scored, 7, -1)  # 7: where it counts, the readout is all wrong
        result = smt.dmt_loss(dmt_stand_ins(), x, masked, bits, 1, args)[0]
        assert result.item() == pytest.approx(loss)


# ------------------------------------------------------------------------------ evaluate and sample
class CountingTask:
    device = "cpu"
    """x_t = y_t = row + t, scored at the end alone. 130 rows of 70 times: chunks end unevenly."""

    test_rows, T, vocab = 130, 70, 202

    def batch(self, split, step, rows):
        x = rows[:, None] + torch.arange(self.T)
        return x, torch.where(torch.arange(self.T) == 69, x, -1)


def test_evaluation_by_hand():
    def says(memory):  # half of the probability on the number that the memory holds
        odds = torch.full((len(memory), 1, 202), -math.log(201.0))
        return odds.scatter(2, memory.long(), 0.0)

    def label_is_input(x, times):
        return x.gather(1, times)[..., None, None].float(), None

    rnn = SimpleNamespace(readout=says)
    # Its memories are 3 too large, hence its answers wrong, in the 65 even rows.
    rnn.rollout = lambda x: (x + 3 * (x[:, :1] % 2 == 0))[..., None, None].float()
    models = {"rnn": rnn, "teacher": {"encoder": label_is_input, "decoder": says}}
    figures = smt.evaluate(models, CountingTask(), "test", 130)
    x = CountingTask().batch("test", 0, torch.arange(130))[0]
    half, rest = math.log(2), math.log(2 * 201)
    assert figures == {
        "val_loss": pytest.approx((half + rest) / 2),
        "val_acc": pytest.approx(0.5),
        "teacher_loss": pytest.approx(half),
        "teacher_acc": pytest.approx(1),
        "drift": pytest.approx(9 / 2 / x.float().var(correction=0).item(), rel=1e-5),
    }


def test_evaluation_is_on_the_split_asked_for():
    splits = []

    class Spied(CountingTask):
        def batch(self, split, step, rows):
            splits.append(split)
            return super().batch(split, step, rows)

    rnn = SimpleNamespace(readout=lambda memory: torch.zeros(len(memory), 1, 202))
    rnn.rollout = lambda x: x[..., None, None].float()
    teacher = {"encoder": lambda x, t: (x.gather(1, t)[..., None, None].float(), None)}
    teacher["decoder"] = rnn.readout
    for split in "val", "test":
        smt.evaluate({"rnn": rnn, "teacher": teacher}, Spied(), split, 3)
    assert splits == ["val", "test"]


class LastToken:
    """An RNN whose memory is its last input and whose logits are a table's row."""

    def __init__(self, table):
        self.table = table

    def rollout(self, x):
        return x[..., None, None].float()

    def step(self, memory, x):
        return x[:, None, None].float()

    def readout(self, memory):
        return self.table[memory[:, :, 0].long()]


def test_text_goes_on_from_its_prompt(capsys):
    task = text_task()
    args = SimpleNamespace(out=".", prompt="ab", seed=0, device=torch.device("cpu"))
    following = 100 * torch.eye(257).roll(1, dims=1)  # after each byte the next one
    smt.show(LastToken(following), task, 2, args)
    shown = capsys.readouterr().out
    assert shown.count("abcdefghijklmnopqrstu") == 2


def test_text_is_drawn_by_its_probabilities_and_seed(capsys):
    task = text_task(length=20)
    table = torch.full((257, 257), -100.0)
    table[:, [ord("."), ord("#")]] = torch.tensor([math.log(3.0), 0.0])

    def sample(seed):
        args = SimpleNamespace(out=".", prompt="", seed=seed, device=torch.device("cpu"))
        smt.show(LastToken(table), task, 20, args)
        return [line for line in capsys.readouterr().out.splitlines() if "---" not in line]

    first = sample(0)
    assert first == sample(0) != sample(1) and len(set(first)) == 20
    dots, hashes = (sum(line.count(c) for line in first) for c in ".#")
    assert dots + hashes >= 400 and 0.65 < dots / (dots + hashes) < 0.85


# --------------------------------------------------------------------------------------- whole runs
class Killed(BaseException):
    """As if the process had been killed: nothing in the program may catch it."""


def kill(monkeypatch, name, call):
    """Die at the start of the call-th call of a function of smt.py, or of one that it calls."""
    owner = os if name == "replace" else smt
    original, calls = getattr(owner, name), []

    def deadly(*args):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return original(*args)

    monkeypatch.setattr(owner, name, deadly)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run("--out", str(out)) == 0
    return out


def without_seconds(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_a_run_writes_what_the_contract_says(finished):
    config, lines = json.loads((finished / "config.json").read_text()), metrics(finished)
    args, task, models = build(of=f"{COPY} {PHASES}")
    resolved = vars(args) | {"out": str(finished), "device": "cpu"}
    assert resolved.items() <= config.items()
    assert config["length"] == 3 and config["reverse"] is False and config["steps"] == 8
    assert config["future"] == config["rollout"] == task.T == 8
    assert config["torch"] == torch.__version__ and config["device_name"]
    sizes = {name: sum(p.numel() for p in models[name].parameters()) for name in models}
    assert config["parameters"] == sizes

    assert [line["phase"] for line in lines] == ["smt"] * 5 + ["dmt"] * 3 + ["final"]
    assert [line["step"] for line in lines] == [2, 4, 5, 7, 8, 10, 12, 13, 13]
    figures = "val_loss val_acc teacher_loss teacher_acc drift".split()
    for line in lines:
        assert list(line) == ["phase", "step", "seconds", "depth", "tokens", "train_loss", *figures]
        assert line["tokens"] == line["step"] * 2 * 8
        assert all(math.isfinite(line[name]) for name in figures)
        assert 0 <= line["val_acc"] <= 1 and 0 <= line["teacher_acc"] <= 1
    assert all(math.isfinite(line["train_loss"]) for line in lines[:-1])
    assert lines[-1]["train_loss"] is None
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
    # SMT: 2 layers of the encoder, then 1 of the decoder beside 1 of the cell, or the cell's alone.
    # DMT: 2 of the encoder, 8 of the cell along the whole sequence, 1 of the readout.
    assert [line["depth"] for line in lines] == [6, 12, 15, 21, 24, 46, 68, 79, 79]


def test_the_final_figures_are_those_of_the_final_weights(finished):
    args, task, models, _ = smt.settings(["--sample", "1", "--out", str(finished)])
    figures = smt.evaluate(models, task, "test", task.test_rows)
    assert figures.items() <= metrics(finished)[-1].items()
    val = smt.evaluate(models, task, "val", args.eval_rows)
    assert val.items() <= metrics(finished)[-2].items()


def test_longer_sequences_are_measured_at_last_where_there_are_such(finished):
    assert run("--out", "longer", "--eval-length", "4") == 0
    assert without_seconds(metrics("longer")[:-1]) == without_seconds(metrics(finished)[:-1])
    final, known = metrics("longer")[-1], metrics(finished)[-1]
    names = "val_loss val_acc teacher_loss teacher_acc drift".split()
    assert list(final) == [*known, *[f"{name}_{k}x" for k in (2, 4) for name in names]]
    _, task, models, _ = smt.settings(["--sample", "1", "--out", "longer"])
    figures = smt.evaluate(models, toy_task("copy", length=3, delay=8), "test")  # delay 2, 4 times
    assert figures == {name: final[f"{name}_4x"] for name in names}
    recall = "--task recall --pairs 3 --steps 1 --dmt-steps 0 --out recall".split()
    assert smt.main([*f"{NETWORKS} {TRAINING} --eval-length 8".split(), *recall]) == 0
    assert list(metrics("recall")[-1]) == list(known)


def test_the_seed_decides_all(finished):
    assert run("--out", "again") == 0 and run("--out", "other", "--seed", "1") == 0
    assert same_weights(checkpoint("again")["models"], checkpoint(finished)["models"])
    assert without_seconds(metrics("again")) == without_seconds(metrics(finished))
    a, b = checkpoint("other")["models"], checkpoint(finished)["models"]
    assert not torch.equal(a["rnn.embed.weight"], b["rnn.embed.weight"])
    weights = [build("--seed", seed)[2].state_dict() for seed in "001"]
    assert same_weights(weights[0], weights[1]) and not same_weights(weights[0], weights[2])


@pytest.mark.parametrize(
    "function, call",
    [("save", n) for n in (2, 3, 5, 6, 8)]
    + [("replace", n) for n in (4, 5, 16, 17)]  # writing a checkpoint, or the metrics after it
    + [
        ("smt_loss", 1),
        ("smt_loss", 4),
        ("cell_loss", 1),
        ("cell_loss", 3),
        ("dmt_loss", 1),
        ("dmt_loss", 2),
        ("dmt_loss", 4),
    ],
)
def test_kill_and_resume_change_nothing(finished, monkeypatch, function, call):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, function, call)
        run()
    with open("run/metrics.jsonl", "a") as file:
        file.write('{"phase": "sm')  # as if it had died writing a line
    torch.rand(1)  # nothing is drawn from the hidden generator, so this can't disturb it
    assert smt.main(["--resume", "--out", "run"]) == 0
    assert same_weights(checkpoint()["models"], checkpoint(finished)["models"])
    assert without_seconds(metrics()) == without_seconds(metrics(finished))


@pytest.mark.parametrize("function, call", [("save", 1), *[("replace", n) for n in (1, 2, 3)]])
def test_a_run_killed_before_its_first_checkpoint_is_no_dead_end(
    finished, monkeypatch, function, call
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, function, call)
        run()
    assert run() == 0 or run("--resume") == 0
    assert same_weights(checkpoint()["models"], checkpoint(finished)["models"])


@pytest.mark.parametrize(
    "function, call, step", [("smt_loss", 3, 3), ("smt_loss", 5, 5), ("dmt_loss", 1, 9)]
)
def test_ctrl_c_ends_the_step_saves_and_can_be_gone_on_from(
    finished, monkeypatch, capsys, function, call, step
):
    original, calls = getattr(smt, function), []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(smt, function, interrupted)
        assert run() == 130
    error = capsys.readouterr().err.splitlines()[-1]  # behind what tqdm shows
    assert error.startswith("smt.py: ") and "--resume" in error
    assert checkpoint()["state"]["step"] == step
    if function == "smt_loss":  # the RNN that it shows fits the teacher of its step
        models = smt.settings(["--out", "run", "--sample", "1"])[2]
        readout = {
            name: weight.clone() for name, weight in models["rnn"].readout.named_parameters()
        }
        smt.hand_over(**models)
        assert same_weights(readout, dict(models["rnn"].readout.named_parameters()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run("--resume") == 0
    assert same_weights(checkpoint()["models"], checkpoint(finished)["models"])
    assert without_seconds(metrics()) == without_seconds(metrics(finished))  # also the mean losses


def test_a_background_job_ignores_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seen = []
    for step in until_ctrl_c(range(3)):
        signal.raise_signal(signal.SIGINT)
        seen.append(step)
    assert seen == [0, 1, 2] and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    def interrupted_twice(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr(smt, "cell_loss", interrupted_twice)
    assert run() == 130 and checkpoint()["state"]["step"] == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("program, steps", [(smt, PHASES), (bptt_baseline, "--steps 13")])
def test_sigkill_at_random_moments_changes_nothing(program, steps):
    """kills.py does this for longer, and with processes that begin anew."""
    options = f"{COPY} --memory 2 --dim 8 --heads 2 --batch-size 2 --eval-every 1 --eval-rows 4"
    options = f"{options} --device cpu {steps}".split()
    assert program.main([*options, "--out", "whole"]) == 0
    moments = random.Random(0)
    for kill in range(6):
        resume = ["--resume"] if Path("run/checkpoint.pt").exists() else []
        if not (child := os.fork()):
            tqdm.set_lock(threading.RLock())  # that of its parent is shared; one killed may hold it
            try:
                os._exit(program.main([*options, "--out", "run", *resume]))
            finally:
                os._exit(1)
        timer = threading.Timer(moments.uniform(0, 0.3), os.kill, (child, signal.SIGKILL))
        if kill < 5:
            timer.start()
        _, status = os.waitpid(child, 0)
        timer.cancel()
    assert os.waitstatus_to_exitcode(status) == 0
    assert same_weights(checkpoint()["models"], checkpoint("whole")["models"])
    assert without_seconds(metrics()) == without_seconds(metrics("whole"))


def test_a_directory_that_turns_read_only_gets_one_line(finished, monkeypatch, capsys):
    original, calls = os.replace, []

    def refused(*args):
        calls.append(1)
        if len(calls) > 6:
            raise OSError(30, "Read-only file system", args[1])
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        assert run() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("smt.py: --out: can't write run/") and "Read-only" in error
    assert run("--resume") == 0
    assert same_weights(checkpoint()["models"], checkpoint(finished)["models"])


def test_a_full_disk_gets_one_line_and_keeps_the_last_checkpoint(monkeypatch, capsys):
    resource = pytest.importorskip("resource")
    assert run("--steps", "2", "--dmt-steps", "0", "--cell-only", "0") == 0
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # no file may become larger than its metrics: a checkpoint can't be written
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        assert run("--init", "run", "--out", "new") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("smt.py: --out: can't write") and "checkpoint.pt" in error
    assert not list(Path("new").glob("*.tmp"))
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_run_goes_on_with_its_own_command_line():
    options = "--rollout 99 --labels 99 --window 9".split()  # of 8 times
    assert run(*options) == 0 and run("--resume", *options) == 0
    assert run("--resume", "--window", "7") == 2


def test_resuming_a_finished_run_trains_no_further(monkeypatch):
    assert run() == 0
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    monkeypatch.setattr(smt, "smt_loss", None)
    monkeypatch.setattr(smt, "dmt_loss", None)
    assert run("--resume") == 0
    for name in ("checkpoint.pt", "metrics.jsonl"):
        assert Path("run", name).read_bytes() == before[Path("run", name)]


def test_a_finished_run_is_not_overwritten(finished, capsys):
    before = (finished / "checkpoint.pt").read_bytes()
    assert run("--out", str(finished)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--resume" in error and "--out" in error
    assert (finished / "checkpoint.pt").read_bytes() == before


def test_a_loss_that_turns_nan_stops_and_keeps_the_last_good_weights(finished, monkeypatch, capsys):
    original, calls = smt.smt_loss, []

    def fails_at_step_4(*args):
        calls.append(1)
        loss, depth = original(*args)
        return (loss * math.nan if len(calls) == 4 else loss), depth

    with monkeypatch.context() as patch:
        patch.setattr(smt, "smt_loss", fails_at_step_4)
        assert run() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nan" in error and "step 4" in error
    assert len(metrics()) == 1 and checkpoint()["state"]["step"] == 2
    assert run("--resume") == 0
    assert same_weights(checkpoint()["models"], checkpoint(finished)["models"])


def test_a_gradient_that_is_infinite_stops_at_its_step(finished, monkeypatch, capsys):
    original, calls = smt.dmt_loss, []

    def steep_at_step_2(models, *batch):
        calls.append(1)
        loss, depth = original(models, *batch)
        w = models["rnn"].embed.weight.sum() * 0  # the root's slope there is infinite, its value 0
        return (loss + w.sqrt() if len(calls) == 2 else loss), depth

    with monkeypatch.context() as patch:
        patch.setattr(smt, "dmt_loss", steep_at_step_2)
        assert run() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "gradient nan at step 10 of dmt" in error
    assert checkpoint()["state"]["step"] == 8
    assert run("--resume") == 0
    assert same_weights(checkpoint()["models"], checkpoint(finished)["models"])


@pytest.mark.parametrize("loss_of", ["smt_loss", "cell_loss", "dmt_loss"])
def test_bf16_agrees_with_fp32_on_a_step(loss_of):
    """To 2 % in the loss, 10 % in its gradient: bf16 has 8 bits."""
    found = []
    for precision in "fp32", "bf16":
        args, task, models = build("--precision", precision, "--batch-size", "16")
        x, y = task.batch("train", 0, torch.arange(16))
        bits = random_bits(("bf16",), torch.arange(16), task.T)
        optimizer = torch.optim.SGD(models.parameters(), lr=0.0)
        loss, _ = smt.update(models, [], optimizer, getattr(smt, loss_of), (x, y, bits, 0.5), args)
        grads = [p.grad.flatten() for p in models.parameters() if p.grad is not None]
        found.append((loss, torch.cat(grads)))
    (a, da), (b, db) = found
    assert a != b and abs(a - b) < 0.02 * abs(a)
    assert (da - db).norm() < 0.1 * da.norm()


def test_weights_that_blow_up_are_not_kept(capsys):
    """The last loss before a checkpoint may still be finite when its gradient is not."""
    assert run("--lr", "1e30", "--eval-every", "1") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert all(w.isfinite().all() for w in checkpoint()["models"].values())
    assert "NaN" not in Path("run/metrics.jsonl").read_text()


def test_after_smt_the_rnn_has_readout_and_empty_memory_of_its_teacher():
    assert run("--dmt-steps", "0") == 0
    models = smt.settings("--sample 1 --out run".split())[2]
    before = {name: weight.clone() for name, weight in models["rnn"].state_dict().items()}
    smt.hand_over(**models)
    assert same_weights(before, models["rnn"].state_dict())


def test_seed_and_step_decide_batch_and_bits(monkeypatch):
    seen, original = [], smt.update

    def spied(*args):
        seen.append(args[4])
        return original(*args)

    monkeypatch.setattr(smt, "update", spied)
    for seed in "01":
        assert run("--seed", seed, "--out", seed, "--steps", "2", "--dmt-steps", "0") == 0
    for first, second in itertools.combinations(seen, 2):
        assert not torch.equal(first[0], second[0]) and not torch.equal(first[2], second[2])
    assert [done for *_, done in seen] == [0, 0, 0, 0]  # a step of each phase


def test_the_phases_and_what_they_train_by_hand():
    options = "--steps 10 --cell-only 0.4 --dmt-steps 5 --lr 0.1 --dmt-lr 0.2"
    assert smt.phases(build(*options.split())[0]) == [
        ("smt", smt.smt_loss, ("teacher", "rnn"), 6, 0.1),
        ("smt", smt.cell_loss, ("rnn",), 4, 0.1),
        ("dmt", smt.dmt_loss, ("rnn",), 5, 0.2),
    ]


def test_the_learning_rate_warms_up_and_ends_at_0():
    rates = [smt.learning_rate(step, 1000, 2e-3) for step in range(1000)]
    top = rates.index(max(rates))
    assert 0 < rates[0] < 2e-4 and 5 < top < 100 and 1.9e-3 < rates[top] <= 2e-3
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 2e-6
    assert 0 < smt.learning_rate(0, 1, 2e-3) <= 2e-3


def test_gradients_of_teacher_and_rnn_are_clipped_apart(monkeypatch):
    original, clipped = nn.utils.clip_grad_norm_, []

    def note(parameters, *args):
        clipped.append(len(parameters := list(parameters)))
        return original(parameters, *args)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", note)
    assert run("--steps", "1", "--cell-only", "0", "--dmt-steps", "0") == 0
    models = build()[2]
    assert sorted(clipped) == sorted(len(list(model.parameters())) for model in models.values())


def test_init_starts_dmt_from_the_weights_of_a_run(finished):
    new = ["--init", str(finished), "--steps", "0", "--dmt-steps", "3"]
    models = smt.settings(new)[2].state_dict()
    assert same_weights(dict(models), dict(checkpoint(finished)["models"]))
    assert smt.main([*new, "--out", "new", "--lr", "1e-3"]) == 0
    assert [line["phase"] for line in metrics("new")] == ["dmt", "dmt", "final"]
    old, new = checkpoint(finished)["models"], checkpoint("new")["models"]
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert all(name.startswith("rnn.") for name in changed)  # DMT leaves the teacher alone
    for part in ("rnn.cell", "rnn.embed", "rnn.readout"):
        assert any(name.startswith(part) for name in changed)


class OpensAFile:
    """Unpickling it would run code: it opens the file "executed" for writing."""

    def __reduce__(self):
        return open, ("executed", "w")


@pytest.mark.parametrize("options", ["--resume --out evil", "--sample 1 --out evil", "--init evil"])
def test_a_checkpoint_can_not_run_code(options, capsys):
    Path("evil").mkdir()
    content = {"config": OpensAFile(), "models": {}, "optimizer": None, "state": {}}
    torch.save(content, "evil/checkpoint.pt")
    assert smt.main(options.split()) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not Path("executed").exists()


def test_sample_only_prints(finished, monkeypatch, capsys):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished.iterdir()}
    monkeypatch.setattr(smt, "train", None)
    assert smt.main(["--sample", "3", "--out", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 3
    task = build()[1]
    for line, x in zip(shown.splitlines(), task.batch("test", 0, torch.arange(3))[0].tolist()):
        assert line.startswith("".join(map(str, x[:3])))
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished.iterdir()}
    assert after == before


def test_text_trains_and_samples(capsys):
    Path("text").write_bytes(TEXT * 3)
    options = f"{NETWORKS} {TRAINING} --task text --data text --length 6 --steps 2 --dmt-steps 2"
    assert smt.main([*options.split(), "--out", "run"]) == 0
    assert [line["phase"] for line in metrics()] == ["smt", "dmt", "final"]
    capsys.readouterr()
    assert smt.main("--sample 2 --prompt Once --out run".split()) == 0
    assert capsys.readouterr().out.count("Once") == 2
    with np.load("run/samples.npz") as kept:
        assert kept["sample"].shape == (2, 1 + 4 + 4 * 6)


@pytest.mark.parametrize(
    "options",
    [
        "--cell transformer --registers now --window 1",
        "--cell gru --encoder bidirectional --window 8",
        "--cell gru --precision bf16 --future 1 --window 2 --rollout 5",
        "--cell transformer --precision bf16 --context 2 --reverse --delay 0 --future 2",
        "--steps 1 --context 1",
        "--dmt-steps 0 --lambda-dec 0 --lambda-dyn 0",
        "--cell-only 0.5 --labels 99 --decoded 99",
        "--cell-only 0",
        "--length 1 --delay 0 --labels 2 --batch-size 1",
    ],
)
def test_other_settings_run_too(options):
    assert run("--steps", "2", "--dmt-steps", "2", *options.split()) == 0
    line = metrics()[-1]
    assert line["phase"] == "final" and math.isfinite(line["val_loss"])


def test_a_tiny_run_learns_to_copy():
    sizes = "--memory 4 --dim 32 --labels 5 --decoded 4 --batch-size 32 --eval-rows 64"
    steps = "--steps 450 --dmt-steps 150 --lr 5e-3 --lambda-dyn 2 --eval-every 500"
    assert run(*f"--length 2 --delay 2 {sizes} {steps}".split()) == 0
    final = metrics()[-1]
    assert final["teacher_acc"] > 0.95
    assert final["val_acc"] > 0.9 and final["val_loss"] < 0.4  # chance: 0.125 and 2.08
    assert final["drift"] < 0.1


# -------------------------------------------------------------------------------------- wrong input
def each(names, value):
    return [(f"--{name} {value}", f"--{name}", value) for name in names.split()]


WRONG = [
    *each("memory dim heads cell-depth encoder-depth decoder-depth context future", "0"),
    *each("labels decoded window rollout length batch-size eval-every eval-rows lr dmt-lr", "0"),
    *each("delay steps dmt-steps seed sample lr lambda-dyn", "-1"),
    *each("length delay steps dmt-steps batch-size labels lr dmt-lr", "x"),
    *each("eval-length", "9"),
    ("--steps 1.5", "--steps", "1.5"),
    ("--steps 1e3", "--steps", "1e3"),
    ("--lr nan", "--lr", "nan"),
    ("--lr inf", "--lr", "inf"),
    ("--task chess", "--task", "chess"),
    ("--cell lstm", "--cell", "lstm"),
    ("--encoder both", "--encoder", "both"),
    ("--device tpu", "--device", "tpu"),
    ("--device cuda", "--device", "cuda"),
    ("--no-such-option 3", "--no-such-option", "3"),
    ("--dim 10 --heads 3", "--dim", "10"),
    ("--dim 6 --heads 2", "--dim", "6"),  # rotary positions turn pairs of numbers
    ("--cell-only 1", "--cell-only", "1"),
    ("--steps 0", "--steps", "0"),
    ("--cell-only 1.1", "--cell-only", "1.1"),
    ("--cell-only -0.1", "--cell-only", "-0.1"),
    ("--length 99999999999", "--length", "99999999999"),
    ("--data text", "--data", "text"),
    ("--pairs 3", "--pairs", "3"),
    ("--task recall --pairs 27", "--pairs", "27"),
    ("--task modular --modulus 9", "--modulus", "9"),
    ("--task modular --modulus 62", "--modulus", "62"),
    ("--task retrieval --length 7 --distractors 1", "--length", "7"),
    ("--task stack --depth 0", "--depth", "0"),
    ("--resume", "--resume", "run"),
    ("--sample 2", "--sample", "run"),
    ("--init nowhere", "--init", "nowhere"),
    ("--resume --out damaged", "--resume", "damaged"),
    ("--init damaged", "--init", "damaged"),
    ("--resume --out foreign", "--resume", "foreign"),
    ("--out a-file", "--out", "a-file"),
    ("--out a-file/run", "--out", "a-file"),
]
IMAGES = "empty byte text damaged pickled truncated.gz float.npy flat.npy few.npy none.npy".split()
WRONG_TEXT = [
    ("--data missing", "--data", "missing"),
    ("--data empty", "--data", "empty"),
    ("--data short", "--data", "short"),
    ("--data byte", "--data", "byte"),
    ("--data damaged", "--data", "damaged"),  # a directory
    ("--data text --eval-length 8", "--data", "text"),  # 20 held-out bytes, and one row of 40
    *[(f"--task pixels --data {name}", "--data", name) for name in IMAGES],
    ("--task pixels --data missing", "--data", "missing"),
    ("--data text --delay 3", "--delay", "3"),
    ("--data text --reverse", "--reverse", ""),
]


def assert_one_line_and_nothing_written(argv, option, value, capsys, program=smt):
    before = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    assert program.main(argv) == 2
    printed, name = capsys.readouterr(), Path(program.__file__).name
    assert (
        printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith(name + ": ")
    )
    assert option in printed.err and value in printed.err.split(option, 1)[1]
    assert {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")} == before


def options_with_kinds():
    """Each option of both programs that does not take any text."""
    for program in smt, bptt_baseline:
        for action in program.parser()._actions:
            if action.type not in (None, str) or action.choices:
                yield program, action.option_strings[-1]


@pytest.mark.parametrize("value", ["", "x", "-3"])
@pytest.mark.parametrize("program, option", list(options_with_kinds()))
def test_each_option_tells_what_it_would_take(program, option, value, capsys):
    argv = [f"{option}={value}", "--out", "run"]
    assert_one_line_and_nothing_written(argv, option, value, capsys, program)


@pytest.fixture
def files():
    for name, content in {"empty": b"", "byte": b"a", "short": b"short", "text": TEXT}.items():
        Path(name).write_bytes(content)
    torch.save({"weights": torch.zeros(3)}, "a-file")
    np.savez("pickled", images=np.array([[[OpensAFile()]]] * 20))
    Path("pickled.npz").rename("pickled")
    Path("truncated.gz").write_bytes(gzip.compress(idx(images()))[:-20])
    np.save("float.npy", images().astype(float))
    np.save("flat.npy", images()[:, :, 0])
    np.save("few.npy", images(9))
    np.save("none.npy", images(20, 0))
    for name, content in {"damaged": TEXT, "foreign": Path("a-file").read_bytes()}.items():
        Path(name).mkdir()
        Path(name, "checkpoint.pt").write_bytes(content)


@pytest.mark.parametrize("options, option, value", WRONG)
def test_wrong_input_gets_one_line(files, options, option, value, capsys):
    sizes = (
        [] if set(options.split()) & {"--resume", "--sample", "--init", "--task"} else COPY.split()
    )
    argv = [*f"{NETWORKS} {TRAINING} --out run".split(), *sizes, *options.split()]
    assert_one_line_and_nothing_written(argv, option, value, capsys)


@pytest.mark.parametrize(
    "options, option, value",
    [
        *each("truncate steps eval-rows memory", "-1"),
        ("--cell lstm", "--cell", "lstm"),
        ("--dim 10", "--dim", "10"),
        ("--labels 4", "--labels", "4"),
        ("--task recall --pairs 27", "--pairs", "27"),
        ("--task text --data missing", "--data", "missing"),
        ("--task pixels --data pickled", "--data", "pickled"),
        ("--resume --out damaged", "--resume", "damaged"),
        ("--init foreign", "--init", "foreign"),
        ("--out a-file/run", "--out", "a-file"),
    ],
)
def test_wrong_input_to_the_baseline_gets_one_line(files, options, option, value, capsys):
    argv = ["--out", "run", *options.split()]
    assert_one_line_and_nothing_written(argv, option, value, capsys, bptt_baseline)


@pytest.mark.parametrize(
    "options, option, value",
    [
        ("--repeat 0", "--repeat", "0"),
        ("--only rnn", "--only", "rnn"),
        ("--json no/such/place.json", "--json", "no/such/place.json"),
        ("--json .", "--json", "."),
        ("--labels", "--labels", ""),
        ("--no-such-option 3", "--no-such-option", "3"),
        ("--task chess", "--task", "chess"),
        ("--task recall --pairs 27", "--pairs", "27"),
    ],
)
def test_wrong_input_to_the_bench_gets_one_line(options, option, value, capsys):
    assert_one_line_and_nothing_written(options.split(), option, value, capsys, bench)


@pytest.mark.parametrize("options, option, value", WRONG_TEXT)
def test_wrong_text_gets_one_line(files, options, option, value, capsys):
    sizes = "" if "pixels" in options else "--task text --length 8"
    argv = [*f"{TRAINING} {sizes} --out run".split(), *options.split()]
    assert_one_line_and_nothing_written(argv, option, value, capsys)


@pytest.mark.parametrize(
    "options, option, value",
    [
        ("--resume --dim 16", "--dim", "16"),
        ("--resume --cell gru", "--cell", "gru"),
        ("--resume --length 4", "--length", "4"),
        ("--resume --seed 1", "--seed", "1"),
        ("--resume --task text", "--task", "text"),
        ("--sample 1 --memory 3", "--memory", "3"),
        ("--init run --out new --dim 16", "--init", "run"),
    ],
)
def test_sizes_other_than_the_run_s_get_one_line(finished, options, option, value, capsys):
    Path("run").symlink_to(finished)
    argv = options.split() if "--out" in options else [*options.split(), "--out", "run"]
    assert_one_line_and_nothing_written(argv, option, value, capsys)


def test_half_a_checkpoint_gets_one_line(finished, capsys):
    Path("run").mkdir()
    content = (finished / "checkpoint.pt").read_bytes()
    Path("run/checkpoint.pt").write_bytes(content[: len(content) // 2])
    assert_one_line_and_nothing_written(["--resume", "--out", "run"], "--resume", "run", capsys)


def test_flipped_bits_are_noticed(finished, capsys):
    """Each flip gets one line, or changes nothing (the padding between a checkpoint's parts)."""
    Path("run").mkdir()
    content, weights, refused = (finished / "checkpoint.pt").read_bytes(), checkpoint(finished), 0
    for at in random.Random(0).sample(range(len(content)), 100):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        Path("run/checkpoint.pt").write_bytes(damaged)
        try:
            found = load("run", "--resume")
        except UsageError as error:
            refused += "damaged" in str(error)
        else:
            assert same_weights(found["models"], weights["models"])
            assert found["state"] == weights["state"] and found["config"] == weights["config"]
    assert refused > 50


def edited(change):
    """A checkpoint in run/, after a change to it."""
    Path("run").mkdir(exist_ok=True)
    content = checkpoint("whole")
    change(content)
    torch.save(content, "run/checkpoint.pt")


@pytest.mark.parametrize(
    "part, name, value",
    [
        *[("state", "step", value) for value in ("2", 1.5, None)],
        *[("state", "lines", value) for value in (None, "text", [1])],
        ("state", "seconds", "1"),
        ("state", "ended", None),
        *[("config", "dim", value) for value in (8.0, 0, "x")],
        ("config", "cell", "lstm"),
        ("config", "task", "chess"),
        ("config", "lr", "fast"),
        ("config", "eval_every", 0),
    ],
)
def test_a_checkpoint_with_wrong_values_gets_one_line(finished, part, name, value, capsys):
    Path("whole").symlink_to(finished)
    edited(lambda content: content[part].update({name: value}))
    assert_one_line_and_nothing_written(["--resume", "--out", "run"], "run", "damaged", capsys)


def test_a_damaged_optimizer_gets_one_line(capsys):
    assert run("--out", "whole") == 0
    with pytest.raises(UsageError, match="optimizer"):
        take_up(
            torch.optim.AdamW([torch.ones(2)]),
            {"optimizer": {"state": 3}},
            SimpleNamespace(out="run"),
        )


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.jsonl", "config.json"])
def test_what_lies_in_out_is_not_overwritten(finished, name, capsys):
    Path("run").mkdir()
    content = (finished / name).read_bytes() if name != "config.json" else b'{"mine": 1}'
    Path("run", name).write_bytes(content)
    argv = f"{NETWORKS} {TRAINING} {COPY} --out run".split()
    assert_one_line_and_nothing_written(argv, "--out", "run", capsys)


def test_a_run_that_made_no_step_can_be_begun_anew_with_other_options(finished):
    assert run("--lr", "1e30", "--eval-every", "1") == 2  # stopped before its first checkpoint
    assert run() == 0
    assert same_weights(checkpoint()["models"], checkpoint(finished)["models"])


def test_too_little_memory_gets_one_line(monkeypatch, capsys):
    def full(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate all")

    monkeypatch.setattr(smt, "smt_loss", full)
    assert run() == 2
    assert "out of memory" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(smt, "smt_loss", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug is to be seen
        run("--out", "other")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_data(capsys):
    os.mkfifo("pipe")
    argv = "--task text --length 8 --data pipe --out run".split()
    assert smt.main(argv) == 2 and "--data pipe" in capsys.readouterr().err


def test_a_batch_without_a_target_is_no_obstacle():
    options = "--task stack --length 2 --memory 2 --dim 8 --heads 2 --device cpu --batch-size 1"
    argv = f"{options} --eval-rows 32 --eval-every 9 --steps 9".split()
    task = toy_task("stack", length=2)
    pops = [(task.batch("train", n, torch.arange(1))[1] >= 0).sum() for n in range(9)]
    assert 0 in pops  # of the 9 batches
    assert bptt_baseline.main([*argv, "--out", "bptt"]) == 0
    assert smt.main([*argv, "--dmt-steps", "9", "--out", "smt"]) == 0


def test_any_bytes_can_be_a_prompt(capsys):
    prompt = b"a\xff".decode(errors="surrogateescape")  # as the shell's arguments come
    options = f"{NETWORKS} {TRAINING} --task text --length 4 --steps 1 --dmt-steps 0 --cell-only 0"
    assert smt.main([*options.split(), "--prompt", prompt, "--out", "run"]) == 0
    with np.load("run/samples.npz") as kept:
        assert kept["sample"][0, :3].tolist() == [256, 97, 255]


@pytest.mark.parametrize("rank", ["x", "-1", "2"])
def test_wrong_ranks_get_one_line(rank):
    command = [sys.executable, "-c", "import run"]
    environment = os.environ | {"RANK": rank, "WORLD_SIZE": "2", "PYTHONPATH": str(HOME)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "WORLD_SIZE" in done.stderr


def test_a_checkpoint_of_a_newer_format_gets_one_line(finished, capsys):
    Path("run").mkdir()
    content = checkpoint(finished)
    torch.save(content | {"format": content["format"] + 1}, "run/checkpoint.pt")
    assert_one_line_and_nothing_written(["--resume", "--out", "run"], "--resume", "format", capsys)


def test_a_file_that_may_not_be_read_gets_one_line(monkeypatch, capsys):
    Path("secret").write_bytes(TEXT)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    for argv in "--task text --data secret", "--task pixels --data secret":
        with monkeypatch.context() as patch:  # root, as in CI, may read everything
            patch.setattr(Path, "read_bytes", refuse)
            assert smt.main([*argv.split(), "--out", "run"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "--data secret" in error and not Path("run").exists()


def test_sizes_not_asked_for_shrink_with_the_sequence():
    args = smt.settings("--length 2 --delay 1 --out run".split())[0]
    assert args.labels == args.future == args.window == args.rollout == 5
    # But a context without bound stays so: on longer sequences the teacher is to see all, too.
    assert (args.context, args.decoder_context) == (smt.LARGEST, 8)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        smt.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(
        f"--{name.replace('_', '-')}" in shown for name in vars(build()[0]) if name != "method"
    )


def test_the_program_ends_with_its_status():
    command = [sys.executable, smt.__file__, "--task", "chess"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", [smt, bptt_baseline])
def test_two_processes_make_the_same_weights_as_one(program):
    # In stack the number of targets differs from row to row, and so between the processes.
    options = "--task stack --length 8 --depth 3 --memory 2 --dim 8 --heads 2 --batch-size 4"
    options += " --steps 6 --eval-every 4 --eval-rows 8 --device cpu --lr 1e-2"
    if program is smt:  # uniformity is of the labels of one process
        options += " --cell-only 0.5 --dmt-steps 3 --lambda-unif 0 --labels 4 --window 4"
    assert program.main([*options.split(), "--out", "one"]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, program.__file__, *options.split(), "--out", "two"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen(command, env=os.environ | torchrun | {"RANK": rank}, **pipes)
        for rank in "01"
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0].count("final") == 1 and said[1][0] == ""  # the second is silent
    one, two = checkpoint("one"), checkpoint("two")
    assert one["state"]["tokens"] == two["state"]["tokens"]
    for name, weights in one["models"].items():
        torch.testing.assert_close(two["models"][name], weights, rtol=1e-4, atol=1e-5, msg=name)


def test_the_preset_holds_the_sizes_of_the_paper_and_options_go_over_it():
    for program in smt, bptt_baseline:
        args = program.settings("--preset paper --task parity --memory 2 --out paper".split())[0]
        sizes = args.dim, args.heads, args.cell_depth, args.decoder_depth, args.batch_size
        assert (args.cell, *sizes, args.memory) == ("transformer", 256, 8, 8, 4, 128, 2)
    args = smt.settings("--preset paper --task copy --delay 300 --out paper".split())[0]
    assert (args.memory, args.encoder_depth, args.context, args.future) == (16, 8, 256, 64)
    assert (args.rollout, args.dmt_lr, args.lambda_dyn) == (256, 3e-5, 0.1)
    short = smt.settings("--preset paper --task copy --out paper".split())[0]
    assert short.context == 256 and short.future == 48  # longer than the sequence: all of it


# ------------------------------------------------------------------------------------ the baseline
SOURCES = {module: Path(module.__file__).read_text() for module in (smt, bptt_baseline)}
DIFFERENT = {  # what has the same name in both programs and yet differs, and why
    "evaluate": "no teacher to evaluate",
    "METHOD": "its name",
    "phases": "one phase with one loss",
    "train": "no teacher that hands anything over",
    "parser": "options of the method",
    "fit": "options of the method",
    "build": "no teacher to build",
}
BPTT = "--memory 2 --dim 8 --heads 2 --decoder-depth 1 --cell-depth 1 --batch-size 2 --eval-every 2"


def build_bptt(*options):
    return bptt_baseline.settings([*f"{BPTT} --eval-rows 4 {COPY}".split(), *options])[:3]


def run_bptt(*options):
    options = [*f"{BPTT} --eval-rows 4 {COPY} --steps 5 --out bptt".split(), *options]
    return bptt_baseline.main(options)


def definitions(module):
    """{name: source} of what a program defines at the top, in order."""
    found = {}
    for node in ast.parse(SOURCES[module]).body:
        source = ast.get_source_segment(SOURCES[module], node)
        if isinstance(node, ast.Assign):
            found[node.targets[0].id] = source
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = "".join(map(ast.unparse, node.decorator_list)) + source
    return found


def test_what_both_programs_have_is_the_same_to_the_letter():
    ours, theirs = definitions(smt), definitions(bptt_baseline)
    shared = [name for name in ours if name in theirs]
    assert shared == [name for name in theirs if name in ours]
    assert [name for name in shared if ours[name] != theirs[name]] == [*DIFFERENT]
    assert set(theirs) - set(ours) == {"bptt_loss"}


def test_the_diff_can_be_read_aloud():
    lines = [SOURCES[module].splitlines() for module in (smt, bptt_baseline)]
    assert sum(line.startswith("+") for line in difflib.unified_diff(*lines, n=0)) <= 60


def test_the_baseline_defines_nothing_that_it_does_not_use():
    used = [n.id for n in ast.walk(ast.parse(SOURCES[bptt_baseline])) if isinstance(n, ast.Name)]
    assert [name for name in definitions(bptt_baseline) if name not in used] == []


@pytest.mark.parametrize("cell", smt.CELLS)
def test_the_sequence_gradient_is_that_of_finite_differences(cell, request):
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    torch.set_default_dtype(torch.float64)
    args, task, models = build_bptt("--cell", cell)
    x, y = task.batch("train", 0, torch.arange(2))
    loss = bptt_baseline.bptt_loss(models, x, y, None, 0, args)[0]
    names, weights = zip(*models["rnn"].named_parameters())
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    generator = torch.Generator().manual_seed(0)
    for name, weight, gradient in zip(names, weights, gradients):
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        sides = []
        for step in (1e-5, -2e-5):
            weight.data += step * direction
            sides.append(bptt_baseline.bptt_loss(models, x, y, None, 0, args)[0].item())
        weight.data += 1e-5 * direction
        slope = (sides[0] - sides[1]) / 2e-5
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-9), name


def first_token_gradient(truncate):
    """What reaches the embedding of x_0, which has that token alone, from the answers' loss."""
    args, task, models = build_bptt("--truncate", truncate)
    x, y = task.batch("train", 0, torch.arange(2))
    x[:, 1:], x[:, 0] = x[:, 1:] % 2, 9
    bptt_baseline.bptt_loss(models, x, y, None, 0, args)[0].backward()
    return models["rnn"].embed.weight.grad[9].abs().max()


def test_truncation_cuts_the_gradient_but_not_the_memory():
    # T = 8, and the answers are the last 3: a cut before time 4 still lets 4..7 learn.
    assert first_token_gradient("4") == 0 < first_token_gradient("8")
    losses = []
    for truncate in ("1", "3", "8", "100"):
        args, task, models = build_bptt("--truncate", truncate)
        x, y = task.batch("train", 0, torch.arange(2))
        losses.append(bptt_baseline.bptt_loss(models, x, y, None, 0, args)[0].item())
    assert losses == pytest.approx([losses[0]] * 4)


def test_the_empty_memory_is_learnt():
    assert run_bptt() == 0
    assert not torch.equal(checkpoint("bptt")["models"]["rnn.empty"], build_bptt()[2]["rnn"].empty)


def test_a_bptt_run_writes_what_the_contract_says():
    assert run_bptt() == 0
    lines = metrics("bptt")
    assert [line["phase"] for line in lines] == ["bptt"] * 3 + ["final"]
    assert list(lines[0]) == (
        "phase step seconds depth tokens train_loss "
        "val_loss val_acc teacher_loss teacher_acc drift".split()
    )
    for line in lines:
        assert [line[name] for name in ("teacher_loss", "teacher_acc", "drift")] == [None] * 3
        assert math.isfinite(line["val_loss"]) and 0 <= line["val_acc"] <= 1
    # 8 steps of a cell of one layer, then the readout's layer.
    assert [line["depth"] for line in lines] == [18, 36, 45, 45]
    config = json.loads(Path("bptt/config.json").read_text())
    assert config["method"] == "bptt" and config["truncate"] == 8
    assert "labels" not in config and [*config["parameters"]] == ["rnn"]


def test_a_bptt_run_that_was_killed_goes_on_to_the_same_weights(monkeypatch):
    assert run_bptt("--out", "whole") == 0
    original, calls = bptt_baseline.save, []

    def deadly(*args):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        original(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(bptt_baseline, "save", deadly)
        run_bptt()
    assert bptt_baseline.main(["--resume", "--out", "bptt"]) == 0
    assert same_weights(checkpoint("bptt")["models"], checkpoint("whole")["models"])


def test_the_baseline_stops_at_ctrl_c_and_goes_on(monkeypatch):
    assert run_bptt("--out", "whole") == 0
    original = bptt_baseline.bptt_loss

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(bptt_baseline, "bptt_loss", interrupted)
        assert [run_bptt(), run_bptt("--resume")] == [130, 130]
    assert checkpoint("bptt")["state"]["step"] == 2  # a step each time
    assert run_bptt("--resume") == 0
    assert same_weights(checkpoint("bptt")["models"], checkpoint("whole")["models"])
    assert without_seconds(metrics("bptt")) == without_seconds(metrics("whole"))


def test_both_programs_have_the_same_rnn(finished):
    ours, theirs = build()[2]["rnn"], build_bptt()[2]["rnn"]
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    theirs.load_state_dict(ours.state_dict())
    x = some_inputs(copy_task())
    assert torch.equal(ours.rollout(x), theirs.rollout(x))
    # And an SMT run can be evaluated, or gone on with, by the baseline.
    options = ["--init", str(finished), "--steps", "0", "--out", "bptt"]
    assert bptt_baseline.main(options) == 0
    for name in ("val_loss", "val_acc"):
        assert metrics("bptt")[-1][name] == pytest.approx(metrics(finished)[-1][name])
    assert bptt_baseline.main(options[:2] + ["--steps", "2", "--out", "more"]) == 0
    assert metrics("more")[-1]["step"] == 2


def test_neither_program_goes_on_with_a_run_of_the_other(finished, capsys):
    assert bptt_baseline.main(["--resume", "--out", str(finished)]) == 2
    assert run_bptt() == 0 and smt.main(["--resume", "--out", "bptt"]) == 2
    assert smt.main(["--init", "bptt", "--out", "new"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "smt made this run" in lines[0] and "bptt made this run" in lines[1]
    assert "--init" in lines[2] and not Path("new").exists()


@pytest.mark.parametrize(
    "option", ["--encoder one-pass", "--labels 2", "--window 4", "--dmt-steps 1"]
)
def test_the_baseline_offers_nothing_of_smt_alone(option, capsys):
    assert run_bptt(*option.split()) == 2
    assert option.split()[0] in capsys.readouterr().err and not Path("bptt").exists()


# --------------------------------------------------------------------------------------- the README
HOME = Path(smt.__file__).parent


def test_the_tour_links_to_the_sections():
    links = re.findall(r"- \[(.*?)\]\(smt\.py#L(\d+)\)", (HOME / "README.md").read_text())
    lines = (HOME / "smt.py").read_text().splitlines()
    sections = {n: line.split("- ")[-1] for n, line in enumerate(lines, 1) if line[:5] == "# ---"}
    assert {int(n): name for name, n in links} == sections


def test_labels_written_by_hand_are_learnt(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text(), re.S)
    monkeypatch.setattr(smt, "Encoder", smt.Encoder)  # which the code replaces: put back afterwards
    for known, less in {"300": "100 --eval-rows 8 --device cpu", "--eval-length 8": ""}.items():
        assert known in code
        code = code.replace(known, less)
    exec(code, {})
    assert metrics("runs/oracle")[-1]["val_acc"] == 1


# ------------------------------------------------------------------------------------- the pictures
def fake_run(directory, method, **config):
    phases = ["smt", "dmt", "dmt"] if method == "smt" else ["bptt"] * 3
    Path(directory).mkdir()
    config = {"method": method, "task": "copy", "cell": "mlp", "seed": 0, "init": None} | config
    Path(directory, "config.json").write_text(json.dumps(config))
    with open(f"{directory}/metrics.jsonl", "w") as file:
        for i, phase in enumerate([*phases, "final"], 1):
            row = {"phase": phase, "step": i, "seconds": 1.0 * i, "depth": 10 * i, "tokens": 99 * i}
            file.write(json.dumps(row | {"val_loss": 1 / i, "val_acc": 1 - 1 / i}) + "\n")


def test_runs_are_named_by_what_tells_them_apart():
    fake_run("a", "smt")
    fake_run("b", "smt", seed=1)
    fake_run("c", "bptt", truncate=8)
    fake_run("d", "bptt", truncate=8, init="a")
    runs = [figures.read(name) for name in "abcd"]
    for run in runs:
        figures.add_origin(run, runs)
    labels = [figures.label(run, runs) for run in runs]
    assert labels == ["SMT → DMT, mlp, seed 0", "SMT → DMT, mlp, seed 1"] + [
        "BPTT, mlp",
        "SMT → DMT → BPTT, mlp",
    ]
    # What went on from a run begins where that ended.
    assert [line["seconds"] for line in runs[3]["lines"]] == [5.0, 6.0, 7.0, 8.0]
    assert runs[3]["lines"][0]["depth"] == 50 and runs[2]["lines"][0]["depth"] == 10


def test_tables_of_runs(capsys):
    fake_run("a", "smt")
    fake_run("b", "smt", seed=1, cell="gru")
    fake_run("c", "smt", seed=2, cell="gru")
    last = Path("c/metrics.jsonl").read_text().replace("0.75}", '0.85, "teacher_acc": 1.0}')
    Path("c/metrics.jsonl").write_text(last)
    assert figures.main(["tasks", "a", "b", "c"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    cells = dict(zip(head.split("|"), row.split("|")))
    assert cells["task"] == "copy" and cells["mlp: BPTT"] == ""
    assert cells["mlp: SMT"] == "0.0" and cells["mlp: SMT → DMT"] == "75.0"
    assert cells["gru: SMT → DMT"] == "80.0 (75.0 to 85.0)"


def test_a_picture_is_drawn():
    pytest.importorskip("matplotlib")
    fake_run("a", "smt")
    fake_run("b", "bptt", cell="gru", init="a")
    assert figures.main(["a", "b", "--out", "picture.png"]) == 0
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_growth_of_a_step_is_drawn(capsys):
    pytest.importorskip("matplotlib")
    found = {str(T): {"seconds_per_step": T / 99, "peak_bytes": 10**6 * T} for T in (64, 128)}
    Path("found.json").write_text(json.dumps({"smt": found, "bptt": found}))
    assert figures.main("growth found.json --out growth.png".split()) == 0
    assert Path("growth.png").read_bytes().startswith(b"\x89PNG")
    Path("found.json").write_text(json.dumps({"smt": found}))
    assert figures.main("growth found.json --out other.png".split()) == 2
    assert "bench.py --growth" in capsys.readouterr().err and not Path("other.png").exists()


def test_what_a_run_drew_becomes_one_sheet():
    pytest.importorskip("matplotlib")
    options = f"{NETWORKS} {TRAINING} --task pixels --side 4 --steps 1 --dmt-steps 1 --out run"
    assert smt.main(options.split()) == 0
    assert figures.main("samples run --out sheet.png".split()) == 0
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")


class Recorder:
    """An RNN that keeps what it saw, and a readout that answers with what says(seen) tells."""

    def __init__(self, says, vocab):
        self.says, self.vocab = says, vocab
        self.empty = torch.zeros(1, 0)

    def step(self, memory, x):
        return torch.cat([memory, x[:, None, None].expand(-1, 1, 1)], 2)

    def rollout(self, x):
        T = x.shape[1]
        seen = x[:, None].expand(-1, T, -1).tril()[:, :, None]  # 0 for what comes later
        return torch.cat([seen, torch.arange(T).expand(len(x), 1, T).mT[..., None]], 3)

    def readout(self, memories):
        return 100.0 * nn.functional.one_hot(self.says(memories[:, 0]), self.vocab)[:, None]


def test_accuracy_by_depth_of_the_stack(monkeypatch):
    def last_push(seen):  # right at once after a push, else as good as chance
        before = seen.gather(1, (seen[:, -1:] - 1).clamp(min=0))
        return before[:, 0] % 4

    task = toy_task("stack", length=12, depth=3)
    monkeypatch.setattr(figures, "restore", lambda *_: (task, {"rnn": Recorder(last_push, 5)}))
    found = figures.depth("run")
    assert list(found) == [1, 2, 3]
    assert found[3] == 1  # it is full only right after a push
    assert 0.5 < found[1] < 0.9


def test_what_a_linear_probe_reads(monkeypatch):
    task = toy_task("retrieval", length=16, distractors=1)
    rnn = Recorder(None, 11)
    rnn.rollout = lambda x: nn.functional.one_hot(
        x.gather(1, (x == 8).long().argmax(1, keepdim=True) + 1), 8
    )[:, None].float()
    monkeypatch.setattr(figures, "restore", lambda *_: (task, {"rnn": rnn}))
    found = figures.forgetting("run")
    assert found["needle"] == 1 and abs(found["distractor"] - found["chance"]) < 0.04


def test_the_bench_times_so_many_steps_and_for_so_long(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(bench, "clock", lambda device: next(ticks))  # a step takes a second
    for repeat, least, steps in (3, 0, 3), (3, 5, 5):
        calls = []
        assert bench.seconds(calls.append, repeat, "cpu", least) == [1] * steps
        assert calls == list(range(steps + 1))  # the first is not counted


def test_compile_takes_each_transformer_and_cell(monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr("run.shutil.which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    _, _, models = build("--cell", "mlp")
    assert not compiled
    _, _, models = build("--cell", "mlp", "--compile")
    teacher, rnn = models["teacher"], models["rnn"]
    bodies = [teacher["encoder"].body, teacher["decoder"].body, rnn.cell, rnn.readout.body]
    assert set(map(id, compiled)) == set(map(id, bodies))
    monkeypatch.setattr("run.shutil.which", lambda name: None)
    assert_one_line_and_nothing_written(["--compile"], "--compile", "install g++", capsys)


def test_the_bench_of_the_paper_goes_on_to_the_best_batch_of_a_long_task(monkeypatch):
    calls = []

    def measured(method, args, argv, name=""):
        calls.append((method, argv))
        options = dict(zip(argv[::2], argv[1::2]))  # the last of a name counts
        batch, T = (int(options.get(name, 1)) for name in ("--batch-size", "--length"))
        if batch > 128:
            raise UsageError("out of memory")
        rate = min(batch, 64) if method == "smt" else batch
        spent = {"smt": 2.0, "dmt": 0.5, "bptt": T / 4}[method]
        return {"labels_per_second": 1000.0 * rate, "seconds_per_step": spent}

    monkeypatch.setattr(bench, "in_child", measured)
    bench.run("--preset paper --batch-size 16 --long 64 --json found.json".split())
    found = json.loads(Path("found.json").read_text())
    assert {"machine", *bench.METHODS} <= found.keys()
    assert found["paper_minutes"] == {"smt": 19.2e6 / 16e3 / 60, "dmt": 1500 * 0.5 / 60}
    assert found["long"]["bptt_over_smt"] == 8
    # SMT gains nothing beyond 64, BPTT goes on until memory ends.
    best = {method: found["long"][method]["best"]["batch_size"] for method in ("smt", "bptt")}
    assert best == {"smt": 64, "bptt": 128}
    sizes = [dict(zip(argv[::2], argv[1::2])) for _, argv in calls]
    assert sizes[0]["--length"] == "256" and sizes[1]["--batch-size"] == "16"
    assert all(size["--length"] == "64" for size in sizes[3:])


def test_the_bench_counts_and_profiles_a_step():
    options = [*f"{NETWORKS} {COPY} --task copy --batch-size 2 --device cpu".split()]
    found = bench.measure("bptt", 1, 0.0, options, [])
    # K = 2, d = 8, T = 8 steps of the MLP cell, 3 answers read out by one block over 2 tokens.
    cell = 2 * (24 * 32 + 32 * 16) * 2 * 8
    block = 2 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8) * 2 * 6 + 4 * 8 * 3 * 6
    head = 2 * 8 * 10 * 6
    flops = 3 * (cell + block + head)
    assert found["flops_per_second"] * found["seconds_per_step"] == pytest.approx(flops)
    assert found["labels_per_second"] * found["seconds_per_step"] == pytest.approx(6)
    assert "aten::" in bench.profile("smt", options, [])


def test_how_far_labels_lie_apart(monkeypatch):
    task = toy_task("copy", length=3, delay=2)

    def labels(x, times):  # for each first symbol another axis
        one_hot = nn.functional.one_hot(x[:, :1], 10).float()
        return one_hot[:, :, None].expand(-1, times.shape[1], -1, -1), None

    rnn = SimpleNamespace(rollout=lambda x: torch.ones(*x.shape, 1, 10))  # all are one
    models = {"teacher": {"encoder": labels}, "rnn": rnn}
    monkeypatch.setattr(figures, "restore", lambda *_: (task, models))
    found = figures.spreads("run")
    x, _ = task.batch("test", 0, torch.arange(512))
    equal = (x[:, 0] == x[:, :1]).sum() - 512
    right = math.log((equal + (512 * 511 - equal) * math.exp(-4)) / (512 * 511))
    assert found["labels"] == pytest.approx(right, abs=1e-4)
    assert found["RNN"] == pytest.approx(0, abs=1e-4)


def test_what_labels_hold(monkeypatch):
    def written(x, times):  # a label: all the tokens up to its time, the last first
        (t,) = set(times.flatten().tolist())
        return x[:, : t + 1].flip(1)[:, None], None

    task = toy_task("stack", length=4, depth=2)
    rnn = Recorder(None, 5)
    rnn.rollout = lambda pops, label: label[:, : pops.shape[1]]  # right where no pop was
    rnn.readout = lambda memories: nn.functional.one_hot(memories, 10)[:, None]
    models = {"rnn": rnn, "teacher": {"encoder": written}}
    monkeypatch.setattr(figures, "restore", lambda *_: (task, models))
    found = figures.holds("run")
    assert list(found) == ["pop 1", "pop 2"] and found["pop 1"] == 1
    assert 0.2 < found["pop 2"] < 0.8

    task = toy_task("recall", pairs=1)
    models["teacher"]["decoder"] = lambda label, query: nn.functional.one_hot(label[:, :1], 10)
    rnn.step = lambda label, query: query[:, None]  # the key, which is no value
    rnn.readout = lambda memory: nn.functional.one_hot(memory, 10)
    assert figures.holds("run") == {"decoder, from the query": 1, "RNN, from the query": 0}


def test_loss_by_position(monkeypatch):
    task = text_task(content=TEXT * 5, length=5)

    def follows(seen):  # the byte after the last one, but for what comes after 20
        return (seen[:, -1] + 1) % 256 if seen.shape[1] <= 20 else 0 * seen[:, -1]

    rnn = Recorder(follows, 257)
    rnn.empty = torch.zeros(1, 0, dtype=torch.long)
    monkeypatch.setattr(figures, "restore", lambda *_: (task, {"rnn": rnn}))
    found = figures.position("run")
    assert list(found) == [f"{5 * k}..{5 * k + 4}" for k in range(8)]
    losses = list(found.values())
    assert max(losses[1:4]) < 1e-6 and min(losses[4:]) > 50  # the first byte can't be known
    assert losses[0] == pytest.approx(100 / 5, abs=5)


def test_the_walk_through_a_batch(capsys):
    assert figures.main(["explain"]) == 0 and not Path("runs").exists()
    shown = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line
    }
    assert shown["input"][1:] == "2 1 1 . . | 2 1".split() and shown["target"] == ["2", "1", "1"]
    assert (
        "".join(shown["m_5"]) == "######...." + "##...."
    )  # tokens 0..5, the second block's registers
    trained = {name: shown[name][1::2] for name in ("L_dec", "L_tok", "L_dyn", "L_unif", "L_dmt")}
    assert {name: [number != "-" for number in row] for name, row in trained.items()} == {
        "L_dec": [True, True, False, False],
        "L_tok": [True, True, False, False],
        "L_dyn": [True, False, True, False],
        "L_unif": [True, False, False, False],
        "L_dmt": [False, False, True, True],
    }


def test_the_longest_chain_of_products_by_hand():
    embed, a, b = nn.Embedding(3, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    e = embed(torch.tensor([[0, 1]]))
    assert claims.chain((b(a(e)) + a(e)).sum()) == 2
    assert claims.chain((a(e) + a(torch.ones(2)) @ torch.ones(2, 2)).sum()) == 1  # from a token


def test_a_step_of_smt_has_the_same_chain_at_each_t_and_bptt_s_grows():
    (panel,) = claims.path(1, True)
    chains = {name: [mean for _, mean, _, _ in points] for name, points in panel["lines"].items()}
    assert len({*chains["SMT"]}) == len({*chains["DMT, H = 16"]}) == 1
    assert chains["BPTT"][1] - chains["BPTT"][0] == 2 * 32  # an MLP of two layers a step


def test_gradients_of_bptt_are_those_of_finite_differences_and_fade_with_a_fading_cell():
    x, y = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[-1, -1, -1, 1]])
    args, task, models = build_bptt("--cell", "mlp")
    rnn = models["rnn"].double()
    slopes = claims.bptt_slopes(rnn, x, y, [0, 2])
    memory = rnn.rollout(x[:, :3])[:, -1].detach()  # m_2, one step from the end
    memory.requires_grad_()
    logits = rnn.readout(rnn.step(memory, x[:, 3]))[:, 0]
    loss = torch.nn.functional.cross_entropy(logits, y[:, 3])
    at_memory, at_logits = (
        grad.norm().item() for grad in torch.autograd.grad(loss, [memory, logits])
    )
    assert slopes[1] == pytest.approx(at_memory / at_logits)
    assert set(slopes) == {1, 3}


class Weighing(nn.Module):
    """An encoder whose label is the sum of t e_t, the tokens embedded and t from 0."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 2)
        self.embed.weight.data.mul_(1e-4)  # all logits are near 0, their gradients of one length

    def forward(self, x, times):
        return (self.embed(x) * torch.arange(x.shape[1])[:, None]).sum(1)[:, None, None], None


def test_gradients_in_the_needle_are_told_at_its_distance():
    x = torch.randint(8, (5, 32))
    y = torch.zeros_like(x)
    for row, marker in zip(x, [0, 2, 6, 8, 14]):  # needles 30, 28, 24, 22, 16 from the answer
        row[marker] = 8
    teacher = {"encoder": Weighing(), "decoder": lambda memory: memory}
    slopes = claims.needle_slopes(teacher, x, y)  # t times the gradient at the logits
    assert slopes == {20: pytest.approx((9 + 15) / 2, 0.05), 28: pytest.approx(11 / 3, 0.05)}


def test_labels_are_told_by_their_distance_as_of_the_logits():
    x, y = torch.randint(8, (3, 8)), torch.zeros(3, 8, dtype=torch.long)
    teacher = {"encoder": Weighing(), "decoder": lambda memory, future: 5 * memory}
    assert claims.label_slopes(teacher, x, y, [4, 6]) == {
        3: pytest.approx(5),
        1: pytest.approx(5),
    }


def test_products_in_a_row_of_all_that_runs():
    a, b, h = nn.Linear(2, 2), nn.Linear(2, 2), torch.ones(1, 2)

    def step():
        with torch.no_grad():
            begin = b(b(b(h)))
            begin += b(h)  # beside the others
        b(a(begin)).sum().backward()

    # Three without a graph, two with one, and back through b to the weights of a.
    assert claims.run_in_a_row(step) == 7
    assert claims.run_in_a_row(lambda: [a(h) for _ in range(50)]) == 1


def test_what_steps_come_to_in_several_phases():
    options = "--task copy --length 2 --delay 2 --dim 8 --heads 2 --batch-size 2"
    counts = iter([100, 10, 1])

    def count(step):
        step()
        return next(counts)

    until = claims.cumulative(smt, f"{options} --steps 10 --cell-only 0.3 --dmt-steps 5", count)
    assert [until(step) for step in (0, 1, 7, 9, 10, 14)] == [0, 100, 700, 720, 730, 734]


def test_where_a_curve_comes_down_to_a_loss():
    curve = [[10, 4.0], [20, 2.0], [30, 3.0], [40, 1.0]]
    assert claims.as_good(curve, 3.0) == 15 and claims.as_good(curve, 1.5) == 37.5
    assert claims.as_good(curve, 0.5) is None and claims.as_good(curve, 4.0) is None
    assert claims.as_good([[10, 1.0], [20, 3.0], [30, 1.0]], 2.0) is None


def test_a_claim_is_measured_kept_and_drawn_anew(capsys):
    pytest.importorskip("matplotlib")
    assert figures.main(["path", "--quick"]) == 0
    kept = json.loads(Path("runs/claims/path.json").read_text())
    assert kept["panels"][0]["lines"]["SMT"][0][0] == 32 and kept["seconds"] > 0
    assert Path("runs/claims/path.png").stat().st_size < 200_000
    Path("results").mkdir()
    Path("runs/claims").rename("results/claims")
    Path("results/claims/path.png").unlink()
    assert figures.main(["all"]) == 0 and Path("results/claims/path.png").exists()


def test_a_claim_of_which_nothing_came_out_is_drawn_and_a_damaged_one_told(capsys):
    pytest.importorskip("matplotlib")
    Path("results/claims").mkdir(parents=True)
    panel = {"title": "none", "x": "x", "y": "y", "log": "xy", "lines": {}}
    Path("results/claims/path.json").write_text(json.dumps({"panels": [panel]}))
    assert figures.main(["all"]) == 0 and Path("results/claims/path.png").exists()
    Path("results/claims/path.json").write_text("{")
    assert figures.main(["all"]) == 2
    assert capsys.readouterr().err.startswith("figures.py: all (Expecting")


def keep(name, *rows):
    """A run in runs/claims that measured these rows."""
    directory = Path("runs/claims", name)
    directory.mkdir(parents=True, exist_ok=True)
    Path(directory, "config.json").write_text("{}")
    Path(directory, "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_runs_that_ended_are_not_made_again_and_both_methods_take_as_many_steps(monkeypatch):
    made = {}

    def trained(program, name, options):
        made[name] = dict(zip(options.split()[::2], options.split()[1::2]))
        keep(name, {"val_acc": {"smt": 0.75, "bptt": 0.25}[program.METHOD], "phase": "final"})

    keep("delay-copy-smt-32-0", {"val_acc": 0.5, "phase": "final"})
    keep("delay-copy-smt-64-0", {"val_acc": 0.5, "phase": "dmt"})  # stopped: is gone on with
    monkeypatch.setattr(claims, "trained", trained)
    copy, retrieval = claims.delay(1, True)
    assert copy["lines"]["SMT → DMT"] == [[32, *[0.5] * 3], [64, *[0.75] * 3]]
    assert copy["lines"]["BPTT"] == [[32, *[0.25] * 3], [64, *[0.25] * 3]]
    assert "delay-copy-smt-32-0" not in made and len(made) == 11
    for length, begins in ("32", False), ("64", True):
        ours, bptt, gru = (
            made[f"delay-retrieval-{kind}-{length}-0"] for kind in ("smt", "bptt", "bptt-gru")
        )
        assert gru["--cell"] == "gru" and gru["--steps"] == bptt["--steps"]
        assert int(bptt["--steps"]) == int(ours["--steps"]) + int(ours["--dmt-steps"])
        assert ours["--length"] == bptt["--length"] == length
        # What was shortened to half the length may not come along with the weights.
        assert int(bptt["--truncate"]) == int(ours["--future"]) == claims.LARGEST
        assert ours.get("--init") == ("runs/claims/delay-retrieval-smt-32-0" if begins else None)
        assert bptt.get("--init") == ("runs/claims/delay-retrieval-bptt-32-0" if begins else None)
        assert gru.get("--init") == (
            "runs/claims/delay-retrieval-bptt-gru-32-0" if begins else None
        )


def fake_measured(monkeypatch, curve):
    """claims.measured without training: rows of curve(name) -> [(step, depth, val_loss), ..]."""

    def measured(program, name, options):
        rows = [dict(zip(("step", "depth", "val_loss"), row)) for row in curve(name)]
        return [*rows, {"val_loss": -1.0}]  # the last, of the test split, is no point of a curve

    monkeypatch.setattr(claims, "measured", measured)


def test_ratio_of_depths_at_equal_loss(monkeypatch):
    def cumulative(program, options, count):  # 7 matrix products a step of SMT, 21 of BPTT
        return lambda step: step * {"smt": 7, "bptt": 21}[program.METHOD]

    monkeypatch.setattr(claims, "cumulative", cumulative)

    def curve(name):
        seed = int(name[-1])  # means over seeds 0, 1: 1 more
        if "smt" in name:
            return [(1, 10, 3.0 + 2 * seed), (2, 20, 1.0 + 2 * seed)]
        least = 9.0 if "pixels" in name else -9.0
        losses = [4.0, 2.0, 0.0, -1.0]
        return [(k, 30 * k, max(least, loss) + 2 * seed) for k, loss in enumerate(losses, 1)]

    fake_measured(monkeypatch, curve)
    text, pixels, layers, products = claims.sequential(2, False)
    assert text["lines"]["mlp, SMT → DMT"] == [[10, 4, 3, 5], [20, 2, 1, 3]]
    for cell in smt.CELLS:  # 45 layers over 10, 75 over 20; with pixels BPTT is never as good
        assert layers["lines"][f"text, {cell}"] == [[10, *[4.5] * 3], [20, *[3.75] * 3]]
        assert products["lines"][f"text, {cell}"] == [[7, *[4.5] * 3], [14, *[3.75] * 3]]
        assert f"pixels, {cell}" not in layers["lines"]


def test_the_smallest_memory_that_has_a_loss_at_each_compute(monkeypatch):
    ends = {32: 5.0, 64: 4.0, 128: 3.0}  # each memory is there after 100 steps but for one

    def curve(name):
        size = int(name.split("-")[2])
        return [(1, 0, 9.0), (100, 0, ends[size] + (size == 128)), (200, 0, ends[size])]

    def cumulative(program, options, count):
        flop = {"1": 3, "2": 7, "4": 1}[options.split("--memory ")[1].split()[0]]
        return lambda step: flop * step

    fake_measured(monkeypatch, curve)
    monkeypatch.setattr(claims, "cumulative", cumulative)
    curves, needed, by_steps = claims.memory(1, True)
    assert curves["lines"]["128 numbers"] == [[100, 4, 4, 4], [200, 3, 3, 3]]
    # 5.0: after 100 steps of 3, 7 and 1 FLOP; 64 numbers are never the smallest.
    assert needed["lines"]["5.000 nats"] == [[100, *[128] * 3], [300, *[32] * 3]]
    assert needed["lines"]["4.000 nats"] == [[100, *[128] * 3], [700, *[64] * 3]]
    assert by_steps["lines"]["5.000 nats"] == [[100, *[32] * 3]]  # all are there after 100 steps


def test_parts_are_told_before_and_after_dmt_with_their_range(monkeypatch, capsys):
    pytest.importorskip("matplotlib")

    def measured(program, name, options):
        share = 0.5 if name.endswith("0") else 0.75
        smt, dmt = {"phase": "smt", "val_acc": share}, {"phase": "dmt", "val_acc": 0.875}
        return [smt | {"val_acc": 0.0}, smt, dmt, {"val_acc": share + 0.25, "teacher_acc": 1.0}]

    monkeypatch.setattr(claims, "measured", measured)
    monkeypatch.setitem(claims.CLAIMS, "parts", lambda seeds, quick: claims.parts(2, quick))
    assert figures.main(["parts", "--quick"]) == 0
    assert (
        "|Tf = 1|62.5 (50.0 to 75.0)|87.5 (75.0 to 100.0)|100.0 (100.0 to 100.0)|"
        in capsys.readouterr().out
    )
    assert Path("runs/claims/parts.png").stat().st_size < 200_000


def test_options_and_metrics_of_a_claim_s_runs_are_kept(monkeypatch):
    pytest.importorskip("matplotlib")
    keep("parts--0", {"val_acc": 0.5, "phase": "final"})
    keep("pathway-quick-0", {"phase": "final"})
    keep("path-quick-0", {"phase": "final"})
    keep("path-0", {"val_acc": 0.25, "phase": "final"})
    monkeypatch.setitem(claims.CLAIMS, "path", lambda seeds, quick: claims.path(seeds, True))
    assert figures.main(["path"]) == 0
    kept = json.loads(Path("results/claims/path.json").read_text())["runs"]
    assert kept == {"path-0": [{}, [{"val_acc": 0.25, "phase": "final"}]]}


def test_measurements_are_kept_in_the_run(capsys):
    options = f"{NETWORKS} {TRAINING} --task stack --length 6 --depth 2 --steps 1 --dmt-steps 1"
    assert smt.main([*options.split(), "--out", "run"]) == 0
    capsys.readouterr()
    assert figures.main(["depth", "run"]) == 0
    kept = json.loads(Path("run/depth.json").read_text())
    assert list(kept) == ["1", "2"] and f"{kept['2']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, said",
    [
        ("depth nowhere", "nowhere"),
        ("depth run", "stack"),
        ("forgetting run", "retrieval"),
        ("position run", "text"),
        ("holds run", "stack or recall"),
        ("depth", "depth"),
        ("depth run run", "depth"),
        ("samples run", "pixels"),
    ],
)
def test_wrong_measurements_get_one_line(finished, argv, said, capsys):
    Path("run").symlink_to(finished)
    assert figures.main(argv.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and said in printed.err and printed.out == ""


@pytest.mark.parametrize(
    "argv, said",
    [
        (["nothing"], "nothing"),
        (["a", "empty"], "empty"),
        (["a", "half"], "half"),
        ([], "RUN"),
        (["table"], "table"),
        (["explain", "a"], "explain"),
        (["table", "other"], "other"),
        (["tasks", "other"], "other"),
        (["other"], "other"),
        (["a", "--out", "no/such/place.png"], "--out"),
        (["a", "--out", "picture.xyz"], "--out"),
    ],
)
def test_wrong_runs_get_one_line(argv, said, capsys):
    if "--out" in argv or argv == ["other"]:
        pytest.importorskip("matplotlib")
    for name in ("a", "empty", "half"):
        fake_run(name, "smt")
    Path("empty/metrics.jsonl").write_text("")
    Path("half/metrics.jsonl").write_text('{"phase": "sm')
    fake_run("other", "smt", cell=None, task=None)
    Path("other/metrics.jsonl").write_text('{"phase": "final"}\n')
    assert figures.main(argv) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and said in printed
    assert not list(Path().rglob("*.png"))


def test_without_matplotlib_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fake_run("a", "smt")
    assert figures.main(["a"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
