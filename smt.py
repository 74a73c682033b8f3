"""Supervised Memory Training (SMT): an RNN without backpropagation through time.

An RNN must learn what to remember, and how to update what it remembers. SMT separates
the two. A Transformer, the encoder, reads each prefix of a sequence and writes a memory
of it: a label. A decoder must predict the future from the label, so the label keeps
what the future needs. The RNN's cell then learns single steps: from a label and the
next input to the next label. No RNN is unrolled. Run alone, the RNN meets its own
errors, and they add up: it drifts. DAgger Memory Training (DMT) lets the RNN run and
pulls each memory that it makes to its label. At the end encoder and decoder go. The RNN
that stays starts from an empty memory and works alone.

Source: Kumar & Isola, Pretraining Recurrent Networks without Recurrence,
arXiv:2606.06479. What the paper does not have is marked as ours.

Glossary
  paper      here          shape and meaning
  x, y       x, y          (B, T) inputs and targets; y_t is asked after x_0 .. x_t;
                           y_t = -1: nothing is asked
  m_∅, m_t   labels        (B, T + 1, K, d); labels[:, 0] is m_∅, the label of the empty
                           prefix; labels[:, t + 1] is m_t, that of x_0 .. x_t
  m̂_t        memory        (B, K, d) a memory that the RNN made; memories (B, T, K, d)
  E          encoder       x -> labels
  D          decoder       m_t, x_{t+1} .. x_{t+Tf-1} -> logits of y_t .. y_{t+Tf-1}
  f          rnn.step      m_t, x_{t+1} -> m_{t+1}, by rnn.cell
  g          rnn.readout   m_t -> logits of y_t
  Tf, J, n   args.future   targets decoded from a label; args.decoded: labels decoded;
                           args.transitions: steps learnt, each of them a sequence
  H          args.window   steps that DMT's gradient passes through
  B sequences, T times, V kinds of token; K memory tokens of d numbers; D numbers in a
  token of the encoder; N any number of rows, .. any shape

A step of SMT: train encoder, decoder and cell
    m_∅, m_0 .. m_{T-1} = encoder(x)                  one causal pass for all is ours
    for J drawn times t:
        L_dec  += cross_entropy(decoder(m_t, x_{t+1} ..), [y_t ..])
    for n evenly spaced times t:
        L_read += cross_entropy(readout(m_t), y_t)                            ours
        L_dyn  += mse(cell(m_{t-1}, x_t), m_t)        the gradient reaches both labels
    L_unif = log mean exp(-2 |u_a - u_b|^2)           labels a, b of two sequences
    minimise L_dec + L_read + λ_dyn L_dyn + λ_unif L_unif

A step of DMT: train the RNN alone
    m_∅, m_0 .. m_{T-1} = encoder(x)                  without a gradient
    m̂ = m_∅
    for t in 0 .. T - 1:
        every H steps: m̂ = detach(m̂)                  H > 1 is ours
        m̂ = cell(m̂, x_t)
        loss += λ_dyn mse(m̂, m_t) + cross_entropy(readout(m̂), y_t)
"""

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from data import TASKS, WrongInput, list_tasks, number, whole

METHOD = "smt"
HEAD = 16  # numbers in an attention head


# -------------------------------------------------------------------------- Transformer
def rotary(h: Tensor) -> Tensor:
    """Rotary positions: turn pairs of numbers by an angle that grows with the position.

    h (B, heads, S, size) -> the same shape. The product of two turned vectors depends
    on the distance of their positions alone.
    """
    S, size = h.shape[-2:]
    position = torch.arange(S, device=h.device)
    exponent = torch.arange(0, size, 2, device=h.device) / size
    angle = position[:, None] / 10000.0**exponent  # (S, size / 2)
    cos, sin = angle.cos(), angle.sin()
    first, second = h.chunk(2, -1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.type_as(h)


def attention(qkv: Tensor, heads: int, causal: bool) -> Tensor:
    """Attention of several heads: qkv (B, S, 3 size) -> (B, S, size)."""
    qkv = qkv.unflatten(2, (3, heads, -1))  # (B, S, 3, heads, size / heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, S, size / heads)
    q, k = rotary(q), rotary(k)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return h.transpose(1, 2).flatten(2)


def mlp(size: int, hidden: int, out: int) -> nn.Module:
    """An MLP behind a norm, for residual branches: (.., size) -> (.., out)."""
    return nn.Sequential(
        nn.RMSNorm(size),
        nn.Linear(size, hidden),
        nn.GELU(),
        nn.Linear(hidden, out),
    )


class Block(nn.Module):
    """A Transformer block: h (B, S, d) -> (B, S, d)."""

    def __init__(self, d: int, causal: bool):
        super().__init__()
        self.causal = causal
        self.norm = nn.RMSNorm(d)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.mlp = mlp(d, 4 * d, d)

    def forward(self, h: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(h))
        heads = h.shape[-1] // HEAD
        h = h + self.out(attention(qkv, heads, self.causal))
        return h + self.mlp(h)


def transformer(d: int, depth: int, causal: bool) -> nn.Module:
    """Blocks one after another: h (B, S, d) -> (B, S, d)."""
    return nn.Sequential(*(Block(d, causal) for _ in range(depth)))


# --------------------------------------------- encoder: the labels of all times at once
class Encoder(nn.Module):
    """E: x (B, T) -> labels (B, T + 1, K, d), and guesses of y, logits (B, T, V).

    The Transformer is causal, so one pass makes the labels of all prefixes. The paper's
    encoder is bidirectional over x_0 .. x_t and needs a pass for each label.
    """

    def __init__(self, args: Namespace, vocab: int, T: int):
        super().__init__()
        D, Kd = args.width, args.memory * args.dim
        self.K = args.memory
        self.embed = nn.Embedding(vocab + 1, D)  # the last one is the start token
        self.times = nn.Embedding(T + 1, D) if args.timestamps else None
        self.near = nn.Conv1d(D, D, 4, groups=D, bias=False)
        nn.init.zeros_(self.near.weight)
        self.body = transformer(D, args.encoder_depth, causal=True)
        self.norm = nn.RMSNorm(D)
        self.qkv = nn.Linear(D, 3 * Kd, bias=False)
        self.now = nn.Linear(D, Kd)
        self.mlp = mlp(args.dim, 4 * args.dim, args.dim)
        self.head = nn.Linear(D, vocab)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start = self.embed.num_embeddings - 1
        tokens = F.pad(x, (1, 0), value=start)  # (B, T + 1)
        h = self.embed(tokens)  # (B, T + 1, D)
        before = F.pad(h.transpose(1, 2), (3, 0))  # (B, D, 3 + T + 1)
        h = h + self.near(before).transpose(1, 2)
        if self.times is not None:
            h = h + self.times.weight[: h.shape[1]]
        h = self.norm(self.body(h))
        guesses = self.head(h[:, 1:])  # (B, T, V)
        return self.write(h), guesses

    def write(self, h: Tensor) -> Tensor:
        """The labels of all times: states h (B, T + 1, D) -> (B, T + 1, K, d)."""
        # The state of one token is too narrow for a label, so that each memory token
        # gathers from the whole prefix, by heads of its own. Ours.
        qkv = self.qkv(h)  # (B, T + 1, 3 K d)
        heads = qkv.shape[-1] // (3 * HEAD)
        m = self.now(h) + attention(qkv, heads, causal=True)  # (B, T + 1, K d)
        m = m.unflatten(2, (self.K, -1))  # (B, T + 1, K, d)
        m = m + self.mlp(m)
        return F.rms_norm(m, m.shape[-1:])


# ------------------------------------------------------------------ readout and decoder
class Readout(nn.Module):
    """g: m_t (.., K, d) -> logits of y_t (.., V), read at the last memory token."""

    def __init__(self, args: Namespace, vocab: int):
        super().__init__()
        self.body = transformer(args.dim, args.decoder_depth, causal=True)
        self.norm = nn.RMSNorm(args.dim)
        self.head = nn.Linear(args.dim, vocab)

    def forward(self, memory: Tensor) -> Tensor:
        tokens = memory.flatten(0, -3)  # (N, K, d)
        h = self.body(tokens)[:, -1]  # (N, d)
        return self.logits(h).unflatten(0, memory.shape[:-2])

    def logits(self, h: Tensor) -> Tensor:
        """The last layer: h (.., d) -> (.., V)."""
        return self.head(self.norm(h))


class Decoder(nn.Module):
    """D: a readout that goes on into the future. The memory is a prefix of its tokens.

    m_t (N, K, d), x_{t+1} .. x_{t+S} (N, S) -> logits of y_t .. y_{t+S} (N, S + 1, V).
    """

    def __init__(self, args: Namespace, vocab: int):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)
        self.readout = Readout(args, vocab)

    def forward(self, memory: Tensor, future: Tensor) -> Tensor:
        K = memory.shape[1]
        tokens = torch.cat([memory, self.embed(future)], 1)  # (N, K + S, d)
        h = self.readout.body(tokens)[:, K - 1 :]  # (N, S + 1, d), y_t first
        return self.readout.logits(h)


# ------------------------------------------------------------------------------ the RNN
class MLPCell(nn.Module):
    """f as MLPs over the flat memory: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args: Namespace):
        super().__init__()
        d, Kd = args.dim, args.memory * args.dim
        blocks = [mlp(Kd + d, 2 * Kd, Kd) for _ in range(args.cell_depth)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, memory: Tensor, e: Tensor) -> Tensor:
        h = memory.flatten(1)  # (N, K d)
        for block in self.blocks:
            h = h + block(torch.cat([h, e], 1))
        return h.view_as(memory)


class TransformerCell(nn.Module):
    """f as a Transformer of K + 1 tokens: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.body = transformer(args.dim, args.cell_depth, causal=False)

    def forward(self, memory: Tensor, e: Tensor) -> Tensor:
        h = torch.cat([memory, e[:, None]], 1)  # (N, K + 1, d)
        return self.body(h)[:, :-1]


class GRUCell(nn.Module):
    """f as a GRU over the flat memory: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.gru = nn.GRUCell(args.dim, args.memory * args.dim)

    def forward(self, memory: Tensor, e: Tensor) -> Tensor:
        return self.gru(e, memory.flatten(1)).view_as(memory)


CELLS = {"mlp": MLPCell, "transformer": TransformerCell, "gru": GRUCell}


class RNN(nn.Module):
    """All that stays after training: the cell f, the readout g and the memory m_∅."""

    def __init__(self, args: Namespace, vocab: int):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)
        self.cell = CELLS[args.cell](args)
        self.readout = Readout(args, vocab)
        self.empty = nn.Parameter(torch.randn(args.memory, args.dim))  # m_∅

    def step(self, memory: Tensor, x: Tensor) -> Tensor:
        """m_t (N, K, d), x_{t+1} (N,) -> m_{t+1} (N, K, d), each token of RMS 1."""
        memory = self.cell(memory, self.embed(x))
        return F.rms_norm(memory, memory.shape[-1:])

    def rollout(self, x: Tensor) -> Tensor:
        """The RNN alone, from m_∅ through x (N, S) -> its memories (N, S, K, d)."""
        memory = self.empty.expand(len(x), -1, -1)
        memories = []
        for token in x.unbind(1):
            memory = self.step(memory, token)
            memories.append(memory)
        return torch.stack(memories, 1)


class Batch(NamedTuple):
    """What a step of training gets."""

    x: Tensor  # (B, T)
    y: Tensor  # (B, T)
    first: int  # the first time at which a row is asked for something
    draws: Generator  # on the CPU, for what a loss draws
    done: float  # share of the phase's steps that lie behind, 0 .. 1


class Models(nn.ModuleDict):
    """The networks by name.

    A call computes a loss, as DistributedDataParallel only sees what is called.
    """

    def forward(self, loss_of, batch: Batch, args: Namespace) -> tuple[Tensor, dict]:
        return loss_of(self, batch, args)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean nats of the targets y (..) that are asked for, or 0; logits (.., V)."""
    logits, y = logits.flatten(0, -2), y.flatten()
    nats = F.cross_entropy(logits, y, ignore_index=-1, reduction="sum")
    return nats / (y >= 0).sum().clamp(min=1)


# ------------------------------------------------------------------------- the SMT loss
def smt_loss(models: Models, batch: Batch, args: Namespace) -> tuple[Tensor, dict]:
    """L_smt of a batch -> the loss, and its parts by name."""
    encoder, decoder, rnn = models["encoder"], models["decoder"], models["rnn"]
    x, y, first = batch.x, batch.y, batch.first
    T = x.shape[1]
    labels, guesses = encoder(x)  # (B, T + 1, K, d), (B, T, V)

    # The same J times for all rows, as Python integers: then slices have known bounds.
    earliest = max(0, first + 1 - args.future)  # before it no window holds a target
    times = torch.randint(earliest, T, (args.decoded,), generator=batch.draws)
    times = times.tolist()
    decode = 0
    for t in times:
        end = min(t + args.future, T)
        future = decoder(labels[:, t + 1], x[:, t + 1 : end])  # (B, end - t, V)
        decode = decode + cross_entropy(future, y[:, t:end]) / len(times)

    # Neighbouring times tell much the same, so that some of them are enough.
    asked = evenly_spaced(T - first, args.transitions, batch.draws)
    memory = labels[:, first + 1 :][:, asked]  # (B, about n, K, d)
    read = cross_entropy(decoder.readout(memory), y[:, first:][:, asked])
    guess = cross_entropy(guesses, y)

    # Nothing is detached: the labels, too, learn, so that the cell can follow them.
    some = evenly_spaced(T, args.transitions, batch.draws)
    before, after = labels[:, :-1][:, some], labels[:, 1:][:, some]
    stepped = rnn.step(before.flatten(0, 1), x[:, some].flatten())  # (B n, K, d)
    dynamics = F.mse_loss(stepped, after.flatten(0, 1))
    uniform = uniformity(labels[:, [t + 1 for t in times]])

    growth = min(1, batch.done / 0.8)
    loss = decode + read + guess
    loss = loss + args.lambda_dyn * growth * dynamics + args.lambda_unif * uniform
    parts = {"decode": decode, "read": read, "guess": guess}
    parts |= {"dynamics": dynamics, "uniformity": uniform}
    return loss, parts


def evenly_spaced(length: int, n: int, draws: Generator) -> slice:
    """About n of the times 0 .. length - 1, evenly spaced behind a drawn first one."""
    stride = max(1, length // n)
    start = int(torch.randint(stride, (1,), generator=draws))
    return slice(start, None, stride)


def uniformity(labels: Tensor) -> Tensor:
    """L_unif = log mean exp(-2 |u_a - u_b|^2) of J times: labels (B, J, K, d).

    It keeps labels apart, as equal ones are the easiest for the cell to predict. a and
    b are two sequences at the same time; u is a memory token scaled to length 1.
    """
    B = len(labels)
    u = F.normalize(labels, dim=-1).permute(1, 2, 0, 3)  # (J, K, B, d)
    squared_distance = 2 - 2 * u @ u.mT  # (J, K, B, B)
    closeness = (-2 * squared_distance).exp()
    others = 1 - torch.eye(B, device=u.device)
    mean = (closeness * others).sum((-2, -1)).mean() / max(1, B * (B - 1))
    return mean.clamp(min=1e-9).log()


@torch.no_grad()
def start_rnn(models: Models):
    """Copy into the RNN what SMT does not train there: m_∅ from E, g from D."""
    rnn = models["rnn"]
    x = torch.zeros(1, 0, dtype=torch.long, device=rnn.empty.device)  # nothing
    labels, _ = models["encoder"](x)  # (1, 1, K, d)
    rnn.empty.copy_(labels[0, 0])
    rnn.readout.load_state_dict(models["decoder"].readout.state_dict())


# ---------------------------------------------------------------------------------- DMT
def dmt_loss(models: Models, batch: Batch, args: Namespace) -> tuple[Tensor, dict]:
    """The RNN runs alone and is pulled to the labels -> the loss, its parts by name."""
    rnn, x, y, first = models["rnn"], batch.x, batch.y, batch.first
    # No gradient here: without L_dec to hold them, the labels would come to the RNN.
    with torch.no_grad():
        labels, _ = models["encoder"](x)  # (B, T + 1, K, d)

    T, H = x.shape[1], args.window
    offset = int(torch.randint(H, (1,), generator=batch.draws))
    memory, memories = rnn.empty.expand(len(x), -1, -1), []
    for t in range(T):
        if H < T and (t + offset) % H == 0:
            memory = memory.detach()
        memory = rnn.step(memory, x[:, t])
        memories.append(memory)
    memories = torch.stack(memories, 1)  # (B, T, K, d)

    follow = F.mse_loss(memories, labels[:, 1:])
    told = memories.detach() if args.detach_readout else memories
    read = cross_entropy(rnn.readout(told[:, first:]), y[:, first:])
    loss = args.lambda_dyn * follow + read
    return loss, {"labels": follow, "readout": read}


# --------------------------------------------------- evaluate and sample: the RNN alone
@torch.no_grad()
def score(logits: Tensor, y: Tensor) -> Tensor:
    """Sums of nats, right answers and answers: logits (B, T, V), y (B, T) -> (3,)."""
    asked = y >= 0
    nats = F.cross_entropy(logits[asked].float(), y[asked], reduction="sum")
    right = (logits.argmax(-1) == y).sum()  # y = -1 is never right
    return torch.stack([nats, right, asked.sum()]).double().cpu()


@torch.no_grad()
def evaluate(models: Models, task, split: str, rows: int) -> dict:
    """The RNN alone, from m_∅ on held-out sequences, and its teacher, E and D.

    Losses in nats and shares of right answers, both per target that is asked for. drift
    is the MSE between memories and labels over the variance of the labels.
    """
    encoder, decoder, rnn = models["encoder"], models["decoder"], models["rnn"]
    alone, taught = torch.zeros(3).double(), torch.zeros(3).double()
    moments = []
    x, y = task.held_out(split, rows)
    for x, y in zip(x.split(64), y.split(64)):
        x, y = x.to(rnn.empty.device), y.to(rnn.empty.device)
        memories = rnn.rollout(x)  # (B, T, K, d)
        alone += score(rnn.readout(memories), y)
        if encoder.times is not None and x.shape[1] >= encoder.times.num_embeddings:
            continue  # the encoder has no timestamps for sequences of this length
        labels = encoder(x)[0][:, 1:]  # (B, T, K, d)
        taught += score(decoder.readout(labels), y)
        error = (memories - labels).square()
        moment = torch.stack([error, labels, labels.square()])  # (3, B, T, K, d)
        moments.append(moment.mean((1, 2)).double())
    figures = {"val_loss": alone[0] / alone[2], "val_acc": alone[1] / alone[2]}
    if moments:
        error, mean, square = torch.stack(moments).mean(0)  # each (K, d)
        figures |= {"teacher_loss": taught[0] / taught[2]}
        figures |= {"teacher_acc": taught[1] / taught[2]}
        figures |= {"drift": error.sum() / (square - mean.square()).sum()}
    return {name: float(value) for name, value in figures.items()}


@torch.no_grad()
def show(rnn: RNN, task, count: int, args: Namespace) -> str:
    """Answers of the RNN alone on test sequences, or what it writes and draws."""
    device = rnn.empty.device
    if not hasattr(task, "prompts"):
        x, y = task.held_out("test", count)
        answers = rnn.readout(rnn.rollout(x.to(device))).argmax(-1).cpu()
        return task.show(x, y, answers)
    draws = torch.Generator().manual_seed(args.seed)
    lines = []
    for name, tokens, length in task.prompts(count):  # (count, S)
        memory = rnn.rollout(tokens.to(device))[:, -1]
        while tokens.shape[1] < length:  # constant time and memory a token
            p = rnn.readout(memory).float().softmax(-1).cpu()  # (count, V)
            token = torch.multinomial(p, 1, generator=draws)  # (count, 1)
            tokens = torch.cat([tokens, token], 1)
            memory = rnn.step(memory, token[:, 0].to(device))
        lines += [f"--- {name}\n{task.draw(sample)}" for sample in tokens]
    return "\n".join(lines)


# ----------------------------------------------------------------- optimisers and draws
class FullPrecision(TorchFunctionMode):
    """Lets Muon compute in fp32, on a CPU.

    It computes in bfloat16, which takes 30 times as long on a CPU that lacks it.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.bfloat16:
            return args[0].clone()
        return function(*args, **(kwargs or {}))


def make_optimizers(models: Models, peak: float) -> dict:
    """Muon for the matrices inside the networks, AdamW for the rest; its rate is peak.

    The rest: embeddings, last layers, norms, biases and m_∅. At equal rates both make
    steps of equal size ("match_rms_adamw"); Muon's rate is five times AdamW's.
    """
    inside, rest = [], []
    for name, p in models.named_parameters():
        outer = name.endswith(("embed.weight", "times.weight", "head.weight", "empty"))
        if p.requires_grad and p.ndim == 2 and not outer:
            inside.append(p)
        elif p.requires_grad:
            rest.append(p)
    inside = [{"params": inside, "peak": 5 * peak}]
    rest = [{"params": rest, "peak": peak}]
    return {
        "muon": torch.optim.Muon(
            inside, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": torch.optim.AdamW(rest, weight_decay=0.01, betas=(0.9, 0.95)),
    }


def set_rates(optimizers: dict, step: int, steps: int):
    """Learning rates: a rise over 2 % of the steps, then half a cosine down to 0."""
    rise = min(1, (step + 1) / (0.02 * steps + 1))
    fall = (1 + math.cos(math.pi * step / steps)) / 2
    for optimizer in optimizers.values():
        group = optimizer.param_groups[0]
        group["lr"] = group["peak"] * rise * fall


def draw_batch(task, step: int, done: float, args: Namespace) -> Batch:
    """The batch of a step. Each process (rank) draws rows of its own.

    All draws come from (seed, step, rank) alone, so that a run can be resumed.
    """
    rank, ranks = process()
    numbers = np.random.SeedSequence((args.seed, step, rank))
    draws = Generator().manual_seed(int(numbers.generate_state(1)[0]))
    x, y = task.batch(args.batch_size // ranks, draws)
    asked = (y >= 0).any(0).tolist()
    first = asked.index(True) if True in asked else len(asked) - 1
    if args.device == "cuda":
        x, y = x.pin_memory(), y.pin_memory()  # copied without waiting for the device
    x = x.to(args.device, non_blocking=True)
    y = y.to(args.device, non_blocking=True)
    return Batch(x, y, first, draws, done)


# -------------------------------------------------------------------- the training loop
class Phase(NamedTuple):
    """A part of a run: its loss, first step, number of steps and AdamW's peak rate."""

    name: str
    loss_of: Callable
    begin: int
    steps: int
    peak: float


def phases(args: Namespace) -> list[Phase]:
    """The phases of a run, in order."""
    smt = Phase("smt", smt_loss, 0, args.steps, args.lr)
    dmt = Phase("dmt", dmt_loss, args.steps, args.dmt_steps, args.dmt_lr)
    return [smt, dmt]


def set_trained(models: Models, phase: str):
    """SMT trains encoder, decoder and cell; DMT trains cell and readout."""
    rnn = models["rnn"]
    models.requires_grad_(phase == "smt")
    rnn.requires_grad_(True)
    rnn.readout.requires_grad_(phase == "dmt")
    rnn.empty.requires_grad_(False)


def layers_in_a_row(phase: str, T: int, args: Namespace) -> int:
    """How many layers of a step have to run one after another: the sequential depth."""
    encoder = args.encoder_depth + 1  # and the writing of the labels
    if phase == "smt":
        return encoder + max(args.decoder_depth, args.cell_depth)
    return encoder + T * args.cell_depth + args.decoder_depth


def train(args: Namespace, task, models: Models, run: dict):
    """Train from where the run stands, then measure the RNN on the test split."""
    state = run["state"]
    with ControlC() as control_c:
        for phase in phases(args):
            if state["step"] < phase.begin + phase.steps:
                train_phase(phase, args, task, models, run, control_c)
    if not state["finished"]:
        figures = evaluate(models, task, "test", 1024)
        for times in (2, 4, 8):
            longer = task.longer(times) if times <= args.eval_length else None
            if longer is not None:
                values = evaluate(models, longer, "test", 1024)
                figures |= {f"{name}_{times}x": v for name, v in values.items()}
        state["finished"] = True
        record(state, "final", figures)
        save(args, models, {}, state)


def train_phase(phase: Phase, args, task, models: Models, run: dict, control_c):
    """Train through the rest of a phase; evaluate and save every so many steps."""
    state, end = run["state"], phase.begin + phase.steps
    set_trained(models, phase.name)
    network = distribute(models)
    optimizers = make_optimizers(models, phase.peak)
    if state["step"] > phase.begin:
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(run["optimizers"][name])

    done = state["step"] - phase.begin
    hidden = process()[0] > 0 or None  # None: hidden where there is no terminal
    bar = tqdm(total=phase.steps, initial=done, desc=phase.name, disable=hidden)
    parts, clock = [], time.perf_counter()
    for step in range(state["step"], end):
        done = step - phase.begin
        set_rates(optimizers, done, phase.steps)
        batch = draw_batch(task, step, done / phase.steps, args)
        parts.append(update(network, optimizers, phase.loss_of, batch, args))
        state["step"] = step + 1
        state["depth"] += layers_in_a_row(phase.name, task.T, args)
        bar.update()
        due = (done + 1) % args.eval_every == 0 or step + 1 == end
        if not due and not control_c.pressed:
            continue
        means = mean_parts(parts, phase.name, step + 1)  # it waits for the device
        state["seconds"] += time.perf_counter() - clock
        if phase.name == "smt":
            start_rnn(models)
        if due:
            figures = evaluate(models, task, "val", 256)
            record(state, phase.name, means | figures)
            bar.set_postfix({name: f"{mean:.3g}" for name, mean in means.items()})
        save(args, models, optimizers, state)
        if control_c.pressed:
            raise KeyboardInterrupt
        parts, clock = [], time.perf_counter()
    bar.close()


def update(network, optimizers: dict, loss_of, batch: Batch, args: Namespace) -> dict:
    """One step of the optimisers -> the parts of the loss by name, and the gradient."""
    bf16 = args.precision == "bf16"
    with torch.autocast(args.device, torch.bfloat16, enabled=bf16):
        loss, parts = network(loss_of, batch, args)
    network.zero_grad()
    loss.backward()
    parts["gradient"] = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    on_cpu = args.device == "cpu"
    with FullPrecision() if on_cpu else nullcontext():
        for optimizer in optimizers.values():
            optimizer.step()
    return {name: part.detach() for name, part in parts.items()}


def mean_parts(parts: list[dict], phase: str, step: int) -> dict:
    """Means of the parts of steps up to this one; WrongInput if one is not finite."""
    means = {}
    for name in parts[0]:
        values = torch.stack([part[name] for part in parts]).tolist()
        for at, value in enumerate(values, step + 1 - len(values)):
            if not math.isfinite(value):
                message = f"{name} is {value} at step {at} of {phase}"
                raise WrongInput(f"--lr: {message}; give a lower rate")
        means[name] = sum(values) / len(values)
    return means


def record(state: dict, phase: str, figures: dict):
    """Add a line to the metrics of a run, and print the figures of the RNN."""
    line = {"phase": phase, "step": state["step"]}
    line |= {"seconds": state["seconds"], "depth": state["depth"]}
    state["metrics"].append(line | figures)
    if process()[0] == 0:
        shown = [f"{phase:5}  step {state['step']:5}  {state['seconds']:4.0f} s"]
        for name, value in figures.items():
            if name.startswith(("val", "teacher", "drift")):
                shown.append(f"{name} {value:.4f}")
        tqdm.write("  ".join(shown))


class ControlC:
    """While it is open, Ctrl-C sets pressed, so that a step can end.

    A second Ctrl-C stops at once.
    """

    def __enter__(self):
        self.pressed = False
        self.usual = signal.getsignal(signal.SIGINT)
        # Only the main thread may set a handler; background jobs may ignore SIGINT.
        self.main = threading.current_thread() is threading.main_thread()
        if self.main and self.usual is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self.press)
        return self

    def press(self, *_):
        self.pressed = True
        signal.signal(signal.SIGINT, self.usual)

    def __exit__(self, *_):
        if self.main:
            signal.signal(signal.SIGINT, self.usual)


# -------------------------------------------------------------------- several processes
def process() -> tuple[int, int]:
    """This process's number, and how many there are, as torchrun sets them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def distribute(models: Models) -> nn.Module:
    """The models; with several processes their gradients are the mean over all."""
    if process()[1] == 1:
        return models
    if not distributed.is_initialized():
        distributed.init_process_group()
    return DistributedDataParallel(models)


# ------------------------------------------------------------------- the files of a run
def save(args: Namespace, models: Models, optimizers: dict, state: dict):
    """Write checkpoint.pt and metrics.jsonl, each whole or not at all."""
    if process()[0] > 0:
        return
    out = Path(args.out)
    checkpoint = {
        "format": FORMAT,
        "config": vars(args),
        "state": state,
        "models": models.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
    }
    torch.save(checkpoint, out / "checkpoint.tmp")
    os.replace(out / "checkpoint.tmp", out / "checkpoint.pt")
    lines = [json.dumps(line) + "\n" for line in state["metrics"]]
    (out / "metrics.tmp").write_text("".join(lines))
    os.replace(out / "metrics.tmp", out / "metrics.jsonl")


def read_run(directory: str, option: str) -> dict:
    """The checkpoint of a run: tensors, plain values; WrongInput if there is none."""
    path = Path(directory) / "checkpoint.pt"
    if not path.is_file():
        message = f"{directory} holds no run; name the --out of an earlier one"
        raise WrongInput(f"{option}: {message}")
    try:
        run = torch.load(path, map_location="cpu", weights_only=True)
        known = run["format"] == FORMAT and set(run["state"]) == set(new_state())
    except Exception:  # damaged files make torch raise errors of many kinds
        message = f"{path} is damaged or of another program"
        raise WrongInput(f"{option}: {message}") from None
    if not known:
        raise WrongInput(f"{option}: {path} is of another version of this program")
    return run


def new_state() -> dict:
    """How far a run is, before its first step. depth: layers that ran in a row."""
    state = {"step": 0, "seconds": 0.0, "depth": 0}
    return state | {"metrics": [], "finished": False}


def load(directory: str, device: str = "cpu") -> tuple:
    """A trained run's RNN and its task: rnn, task = smt.load("runs/copy-smt")."""
    run = read_run(directory, "load")
    args = Namespace(**run["config"])
    task = make_task(args)
    models = build(args, task)
    models.load_state_dict(run["models"])
    return models["rnn"].to(device).requires_grad_(False), task


# --------------------------------------------------------------------- the command line
FORMAT = 3  # of checkpoint.pt; it grows when the content changes

# Options as (name, default, kind, meaning). Those of the task are in data.py.
NETWORKS = [
    ("cell", "mlp", [*CELLS], "f, the RNN's update"),
    ("memory", 4, whole(1, 4096), "K, tokens of the memory"),
    ("dim", 64, whole(HEAD, 65536), "d, numbers in a memory token, a multiple of 16"),
    ("cell-depth", 1, whole(1, 1000), "layers of the cell (the GRU has one)"),
    ("decoder-depth", 1, whole(1, 1000), "layers of decoder and readout"),
    ("width", 128, whole(HEAD, 65536), "D, width of the encoder, a multiple of 16"),
    ("encoder-depth", 2, whole(1, 1000), "layers of the encoder"),
    ("timestamps", True, bool, "add a learned embedding of t to the encoder's inputs"),
]
TRAINING = [
    ("future", 64, whole(1), "Tf, targets decoded from a label, up to the end"),
    ("decoded", 4, whole(1, 10**6), "J, times a step whose labels are decoded"),
    ("transitions", 64, whole(1), "n, times a sequence that L_dyn and L_read look at"),
    ("lambda-dyn", 10.0, number(0), "λ_dyn, weight of L_dyn"),
    ("lambda-unif", 0.1, number(0), "λ_unif, weight of L_unif"),
    ("steps", 1500, whole(0), "steps of SMT"),
    ("lr", 4e-3, number(1e-12), "AdamW's peak rate in SMT; Muon's is five times it"),
    ("dmt-steps", 300, whole(0), "steps of DMT"),
    ("dmt-lr", 1e-3, number(1e-12), "the same in DMT"),
    ("window", 16, whole(1), "H, steps that DMT's gradient passes through"),
    ("detach-readout", False, bool, "the paper's DMT: L_read does not reach the cell"),
    ("batch-size", 32, whole(1, 10**6), "sequences in a step"),
    ("seed", 0, whole(0), "of weights, data and all other draws"),
]
RUN = [
    ("preset", None, ["paper"], "the authors' sizes, on any task"),
    ("device", "auto", str, "cuda, mps, cpu, or auto: the best that is there"),
    ("precision", None, ["fp32", "bf16"], "of products; on CUDA bf16, else fp32"),
    ("compile", False, bool, "compile Transformers and cells"),
    ("eval-every", 100, whole(1), "steps between evaluations, which save the run"),
    ("eval-length", 1, whole(1, 8), "at the end measure 2, 4, 8 times the length, too"),
    ("out", None, str, f"directory of the run; if not given, runs/TASK-{METHOD}"),
    ("init", None, str, "directory of a run: begin with its networks and sizes"),
    ("resume", False, bool, "go on with the run in --out"),
    ("sample", 0, whole(1, 10**6), "show so many samples of the run in --out"),
]
# The authors' sizes and weights (their notebook). Their optimiser was AdamW alone.
PAPER = {
    "cell": "transformer",
    "memory": 16,
    "dim": 256,
    "cell_depth": 8,
    "decoder_depth": 4,
    "width": 256,
    "encoder_depth": 8,
    "future": 64,
    "lambda_dyn": 0.1,
    "lambda_unif": 0.001,
    "steps": 150_000,
    "lr": 3e-4,
    "dmt_steps": 1500,
    "dmt_lr": 3e-5,
    "window": 1,
    "detach_readout": True,
    "batch_size": 128,
}
MACHINE = {"device", "precision", "compile", "out", "resume", "sample", "prompt"}


def make_parser(options: list[tuple]) -> argparse.ArgumentParser:
    """A parser of these options, which keeps only those that are given."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s [--task NAME] [options]; see --help",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    tasks = f"{', '.join(TASKS)}; list tells about them (default: copy)"
    parser.add_argument("--task", help=tasks)
    for name, default, kind, meaning in options:
        text = f"{meaning} (default: {default})"
        if kind is bool:
            # An option that is on gets a --no- form that turns it off.
            on = argparse.BooleanOptionalAction if default else "store_true"
            parser.add_argument(f"--{name}", action=on, help=text)
        elif isinstance(kind, list):
            parser.add_argument(f"--{name}", choices=kind, help=text)
        else:
            parser.add_argument(f"--{name}", type=kind, help=text)
    return parser


def python_names(options: list[tuple]) -> list[str]:
    """The names of options as attributes of args."""
    return [name.replace("-", "_") for name, *_ in options]


def settings(argv: list[str] | None) -> tuple[Namespace, dict, dict | None]:
    """The options -> args, the run (new, or to go on with), the run to begin from.

    Later ones win: defaults, the task's, the preset, an earlier run, what is given.
    """
    options = NETWORKS + TRAINING + RUN
    first_look, _ = make_parser(options).parse_known_args(argv)
    name = getattr(first_look, "task", "copy")
    out = getattr(first_look, "out", f"runs/{name}-{METHOD}")
    if name == "list":
        print(list_tasks())
        sys.exit(0)

    earlier, run, source = {}, {"state": new_state()}, None
    if hasattr(first_look, "resume") or hasattr(first_look, "sample"):
        run = read_run(out, "--resume or --sample")
        earlier = run["config"]
        if earlier["method"] != METHOD:
            message = f"{earlier['method']} made this run, not {METHOD}"
            raise WrongInput(f"--out {out}: {message}")
    elif hasattr(first_look, "init"):
        source = read_run(first_look.init, "--init")
        config = source["config"]
        kept = python_names(NETWORKS + TASKS[config["task"]].options)
        earlier = {name: config[name] for name in ["task", *kept] if name in config}

    name = earlier.get("task", name)
    if name not in TASKS:
        raise WrongInput(f"--task {name}: give one of {', '.join(TASKS)}, or list")
    options += TASKS[name].options
    given = vars(make_parser(options).parse_args(argv))
    for option, value in given.items():
        if option not in MACHINE and value != earlier.get(option, value):
            shown = f"--{option.replace('_', '-')} {value}"
            message = f"the earlier run has {earlier[option]}; leave it out"
            raise WrongInput(f"{shown}: {message}")

    config = {"task": name, "method": METHOD}
    config |= zip(python_names(options), [default for _, default, *_ in options])
    config |= {k: v for k, v in TASKS[name].defaults.items() if k in config}
    config |= PAPER if "preset" in given else {}
    config |= earlier | given | {"out": out}
    args = Namespace(**config)
    check(args)
    return args, run, source


def check(args: Namespace):
    """Settle the device and its precision; WrongInput if options don't go together."""
    there = ["cpu"]
    if torch.accelerator.is_available():
        there.insert(0, torch.accelerator.current_accelerator().type)
    if args.device not in ("auto", *there):
        message = f"this machine has {' and '.join(there)}"
        raise WrongInput(f"--device {args.device}: {message}")
    if args.device == "auto":
        args.device = there[0]
    if args.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if args.precision is None:
        args.precision = "bf16" if args.device == "cuda" else "fp32"
    if args.cell == "gru":
        args.cell_depth = 1
    for name in ("dim", "width"):
        size = getattr(args, name, HEAD)
        if size % HEAD:
            raise WrongInput(f"--{name} {size}: give a multiple of {HEAD}")
    ranks = process()[1]
    if args.batch_size % ranks:
        message = f"give a multiple of {ranks} processes"
        raise WrongInput(f"--batch-size {args.batch_size}: {message}")
    goes_on = args.resume or args.sample
    if not goes_on and (Path(args.out) / "checkpoint.pt").exists():
        message = "holds a run; --resume it, or give another --out"
        raise WrongInput(f"--out {args.out}: {message}")


def make_task(args: Namespace):
    """The task with the options that belong to it."""
    names = [name for name, *_ in TASKS[args.task].options]
    return TASKS[args.task](**{name: getattr(args, name) for name in names})


def build(args: Namespace, task) -> Models:
    """The networks, freshly initialised."""
    encoder = Encoder(args, task.vocab, task.T)
    decoder = Decoder(args, task.vocab)
    rnn = RNN(args, task.vocab)
    return Models({"encoder": encoder, "decoder": decoder, "rnn": rnn})


def start(args: Namespace, run: dict, source: dict | None) -> tuple:
    """The task, and the networks with the weights of the run or the source, if any."""
    task = make_task(args)
    torch.manual_seed(args.seed)
    models = build(args, task)
    weights = run.get("models", source and source["models"])
    try:
        if weights:
            weights = {name: weights[name] for name in models.state_dict()}
            models.load_state_dict(weights)
    except (KeyError, RuntimeError):
        message = "the run lacks a network, or has one of another size"
        raise WrongInput(f"--init, --resume: {message}") from None
    models.to(args.device)
    if args.compile:
        for network in models.modules():
            if isinstance(network, (Block, *CELLS.values())):
                network.compile()
    return task, models


def main(argv: list[str] | None = None) -> int:
    """Train and show samples; with --sample, show samples alone.

    The exit status is 0, 2 for wrong input (with one line), 130 for Ctrl-C.
    """
    try:
        args, run, source = settings(argv)
        task, models = start(args, run, source)
        if not args.sample:
            Path(args.out).mkdir(parents=True, exist_ok=True)
            train(args, task, models, run)
        if process()[0] == 0:
            print(show(models["rnn"], task, args.sample or 4, args))
    except WrongInput as error:
        make_parser([]).error(str(error))
    except OSError as error:
        message = f"can't write {error.filename} ({error.strerror})"
        make_parser([]).error(f"--out: {message}")
    except KeyboardInterrupt:
        print("stopped; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
