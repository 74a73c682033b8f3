"""Backpropagation through time (BPTT), the baseline: the RNN of smt.py, trained by unrolling it.

What to remember and how to update it are learnt at once, from the loss of the readout alone: the
gradient of an answer goes back step by step to the input that it needs, and fades or explodes on
the way. `diff smt.py bptt_baseline.py` shows what SMT does instead (<). Tasks, RNN and training
loop are the same; each method has its own learning rate and number of steps.

Glossary
  paper    here          shape and meaning
  x, y     x, y          (B, T) tokens, targets: y_t is asked after x_<=t; y_t = -1 is not scored
  m_∅      rnn.empty     (K, d) memory of the empty prefix, t = -1
  m_t      memory        (N, K, d) memory of the prefix x_<=t: K tokens of d numbers each
  D        decoder       m_t, x_{t+1..t+Tf-1} -> logits of the Tf targets y_t..y_{t+Tf-1}
  g        rnn.readout   D given no future token: m_t -> logits of y_t
  f        rnn.step      m_t, x_{t+1} -> m_{t+1}: rnn.cell, with rnn.embed for x
  B sequences of T times; V kinds of token; H steps of a gradient; N, S of anything
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
from run import take_up, until_ctrl_c, whole, write

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


# ------------------------------------------------------------------------------------ the BPTT loss
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


def bptt_loss(models: Models, x: Tensor, y: Tensor, bits: Tensor, done: float, args: Args) -> Loss:
    """L = the readout's loss on the RNN's own memories, from m_∅ through all T steps.

    x, y (B, T) -> loss, depth: layers in a row; bits, done: what smt.py's losses need, unused here.
    Truncated, the gradient is cut every H steps.
    """
    rnn, memories = models["rnn"], []
    for inputs in x.split(args.truncate, 1):  # (B, H)
        memory = memories[-1][:, -1].detach() if memories else None  # first m_∅, which is learnt
        memories.append(rnn.rollout(inputs, memory))
    # Read out where there is a loss; the readout costs more than a step of most cells.
    logits = rnn.readout(torch.cat(memories, 1)[y >= 0])[:, 0]  # (number scored, V)
    loss = cross_entropy(logits, y[y >= 0], scored(y))
    return loss, x.shape[1] * rnn.cell.depth + args.decoder_depth


# --------------------------------------------------------------- evaluate and sample: the RNN alone
def scores(readout: Decoder, memories: Tensor, y: Tensor) -> Tensor:
    """Nats and hits of the scored targets: memories (B, T, K, d), y (B, T) -> (2, number)."""
    logits, target = readout(memories[y >= 0])[:, 0].float(), y[y >= 0]  # (number scored, V)
    loss = F.cross_entropy(logits, target, reduction="none")
    return torch.stack([loss, logits.argmax(-1) == target]).cpu().double()


@torch.no_grad()
def evaluate(models: nn.ModuleDict, task: Task, split: str, rows: int | None = None) -> dict:
    """The RNN alone, from m_∅ on held-out sequences: a line of metrics.jsonl.

    Nats and shares of right answers per scored target. Of a teacher, which is not here, NaN.
    """
    rnn, alone = models["rnn"], []
    for chunk in torch.arange(rows or task.test_rows, device=task.device).split(64):
        x, y = task.batch(split, 0, chunk)
        memories = rnn.rollout(x)  # (B, T, K, d)
        alone.append(scores(rnn.readout, memories, y))
    figures = dict(zip(("val_loss", "val_acc"), torch.cat(alone, 1).mean(1).tolist()))
    return figures | dict.fromkeys(("teacher_loss", "teacher_acc", "drift"), float("nan"))


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
METHOD = "bptt"  # names the runs, and the tasks' defaults for it
ADAMW = {"betas": (0.9, 0.95), "weight_decay": 0.01, "fused": True}


def phases(args: Args) -> list[tuple]:
    """(name, loss, models trained, steps, peak learning rate) of the run's phases, in order."""
    return [("bptt", bptt_loss, ("rnn",), args.steps, args.lr)]


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
                report(state, phase, train_loss, evaluate(models, task, "val", args.eval_rows))
                save(args, models, optimizer, state)
                losses, clock = [], time.perf_counter()
        if state["step"] < last:  # Ctrl-C
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
    add("--decoder-depth", 2, whole(1), "layers of D and g")
    add("--steps", 3200, whole(0), "optimiser steps")
    add("--lr", 3e-4, number(0, above=True), "peak learning rate")
    add("--truncate", LARGEST, whole(1), "H, steps of a gradient; larger than T: all")
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
    """Shorten what goes beyond the T times."""
    args.truncate = min(args.truncate, T)


def build(args: Args, vocab: int):
    """The RNN, freshly initialised."""
    return Models({"rnn": RNN(args, vocab)})


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
