"""Supervised Memory Training (SMT) of a nonlinear RNN, without backpropagation through time.

What to remember can be found without recurrence: a Transformer, the encoder, reads a prefix and
writes a memory, its label, and a decoder predicts the future from it. How to update a memory is
then plain regression, from a label and the next input to the next label: no RNN is unrolled. SMT
trains encoder, decoder and cell, then the cell alone on labels that stay. Run alone, the RNN meets
its own errors and drifts: DAgger Memory Training (DMT) trains it on the memories that it makes, by
BPTT through short windows. The RNN remains: embedding, cell, readout and an empty memory.
Source: Kumar & Isola, Pretraining Recurrent Networks without Recurrence, arXiv:2606.06479.

Glossary
  paper    here          shape and meaning
  x, y     x, y          (B, T) tokens, targets: y_t is asked after x_<=t; y_t = -1 is not scored
  m_t      labels        (B, n, K, d) memories of n prefixes x_<=t: K tokens of d numbers each
  m_∅      rnn.empty     (K, d) memory of the empty prefix, t = -1
  m̂_t      memory        (N, K, d) memory that the RNN made itself
  E        encoder       x, times t -> labels m_t; E and D are the teacher
  D        decoder       m_t, x_{t+1..t+Tf-1} -> logits of the Tf targets y_t..y_{t+Tf-1}
  g        rnn.readout   D given no future token: m_t -> logits of y_t
  f        rnn.step      m_t, x_{t+1} -> m_{t+1}: rnn.cell, with rnn.embed for x
  Tf, R, H args.future, rollout, window: targets decoded, steps of DMT's rollouts, of their gradient
  B sequences of T times, n labels or transitions in each; V kinds of token; N, S of anything
"""

import sys
import time
from argparse import Namespace as Args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data import TASKS, Task, add_task, make_task
from run import LARGEST, RANK, RANKS, Parser, agree, device, inherited, learning_rate, mean_loss
from run import npz, number, open_run, random_bits, report, resolve, restore, save, share, status
from run import take_up, until_ctrl_c, whole, write, UsageError

Loss = tuple[Tensor, int]  # the loss; how many layers had to run one after another


# ---------------------------------------------------------------------------------- attention block
def rotation(position: Tensor, size: int) -> Tensor:
    """Rotary positions (N or 1, S) as complex numbers of length 1, (N or 1, 1, S, size / 2)."""
    frequency = 10000.0 ** (torch.arange(0, -size, -2, device=position.device) / size)
    angle = position[:, None, :, None] * frequency
    return torch.complex(angle.cos(), angle.sin())


def rotate(h: Tensor, turn: Tensor) -> Tensor:
    """Turn h (N, heads, S, size), two numbers of it being a complex one, by its positions."""
    turned = torch.view_as_complex(h.type_as(turn.real).unflatten(-1, (-1, 2))) * turn
    return torch.view_as_real(turned).flatten(-2).type_as(h)


def mlp(size: int, hidden: int, d: int) -> nn.Module:
    """The pre-norm MLP of every residual branch: (..., size) -> (..., d)."""
    return nn.Sequential(nn.RMSNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, d))


class Block(nn.Module):
    """Transformer block: h (N, S, d) -> (N, S, d)."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads, self.norm, self.mlp = heads, nn.RMSNorm(d), mlp(d, 4 * d, d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, h: Tensor, turn: Tensor, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(self.norm(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # each (N, heads, S, d / heads)
        a = F.scaled_dot_product_attention(rotate(q, turn), rotate(k, turn), v, attn_mask=mask)
        h = h + self.out(a.transpose(1, 2).flatten(2))
        return h + self.mlp(h)


class Transformer(nn.Module):
    """Blocks: h (N, S, d), position (N, S) or 0..S-1, mask (N, 1, S, S), (S, S) or none -> h."""

    def __init__(self, d: int, heads: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(depth))

    def forward(self, h: Tensor, position: Tensor = None, mask: Tensor = None) -> Tensor:
        position = torch.arange(h.shape[1], device=h.device)[None] if position is None else position
        turn = rotation(position, h.shape[-1] // self.blocks[0].heads)
        for block in self.blocks:
            h = block(h, turn, mask)
        return h


# ----------------------------------------------------------------------- encoder: labels for many t
def encoder_mask(times: Tensor, T: int, K: int, context: int, bidirectional: bool) -> Tensor:
    """What attends to what in the encoder: times (B, n) -> (B, 1, T + nK, T + nK), True = seen."""
    B, n = times.shape
    s = torch.arange(T, device=times.device)
    # One-pass: token s serves all t: it sees x_<=s and no register; registers of t see x_<=t.
    last = times if bidirectional else s.expand(B, T)  # bidirectional: n = 1, all see x_<=t
    last = torch.cat([last.expand(B, T), times.repeat_interleave(K, 1)], 1)  # (B, T + nK)
    sees_token = (s <= last[..., None]) & (s > last[..., None] - context)
    owner = torch.cat([s.new_full((T,), -1), torch.arange(n, device=s.device).repeat_interleave(K)])
    sees_register = (owner[:, None] == owner[T:]) | bidirectional  # its own label's alone
    return torch.cat([sees_token, sees_register.expand(B, -1, -1)], -1)[:, None]


class Encoder(nn.Module):
    """E: x (B, T), times (B, n) -> labels m_t (B, n, K, d), the tokens' states (N, T, d)."""

    def __init__(self, args: Args, vocab: int):
        super().__init__()
        self.context, self.now = args.context, args.registers == "now"
        self.bidirectional = args.encoder == "bidirectional"
        self.embed = nn.Embedding(vocab, args.dim)
        self.before = nn.Embedding(vocab + 1, args.dim)  # the last: there is none
        self.registers = nn.Parameter(torch.randn(args.memory, args.dim))
        self.body = Transformer(args.dim, args.heads, args.encoder_depth)

    def forward(self, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        B, n, K = *times.shape, len(self.registers)
        if self.bidirectional:  # a label a pass: its tokens see one another up to its t, no further
            x, times = x.repeat_interleave(n, 0), times.reshape(B * n, 1)
        T, when = x.shape[1], times.repeat_interleave(K, 1)  # (N, nK) of each register
        token = torch.arange(1, T + 1, device=x.device).expand(len(x), T)
        position = torch.cat([token, when + 2 if self.now else when * 0], 1)
        mask = encoder_mask(times, T, K, self.context, self.bidirectional)
        e = self.embed(x)  # (N, T, d)
        # A token knows the one before it: to look one back is what attention learns slowest.
        tokens = e + self.before(F.pad(x[:, :-1], (1, 0), value=len(self.before.weight) - 1))
        # A label's registers know x_t: with one position for all t they couldn't tell the latest.
        latest = F.pad(e, (0, 0, 1, 0)).take_along_dim(when[..., None] + 1, 1)  # t = -1: 0
        registers = self.registers.repeat(times.shape[1], 1) + latest  # (N, nK, d)
        h = self.body(torch.cat([tokens, registers], 1), position, mask)
        return F.rms_norm(h[:, T:], h.shape[-1:]).reshape(B, n, K, -1), h[:, :T]


# ------------------------------------------------------------------------------ decoder and readout
class Decoder(nn.Module):
    """D: memory (N, K, d), x_{t+1}.. (N, S) -> logits of y_t.. (N, S + 1, V). No x: readout g."""

    def __init__(self, args: Args, vocab: int):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)
        self.body = Transformer(args.dim, args.heads, args.decoder_depth)
        self.norm, self.head = nn.RMSNorm(args.dim), nn.Linear(args.dim, vocab)

    def forward(self, memory: Tensor, future: Tensor = None, context: int = LARGEST) -> Tensor:
        h = memory if future is None else torch.cat([memory, self.embed(future)], 1)
        s, K = torch.arange(h.shape[1], device=h.device), memory.shape[1]
        # Causal. Inputs see all the memory; if context is small, D must rely on the memory.
        mask = (s <= s[:, None]) & ((s > s[:, None] - context) | (s < K))
        return self.logits(self.body(h, mask=mask)[:, K - 1 :])

    def logits(self, h: Tensor) -> Tensor:
        """The last layer: h (..., d) -> (..., V)."""
        return self.head(self.norm(h))


# ------------------------------------------------------------------------------------------ the RNN
class TransformerCell(nn.Module):
    """f as a Transformer over K + 1 tokens: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args: Args):
        super().__init__()
        self.depth, self.body = args.cell_depth, Transformer(args.dim, args.heads, args.cell_depth)

    def forward(self, memory: Tensor, e: Tensor) -> Tensor:
        return self.body(torch.cat([memory, e[:, None]], 1))[:, :-1]


class MLPCell(nn.Module):
    """f as residual blocks over the flat memory: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args: Args):
        super().__init__()
        self.depth, size = args.cell_depth, args.memory * args.dim
        self.blocks = nn.ModuleList(mlp(size + args.dim, 2 * size, size) for _ in range(self.depth))

    def forward(self, memory: Tensor, e: Tensor) -> Tensor:
        h = memory.flatten(1)
        for block in self.blocks:  # e beside h: added to it, e would have to be removed again
            h = h + block(torch.cat([h, e], 1))
        return h.view_as(memory)


class GRUCell(nn.GRUCell):
    """f as a gated recurrent unit over the flat memory: memory (N, K, d), e (N, d) -> (N, K, d)."""

    def __init__(self, args: Args):
        super().__init__(args.dim, args.memory * args.dim)
        self.depth = 1

    def forward(self, memory: Tensor, e: Tensor) -> Tensor:
        return super().forward(e, memory.flatten(1)).view_as(memory)


CELLS = {"transformer": TransformerCell, "mlp": MLPCell, "gru": GRUCell}  # each has its depth


class RNN(nn.Module):
    """All that inference needs: f with its embedding, g (D, its embedding idle) and m_∅."""

    def __init__(self, args: Args, vocab: int):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)
        self.cell = CELLS[args.cell](args)
        self.readout = Decoder(args, vocab)
        self.empty = nn.Parameter(torch.randn(args.memory, args.dim))  # m_∅

    def step(self, memory: Tensor, x: Tensor) -> Tensor:
        """m_t, x_{t+1} -> m_{t+1}: memory (N, K, d), x (N,) -> (N, K, d), tokens of RMS 1."""
        return F.rms_norm(self.cell(memory, self.embed(x)), memory.shape[-1:])

    def rollout(self, x: Tensor, memory: Tensor = None) -> Tensor:
        """The RNN alone, from m_∅ or another memory: x (N, S) -> its memories (N, S, K, d)."""
        memory = self.empty.expand(len(x), -1, -1) if memory is None else memory
        memories = []
        for token in x.unbind(1):
            memories.append(memory := self.step(memory, token))
        return torch.stack(memories, 1)


class Models(nn.ModuleDict):
    """The networks by name; to call them is to compute a loss, as DistributedDataParallel wants."""

    def forward(self, loss_of, *batch) -> Loss:
        return loss_of(self, *batch)


# ------------------------------------------------------------------------------------- the SMT loss
def cross_entropy(logits: Tensor, y: Tensor, count: Tensor) -> Tensor:
    """Nats of the scored y over the count of those in the whole batch, so that its parts add up."""
    total = F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=-1, reduction="sum")
    return total / count


def scored(y: Tensor) -> Tensor:
    """How many y are scored, never 0; of several processes with rows of one batch: their mean."""
    count = (y >= 0).sum().float()
    if RANKS > 1:
        torch.distributed.all_reduce(count)
    return count.clamp(min=1) / RANKS


def futures(z: Tensor, times: Tensor, Tf: int) -> Tensor:
    """z_{t..t+Tf-1} for each t >= 0, -1 beyond the end: z (B, T), times (B, n) -> (B, n, Tf)."""
    windows = F.pad(z, (0, Tf - 1), value=-1).unfold(1, Tf, 1)  # (B, T, Tf)
    return windows.take_along_dim(times[..., None], 1)


def decoding(decoder: Decoder, labels: Tensor, times: Tensor, x: Tensor, y: Tensor, args: Args):
    """L_dec: labels (B, n, K, d) of times (B, n) decoded into y_t..y_{t+Tf-1}, nats a target."""
    memory, loss = labels.flatten(0, 1), 0
    inputs, targets = (futures(z, times, args.future).flatten(0, 1) for z in (x, y))  # (B n, Tf)
    end = ((targets >= 0) * torch.arange(1, args.future + 1, device=y.device)).amax(1)  # (B n,)
    counts = scored(targets), scored(targets[:, 0])
    for part in end.argsort().chunk(4):  # by length: D is causal, what is cut off changes nothing
        S = end[part[-1]].clamp(min=1)
        logits = decoder(memory[part], inputs[part, 1:S].clamp(min=0), args.decoder_context)
        loss += cross_entropy(logits, targets[part, :S], counts[0])
        # Once more y_t, all that the RNN's readout will be asked for.
        loss += args.lambda_readout * cross_entropy(logits[:, 0], targets[part, 0], counts[1])
    return loss


def guessing(decoder: Decoder, states: Tensor, times: Tensor, y: Tensor) -> Tensor:
    """L_tok: D's last layer tells y_t from token t of the encoder: states (N, T, d)."""
    # A plain Transformer's loss, in nats a target: learnt sooner than through registers and D, and
    # they find in the tokens what it taught.
    if len(states) > len(y):  # bidirectional: tokens see beyond their time, but for the last, t
        y = y.repeat_interleave(times.shape[1], 0)  # (B n, T)
        y = y.where(torch.arange(y.shape[1], device=y.device) == times.reshape(-1, 1), -1)
    return cross_entropy(decoder.logits(states), y, scored(y))


def uniformity(labels: Tensor) -> Tensor:
    """L_unif = log mean_{a != b} exp(-2 |u_a - u_b|^2): labels (B, n, K, d) of n times a sequence.

    Keeps labels apart, as equal ones are the easiest for f. Pairs are of two sequences, as within
    one a label may stand still, and of the same of their K tokens. u: tokens scaled to length 1.
    """
    u = F.normalize(labels, dim=-1).permute(1, 2, 0, 3)  # (n, K, B, d)
    energy = (4 * (u @ u.mT) - 4).exp()  # (n, K, B, B), since |u_a - u_b|^2 = 2 - 2 u_a u_b
    pairs, others = energy.numel() - energy[..., 0].numel(), energy.tril(-1) + energy.triu(1)
    return (others.sum() / max(1, pairs)).clamp(min=1e-9).log()


def consecutive(y: Tensor, bits: Tensor, length: int) -> Tensor:
    """Runs of times t..t + length within -1..T - 1: y, bits (B, T) -> (B, length + 1)."""
    T, kind = y.shape[1], bits[:, -1:] % 4
    # A quarter: any start, pushed in where it overhangs: so the ends are held as often as the rest.
    start = bits[:, :1] % (T + length - 1) - length
    # Half the runs: any that hold a random target's time. Rare ones would hardly be learnt.
    target = (bits * (y >= 0)).argmax(1, keepdim=True) - 1 - bits[:, :1] % length
    # A quarter: from m_∅, where the RNN alone begins. What goes wrong there stays wrong.
    start = torch.where(kind == 0, -1, torch.where(kind == 1, start, target))
    return start.clamp(-1, T - 1 - length) + torch.arange(length + 1, device=y.device)


def blur(labels: Tensor, bits: Tensor, noise: float) -> Tensor:
    """Labels (B, n, K, d) with uniform noise of this deviation, from each row's bits (B, T)."""
    if not noise:
        return labels
    # It drowns what no target needs: else labels may count for ever, and longer sequences fail.
    u = random_bits(("noise",), bits[:, 0], labels[0].numel()).view_as(labels) / 2**62  # in 0..1
    return labels + noise * 12**0.5 * (u - 0.5)


def dynamics(rnn: RNN, labels: Tensor, blurred: Tensor, times: Tensor, x: Tensor) -> Tensor:
    """L_dyn: a step of the RNN from each label to the next: labels (B, n + 1, K, d) of times."""
    predicted = rnn.step(blurred[:, :-1].flatten(0, 1), x.gather(1, times[:, 1:]).flatten())
    return F.mse_loss(predicted, labels[:, 1:].flatten(0, 1))


def smt_loss(models: Models, x: Tensor, y: Tensor, bits: Tensor, done: float, args: Args) -> Loss:
    """L_smt = λ_dec L_dec + λ_tok L_tok + λ_dyn L_dyn + λ_unif L_unif on n transitions in a row.

    x, y, random integers bits (B, T), done 0..1 of the phase -> loss, layers run in a row.
    """
    teacher, rnn, n = models["teacher"], models["rnn"], args.labels
    times = consecutive(y, bits, n)  # (B, n + 1)
    labels, states = teacher["encoder"](x, times)  # (B, n + 1, K, d), (N, T, d)
    blurred = blur(labels, bits, args.noise)
    # L_dyn's gradient reaches f, m_t and m_{t+1}: nothing is detached. It grows from a 100th of
    # λ_dyn to all of it at 4/5 of the phase: first what to remember, then so that f can follow.
    dyn = 100 ** min(0, 1.25 * done - 1) * dynamics(rnn, labels, blurred, times, x)
    # L_dec and L_unif of some labels: neighbours hold much the same, and decoding is what costs.
    pick = bits[:, :n].argsort(1)[:, : args.decoded] + 1  # 1..: m_∅ has no y to decode
    some = blurred.take_along_dim(pick[..., None, None], 1)  # (B, decoded, K, d)
    dec = decoding(teacher["decoder"], some, times.gather(1, pick), x, y, args)
    loss = args.lambda_dec * dec + args.lambda_tok * guessing(teacher["decoder"], states, times, y)
    loss += args.lambda_dyn * dyn + args.lambda_unif * uniformity(some)
    return loss, args.encoder_depth + max(args.decoder_depth, rnn.cell.depth)


def cell_loss(models: Models, x: Tensor, y: Tensor, bits: Tensor, done: float, args: Args) -> Loss:
    """L_dyn for f alone, on labels that no longer move: arguments and result as above."""
    times = consecutive(y, bits, args.labels)
    with torch.no_grad():
        labels, _ = models["teacher"]["encoder"](x, times)  # (B, n + 1, K, d)
    loss = dynamics(models["rnn"], labels, blur(labels, bits, args.noise), times, x)
    return loss, args.encoder_depth + models["rnn"].cell.depth


@torch.no_grad()
def hand_over(teacher: nn.ModuleDict, rnn: RNN):
    """Copy into the RNN what SMT gives no gradient: m_∅, from E, fixed from here on; g, from D."""
    x = torch.zeros(1, 1, dtype=torch.long, device=rnn.empty.device)  # t = -1 does not see it
    rnn.empty.copy_(teacher["encoder"](x, x - 1)[0][0, 0])
    rnn.readout.load_state_dict(teacher["decoder"].state_dict())


# ---------------------------------------------------------------------------------------------- DMT
def dmt_loss(models: Models, x: Tensor, y: Tensor, bits: Tensor, done: float, args: Args) -> Loss:
    """The RNN's own memories against n labels of a random run of R steps (section 5).

    x, y, bits, done -> loss, depth as above. From a label the RNN runs on its own, without a graph;
    then H steps with one from the label and each H-th memory, side by side: BPTT, at most H far.
    """
    teacher, rnn, R, H = models["teacher"], models["rnn"], args.rollout, args.window
    times = consecutive(y, bits, R)  # (B, R + 1), the start first
    pick = bits[:, :R].argsort(1)[:, : args.labels]  # (B, n) of R steps: few, as labels cost
    chosen = times.gather(1, pick + 1)
    inputs = x.gather(1, times[:, 1:])  # (B, R)
    with torch.no_grad():  # frozen: with no L_dec to hold them, labels would come to meet the RNN
        labels, _ = teacher["encoder"](x, torch.cat([times[:, :1], chosen], 1))  # (B, 1 + n, K, d)
        own = rnn.rollout(inputs[:, :-H], labels[:, 0]) if R > H else labels[:, :0]
        begins = torch.cat([labels[:, :1], own], 1)[:, ::H].flatten(0, 1)  # (B R / H, K, d)
    torch.clear_autocast_cache()  # weights cast without a graph: torch 2.6 would go on with them
    memories = rnn.rollout(inputs.view(-1, H), begins).view(len(x), R, *labels.shape[2:])
    memories = memories.take_along_dim(pick[..., None, None], 1)  # (B, n, K, d)
    dyn = F.mse_loss(memories, labels[:, 1:])
    # g learns on these memories, detached: f has the labels alone to follow.
    logits = rnn.readout(memories.detach().flatten(0, 1))[:, 0]  # (B n, V)
    asked = y.gather(1, chosen).flatten()
    dec = cross_entropy(logits, asked, scored(asked))
    return dyn + dec, args.encoder_depth + R * rnn.cell.depth + args.decoder_depth


# --------------------------------------------------------------- evaluate and sample: the RNN alone
def scores(readout: Decoder, memories: Tensor, y: Tensor) -> Tensor:
    """Nats and hits of the scored targets: memories (B, T, K, d), y (B, T) -> (2, number)."""
    logits, target = readout(memories[y >= 0])[:, 0].float(), y[y >= 0]  # (number scored, V)
    loss = F.cross_entropy(logits, target, reduction="none")
    return torch.stack([loss, logits.argmax(-1) == target]).cpu().double()


@torch.no_grad()
def evaluate(models: nn.ModuleDict, task: Task, split: str, rows: int | None = None) -> dict:
    """The RNN alone, from m_∅ on held-out sequences: a line of metrics.jsonl.

    Nats and shares of right answers per scored target; beside it, its teacher. drift is MSE(m̂, m)
    over the labels' variance: the plain MSE would reward memories that collapse.
    """
    rnn, alone = models["rnn"], []
    teacher, taught, moments = models["teacher"], [], []
    for chunk in torch.arange(rows or task.test_rows, device=task.device).split(64):
        x, y = task.batch(split, 0, chunk)
        memories = rnn.rollout(x)  # (B, T, K, d)
        alone.append(scores(rnn.readout, memories, y))
        times = torch.arange(task.T, device=x.device).expand(x.shape).split(64, 1)
        labels = torch.cat([teacher["encoder"](x, t)[0] for t in times], 1)  # a mask is (T + nK)^2
        taught.append(scores(teacher["decoder"], labels, y))
        error = (memories - labels).square()
        moments.append(torch.stack([error, labels, labels.square()]).mean(2).cpu().double())
    figures = dict(zip(("val_loss", "val_acc"), torch.cat(alone, 1).mean(1).tolist()))
    figures |= zip(("teacher_loss", "teacher_acc"), torch.cat(taught, 1).mean(1).tolist())
    error, mean, square = torch.cat(moments, 1).mean(1)  # each (K, d): over sequences and times
    return figures | {"drift": (error.sum() / (square - mean.square()).sum()).item()}


@torch.no_grad()
def show(rnn: RNN, task: Task, count: int, args: Args):
    """Print the RNN's answers, or what it writes or draws alone, which samples.npz keeps."""
    rows, samples = torch.arange(count, device=args.device), {}
    if not hasattr(task, "prompts"):
        x, y = task.batch("test", 0, rows)
        answers = rnn.readout(rnn.rollout(x).flatten(0, 1))[:, 0].argmax(-1).view_as(y)
        return print(task.show(x, y, answers))
    for name, tokens, length in task.prompts(args.prompt, rows):  # (count, S)
        memory = rnn.rollout(tokens)[:, -1]
        for step in range(length - tokens.shape[1]):  # constant time and memory a token
            p = rnn.readout(memory)[:, 0].float().softmax(-1)  # (count, V)
            u = random_bits((args.seed, "sample", step), rows, 1) / 2**62  # (count, 1) in 0..1
            token = (p.cumsum(-1) < u).sum(-1).clamp(max=p.shape[1] - 1)
            memory, tokens = rnn.step(memory, token), torch.cat([tokens, token[:, None]], 1)
        print(*(f"--- {name}\n{task.draw(sample)}" for sample in tokens), sep="\n")
        samples[name] = tokens.cpu().numpy()  # (count, length)
    write(f"{args.out}/samples.npz", npz(samples))


# -------------------------------------------------------------------------------- the training loop
METHOD = "smt"  # names the runs, and the tasks' defaults for it
ADAMW = {"betas": (0.9, 0.95), "weight_decay": 0.01, "fused": True}


def phases(args: Args) -> list[tuple]:
    """(name, loss, models trained, steps, peak learning rate) of the run's phases, in order."""
    alone = round(args.cell_only * args.steps)
    smt = ("smt", smt_loss, ("teacher", "rnn"), args.steps - alone, args.lr)
    # So far each step moved the labels that f learns. Now they stay, and f catches up: still SMT.
    cell = ("smt", cell_loss, ("rnn",), alone, args.lr)
    return [smt, cell, ("dmt", dmt_loss, ("rnn",), args.dmt_steps, args.dmt_lr)]


def update(models, trained: nn.ModuleList, optimizer, loss_of, batch: tuple, args: Args) -> Loss:
    """One step of the optimizer of the networks trained, on a batch -> loss, depth."""
    with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
        loss, depth = models(loss_of, *batch, args)
    optimizer.zero_grad()
    loss.backward()
    loss = loss.detach()
    for network in trained:  # each apart: the large gradient of one must not stop another
        norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        loss = loss + 0 * norm  # NaN if the gradient is not finite, which ends the run
    optimizer.step()
    return loss, depth


def train(args: Args, task: Task, models: Models, checkpoint: dict | None):
    """Run the phases from where the checkpoint stands, then measure the RNN on the test split."""
    networks, state = share(models), open_run(args, models, checkpoint)
    rows, last = torch.arange(args.batch_size, device=args.device).chunk(RANKS)[RANK], 0
    for phase, loss_of, names, steps, peak in phases(args):
        first, last = last, last + steps
        begin = min(max(first, state["step"]), last)
        trained = nn.ModuleList(models[name] for name in names)
        optimizer = torch.optim.AdamW(trained.parameters(), **ADAMW)
        losses, clock = [], time.perf_counter()
        if first < begin < last:
            take_up(optimizer, checkpoint, args)
            losses += torch.tensor(state.pop("losses", []), device=args.device)
        wanted, hidden = until_ctrl_c(range(begin, last)), RANK or None  # None: if no terminal
        for step in tqdm(wanted, phase, steps, initial=begin - first, disable=hidden):
            optimizer.param_groups[0]["lr"] = learning_rate(step - first, steps, peak)
            bits = random_bits((args.seed, phase, step), rows, task.T)  # (B, T) for the loss
            batch = *task.batch("train", step, rows), bits, (step - first) / steps
            loss, depth = update(networks, trained, optimizer, loss_of, batch, args)
            losses.append(loss)  # .item() here would make the host wait for the device
            state["step"], state["depth"] = step + 1, state["depth"] + depth
            state["tokens"] += bits.numel() * RANKS
            if (step + 1 - first) % args.eval_every == 0 or step + 1 == last:
                train_loss = mean_loss(losses, phase, step)  # waits for the device: clock is right
                state["seconds"] += time.perf_counter() - clock
                if phase == "smt":
                    hand_over(**models)
                report(state, phase, train_loss, evaluate(models, task, "val", args.eval_rows))
                save(args, models, optimizer, state)
                losses, clock = [], time.perf_counter()
        if state["step"] < last:  # Ctrl-C
            if phase == "smt":
                hand_over(**models)
            state["losses"] = [loss.item() for loss in losses]
            state["seconds"] += time.perf_counter() - clock
            save(args, models, optimizer, state)
            raise KeyboardInterrupt
    if not state["ended"]:
        figures = evaluate(models, task, "test")  # val_loss and so on, now of the test split
        for factor in [k for k in (2, 4, 8) if k <= args.eval_length and task.axis]:
            longer = evaluate(models, task.longer(factor), "test")
            figures |= {f"{name}_{factor}x": value for name, value in longer.items()}
        report(state, "final", None, figures)
        save(args, models, None, state | {"ended": True})


# --------------------------------------------------------------------------------- the command line
def parser() -> Parser:
    """Every option with its meaning and default. A task's own, and how to add one: data.py."""
    p = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = p.add
    add_task(p)
    add("--preset", None, ["paper"], "paper: the authors' sizes, on any task")
    add("--cell", "mlp", [*CELLS], "f, the RNN's update")
    add("--memory", 4, whole(1), "K, tokens of the memory")
    add("--dim", 64, whole(2), "d, numbers in a memory token; width of the Transformers")
    add("--heads", 4, whole(1), "attention heads")
    add("--cell-depth", 1, whole(1), "layers of the cell (the GRU has one)")
    add("--encoder-depth", 2, whole(1), "layers of the encoder")
    add("--decoder-depth", 2, whole(1), "layers of D and g")
    add("--encoder", "one-pass", ["one-pass", "bidirectional"], "the paper's takes a pass a label")
    add("--registers", "start", ["start", "now"], "a label's position: before x_0, or after x_t")
    add("--context", LARGEST, whole(1), "w, inputs a layer sees; one-pass: depth x (w - 1) + 2")
    add("--future", LARGEST, whole(1), "Tf, targets decoded from a label; larger than T: all")
    add("--decoder-context", LARGEST, whole(1), "inputs that a layer of the decoder sees")
    add("--labels", 16, whole(1), "n a sequence: SMT's transitions, DMT's labels")
    add("--decoded", 4, whole(1), "how many of their labels are under L_dec and L_unif")
    add("--lambda-dec", 1.0, number(0), "λ_dec, weight of the decoding loss")
    add("--lambda-readout", 0.3, number(0), "extra weight in it of y_t, the readout's target")
    add("--lambda-tok", 1.0, number(0), "λ_tok, weight of the loss of the encoder's own tokens")
    add("--lambda-dyn", 10.0, number(0), "λ_dyn, weight of the dynamics loss; grows from a 100th")
    add("--lambda-unif", 0.1, number(0), "λ_unif, weight of the uniformity loss")
    add("--noise", 0.0, number(0), "deviation of noise on labels in L_dec, L_unif, and under f")
    add("--steps", 3000, whole(0), "optimiser steps of SMT; with --init, 0 leaves it out")
    add("--cell-only", 0.3, number(0, 1), "last share of them that trains f alone, on fixed labels")
    add("--lr", 2e-3, number(0, above=True), "peak learning rate of SMT")
    add("--dmt-steps", 500, whole(0), "optimiser steps of DMT")
    add("--dmt-lr", 1e-3, number(0, above=True), "peak learning rate of DMT")
    add("--window", 16, whole(1), "H, most steps of DMT's gradient; the paper's DAgger: 1")
    add("--rollout", 64, whole(1), "R, steps the RNN goes on its own in DMT, in whole windows")
    add("--batch-size", 32, whole(1), "sequences in a step")
    add("--seed", 0, whole(0), "of weights, data and all that is drawn")
    add("--device", "auto", device, "cuda, mps, cpu, or auto: the best there is")
    add("--precision", None, ["fp32", "bf16"], "of products; None: bf16 on CUDA, else fp32")
    p.add_argument("--compile", action="store_true", help="compile Transformers and cells (off)")
    add("--eval-every", 200, whole(1), "steps from one evaluation and checkpoint to the next")
    add("--eval-rows", 128, whole(1), "held-out sequences in these evaluations")
    add("--eval-length", 1, whole(1, 8), "measure also 2, 4, 8 times the length, up to this")
    add("--out", None, str, f"directory of the run; None: runs/<task>-{METHOD}")
    add("--init", None, str, "a run's directory: start from its weights, with its options")
    p.add_argument("--resume", action="store_true", help="go on with the run in --out")
    add("--sample", 0, whole(0), "show so many samples of the run in --out, train nothing")
    add("--prompt", "", str, "what sampled text begins with")
    return p


def settings(argv: list[str] | None) -> tuple:
    """Options -> args, task, models, checkpoint to go on from; finds what is wrong with them."""
    args, checkpoint, source = resolve(parser(), argv, METHOD, TASKS)  # source: or --init's
    task = make_task(args)
    fit(args, task.T)
    agree(args, inherited(checkpoint, args))
    torch.manual_seed(args.seed)
    models = build(args, task.vocab)
    restore(models, source, args)
    for network in models.modules():
        if args.compile and isinstance(network, (Transformer, *CELLS.values())):
            network.compile()
    return args, task, models.to(args.device), checkpoint


def fit(args: Args, T: int):
    """Shorten what goes beyond the T times; UsageError for what can't be."""
    if round(args.cell_only * args.steps) == args.steps and not args.init:
        shown = f"--steps {args.steps} --cell-only {args.cell_only}"
        raise UsageError(f"{shown}: f needs a teacher; leave some steps to it, or give --init RUN")
    for name in "future", "labels", "window", "rollout":
        setattr(args, name, min(getattr(args, name), T))
    args.rollout = max(1, args.rollout // args.window) * args.window  # whole windows, one at least


def build(args: Args, vocab: int):
    """The teacher and the RNN, freshly initialised."""
    teacher = nn.ModuleDict({"encoder": Encoder(args, vocab), "decoder": Decoder(args, vocab)})
    return Models({"teacher": teacher, "rnn": RNN(args, vocab)})


def main(argv: list[str] | None = None) -> int:
    """Train and show; with --sample, show. Exit status: 0, 2 for wrong input, 130 for Ctrl-C."""

    def work():
        args, task, models, checkpoint = settings(argv)
        if not args.sample:
            train(args, task, models, checkpoint)
        if not RANK:
            show(models["rnn"], task, args.sample or 4, args)

    return status(work, __file__)


if __name__ == "__main__":
    sys.exit(main())
