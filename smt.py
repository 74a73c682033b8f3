"""Supervised Memory Training (SMT) of a nonlinear RNN, without backpropagation through time.

An RNN must answer two questions. What to remember is not a sequential one: a Transformer (the encoder)
reads a prefix and writes a memory that suffices to predict the future (the decoder checks that). How to
update the memory is then one-step regression: from the memory of x_<=t and x_{t+1}, give the memory of
x_<=t+1. No RNN is unrolled, and all the labels of a sequence come from one parallel pass.
At test time the RNN runs on its own memories, which drift from the labels; DAgger Memory Training (DMT)
trains it on them against the same labels. Then the encoder is thrown away: cell and readout remain.
Source: Kumar & Isola, Pretraining Recurrent Networks without Recurrence, arXiv:2606.06479.

Glossary
  paper      here           shape, meaning
  x, y       x, y           (B, T) tokens and targets, y_t follows from x_<=t; y = -1: no loss here
  m_t        labels         (B, n, K, d) the encoder's memories of n prefixes x_<=t: K tokens of d numbers
  m_∅        rnn.empty      (K, d) memory of the empty prefix, t = -1
  m̂_t        memory         (N, K, d) memory that the RNN made itself
  E          encoder        x, times -> labels
  D          decoder        m_t, x_{t+1..t+Tf-1} -> logits of y_t..y_{t+Tf-1}
  g          rnn.readout    the decoder with no future token: m_t -> logits of y_t
  f          rnn.cell       m_t, x_{t+1} -> m_{t+1}
  Tf         args.future    targets decoded from one memory
  H          args.window    steps of the RNN that a gradient of DMT passes through
  B, T, V    batch size, sequence length, vocabulary size; N any number of rows; S any number of tokens
"""

import argparse
import io
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from data import LARGEST, OPTIONS, TASKS, UsageError, number, random_bits, whole

# ----------------------------------------------------------------------------------- attention block


def rotary(position, size):
    """cos and sin of the rotary angles: position (N or 1, S) -> two of (N or 1, 1, S, size / 2)."""
    frequency = 10000.0 ** -(torch.arange(0, size, 2, device=position.device) / size)
    angle = position[:, None, :, None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(h, cos, sin):
    """Turn each pair (a, b) of h (N, heads, S, size) by its angle: attention sees relative positions."""
    a, b = h.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(h)


class Block(nn.Module):
    """Pre-norm Transformer block: h (N, S, d) -> (N, S, d)."""

    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, h, cos, sin, mask=None, causal=False):
        N, S, d = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(N, S, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        h = h + self.out(a.transpose(1, 2).reshape(N, S, d))
        return h + self.mlp(self.norm2(h))


class Transformer(nn.Module):
    """depth blocks: h (N, S, d), position (N or 1, S), mask (N, 1, S, S) True = seen -> (N, S, d)."""

    def __init__(self, d, heads, depth):
        super().__init__()
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(depth))
        self.size = d // heads

    def forward(self, h, position, mask=None, causal=False):
        cos, sin = rotary(position, self.size)
        for block in self.blocks:
            h = block(h, cos, sin, mask, causal)
        return h


# ------------------------------------------------------------------------- encoder: labels for many t


def encoder_mask(times, T, K, context, bidirectional):
    """What attends to what in the encoder: times (B, n) -> (B, 1, T + nK, T + nK), True = seen."""
    B, n = times.shape
    s = torch.arange(T, device=times.device)
    # The last time a query may see: its own for token s, t for the K registers of label t.
    last = torch.cat([s.expand(B, T), times.repeat_interleave(K, 1)], 1)
    if bidirectional:
        last = times.expand(B, T + K)
    sees_token = (s <= last[..., None]) & (s > last[..., None] - context)
    block = torch.cat([s.new_full((T,), -1), torch.arange(n, device=s.device).repeat_interleave(K)])
    sees_register = (block[:, None] == block[T:]) | bidirectional
    return torch.cat([sees_token, sees_register.expand(B, -1, -1)], -1)[:, None]


class Encoder(nn.Module):
    """E: the label m_t of every time asked for, x (B, T) and times (B, n) -> labels (B, n, K, d)."""

    def __init__(self, args, vocab):
        super().__init__()
        self.K, self.context, self.bidirectional = args.memory, args.context, args.encoder == "bidirectional"
        self.now = args.registers == "now"
        self.embed = nn.Embedding(vocab, args.dim)
        self.registers = nn.Parameter(torch.randn(args.memory, args.dim))
        self.body = Transformer(args.dim, args.heads, args.encoder_depth)

    def forward(self, x, times):
        B, n, K = *times.shape, self.K
        if self.bidirectional:
            x, times = x.repeat_interleave(n, 0), times.reshape(B * n, 1)
        T, R = x.shape[1], times.shape[1] * K
        position = torch.arange(1, T + 1, device=x.device).expand(len(x), T)
        at = times.repeat_interleave(K, 1) + 2 if self.now else position.new_zeros(1, 1).expand(len(x), R)
        h = torch.cat([self.embed(x), self.registers.repeat(R // K, 1).expand(len(x), -1, -1)], 1)
        mask = encoder_mask(times, T, K, self.context, self.bidirectional)
        h = self.body(h, torch.cat([position, at], 1), mask)[:, T:]
        return F.rms_norm(h, h.shape[-1:]).reshape(B, n, K, -1)


# ------------------------------------------------------------------------------- decoder and readout


class Decoder(nn.Module):
    """D: memory (N, K, d), x_{t+1}.. (N, S) -> logits of y_t.. (N, S + 1, V). With S = 0 the readout g."""

    def __init__(self, args, vocab):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)
        self.body = Transformer(args.dim, args.heads, args.decoder_depth)
        self.norm, self.head = nn.RMSNorm(args.dim), nn.Linear(args.dim, vocab)

    def forward(self, memory, future=None):
        h = memory if future is None else torch.cat([memory, self.embed(future)], 1)
        position = torch.arange(h.shape[1], device=h.device)[None]
        h = self.body(h, position, causal=True)[:, memory.shape[1] - 1 :]
        return self.head(self.norm(h))


# ------------------------------------------------------------------------------------------- the RNN


class TransformerCell(nn.Module):
    """f as a Transformer over K + 1 tokens: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args):
        super().__init__()
        self.depth = args.cell_depth
        self.body = Transformer(args.dim, args.heads, args.cell_depth)

    def forward(self, memory, e):
        h = torch.cat([memory, e[:, None]], 1)
        return self.body(h, torch.arange(h.shape[1], device=h.device)[None])[:, :-1]


class MLPCell(nn.Module):
    """f as residual blocks over the flat memory: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args):
        super().__init__()
        self.depth, D = args.cell_depth, args.memory * args.dim
        self.project = nn.Linear(args.dim, D)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(D), nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D))
            for _ in range(args.cell_depth)
        )

    def forward(self, memory, e):
        h = memory.flatten(1) + self.project(e)
        for block in self.blocks:
            h = h + block(h)
        return h.view_as(memory)


class GRUCell(nn.Module):
    """f as a gated recurrent unit over the flat memory: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args):
        super().__init__()
        self.depth = 1
        self.gru = nn.GRUCell(args.dim, args.memory * args.dim)

    def forward(self, memory, e):
        return self.gru(e, memory.flatten(1)).view_as(memory)


CELLS = {"transformer": TransformerCell, "mlp": MLPCell, "gru": GRUCell}


class RNN(nn.Module):
    """All that remains at inference: f, g and m_∅."""

    def __init__(self, args, vocab):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)
        self.cell = CELLS[args.cell](args)
        self.readout = Decoder(args, vocab)
        self.empty = nn.Parameter(torch.randn(args.memory, args.dim))

    def step(self, memory, x):
        """One update: memory (N, K, d), x (N,) -> memory (N, K, d), each token of root mean square 1."""
        return F.rms_norm(self.cell(memory, self.embed(x)), memory.shape[-1:])

    def rollout(self, x, memory=None):
        """The RNN alone: x (N, S) -> memories (N, S, K, d) after each input, from m_∅ or from memory."""
        memory = self.empty.expand(len(x), -1, -1) if memory is None else memory
        memories = []
        for t in range(x.shape[1]):
            memory = self.step(memory, x[:, t])
            memories.append(memory)
        return torch.stack(memories, 1)


class Teacher(nn.Module):
    """E and D, which make the labels and see to it that they predict the future. Not used at inference."""

    def __init__(self, args, vocab):
        super().__init__()
        self.encoder, self.decoder = Encoder(args, vocab), Decoder(args, vocab)


@torch.no_grad()
def hand_over(models):
    """What the RNN takes from the teacher: m_∅ = E of the empty prefix, and a copy of D as its readout."""
    teacher, rnn = models["teacher"], models["rnn"]
    nothing = torch.zeros(1, 1, dtype=torch.long, device=rnn.empty.device)
    rnn.empty.copy_(teacher.encoder(nothing, nothing - 1)[0, 0])
    rnn.readout.load_state_dict(teacher.decoder.state_dict())


# -------------------------------------------------------------------------------------- the SMT loss


def cross_entropy(logits, y):
    """Mean over the scored targets: logits (..., V), y (...) with -1 = no loss. 0 if none is scored."""
    total = F.cross_entropy(logits.flatten(0, -2).float(), y.flatten(), ignore_index=-1, reduction="sum")
    return total / (y >= 0).sum().clamp(min=1)


def futures(x, y, times, Tf):
    """What follows each t: times (B, n) -> x_{t+1..t+Tf-1} (B, n, Tf - 1), y_{t..t+Tf-1} (B, n, Tf)."""
    at = times[..., None] + torch.arange(Tf, device=x.device)  # (B, n, Tf)
    inside = (at >= 0) & (at < x.shape[1])
    index = at.clamp(0, x.shape[1] - 1).flatten(1)
    inputs, targets = x.gather(1, index).view_as(at), y.gather(1, index).view_as(at)
    return inputs[..., 1:], targets.where(inside, -1)


def uniformity(labels, times):
    """L_unif = log E_{a != b} exp(-2 |u_a - u_b|^2), u: memory tokens scaled to length 1 (section 3).

    labels (M, K, d), times (M,). Pairs are of one slot k, for tokens of different slots are easily
    apart. Of the labels of t = -1 only one counts: they are all m_∅, and can't be pushed apart.
    """
    labels, times = labels[:512], times[:512]
    u = F.normalize(labels.float(), dim=-1).transpose(0, 1)  # (K, M, d)
    keep = (times >= 0) | ((times < 0).cumsum(0) == 1)
    pair = keep[:, None] & keep & ~torch.eye(len(times), dtype=torch.bool, device=u.device)  # (M, M)
    energy = (4 * (u @ u.transpose(1, 2)) - 4).exp()  # (K, M, M): |u_a - u_b|^2 = 2 - 2 u_a u_b
    return ((energy * pair).sum() / (len(u) * pair.sum()).clamp(min=1)).clamp(min=1e-9).log()


def consecutive(bits, length, T):
    """Runs of times t, ..., t + length with t >= -1 and t + length < T: bits (B, n) -> (B, n, length + 1).

    Drawn with length overhang on both sides, then pushed inside: else the first and last transitions
    would be in few runs, and all that comes after m_∅ rests on the first.
    """
    first = (bits % (T + length - 1) - length).clamp(-1, T - 1 - length)
    return first[..., None] + torch.arange(length + 1, device=bits.device)


def smt_loss(models, x, y, bits, done, args):
    """L_smt = λ_dec L_dec + λ_dyn L_dyn + λ_unif L_unif on a run of n transitions of each sequence.

    x, y, bits (B, T); done: unused share. -> loss, depth (layers that ran one after another).
    """
    teacher, rnn = models["teacher"], models["rnn"]
    T, n = x.shape[1], args.labels
    times = consecutive(bits[:, :1], n, T)[:, 0]  # (B, n + 1)
    labels = teacher.encoder(x, times)  # (B, n + 1, K, d)

    # L_dyn: one step of the RNN from each label to the next; the gradient reaches f and both labels.
    inputs = x.gather(1, times[:, 1:]).flatten()
    predicted = rnn.step(labels[:, :-1].flatten(0, 1), inputs)  # (B n, K, d)
    dyn = F.mse_loss(predicted.float(), labels[:, 1:].flatten(0, 1).float())

    # L_dec on some of the labels: neighbours hold nearly the same, and decoding is what costs.
    pick = bits[:, :n].argsort(1)[:, : args.decoded] + 1
    times = times.gather(1, pick)
    labels = labels.gather(1, pick[..., None, None].expand(-1, -1, *labels.shape[2:])).flatten(0, 1)
    inputs, targets = futures(x, y, times, args.future)
    logits = teacher.decoder(labels, inputs.flatten(0, 1))  # (B decoded, Tf, V)
    dec = cross_entropy(logits, targets.flatten(0, 1))
    dec = dec + args.lambda_readout * cross_entropy(logits[:, 0], targets[..., 0].flatten())

    unif = uniformity(labels, times.flatten())
    depth = args.encoder_depth + max(args.decoder_depth, rnn.cell.depth)
    return args.lambda_dec * dec + args.lambda_dyn * dyn + args.lambda_unif * unif, depth


# ----------------------------------------------------------------------------------------------- DMT


def dmt_loss(models, x, y, bits, done, args):
    """Imitation of the labels by the RNN on its own memories, H steps from a label on (section 5).

    x, y, bits (B, T); done: share of DMT done, 0..1. -> loss, depth (layers one after another).
    """
    teacher, rnn = models["teacher"], models["rnn"]
    B, T = x.shape
    H = min(args.window, int(2 * (args.window / 2) ** min(1, 2 * done))) if args.window > 1 else 1
    times = consecutive(bits[:, : T // H], H, T)  # (B, n, H + 1)
    with torch.no_grad():
        labels = teacher.encoder(x, times.flatten(1)).view(-1, H + 1, *rnn.empty.shape)  # (B n, H + 1, K, d)
    index = times[..., 1:].flatten(1)
    inputs, targets = x.gather(1, index).view(-1, H), y.gather(1, index).view(-1, H)
    memories = rnn.rollout(inputs, labels[:, 0])  # (B n, H, K, d)
    dyn = F.mse_loss(memories.float(), labels[:, 1:].float())
    logits = rnn.readout(memories.detach().flatten(0, 1))  # (B n H, 1, V)
    dec = cross_entropy(logits, targets.flatten())
    return dyn + dec, args.encoder_depth + H * rnn.cell.depth + args.decoder_depth


# ----------------------------------------------------------------- evaluate and sample: the RNN alone


@torch.no_grad()
def encode_all(encoder, x, chunk=64):
    """The labels of every time, some at a time to bound memory: x (B, T) -> (B, T, K, d)."""
    times = torch.arange(x.shape[1], device=x.device).expand(x.shape)
    return torch.cat([encoder(x, t) for t in times.split(chunk, dim=1)], dim=1)


@torch.no_grad()
def score(readout, memories, y):
    """Sums over the scored targets: cross entropy in nats, right answers; (B, T, K, d), (B, T) -> (2,)."""
    scored = y >= 0
    logits = readout(memories[scored])[:, 0].float()  # (number scored, V)
    right = (logits.argmax(-1) == y[scored]).sum()
    return torch.stack([F.cross_entropy(logits, y[scored], reduction="sum"), right]).double().cpu()


@torch.no_grad()
def evaluate(models, task, split, rows, device):
    """The RNN alone, from m_∅ on held-out sequences, beside its teacher: a line of metrics.jsonl.

    Losses in nats, accuracies as shares, both per scored target. drift is MSE(m̂, m) over the labels'
    variance across sequences and times; the plain MSE would reward memories that collapse.
    """
    rnn, teacher = models["rnn"], models["teacher"]
    own, taught, error, scored, seen = 0, 0, 0, 0, []
    for chunk in torch.arange(rows, device=device).split(64):
        x, y = task.batch(split, 0, chunk)
        memories, labels = rnn.rollout(x), encode_all(teacher.encoder, x)  # both (B, T, K, d)
        own, taught = own + score(rnn.readout, memories, y), taught + score(teacher.decoder, labels, y)
        scored += (y >= 0).sum().item()
        error += (memories - labels).square().mean((1, 2, 3)).sum().item()
        seen.append(torch.stack([labels.mean(1), labels.square().mean(1)]).cpu())  # (2, B, K, d)
    mean, square = torch.cat(seen, 1).double().mean(1)  # each (K, d)
    variance = (square - mean.square()).mean().item()
    names = ("val_loss", "val_acc", "teacher_loss", "teacher_acc")
    figures = zip(names, torch.cat([own, taught]).div(scored).tolist())
    return {**dict(figures), "drift": error / rows / variance}


@torch.no_grad()
def generate(rnn, x, length, key):
    """Continue x (1, S) by length tokens drawn from the RNN alone, each at the same cost -> list."""
    memory, tokens = rnn.rollout(x)[:, -1], []
    u = random_bits(key, x[:, 0], length)[0] / 2**62  # (length,) uniform in [0, 1]
    for i in range(length):
        p = rnn.readout(memory)[0, 0].float().softmax(-1)  # (V,)
        tokens.append((p.cumsum(0) < u[i]).sum().clamp(max=len(p) - 1))
        memory = rnn.step(memory, tokens[-1][None])
    return torch.stack(tokens).tolist()


@torch.no_grad()
def show(rnn, task, count, args):
    """Print what the RNN does alone: text that it writes, or its answers to held-out sequences."""
    if hasattr(task, "encode"):
        x = torch.tensor([task.encode(args.prompt)], device=args.device)
        for i in range(count):
            tokens = generate(rnn, x, 4 * task.T, (args.seed, "sample", i))
            print(f"--- {i + 1}\n{args.prompt}{task.decode(tokens)}")
    else:
        x, y = task.batch("test", 0, torch.arange(count, device=args.device))
        answers = rnn.readout(rnn.rollout(x).flatten(0, 1))[:, 0].argmax(-1).view_as(y)
        print(task.show(x, y, answers))


# --------------------------------------------------------------------------------- the training loop


def phases(args):
    """The run's phases in order: (name, loss, steps, peak learning rate)."""
    return [("smt", smt_loss, args.steps, args.lr), ("dmt", dmt_loss, args.dmt_steps, args.dmt_lr)]


def trainable(phase, models):
    """The parameters that a phase trains. DMT freezes E and D: its targets must stand still."""
    models["teacher"].requires_grad_(phase == "smt")
    return [p for p in models.parameters() if p.requires_grad]


def learning_rate(step, steps, peak):
    """Linear warm-up over 2 % of the steps, then half a cosine down to 0."""
    return peak * min(1, (step + 1) / (0.02 * steps + 1)) * (1 + math.cos(math.pi * step / steps)) / 2


def train(args, task, models, checkpoint):
    """Run the phases from where the checkpoint stands, then measure the RNN on the test sequences."""
    start = {"step": 0, "seconds": 0.0, "depth": 0, "tokens": 0, "lines": 0, "done": False}
    state = checkpoint["state"] if checkpoint else start
    open_run(args, task, models, state, checkpoint)
    rows = torch.arange(args.batch_size, device=args.device)
    last = 0
    for phase, loss_of, steps, peak in phases(args):
        first, last = last, last + steps
        begin = max(first, state["step"])
        optimizer = torch.optim.AdamW(trainable(phase, models), lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
        if first < begin < last:
            optimizer.load_state_dict(checkpoint["optimizer"])
        bar = tqdm(range(begin, last), phase, steps, initial=begin - first, disable=None)
        losses, clock = [], time.perf_counter()
        for step in bar if begin < last else ():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step - first, steps, peak)
            x, y = task.batch("train", step, rows)  # (B, T)
            bits = random_bits((args.seed, phase, step), rows, task.T)  # (B, T), the loss's own randomness
            with torch.autocast(args.device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                loss, depth = loss_of(models, x, y, bits, (step - first) / steps, args)
            optimizer.zero_grad()
            loss.backward()
            for model in models.values():  # apart, so that one's large gradient does not still the other
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())  # .item() here would make the host wait for the device
            state.update(step=step + 1, depth=state["depth"] + depth, tokens=state["tokens"] + x.numel())
            if (step + 1 - first) % args.eval_every == 0 or step + 1 == last:
                train_loss = mean_loss(losses, phase, step)  # waits for the device, so the clock is right
                state["seconds"] += time.perf_counter() - clock
                if phase == "smt":
                    hand_over(models)
                figures = evaluate(models, task, "val", args.eval_rows, args.device)
                report(args, state, phase, train_loss, figures)
                save(args, models, optimizer, state)
                bar.set_postfix({k: f"{v:.3f}" for k, v in figures.items()})
                losses, clock = [], time.perf_counter()
    if not state["done"]:
        report(args, state, "final", None, evaluate(models, task, "test", task.test_rows, args.device))
        state["done"] = True
        save(args, models, None, state)


def mean_loss(losses, phase, step):
    """Mean of the losses since the last evaluation, the last of step; UsageError if one is not finite."""
    losses = torch.stack(losses).tolist()
    for back, loss in enumerate(losses, 1 - len(losses)):
        if not math.isfinite(loss):
            kept = "checkpoint.pt holds the last good weights; a lower learning rate may help"
            raise UsageError(f"the loss is {loss} at step {step + 1 + back} of {phase}: stopped; {kept}")
    return sum(losses) / len(losses)


def report(args, state, phase, train_loss, figures):
    """Append a line to metrics.jsonl and print its figures."""
    counts = {name: state[name] for name in ("step", "seconds", "depth", "tokens")}
    row = {"phase": phase, **counts, "train_loss": train_loss, **figures}
    with open(args.out / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    state["lines"] += 1
    shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    tqdm.write(f"{phase:5}  step {state['step']:5}  {state['seconds']:4.0f} s  {shown}")


def open_run(args, task, models, state, checkpoint):
    """Make the run's directory, or cut its metrics to what the checkpoint knows of."""
    args.out.mkdir(parents=True, exist_ok=True)
    metrics = args.out / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True) if metrics.exists() else []
    write(metrics, b"".join(lines[: state["lines"]]))  # a kill may fall between a line and its checkpoint
    if not checkpoint:
        save(args, models, None, state)
    name = torch.cuda.get_device_name() if args.device.type == "cuda" else platform.processor()
    facts = {"T": task.T, "vocab": task.vocab, "torch": torch.__version__, "device_name": name}
    facts["parameters"] = {k: sum(p.numel() for p in model.parameters()) for k, model in models.items()}
    write(args.out / "config.json", json.dumps({**plain(args), **facts}, indent=1).encode())


def save(args, models, optimizer, state):
    """Write checkpoint.pt: tensors and plain values alone, so that loading one can run no code."""
    content = {"config": plain(args), "models": models.state_dict(), "state": state}
    content["optimizer"] = optimizer.state_dict() if optimizer else None
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(args.out / "checkpoint.pt", buffer.getvalue())


def write(path, content):
    """Write a file whole or not at all: under another name first, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def load(directory, option):
    """The checkpoint of a run; UsageError that names the option if there is none, or a damaged one."""
    path = Path(directory) / "checkpoint.pt"
    if not path.is_file():
        raise UsageError(f"{option}: {directory} holds no run; name the --out of an earlier one")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return {name: checkpoint[name] for name in ("config", "models", "optimizer", "state")}
    except Exception:  # damaged files make torch raise errors of many kinds
        raise UsageError(f"{option}: {path} is damaged, or no checkpoint of this program") from None


# ---------------------------------------------------------------------------------- the command line


class Parser(argparse.ArgumentParser):
    """argparse, but wrong input is a UsageError: one line, no usage text in front of it."""

    def error(self, message):
        raise UsageError(message.removeprefix("argument "))


def parser():
    """Every option with its meaning and default. The task's own options and defaults are in data.py."""
    p = Parser(prog=Path(__file__).name, description=__doc__.split("\n")[0], allow_abbrev=False)

    def add(name, default, kind, meaning, **more):
        p.add_argument(name, default=default, type=kind, help=f"{meaning} (default: {default})", **more)

    add("--task", "copy", str, "what to learn", choices=sorted(TASKS))
    for name, (kind, meaning) in OPTIONS.items():
        p.add_argument("--" + name, help=meaning, **({"type": kind} if kind else {"action": "store_true", "default": None}))
    add("--cell", "mlp", str, "f, the RNN's update", choices=sorted(CELLS))
    add("--memory", 4, whole(1), "K, memory tokens")
    add("--dim", 64, whole(2), "d, numbers in a memory token and width of the Transformers")
    add("--heads", 4, whole(1), "attention heads")
    add("--cell-depth", 2, whole(1), "layers of the cell (a GRU has one)")
    add("--encoder-depth", 2, whole(1), "layers of the encoder")
    add("--decoder-depth", 2, whole(1), "layers of the decoder and the readout")
    kinds = ["one-pass", "bidirectional"]
    add("--encoder", "one-pass", str, "all labels in one pass, or the paper's, a pass a label", choices=kinds)
    add("--registers", "start", str, "where labels stand in time: before all tokens, or behind x_t", choices=["start", "now"])
    add("--context", LARGEST, whole(1), "positions back that a layer sees; one-pass: reach = depth x this; paper's: this")
    add("--future", LARGEST, whole(1), "Tf, targets decoded from a label; more than the sequence has: all")
    add("--labels", 16, whole(1), "n, transitions of a sequence used in a step")
    add("--lambda-readout", 0.2, number(0), "extra weight of the first decoded target")
    add("--decoded", 4, whole(1), "how many of them are decoded")
    add("--lambda-dec", 1.0, number(0), "weight of the decoding loss")
    add("--lambda-dyn", 1.0, number(0), "weight of the dynamics loss")
    add("--lambda-unif", 0.1, number(0), "weight of the uniformity loss")
    add("--window", 16, whole(1), "H, steps of DMT's gradient; 1: the paper's DAgger; the sequence's length: all of it")
    add("--steps", 2200, whole(0), "optimiser steps of SMT")
    add("--dmt-steps", 600, whole(0), "optimiser steps of DMT")
    add("--batch-size", 32, whole(1), "sequences in a step")
    add("--lr", 2e-3, number(0, above=True), "peak learning rate of SMT")
    add("--dmt-lr", 5e-4, number(0, above=True), "peak learning rate of DMT")
    add("--seed", 0, whole(0), "of weights, data and sampled times")
    add("--device", "auto", str, "where to run; auto: CUDA, MPS or CPU", choices=["auto", "cpu", "cuda", "mps"])
    add("--precision", "auto", str, "of matrix products; auto: bf16 on CUDA", choices=["auto", "fp32", "bf16"])
    add("--eval-every", 200, whole(1), "steps between evaluations and checkpoints")
    add("--eval-rows", 128, whole(1), "held-out sequences of an evaluation (the final one has more)")
    add("--out", None, str, "directory of the run, runs/<task>-smt if not given")
    add("--init", None, str, "start from the weights of the run in this directory, with its sizes")
    p.add_argument("--resume", action="store_true", help="go on with the run in --out")
    add("--sample", 0, whole(0), "print this many samples of the finished run in --out, without training")
    add("--prompt", "", str, "text that the samples continue")
    return p


SIZES = ("cell", "memory", "dim", "heads", "cell_depth", "encoder_depth", "decoder_depth", "encoder", "registers")
FREE = ("device", "precision", "init", "resume", "sample", "prompt", "out")  # may differ when a run goes on


def settings(argv):
    """Command line -> args, task, models and the checkpoint to go on from (None: a new run).

    Everything that can be wrong is found here, before anything is written.
    """
    p = parser()
    given = p.parse_args(argv)
    given.out = Path(given.out or f"runs/{given.task}-smt")
    checkpoint = None
    if given.resume or given.sample:
        checkpoint = load(given.out, "--resume" if given.resume else "--sample")
        p.set_defaults(**{k: v for k, v in checkpoint["config"].items() if k not in FREE})
    else:
        if any((given.out / name).exists() for name in ("checkpoint.pt", "metrics.jsonl", "config.json")):
            raise UsageError(f"--out {given.out}: holds a run already; --resume goes on with it, or name another --out")
        p.set_defaults(**TASKS[given.task].options, **TASKS[given.task].defaults)
        source = load(given.init, "--init") if given.init else None
        if source:
            p.set_defaults(**{k: v for k, v in source["config"].items() if k in SIZES})
    args = p.parse_args(argv)
    args.out, args.device = given.out, device(args.device)
    if args.precision == "auto":
        args.precision = "bf16" if args.device.type == "cuda" else "fp32"
    task = make_task(args)
    args.context, args.future = min(args.context, task.T), min(args.future, task.T)
    args.window = min(args.window, task.T)
    check(args, task)
    if checkpoint:
        for name, value in checkpoint["config"].items():
            if name not in FREE and getattr(args, name) != value:
                option = f"--{name.replace('_', '-')} {getattr(args, name)}"
                raise UsageError(f"{option}: the run in {args.out} has {value}; leave it out, or start another --out")
    torch.manual_seed(args.seed)
    models = nn.ModuleDict({"teacher": Teacher(args, task.vocab), "rnn": RNN(args, task.vocab)})
    weights = checkpoint or source
    if weights:
        try:
            models.load_state_dict({name: weights["models"][name] for name in models.state_dict()})
        except (KeyError, RuntimeError):
            raise UsageError(f"--init {args.init}: its sizes differ, or it has no teacher; leave sizes out") from None
    return args, task, models.to(args.device), checkpoint


def check(args, task):
    """What no option can check by itself."""
    if args.dim % (2 * args.heads):
        raise UsageError(f"--dim {args.dim}: must be a multiple of 2 x --heads, {2 * args.heads}")
    if args.labels > task.T:
        raise UsageError(f"--labels {args.labels}: a sequence has {task.T} transitions; give at most that")
    if args.decoded > args.labels:
        raise UsageError(f"--decoded {args.decoded}: more than --labels {args.labels}; give at most that")


def make_task(args):
    """The task with its own options; UsageError for one that it has not."""
    task = TASKS[args.task]
    for name in OPTIONS:
        value = getattr(args, name)
        if name not in task.options and value is not None:
            own = ", ".join("--" + option for option in task.options)
            raise UsageError(f"--{name} {value}: task {args.task} has no such option; it has {own}")
    return task(args.seed, args.device, **{name: getattr(args, name) for name in task.options})


def device(name):
    """The device of that name, or the best there is."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(k for k in present if present[k]) if name == "auto" else name
    if not present[name]:
        raise UsageError(f"--device {name}: this machine or PyTorch has none; give cpu, or auto")
    return torch.device(name)


def plain(args):
    """The options as plain values, for config.json and the checkpoint."""
    return {k: str(v) if isinstance(v, (Path, torch.device)) else v for k, v in vars(args).items()}


def main(argv=None):
    """Train, or with --sample only show; the exit status: 0, 2 for wrong input, 130 for Ctrl-C."""
    try:
        args, task, models, checkpoint = settings(argv)
        if not args.sample:
            train(args, task, models, checkpoint)
        show(models["rnn"], task, args.sample or 4, args)
    except UsageError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{Path(__file__).name}: --out: can't write {error.filename} ({error.strerror})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; --resume goes on from the last evaluation", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
