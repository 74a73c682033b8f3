"""Supervised Memory Training (SMT): pretrain an RNN without unrolling it.

After Kumar & Isola, Pretraining Recurrent Networks without Recurrence,
arXiv:2606.06479. What the paper does not have is marked (ours). A table after the
method says what is lost without it.

    python smt.py                      the task copy, some three minutes on two cores
    python smt.py --task list          all tasks
    python smt.py --task TASK --help   all options

Backpropagation through time (BPTT) unrolls an RNN: its T steps run one after another,
and the gradient passes back through all of them, and can fade on the way. SMT trains
single steps instead, all at once, between memories that an encoder has written.

What to remember. The encoder, a Transformer, reads a prefix x_0 .. x_t and writes a
memory of it, the label m_t. From m_t the decoder must predict y_t. It is also shown the
next inputs, and must predict their targets, too. As the next inputs are given, m_t has
to hold the rest: what these targets need of the past.

How to update it. From the label m_{t-1} and the input x_t the RNN's cell must make the
label m_t. It starts from a label, and not from a memory that it made. So no step waits
for another, and all steps are rows of one batch. Their loss also trains the encoder, to
write labels that the cell can follow.

Running alone. In the end only the RNN is needed. Then each step starts from a memory
that the RNN made itself, which is never exactly the label, and the error can grow: the
RNN drifts. So in a second phase, DAgger Memory Training (DMT), it runs on its own
memories, and each is pulled to the label of the same prefix. This unrolls the RNN. The
paper cuts the gradient at each step, H = 1. We cut it every H = 64 steps (ours), which
in sequences of up to 64 cuts nothing. Unlike in BPTT each step has a label to meet. In
copy (repeat 8 symbols after 32 blanks) this brings the RNN from some 70 % right answers
to 99.9 %, which BPTT reaches, too. In retrieval (name the one marked symbol of 64) SMT
and DMT reach 100 %, also with H = 1, and BPTT stays at chance. A GRU learns both by
BPTT.

Glossary
  symbol     here            shape and meaning
  x, y       x, y            (B, T) inputs and targets; y_t is to be predicted from
                             x_0 .. x_t; y_t = -1: nothing is asked there. In copy,
                             with . for a blank, | for the question and - for -1:
                                 x  5 1 7 . . | 5 1    (5 and 1: earlier answers)
                                 y  - - - - - 5 1 7
  m_t        labels          (B, T, K, d) labels[:, t] is m_t, the label of x_0 .. x_t
  m_∅        all_labels      (B, T + 1, K, d) m_∅ and labels: all_labels[:, t + 1] is
                             m_t. all_labels[:, 0] is m_∅, or m_{-1}, the label of the
                             empty prefix.
  m̂_t        memory          (B, K, d) the RNN's own memory of x_0 .. x_t. Where a
                             network takes a memory, a label fits, too.
             memories        (B, T, K, d) those of all times: memories[:, t] is m̂_t
  E          encoder         x -> all_labels
  D          decoder         m_t, x_{t+1} .. x_{t+Tf-1} -> logits of y_t .. y_{t+Tf-1}
  f          rnn.step        m_{t-1} or m̂_{t-1}, x_t -> a guess of m_t: it embeds x_t,
                             applies rnn.cell and scales to RMS 1
  g          decoder.readout m_t -> logits of y_t; a part of the decoder, which runs it
                             on more tokens
  Tf         future          targets in a window, y_t .. y_{t+Tf-1}; 64
  J          windows         windows of a sequence decoded in an update; 8 (ours)
  H          truncate        the most RNN steps that DMT's gradient passes through; 64
  B, T       batch_size, T   sequences in an update, times in a sequence
  V          vocab           size of the vocabulary
  K          memory_tokens   tokens of a memory; 4
  d          dim             numbers in a memory token; 64
  W          width           numbers in a token of the encoder; 128
             ..._depth       blocks: encoder 2, decoder 1, cell 1
  N, S                       any number of rows, any length
  Values are defaults; a task may set others.
  A step applies the RNN once. An update changes the weights once.

SMT, the first phase:
    m_∅, m_0 .. m_{T-1} = encoder(x)
    L_dec  = mean cross_entropy(decoder(m_t, x_{t+1} .. x_{t+Tf-1}), y_t .. y_{t+Tf-1})
    L_dyn  = mean square of step(m_{t-1}, x_t) - m_t, where m_{-1} = m_∅
    L_read = mean cross_entropy(decoder.readout(m_t), y_t)
    L_unif = log mean exp(-2 |u_a - u_b|^2), where u_a and u_b are the same memory token
             in the labels of two sequences at one t, scaled to length 1
    minimise L_dec + progress * λ_dyn * L_dyn + L_read + λ_unif * L_unif

    loss     at which t          trains                        so that
    L_dec    J random ones       encoder, decoder              labels hold what counts
    L_dyn    all                 encoder, rnn.cell, rnn.embed  the cell can follow them
    L_read   all with a target   encoder, decoder.readout      answers can be read
    L_unif   those of L_dec      encoder                       sequences' labels differ

    L_read is ours. progress is the share of the phase's updates that are done, so that
    the weight of L_dyn grows (ours). λ_dyn is 5 (ours; the paper has a constant 0.1),
    and λ_unif is 0.1 (ours; the paper has 0.001).

After SMT: rnn.empty_memory = m_∅, rnn.readout = a copy of decoder.readout

DMT, the second phase:
    _, m_0 .. m_{T-1} = encoder(x)
    cuts = every H-th t from a random one on; none if H >= T
    m̂_{-1} = rnn.empty_memory
    for t in 0 .. T - 1:
        if t in cuts: detach m̂_{t-1}
        m̂_t = step(m̂_{t-1}, x_t)
    L_labels = mean square of m̂_t - m_t, which trains rnn.cell and rnn.embed
    L_read   = mean cross_entropy(rnn.readout(detach(m̂_t)), y_t), which trains
               rnn.readout
    minimise L_labels + L_read

    Some tasks set --attach-readout (ours). Then L_read does not detach m̂_t, so that it
    trains rnn.cell and rnn.embed, too:
    minimise 0.1 * (1 - progress) * L_labels + L_read
"""

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

HEAD_SIZE = 16  # numbers in an attention head

# Three building blocks come after the method: mlp (it begins with a norm), attention
# (with rotary positions) and Transformer (without a norm at its end).


# --------------------------------------------- encoder: the labels of all times at once
class Encoder(nn.Module):
    """E: x (B, T) -> all_labels (B, T + 1, K, d).

    The Transformer is causal (ours), so one pass writes all labels. The paper's is
    bidirectional over x_0 .. x_t, and needs a pass for each. Whether its labels are
    better is not measured.

    fixed_T is T in tasks whose sequences all have one form; in copy, for example, the
    question always comes at the same t. There each token also gets a learned embedding
    of its time, the paper's timestamp. In other tasks (text, parity, modular) fixed_T
    is None: positions are rotary only, and longer sequences can be encoded, too.
    """

    def __init__(self, args: Namespace, vocab: int, fixed_T: int | None):
        super().__init__()
        W = args.width
        Kd = args.memory_tokens * args.dim  # numbers in a label
        self.K = args.memory_tokens
        self.start_token = vocab  # it comes before x_0
        self.embed = nn.Embedding(vocab + 1, W)
        self.timestamps = nn.Embedding(fixed_T + 1, W) if fixed_T else None
        self.short_conv = nn.Conv1d(W, W, 4, groups=W, bias=False)
        nn.init.zeros_(self.short_conv.weight)  # at first it adds nothing
        # Causal here and in write_labels; else m_t would also see later inputs.
        self.body = Transformer(W, args.encoder_depth, causal=True)
        self.norm = nn.RMSNorm(W)
        # These make labels out of the body's tokens; see write_labels.
        self.label_qkv = nn.Linear(W, 3 * Kd, bias=False)
        self.label_from_token = nn.Linear(W, Kd)
        self.label_mlp = mlp(args.dim, 4 * args.dim, args.dim)

    def forward(self, x: Tensor) -> Tensor:
        # The start token comes before x_0. It sees no input, so its label is m_∅.
        inputs = F.pad(x, (1, 0), value=self.start_token)  # (B, T + 1)
        h = self.embed(inputs)  # (B, T + 1, W)
        h = h + self.convolve(h)
        if self.timestamps is not None:
            stamps = self.timestamps.weight[: h.shape[1]]  # (T + 1, W)
            h = h + stamps
        h = self.norm(self.body(h))  # (B, T + 1, W)
        return self.write_labels(h)

    def convolve(self, h: Tensor) -> Tensor:
        """A learned sum of each token and the three before it.

        h (B, T + 1, W) -> the same shape.

        So attention need not find these three by their positions (ours).
        """
        padded = F.pad(h.transpose(1, 2), (3, 0))  # (B, W, 3 + T + 1)
        return self.short_conv(padded).transpose(1, 2)

    def write_labels(self, h: Tensor) -> Tensor:
        """The labels of all times: h (B, T + 1, W) -> (B, T + 1, K, d)."""
        # By default a label has 256 numbers, and a token of the encoder 128. So a
        # linear map of the token can't fill the label. K*d / HEAD_SIZE attention heads
        # read the whole prefix, and each adds to HEAD_SIZE numbers of the label (ours).
        qkv = self.label_qkv(h)  # (B, T + 1, 3*K*d)
        gathered = attention(qkv, causal=True)  # (B, T + 1, K*d)
        labels = self.label_from_token(h) + gathered
        labels = labels.float()  # memories are in fp32, also under --precision bf16
        labels = labels.unflatten(2, (self.K, -1))  # (B, T + 1, K, d)
        labels = labels + self.label_mlp(labels)  # each memory token by itself
        # Each token is scaled to RMS 1, as in RNN.step. So the encoder can't lower
        # L_dyn by shrinking the labels.
        return F.rms_norm(labels, labels.shape[-1:])


# ------------------------------------------------------------------------------ readout
class Readout(nn.Module):
    """g: a small Transformer over the tokens of a memory.

    m_t (..., K, d) -> logits of y_t (..., V), read at the last memory token.
    """

    def __init__(self, args: Namespace, vocab: int):
        super().__init__()
        self.body = Transformer(args.dim, args.decoder_depth, causal=True)
        self.norm = nn.RMSNorm(args.dim)
        self.to_logits = nn.Linear(args.dim, vocab)

    def forward(self, memory: Tensor) -> Tensor:
        *leading, K, d = memory.shape
        tokens = memory.reshape(-1, K, d)  # (N, K, d)
        h = self.body(tokens)  # (N, K, d)
        logits = self.last_layer(h[:, -1])  # (N, V)
        return logits.view(*leading, logits.shape[1])

    def last_layer(self, h: Tensor) -> Tensor:
        """h (..., d) -> logits (..., V)."""
        return self.to_logits(self.norm(h))


# ------------------------------------------------------------------------------ decoder
class Decoder(nn.Module):
    """D: the Transformer of its readout, on K memory tokens and then embedded inputs.

    m_t (N, K, d), x_{t+1} .. x_{t+S} (N, S) -> logits of y_t .. y_{t+S} (N, S + 1, V).
    The logits of y_t are read at the last memory token, those of y_{t+1} at the token
    of x_{t+1}, and so on. Attention is causal, so no logit depends on a later input.
    With no inputs (S = 0) the decoder is its readout, so L_dec trains the readout, too.
    """

    def __init__(self, args: Namespace, vocab: int):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)  # of the inputs after x_t
        self.readout = Readout(args, vocab)

    def forward(self, memory: Tensor, later_inputs: Tensor) -> Tensor:
        K = memory.shape[1]
        tokens = torch.cat([memory, self.embed(later_inputs)], 1)  # (N, K + S, d)
        h = self.readout.body(tokens)  # (N, K + S, d)
        # From the last memory token on, each token answers.
        return self.readout.last_layer(h[:, K - 1 :])


# ------------------------------------------------------------------------------ the RNN
class MLPCell(nn.Module):
    """The cell as MLPs over the flat memory.

    memory (N, K, d), embedded_input (N, d) -> the next memory (N, K, d).
    """

    def __init__(self, args: Namespace):
        super().__init__()
        d = args.dim
        Kd = args.memory_tokens * args.dim  # numbers in a memory
        blocks = [mlp(Kd + d, 2 * Kd, Kd) for _ in range(args.cell_depth)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, memory: Tensor, embedded_input: Tensor) -> Tensor:
        h = memory.flatten(1)  # (N, K*d)
        for block in self.blocks:
            seen = torch.cat([h, embedded_input], 1)  # (N, K*d + d)
            h = h + block(seen)
        return h.view_as(memory)


class TransformerCell(nn.Module):
    """The cell as a Transformer over K + 1 tokens; shapes as in MLPCell."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.body = Transformer(args.dim, args.cell_depth, causal=False)

    def forward(self, memory: Tensor, embedded_input: Tensor) -> Tensor:
        h = torch.cat([memory, embedded_input[:, None]], 1)  # (N, K + 1, d)
        h = self.body(h)
        return h[:, :-1]  # all but the token of the input


class GRUCell(nn.Module):
    """The cell as a GRU of one layer over the flat memory; shapes as in MLPCell."""

    def __init__(self, args: Namespace):
        super().__init__()
        self.gru = nn.GRUCell(args.dim, args.memory_tokens * args.dim)

    def forward(self, memory: Tensor, embedded_input: Tensor) -> Tensor:
        flat = self.gru(embedded_input, memory.flatten(1))  # (N, K*d)
        return flat.view_as(memory)


# The paper has cells of these three kinds. The MLP is the default here. A new one is a
# class like those above, and it gets a name here. RNN.step embeds the input for it and
# scales its result.
CELLS = {"mlp": MLPCell, "transformer": TransformerCell, "gru": GRUCell}
ONE_LAYER_CELLS = {"gru"}  # they ignore --cell-depth


class RNN(nn.Module):
    """All that inference needs: f (embedding and cell), g and m_∅."""

    def __init__(self, args: Namespace, vocab: int):
        super().__init__()
        self.embed = nn.Embedding(vocab, args.dim)
        self.cell = CELLS[args.cell](args)
        self.readout = Readout(args, vocab)
        # m_∅: hand_over_to_rnn sets it, and only bptt_baseline.py trains it.
        self.empty_memory = nn.Parameter(torch.randn(args.memory_tokens, args.dim))

    def step(self, memory: Tensor, x_t: Tensor) -> Tensor:
        """memory (N, K, d), x_t (N,) -> the next memory (N, K, d), tokens of RMS 1."""
        memory = self.cell(memory, self.embed(x_t))
        return F.rms_norm(memory.float(), memory.shape[-1:])  # in fp32, always

    def rollout(self, x: Tensor, cuts: range = range(0)) -> Tensor:
        """The RNN alone, from m_∅ through x (N, S) -> its memories (N, S, K, d).

        In training no gradient passes from a time in cuts to the times before it.
        """
        memory = self.empty_memory.expand(len(x), -1, -1)
        memories = []
        for t in range(x.shape[1]):
            if t in cuts:
                memory = memory.detach()
            memory = self.step(memory, x[:, t])
            memories.append(memory)
        return torch.stack(memories, 1)


# ------------------------------------------------------------ what an update works on
class Batch(NamedTuple):
    """The sequences of an update, and what else its loss depends on."""

    x: Tensor  # (B, T)
    y: Tensor  # (B, T)
    first_target: int  # the first time with a target in any row; T - 1 if none has
    generator: Generator  # on the CPU; all that a loss draws comes from it
    progress: float  # share of the phase's updates that are done, 0 at first


# -------------------------------------------------------------------- all the networks
class Models(nn.Module):
    """The networks of a run.

    task is one of data.py's TASKS. Networks need its vocab, T and has_timestamps,
    training its batch(B, generator) -> x, y (B, T), evaluation its held_out(split, B).
    """

    def __init__(self, args: Namespace, task):
        super().__init__()
        fixed_T = task.T if task.has_timestamps else None
        self.encoder = Encoder(args, task.vocab, fixed_T)
        self.decoder = Decoder(args, task.vocab)
        self.rnn = RNN(args, task.vocab)


# ---------------------------------------------------------------- the loss of a readout
def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean nats of the targets y >= 0; 0 if there is none. logits (..., V), y (...)."""
    logits = logits.flatten(0, -2).float()  # (N, V)
    y = y.flatten()  # (N,)
    nats = F.cross_entropy(logits, y, ignore_index=-1, reduction="sum")
    count = (y >= 0).sum()
    return nats / count.clamp(min=1)


def read_loss(readout: Readout, memories: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of the readout over all targets, in nats.

    memories (B, T, K, d) are the RNN's, or labels.
    """
    # Before the first target nothing is read, so these times are left out.
    first = batch.first_target
    # in_chunks(f, *tensors) is f(*tensors), in parts if there are many rows.
    logits = in_chunks(readout, memories[:, first:])  # (B, T - first, V)
    return cross_entropy(logits, batch.y[:, first:])


# ------------------------------------------------------------------------- the SMT loss
def smt_loss(models: Models, batch: Batch, args: Namespace) -> tuple[Tensor, dict]:
    """The four losses of SMT on a batch: returns their weighted sum, and each by name.

    Nothing is detached. Each loss trains all networks that it passes through.
    """
    decoder, rnn = models.decoder, models.rnn
    all_labels = models.encoder(batch.x)  # m_∅ first; (B, T + 1, K, d)
    labels = all_labels[:, 1:]  # m_0 .. m_{T-1}; (B, T, K, d)

    times = random_times(batch, args.windows, args.future)
    L_dec = decode_loss(decoder, labels, batch, times, args.future)
    L_dyn = dynamics_loss(rnn, all_labels, batch.x)
    # L_dec also predicts y_t from m_t, but at J times. L_read does at all times (ours).
    L_read = read_loss(decoder.readout, labels, batch)
    L_unif = uniformity_loss(labels, times)

    # The weight of L_dyn grows from 0 to λ_dyn (ours). The paper's is 0.1 throughout.
    # We think that an early L_dyn makes the encoder write labels that hold little, as
    # those are easy to predict.
    dynamics_weight = args.lambda_dyn * batch.progress
    loss = L_dec + dynamics_weight * L_dyn + L_read + args.lambda_unif * L_unif
    parts = {"decode": L_dec, "dynamics": L_dyn, "read": L_read, "uniformity": L_unif}
    return loss, parts


def random_times(batch: Batch, J: int, Tf: int) -> list[int]:
    """J random times t, the same in all rows; a time can come twice.

    The authors' notebook has J = 1. J = 8, and sharing the times among rows, are ours.
    """
    T = batch.x.shape[1]
    # A window that ends before the first target has none: t + Tf - 1 < first_target.
    # So of the losses only L_dyn uses labels before the earliest t.
    earliest = max(0, batch.first_target + 1 - Tf)
    times = torch.randint(earliest, T, (J,), generator=batch.generator)
    return times.tolist()


def decode_loss(
    decoder: Decoder, labels: Tensor, batch: Batch, times: list[int], Tf: int
) -> Tensor:
    """L_dec at some times t: the mean over their windows of targets.

    A window is cut off where the sequence ends. One without a target counts as 0.
    """
    x, y = batch.x, batch.y
    losses = []
    for t in times:
        end = min(t + Tf, x.shape[1])
        logits = decoder(labels[:, t], x[:, t + 1 : end])  # (B, end - t, V)
        losses.append(cross_entropy(logits, y[:, t:end]))
    return torch.stack(losses).mean()


def dynamics_loss(rnn: RNN, all_labels: Tensor, x: Tensor) -> Tensor:
    """L_dyn: B*T single steps at once, each from a label m_{t-1} to the next, m_t.

    The gradient passes through one step of the RNN, and then through the encoder, whose
    depth does not grow with T. So it has no chain of T steps in which it could fade.

    Update by update L_dyn also brings an input into earlier labels, whose window ends
    before the target that needs it (the paper shows this for Tf = 1). Say that Tf = 2,
    and that x_0 matters only for y_5:
        L_dec decodes y_5 from m_5 and from m_4, so m_4 must hold x_0.
        L_dyn makes m_4 from m_3 and x_4. To be small, it needs x_0 in m_3, too.
        L_dyn makes m_3 from m_2 and x_3, so m_2 needs it, too; and so on, down to m_0.
    Labels that all leave x_0 out would also lower L_dyn, but they raise L_dec.
    """
    previous_labels = all_labels[:, :-1].flatten(0, 1)  # every m_{t-1}; (B*T, K, d)
    next_labels = all_labels[:, 1:].flatten(0, 1)  # every m_t; (B*T, K, d)
    guess = in_chunks(rnn.step, previous_labels, x.flatten())  # (B*T, K, d)
    return F.mse_loss(guess, next_labels)


def uniformity_loss(labels: Tensor, times: list[int]) -> Tensor:
    """L_unif = log mean exp(-2 |u_a - u_b|^2) over labels at J times.

    The mean is over these times, all pairs of sequences a < b, and memory tokens. Only
    the same memory token of two sequences is compared (ours), and in the paper any two.

    We think that L_dec alone allows labels that hardly differ, as the decoder can
    amplify small differences. Then L_dyn would be small even for a cell that ignores
    its input. This loss pushes labels apart, also where two sequences need the same
    memory. So its weight is small. It is by Wang & Isola 2020, arXiv:2005.10242.
    """
    B = len(labels)
    if B == 1:  # there is no pair
        return labels.new_zeros(())
    chosen = torch.stack([labels[:, t] for t in times], 1)  # (B, J, K, d)
    u = F.normalize(chosen, dim=-1)
    # Every pair a < b once:
    a, b = torch.triu_indices(B, B, offset=1, device=u.device)  # each (pairs,)
    # index_select is u[a], but its gradient is repeatable with several threads, too.
    difference = u.index_select(0, a) - u.index_select(0, b)  # (pairs, J, K, d)
    squared_distance = difference.square().sum(-1)  # (pairs, J, K)
    return (-2 * squared_distance).exp().mean().log()


# ------------------------------------------------------------------ from SMT to the RNN
@torch.no_grad()
def hand_over_to_rnn(models: Models):
    """Copy m_∅ and the readout of labels into the RNN, which then can run alone.

    Recorder also calls it before each evaluation in the first phase. DMT then trains
    rnn.readout, and the readout of labels stays as it is.
    """
    rnn = models.rnn
    empty_prefix = torch.zeros(1, 0, dtype=torch.long, device=rnn.empty_memory.device)
    all_labels = models.encoder(empty_prefix)  # m_∅ alone; (1, 1, K, d)
    rnn.empty_memory.copy_(all_labels[0, 0])
    rnn.readout.load_state_dict(models.decoder.readout.state_dict())


# ---------------------------------------------------------------------------------- DMT
def dmt_loss(models: Models, batch: Batch, args: Namespace) -> tuple[Tensor, dict]:
    """The RNN runs alone and is pulled to the labels: returns the loss, and its parts.

    The idea is DAgger's (Ross et al. 2011): a learner acts, and a teacher, here the
    encoder, says what would have been right. A label depends on inputs only, so it
    stays the right target wherever the RNN has drifted to.

    The encoder is frozen, as no loss of DMT asks that labels hold anything. If it were
    trained, its labels could become easy to follow by holding nothing.

    A memory that has lost an input can't meet its label. With H > 1 (ours) the gradient
    also reaches the earlier step that lost it.

    --attach-readout (ours) is set in tasks with targets at about half of the times or
    more (stack, parity, modular, text, pixels). Then L_read also trains the cell, and
    L_labels fades out. So towards its end DMT is almost BPTT, truncated at H steps.
    """
    with torch.no_grad():
        all_labels = models.encoder(batch.x)  # (B, T + 1, K, d)
    labels = all_labels[:, 1:]  # (B, T, K, d)

    rnn = models.rnn
    cuts = random_cuts(batch, args.truncate)
    memories = rnn.rollout(batch.x, cuts)  # (B, T, K, d)

    if args.attach_readout:
        # With a weight of 1, L_labels would outweigh L_read, we think, in tasks such as
        # pixels, whose labels change much with each input and so are hard to meet. 0.1
        # is not tuned.
        labels_weight = 0.1 * (1 - batch.progress)
        memories_to_read = memories
    else:
        # The labels alone train the cell.
        labels_weight = 1.0
        memories_to_read = memories.detach()

    L_labels = F.mse_loss(memories, labels)
    L_read = read_loss(rnn.readout, memories_to_read, batch)
    loss = labels_weight * L_labels + L_read
    return loss, {"labels": L_labels, "read": L_read}


def random_cuts(batch: Batch, H: int) -> range:
    """Every H-th time, from a random one on: there a rollout cuts the gradient.

    The first cut is random, so that with H > 1 each update cuts at other places.
    T = 8, H = 3, first_cut = 2 cuts it so: x_0 x_1 | x_2 x_3 x_4 | x_5 x_6 x_7
    """
    T = batch.x.shape[1]
    if H >= T:
        return range(0)  # no cut
    first_cut = torch.randint(1, H + 1, (1,), generator=batch.generator).item()
    return range(first_cut, T, H)


# ------------------------------------------------------------------- phases and updates
class Phase(NamedTuple):
    """A part of a run: the updates begin .. end - 1."""

    name: str
    loss_fn: Callable  # (models, batch, args) -> the loss, its parts by name
    begin: int
    end: int
    peak_rate: float  # AdamW's learning rate is at most this, Muon's five times this
    batch_size: int
    trained: tuple[str, ...]  # names of the networks that it trains


def phases(args: Namespace) -> list[Phase]:
    """The phases of a run, in order."""
    return [
        Phase(
            name="smt",
            loss_fn=smt_loss,
            begin=0,
            end=args.updates,
            peak_rate=args.lr,
            batch_size=args.batch_size,
            trained=("encoder", "decoder", "rnn.cell", "rnn.embed"),
        ),
        Phase(
            name="dmt",
            loss_fn=dmt_loss,
            begin=args.updates,
            end=args.updates + args.dmt_updates,
            peak_rate=args.dmt_lr,
            batch_size=args.dmt_batch_size,
            trained=("rnn.cell", "rnn.embed", "rnn.readout"),
        ),
    ]


def set_trained(models: Models, phase: Phase):
    """Let gradients reach only what a phase trains."""
    models.requires_grad_(False)
    for name in phase.trained:
        models.get_submodule(name).requires_grad_(True)


def update(
    models: Models, optimizers: dict, compute_loss: Callable, batch: Batch
) -> dict:
    """Change the weights once: returns the parts of the loss, and the gradient's norm.

    compute_loss(batch) is loss_fn(models, batch, args) of a phase.
    """
    models.zero_grad()
    loss, parts = compute_loss(batch)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(models.parameters(), max_norm=1.0)
    for optimizer in optimizers.values():  # Muon and AdamW
        optimizer.step()
    parts = {name: part.detach() for name, part in parts.items()}
    return parts | {"gradient_norm": norm}


# -------------------------------------------------------------------- the training loop
def train(models: Models, task, args: Namespace, recorder: "Recorder"):
    """The training loop: all updates of a run that are not done yet.

    What is called here and not known yet comes after the method: recorder resumes,
    evaluates and saves, set_rates has the schedule of learning rates, and make_loss
    adds bf16 and several processes to loss_fn.
    """
    for phase in phases(args):
        if recorder.has_done(phase):  # by a run that was stopped, and goes on here
            continue
        set_trained(models, phase)
        optimizers = make_optimizers(models, phase.peak_rate)  # new ones in each phase
        compute_loss = make_loss(models, phase.loss_fn, args)
        total = phase.end - phase.begin
        recorder.begin(phase, optimizers)  # they go on where a stopped run left them
        for index in recorder.updates_left():
            done = index - phase.begin
            set_rates(optimizers, done, total)
            progress = done / total
            batch = draw_batch(task, phase.batch_size, index, progress, args)
            parts = update(models, optimizers, compute_loss, batch)
            recorder.after_update(parts)  # may evaluate the RNN and save the run
        if phase.name == "smt":  # the labels are learnt; the RNN goes on alone
            with not_compiled(args):  # --compile is for updates only
                hand_over_to_rnn(models)


# ======================================================================================
# The method ends here. The rest is what the networks are built of, the Transformer, and
# the program around the method: evaluation, samples, the optimisers Muon and AdamW,
# Recorder, several processes, files, the command line.
# ======================================================================================

# What a run ends at without a part, and with it, for each of some seeds:
#     part                     task                   without      with        seeds
#     short convolution        text, decoder.readout  1.65, 1.65   1.63, 1.62  1, 2
#     L_read in SMT            text, decoder.readout  2.09         1.63        1
#     --attach-readout         text                   1.74         1.67        1
#     gathering of labels      copy                   97, 97 %     99.9, 100 % 1, 2
#     L_unif (the paper's)     copy                   58, 98 %     99.9, 100 % 1, 2
#     growth of λ_dyn to 5     retrieval with H = 1   90 %         99.9 %      2
#         (without: 0.1)
#     H = 64 (without: 1)      copy                   91, 94 %     99.9, 100 % 1, 2
# The first three are in nats. Ours, too, but not measured: the causal encoder, J
# windows that rows share, which tokens L_unif pairs, Muon, sizes, and rates. No number
# of the paper is repeated here.
#
# Right answers of the RNN alone (seeds 0, 2, 3; the GRU's: 0 in copy, else 2):
#     method                      copy, T = 48    retrieval, T = 64
#     SMT                         65 to 74 %      75 to 91 %
#     SMT, then DMT with H = 1    90 to 94 %      99.7 to 100 %
#     SMT, then DMT with H = 64   99.9 %          100 %
#     BPTT, about as long         99.9 %          11 to 13 %
#     BPTT of a GRU               100 %           100 %
#     chance                      12.5 %          12.5 %
# The cell is an MLP, except in the GRU's row. In copy x has the right earlier answers.
# As T <= 64, each window reaches the end, and DMT's gradient passes through all steps.
# README.md has all tasks, and says when to use SMT.

# The method needs none of these.
import argparse
import difflib
import importlib.util
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import filelock
import numpy as np
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from data import TASKS, WrongInput, filename, list_tasks, number, whole

METHOD = "smt"  # as directories, checkpoints and recipes name it


# -------------------------------------------------------------------------- Transformer
def rotary(h: Tensor) -> Tensor:
    """Rotary positions: turn pairs of numbers by an angle that grows with the position.

    h (N, heads, S, head size) -> the same shape. Positions enter the product of a
    turned query and a turned key only by their difference.
    """
    S, head_size = h.shape[-2:]
    position = torch.arange(S, device=h.device)
    exponent = torch.arange(0, head_size, 2, device=h.device) / head_size
    frequency = 10000.0**-exponent  # (head size / 2,)
    angle = position[:, None] * frequency  # (S, head size / 2)
    cos, sin = angle.cos(), angle.sin()
    first, second = h.chunk(2, -1)  # each (N, heads, S, head size / 2)
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    return torch.cat([turned_first, turned_second], -1).type_as(h)


def attention(qkv: Tensor, causal: bool) -> Tensor:
    """Attention of several heads: qkv (N, S, 3*width) -> (N, S, width)."""
    qkv = qkv.unflatten(2, (-1, HEAD_SIZE))  # (N, S, 3*heads, head size)
    qkv = qkv.transpose(1, 2)  # (N, 3*heads, S, head size)
    q, k, v = qkv.chunk(3, 1)  # each (N, heads, S, head size)
    q, k = rotary(q), rotary(k)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # shaped as q
    return h.transpose(1, 2).flatten(2)  # the heads side by side (N, S, width)


def mlp(width: int, hidden: int, out: int) -> nn.Module:
    """An MLP after a norm, for residual branches: (..., width) -> (..., out)."""
    return nn.Sequential(
        nn.RMSNorm(width),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Linear(hidden, out),
    )


class Block(nn.Module):
    """A Transformer block: h (N, S, width) -> the same shape."""

    def __init__(self, width: int, causal: bool):
        super().__init__()
        self.causal = causal
        self.norm = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = mlp(width, 4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(h))  # (N, S, 3*width)
        attended = attention(qkv, self.causal)  # (N, S, width)
        h = h + self.out(attended)
        return h + self.mlp(h)


class Transformer(nn.Module):
    """Blocks one after another: h (N, S, width) -> the same shape."""

    def __init__(self, width: int, depth: int, causal: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, causal) for _ in range(depth))

    def forward(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h)
        return h


# ------------------------------------------------------------- many memories in chunks
MAX_ROWS = 65_535  # in a call of attention; some CUDA kernels fail with more
MAX_NUMBERS = 2**22  # in the memories that a network takes at once


def in_chunks(network: Callable, memory: Tensor, *inputs: Tensor) -> Tensor:
    """The same as network(memory, *inputs), with less memory if there are many rows.

    memory (N, K, d), or (..., K, d) if there are no inputs, are labels or memories.
    inputs (N, ...) are what else the network takes. A chunk has at most MAX_ROWS rows
    and MAX_NUMBERS numbers, but at least one row. Usually one chunk is enough.
    Otherwise activations are not kept, and the backward pass computes them again
    (checkpointing). At the authors' sizes that saves 130 GiB in SMT (B = 128, T = 256,
    fp32), as experiments/memory.py counts it.
    """
    *leading, K, d = memory.shape
    N = math.prod(leading)
    rows_per_chunk = min(MAX_ROWS, max(1, MAX_NUMBERS // (K * d)))
    if N <= rows_per_chunk:
        return network(memory, *inputs)
    rows = memory.reshape(N, K, d)
    chunks = [tensor.split(rows_per_chunk) for tensor in (rows, *inputs)]
    results = []
    for chunk in zip(*chunks):
        results.append(checkpoint(network, *chunk, use_reentrant=False))
    return torch.cat(results).unflatten(0, leading)


# --------------------------------------------------- evaluate and sample: the RNN alone
def score(logits: Tensor, y: Tensor) -> Tensor:
    """Sums of nats, right answers and answers: logits (B, T, V), y (B, T) -> (3,)."""
    flat = logits.flatten(0, 1)  # (B*T, V)
    nats = F.cross_entropy(flat, y.flatten(), ignore_index=-1, reduction="sum")
    right = (logits.argmax(-1) == y).sum()  # y = -1 is never right
    asked = (y >= 0).sum()
    return torch.stack([nats, right, asked]).cpu().double()


def per_answer(who: str, scores: list[Tensor]) -> dict:
    """The loss in nats and the share of right answers, per answer asked for."""
    nats, right, asked = sum(scores)
    return {
        f"{who}_loss": (nats / asked).item(),
        f"{who}_acc": (right / asked).item(),
    }


def drift_moments(memories: Tensor, labels: Tensor) -> Tensor:
    """What drift() needs of memories and labels (B, T, K, d) -> (3, B, K, d).

    It is the squared error, the label and the squared label, each as a mean over times.
    """
    error = (memories - labels).square()
    moments = torch.stack([error, labels, labels.square()])  # (3, B, T, K, d)
    return moments.mean(2).cpu().double()


def drift(moments: list[Tensor]) -> float:
    """The MSE between memories and labels over the variance of the labels.

    It is 0 if they are equal, and 1 if memories are as far off as the mean label would
    be. moments has those of each group of sequences, by drift_moments.
    """
    error, mean, square = torch.cat(moments, 1).mean(1)  # each (K, d)
    variance = square - mean.square()
    return (error.sum() / variance.sum()).item()


@torch.no_grad()
def evaluate(models: Models, task, split: str, rows: int) -> dict:
    """Measure the RNN alone, from m_∅, and its teacher: the readout of the labels."""
    encoder, rnn = models.encoder, models.rnn
    teacher = models.decoder.readout
    device = rnn.empty_memory.device
    stamps = encoder.timestamps
    rnn_scores, teacher_scores, moments = [], [], []
    all_x, all_y = task.held_out(split, rows)
    for x, y in zip(all_x.split(64), all_y.split(64)):  # 64 sequences at a time
        x, y = x.to(device), y.to(device)
        memories = rnn.rollout(x)  # (B, T, K, d)
        rnn_scores.append(score(in_chunks(rnn.readout, memories), y))
        # The encoder has timestamps for the times of training only.
        encoder_takes_it = stamps is None or x.shape[1] < stamps.num_embeddings
        if encoder_takes_it:
            labels = encoder(x)[:, 1:]  # (B, T, K, d)
            teacher_scores.append(score(in_chunks(teacher, labels), y))
            moments.append(drift_moments(memories, labels))
    figures = per_answer("rnn", rnn_scores)
    if teacher_scores:
        figures |= per_answer("teacher", teacher_scores)
        figures |= {"drift": drift(moments)}
    return figures


@torch.no_grad()
def generate(rnn: RNN, tokens: Tensor, length: int, args: Namespace) -> Tensor:
    """The RNN goes on from prompts: tokens (N, S) -> tokens (N, length)."""
    device = rnn.empty_memory.device
    # Other prompts have other draws, too.
    generator = seeded(args.seed, *tokens.flatten().tolist())
    memory = rnn.rollout(tokens.to(device))[:, -1]  # (N, K, d)
    while tokens.shape[1] < length:  # a new token costs one readout and one step
        logits = rnn.readout(memory) / args.temperature  # (N, V)
        p = logits.softmax(-1).cpu()
        token = torch.multinomial(p, 1, generator=generator)  # (N, 1)
        tokens = torch.cat([tokens, token], 1)
        memory = rnn.step(memory, token[:, 0].to(device))
    return tokens


@torch.no_grad()
def show(rnn: RNN, task, count: int, args: Namespace) -> str:
    """Answers of the RNN alone on test sequences, or what it writes and draws."""
    if hasattr(task, "prompts"):
        lines = []
        for name, prompts, length in task.prompts(count):
            for sample in generate(rnn, prompts, length, args):
                lines.append(f"--- {name}\n{task.draw(sample)}")
        return "\n".join(lines)
    x, y = task.held_out("test", max(count, 1024))
    # Another --seed shows other sequences.
    generator = Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(x), generator=generator)[:count]
    x, y = x[chosen], y[chosen]
    device = rnn.empty_memory.device
    memories = rnn.rollout(x.to(device))  # (count, T, K, d)
    answers = in_chunks(rnn.readout, memories).argmax(-1).cpu()
    return task.show(x, y, answers)


# ----------------------------------------------------------------- optimisers and draws
class FullPrecision(TorchFunctionMode):
    """Makes torch.optim.Muon (torch 2.9 to 2.13) compute in fp32, on a CPU.

    Muon calls .bfloat16() on each gradient, and has no option against it. In this mode
    that call returns a copy in fp32. On a CPU without bfloat16 products Muon would take
    30 times as long.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.bfloat16:
            return args[0].clone()  # Muon changes it in place
        return function(*args, **(kwargs or {}))


class Muon(torch.optim.Muon):
    """torch.optim.Muon, but in fp32 if its weights are on a CPU; see FullPrecision."""

    def step(self, closure=None):
        weights = self.param_groups[0]["params"]
        on_cpu = all(p.device.type == "cpu" for p in weights)
        with FullPrecision() if on_cpu else nullcontext():
            return super().step(closure)


def make_optimizers(models: nn.Module, peak: float) -> dict:
    """Muon for the matrices inside networks, AdamW for the rest; peak is AdamW's rate.

    The rest are embeddings, last layers, the short convolution, norms, biases and
    rnn.empty_memory. At equal rates both change a matrix by equal amounts
    ("match_rms_adamw"). Here Muon's rate is five times AdamW's. At equal rates text's
    teacher had 2.03 nats after 300 updates of SMT, and at five times 1.86 (one seed).
    All weights decay, those of norms and biases, too. The authors used AdamW for all,
    so Muon is (ours).
    """
    outer = ("embed.weight", "timestamps.weight", "to_logits.weight", "empty_memory")
    inside, rest = [], []
    for name, p in models.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim == 2 and not name.endswith(outer):
            inside.append(p)
        else:
            rest.append(p)
    muon_group = {"params": inside, "peak": 5 * peak}
    adamw_group = {"params": rest, "peak": peak}
    return {
        "muon": Muon([muon_group], weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW([adamw_group], weight_decay=0.1, betas=(0.9, 0.95)),
    }


def set_rates(optimizers: dict, done: int, total: int):
    """Set the learning rates of the update that comes after done of total updates.

    They rise over 2 % of the updates, and then fall as half a cosine, to 0.
    """
    rise = min(1, (done + 1) / (0.02 * total + 1))
    fall = (1 + math.cos(math.pi * done / total)) / 2
    for optimizer in optimizers.values():
        group = optimizer.param_groups[0]
        group["lr"] = group["peak"] * rise * fall


def seeded(*key: int) -> Generator:
    """A generator on the CPU whose draws depend on these numbers only."""
    seed = np.random.SeedSequence(key).generate_state(1)[0]
    return Generator().manual_seed(int(seed))


def draw_batch(task, B: int, index: int, progress: float, args: Namespace) -> Batch:
    """The batch of an update: B sequences. Each process (rank) draws rows of its own.

    All draws depend only on (seed, index of the update, rank), so that a run can be
    resumed.
    """
    generator = seeded(args.seed, index, process_number())
    x, y = task.batch(B // number_of_processes(), generator)
    asked = (y >= 0).any(0).tolist()
    first = asked.index(True) if True in asked else len(asked) - 1
    if args.device == "cuda":
        x, y = x.pin_memory(), y.pin_memory()  # copied without waiting for the device
    x = x.to(args.device, non_blocking=True)
    y = y.to(args.device, non_blocking=True)
    return Batch(x, y, first, generator, progress)


# ---------------------------------------------------- a run: between and after updates
def sequential_depth(phase: str, T: int, args: Namespace) -> int:
    """How many layers of an update's forward pass have to run one after another.

    A block of a Transformer and one of the MLP cell count as one layer.
    """
    cell_layers = 1 if args.cell in ONE_LAYER_CELLS else args.cell_depth
    encoder = args.encoder_depth + 1  # the last one writes the labels
    if phase == "dmt":
        return max(encoder, T * cell_layers + args.decoder_depth)
    return encoder + max(args.decoder_depth, cell_layers)


def longer_tasks(args: Namespace, task) -> dict:
    """The task with 2, 4, 8 times the length, as far as --eval-length asks for it."""
    longer = {
        factor: task.longer(factor)
        for factor in (2, 4, 8)
        if factor <= args.eval_length
    }
    if None in longer.values():
        message = f"sequences of {args.task} have one length"
        raise WrongInput(f"--eval-length {args.eval_length}: {message}; leave it out")
    for longer_task in longer.values():
        longer_task.identity()  # reads the data now, and finds if it is too short
    return longer


def train_and_test(models: Models, task, args: Namespace, run: dict, longer: dict):
    """Train from where the run stands, then measure the RNN on the test split."""
    state = run["state"]
    if state["update"] == 0:
        save(args, models, {}, state)  # finds now if it can't write
    with ControlC() as control_c:
        train(models, task, args, Recorder(models, task, args, run, control_c))
    lengths_measured = run.get("config", {}).get("eval_length")
    if not state["finished"] or args.eval_length != lengths_measured:
        with not_compiled(args):
            figures = evaluate(models, task, "test", 1024)
            for factor, longer_task in longer.items():
                values = evaluate(models, longer_task, "test", 1024)
                for name, value in values.items():
                    figures[f"{name}_{factor}x"] = value
        state["finished"] = True
        record(args, state, "final", figures)
        save(args, models, {}, state)
    report(state)


class Recorder:
    """Looks at a run between its updates: evaluates, prints, records and saves it.

    run is a checkpoint as read_run gives it, or {"state": new_state()}; see save.
    """

    def __init__(self, models: Models, task, args, run: dict, control_c: "ControlC"):
        self.models, self.task, self.args = models, task, args
        self.run, self.state = run, run["state"]
        self.control_c = control_c

    def has_done(self, phase: Phase) -> bool:
        """Whether no update of a phase is left."""
        return self.state["update"] >= phase.end

    def begin(self, phase: Phase, optimizers: dict):
        """Begin a phase, or go on with it, and with its optimisers."""
        state = self.state
        kinds = self.run.get("optimizers", {}).keys()
        if kinds and kinds != optimizers.keys():
            message = "a program with other optimisers made this run; resume it there"
            raise WrongInput(f"--resume: {message}")
        if state["update"] > phase.begin:
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict(self.run["optimizers"][name])
        self.phase, self.optimizers = phase, optimizers
        self.first = state["update"]
        self.bar = progress_bar(phase, self.args, state)
        self.parts = []  # of the loss, update by update since the last evaluation
        self.began = self.clock = time.perf_counter()  # clock: when that ended

    def updates_left(self) -> range:
        """The updates of the phase that are left at its begin."""
        return range(self.first, self.phase.end)

    def after_update(self, parts: dict):
        """Count an update; evaluate and save the run every so many of them."""
        phase, state, args = self.phase, self.state, self.args
        self.parts.append(parts)
        state["update"] += 1
        state["depth"] += sequential_depth(phase.name, self.task.T, args)
        self.bar.update()
        made = state["update"] - self.first
        if made == 20 or (made == 1 and not args.compile):
            parts["gradient_norm"].item()  # waits for the device
            seconds = time.perf_counter() - self.began
            say_how_long(phase, made, phase.end - self.first, seconds)

        done = state["update"] - phase.begin
        due = done % args.eval_every == 0 or state["update"] == phase.end
        # Several processes have to stop at the same update, so they stop only when due.
        stop_early = self.control_c.pressed and number_of_processes() == 1
        if due or stop_early:
            self.record_and_save(due)
        if state["update"] == phase.end:
            self.bar.close()

    def record_and_save(self, evaluation_is_due: bool):
        """Evaluate if that is due, save the run, and stop if Ctrl-C was pressed."""
        phase, state, args = self.phase, self.state, self.args
        # This waits for the device.
        means = mean_parts(self.parts, phase.name, state["update"])
        state["seconds"] += time.perf_counter() - self.clock
        if phase.name == "smt":
            with not_compiled(args):
                hand_over_to_rnn(self.models)
        if evaluation_is_due:
            with not_compiled(args):
                figures = evaluate(self.models, self.task, "val", 256)
            # The last update may have spoilt the weights; then nothing is saved.
            check_finite("rnn_loss", figures["rnn_loss"], state["update"], phase.name)
            record(args, state, phase.name, means | figures)
            show_in_bar(self.bar, {"rnn_acc": figures["rnn_acc"]} | means)
            report(state)
        save(args, self.models, self.optimizers, state)
        if in_any_process(self.control_c.pressed, args):
            how = "give the same command with --resume to go on"
            raise KeyboardInterrupt(f"saved after update {state['update']}; {how}")
        self.clock = time.perf_counter()
        self.parts = []


def not_compiled(args: Namespace):
    """A context in which nothing is compiled: evaluation has sizes of its own."""
    if not args.compile:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def progress_bar(phase: Phase, args: Namespace, state: dict) -> tqdm:
    """A bar over the updates of all phases; it is hidden where nobody would see it."""
    hidden = process_number() > 0 or not has_terminal()
    total = phases(args)[-1].end
    return tqdm(total=total, initial=state["update"], desc=phase.name, disable=hidden)


def show_in_bar(bar: tqdm, figures: dict):
    """Show figures next to the bar."""
    bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items()})


def say_how_long(phase: Phase, made: int, updates: int, seconds: float):
    """Print how long these updates take if all are as fast as those that are made."""
    each = seconds / made
    if made > 1 or each > 5:  # the first one may be slow, so only if that matters
        say(f"{phase.name}: {updates} updates, about {updates * each:.0f} s")


def mean_parts(parts: list[dict], phase: str, update: int) -> dict:
    """Means of the parts of updates up to this one; WrongInput if one is not finite."""
    means = {}
    for name in parts[0]:
        values = torch.stack([part[name] for part in parts]).tolist()
        for at, value in enumerate(values, update + 1 - len(values)):
            check_finite(name, value, at, phase)
        means[name] = sum(values) / len(values)
    return means


def check_finite(name: str, value: float, update: int, phase: str):
    """WrongInput if a figure is not a finite number: it names the rate to lower."""
    if math.isfinite(value):
        return
    message = f"{name} became {value} at update {update}, in phase {phase}"
    option = "--dmt-lr" if phase == "dmt" else "--lr"
    advice = "begin anew with a lower rate"
    if update == 1 and name != "rnn_loss":  # no rate has been used yet
        option, advice = "--cell", "take another cell or shorter sequences"
    raise WrongInput(f"{option}: {message}; {advice}")


def record(args: Namespace, state: dict, phase: str, figures: dict):
    """Add a line to the metrics of a run, and to TensorBoard's if it is installed."""
    line = {"phase": phase, "update": state["update"]}
    line |= {"seconds": state["seconds"], "depth": state["depth"]}
    state["metrics"].append(line | figures)
    if importlib.util.find_spec("tensorboard") and process_number() == 0:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(args.out) as writer:
            for name, value in figures.items():
                writer.add_scalar(f"{phase}/{name}", value, state["update"])


def announce(args: Namespace, task, models: Models, state: dict):
    """Print what the run is: its task, sizes and settings."""
    say(f"{args.task}: T = {task.T}, V = {task.vocab}, {args.device}, {args.precision}")
    if task.answers:
        say(f"A guess is right with probability {1 / task.answers:.4f}.")
    for name, network in models.named_children():
        numbers = sum(p.numel() for p in network.parameters())
        say(f"{name}: {numbers:,} parameters")
    shown = []
    for name, value in special_defaults(task).items():
        if getattr(args, name) == value:
            option = name.replace("_", "-")
            shown.append(f"--{option}" if value is True else f"--{option} {value}")
    if shown:
        say(f"Set for this task: {' '.join(shown)}")
    if task.about():
        say(task.about())
    if state["finished"]:
        say("The run is finished.")
    elif state["update"] > 0:
        say(f"The run goes on after update {state['update']}.")


def report(state: dict):
    """Print the figures of the RNN in the last line of the metrics."""
    line = state["metrics"][-1]
    shown = f"{line['phase']:5}  update {line['update']:5}  {line['seconds']:4.0f} s"
    for name, value in line.items():
        if name in ("rnn_loss_2x", "rnn_loss_4x", "rnn_loss_8x"):  # --eval-length
            say(shown)
            shown = f"sequences {name[-2]} times as long:"
        if name.startswith(("rnn", "teacher", "drift")):
            shown += f"  {name} {value:.4f}"
    say(shown)


def say(text: str):
    """Print in the first process. If nobody can read it, the run goes on."""
    if process_number() > 0:
        return
    try:
        tqdm.write(text)
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):  # a reader such as head has ended
        sys.stdout = open(os.devnull, "w")


def has_terminal() -> bool:
    """Whether someone sees a progress bar."""
    try:
        return sys.stderr.isatty()
    except (ValueError, AttributeError):  # it is closed
        return False


def warn(text: str):
    """Print on stderr in the first process. If nobody can read it, the run goes on."""
    if process_number() == 0:
        with suppress(OSError, ValueError, AttributeError):
            print(text, file=sys.stderr)


class ControlC:
    """Inside this context Ctrl-C only sets pressed, so that the update can end.

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
        when = "after this update"
        if number_of_processes() > 1:
            when = "at the next evaluation"
        warn(f"stopping {when}; Ctrl-C again stops at once")

    def __exit__(self, *_):
        if self.main:
            signal.signal(signal.SIGINT, self.usual)


# -------------------------------------------------------------------- several processes
def process_number() -> int:
    """The number of this process among all (its rank), as torchrun sets it, or 0."""
    launched = distributed.is_torchelastic_launched()
    return int(os.environ.get("RANK", 0)) if launched else 0


def number_of_processes() -> int:
    """How many processes torchrun has started, or 1."""
    launched = distributed.is_torchelastic_launched()
    return int(os.environ.get("WORLD_SIZE", 1)) if launched else 1


def in_any_process(flag: bool, args: Namespace) -> bool:
    """Whether the flag is set in any process; all of them have to call this."""
    if not distributed.is_initialized():  # one process, or nothing left to train
        return flag
    flags = torch.tensor(float(flag), device=args.device)
    distributed.all_reduce(flags)
    return flags.item() > 0


class Loss(nn.Module):
    """loss(batch) is loss_fn(models, batch, args), under --precision.

    DistributedDataParallel averages the gradients of what a module's forward computes.
    """

    def __init__(self, models: Models, loss_fn: Callable, args: Namespace):
        super().__init__()
        self.models, self.loss_fn, self.args = models, loss_fn, args

    def forward(self, batch: Batch) -> tuple[Tensor, dict]:
        bf16 = self.args.precision == "bf16"
        with torch.autocast(self.args.device, torch.bfloat16, enabled=bf16):
            return self.loss_fn(self.models, batch, self.args)


def make_loss(models: Models, loss_fn: Callable, args: Namespace) -> nn.Module:
    """The Loss; with several processes gradients are the mean over all.

    Each process has the losses of its own rows. SMT's L_unif compares the rows of one
    process, and the parts of the loss in the metrics are those of the first.
    """
    loss = Loss(models, loss_fn, args)
    if number_of_processes() == 1:
        return loss
    backend, device, device_ids = "gloo", None, None
    if args.device == "cuda":
        gpu = torch.cuda.current_device()
        backend, device, device_ids = "nccl", torch.device("cuda", gpu), [gpu]
    if not distributed.is_initialized():
        distributed.init_process_group(backend, device_id=device)
    return DistributedDataParallel(loss, device_ids=device_ids)


# ------------------------------------------------------------------- the files of a run
FORMAT = 7  # of checkpoint.pt; it grows when the content changes


def save(args: Namespace, models: Models, optimizers: dict, state: dict):
    """Write checkpoint.pt and metrics.jsonl, each whole or not at all."""
    if process_number() > 0:
        return
    out = Path(args.out)
    lines = [json.dumps(line) + "\n" for line in state["metrics"]]
    content = {
        "format": FORMAT,
        "config": vars(args),
        "state": state,
        "models": models.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The checkpoint comes last: it has the metrics, too, so that --resume writes
        # again what a kill has left out.
        (out / "metrics.tmp").write_text("".join(lines))
        os.replace(out / "metrics.tmp", out / "metrics.jsonl")
        torch.save(content, out / "checkpoint.tmp")
        os.replace(out / "checkpoint.tmp", out / "checkpoint.pt")
    except (OSError, RuntimeError) as error:  # torch.save raises the latter, too
        reason = str(error).splitlines()[0]
        raise WrongInput(f"--out {args.out}: can't write a file: {reason}") from None


@contextmanager
def claim(args: Namespace, run: dict):
    """Inside this context no other process can claim the directory of the run.

    The lock belongs to this process and ends with it, also if it is killed. WrongInput
    if another process has it, or if the directory is not as the options want it.
    """
    if process_number() > 0:  # the first process claims it for all
        yield
        return
    out = Path(args.out)
    lock = filelock.FileLock(out / "lock")
    try:
        check_directory(args, run)  # before anything is written; again under the lock
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        message = "another process is writing there; give another --out"
        raise WrongInput(f"--out {args.out}: {message}") from None
    except (OSError, NotImplementedError) as error:
        raise WrongInput(f"--out {args.out}: can't write a file: {error}") from None
    try:
        check_directory(args, run)
        yield
    finally:
        lock.release()


def check_directory(args: Namespace, run: dict):
    """WrongInput if --out holds what would be overwritten, or not what is resumed.

    A run that stands at update 0 has nothing to lose.
    """
    if Path(args.out).is_file():
        raise WrongInput(f"--out {args.out}: is a file; give a directory")
    holds_a_run = (Path(args.out) / "checkpoint.pt").exists()
    there = read_run(args.out, "--out") if holds_a_run else run
    found = there["state"] if holds_a_run else new_state()
    moved = any(found[name] != run["state"][name] for name in ("update", "finished"))
    if args.resume and moved:
        message = "another process has just gone on with this run; try again"
        raise WrongInput(f"--resume: {message}")
    if args.resume:
        return
    metrics = Path(args.out) / "metrics.jsonl"
    if found["update"] > 0 or found["finished"]:
        how = "give" if args.init else "--resume it, or give"
        if found["finished"]:
            how = "--sample 4 shows it; to train, give"
        message = f"holds a run; {how} another --out"
        if there["config"]["method"] != METHOD:
            message = f"holds a run of {there['config']['method']}; give another --out"
        raise WrongInput(f"--out {args.out}: {message}")
    if not holds_a_run and metrics.exists() and metrics.stat().st_size > 0:
        message = "holds the metrics of a run; give another --out"
        raise WrongInput(f"--out {args.out}: {message}")


def read_run(directory: str, option: str) -> dict:
    """Read a checkpoint, tensors and plain values; WrongInput if there is none."""
    file = Path(directory) / "checkpoint.pt"
    if not os.path.isfile(file):
        message = f"{directory} holds no run; name the --out of an earlier one"
        if option == "--sample":
            message += "; results/copy holds one of smt.py"
        raise WrongInput(f"{option}: {message}")
    try:
        run = torch.load(file, map_location="cpu", weights_only=True)
        known = run["format"] == FORMAT and set(run["state"]) == set(new_state())
    except PermissionError as error:
        raise WrongInput(f"{option}: can't read {file}: {error.strerror}") from None
    except Exception:  # damaged files make torch raise errors of many kinds
        message = f"{file} is damaged, or another program wrote it"
        raise WrongInput(f"{option}: {message}") from None
    if not known:
        message = f"another version of this program wrote {file}"
        raise WrongInput(f"{option}: {message}")
    return run


def new_state() -> dict:
    """How far a new run is. depth counts the layers that ran one after another."""
    return {
        "update": 0,
        "seconds": 0.0,
        "depth": 0,
        "metrics": [],
        "finished": False,
    }


def load(directory: str, device: str = "cpu") -> tuple:
    """A trained run's RNN and its task: rnn, task = load(RUN)."""
    run = read_run(directory, "load")
    args = Namespace(**run["config"])
    if args.method != METHOD:
        raise WrongInput(f"load: {args.method} made {directory}, not {METHOD}")
    task = make_task(args)
    rnn = RNN(args, task.vocab)
    load_weights(nn.ModuleDict({"rnn": rnn}), run["models"], f"load: {directory}")
    return rnn.to(device).requires_grad_(False), task


# --------------------------------------------------------------------- the command line

# Options as (name, default, kind, meaning). Those of the task are in data.py.
NETWORK_OPTIONS = [
    ("cell", "mlp", [*CELLS], "f, the RNN's cell"),
    ("memory-tokens", 4, whole(1, 4096), "K, tokens of a memory"),
    ("dim", 64, whole(16, 65536, HEAD_SIZE), "d, numbers in a memory token"),
    ("cell-depth", 1, whole(1, 1000), "layers of the cell (the GRU has one)"),
    ("decoder-depth", 1, whole(1, 1000), "layers of the readout, and of SMT's decoder"),
    ("width", 128, whole(16, 65536, HEAD_SIZE), "W, width of the encoder"),
    ("encoder-depth", 2, whole(1, 1000), "layers of the encoder"),
]
TRAINING_OPTIONS = [
    ("future", 64, whole(1), "Tf, times whose targets are decoded from a label"),
    ("windows", 8, whole(1, 1000), "J, labels of each sequence that are decoded"),
    ("lambda-dyn", 5.0, number(0), "λ_dyn, weight of L_dyn at the end of SMT"),
    ("lambda-unif", 0.1, number(0), "λ_unif, weight of L_unif"),
    ("updates", 500, whole(0), "updates before DMT"),
    ("lr", 3e-3, number(1e-12), "AdamW's peak rate; Muon's is five times it"),
    ("dmt-updates", 500, whole(0), "updates of DMT"),
    ("dmt-lr", 5e-4, number(1e-12), "AdamW's peak rate in DMT, Muon's likewise"),
    ("truncate", 64, whole(1), "H, RNN steps that DMT's gradient passes through"),
    ("attach-readout", False, bool, "in DMT targets train the cell; L_labels fades"),
    ("batch-size", 32, whole(1, MAX_ROWS), "sequences in an update before DMT"),
    ("dmt-batch-size", 32, whole(1, MAX_ROWS), "sequences in an update of DMT"),
    ("seed", 0, whole(0), "seed of weights, data and all other draws"),
]
RUN_OPTIONS = [
    (
        "preset",
        None,
        ["paper"],
        "sizes, rates and more of SMT's authors; see PAPER in the code",
    ),
    (
        "device",
        "auto",
        str,
        "cuda, mps, cpu; auto takes an accelerator if there is one",
    ),
    (
        "precision",
        "auto",
        ["auto", "fp32", "bf16"],
        "auto is bf16 on a GPU that computes in it, else fp32",
    ),
    ("compile", False, bool, "compile Transformers and cells, for updates"),
    ("eval-every", 100, whole(1), "updates between evaluations, which save the run"),
    ("eval-length", 1, [1, 2, 4, 8], "at the end test on 2, 4, .. times T, too"),
    (
        "out",
        None,
        filename,
        f"directory of the run; else runs/TASK-{METHOD}, with cell and seed if given",
    ),
    ("init", None, filename, "directory of a run: begin with its networks and sizes"),
    ("resume", False, bool, "go on with the run in --out"),
    ("sample", None, whole(1, MAX_ROWS), "don't train; show so many samples of --out"),
]
# The sizes, rates and weights of SMT's authors, from their notebook, and the paper's H.
# All else that is marked (ours) stays: their optimiser was AdamW, for example. Their
# heads have 32 numbers, and ours have HEAD_SIZE.
PAPER = {
    "cell": "transformer",
    "memory_tokens": 16,
    "dim": 256,
    "cell_depth": 8,
    "decoder_depth": 4,
    "width": 256,
    "encoder_depth": 8,
    "future": 64,
    "windows": 1,
    "lambda_dyn": 0.1,
    "lambda_unif": 0.001,
    "updates": 150_000,
    "lr": 3e-4,
    "dmt_updates": 1500,
    "dmt_lr": 3e-5,
    "truncate": 1,
    "attach_readout": False,
    "batch_size": 128,
    "dmt_batch_size": 32,
}
# What may change when a run goes on, as it belongs to the machine and not to the run.
MACHINE = {"device", "compile", "out", "resume", "sample"}
MACHINE |= {"prompt", "write", "temperature"}  # options of samples


def make_parser(
    groups: dict[str, list], special: dict | None = None
) -> argparse.ArgumentParser:
    """A parser of groups of options. Its result holds only those that are given.

    special are the defaults that the task and the preset set; --help shows them.
    """
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description=__doc__.splitlines()[0],
        usage="%(prog)s [--task NAME] [options]",
        epilog="--task NAME --help shows options and defaults of another task.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=special is not None,
    )
    tasks = f"{', '.join(TASKS)}; --task list describes them (default: copy)"
    parser.add_argument("--task", metavar="NAME", help=tasks)
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for name, default, kind, meaning in options:
            if kind is bool:
                how = {"action": argparse.BooleanOptionalAction}  # also --no-NAME
            elif isinstance(kind, list):
                how = {"choices": kind, "type": type(kind[0])}
            else:
                metavar = {filename: "PATH", str: "TEXT"}.get(kind, "N")
                how = {"type": kind, "metavar": metavar}
            default = (special or {}).get(python_name(name), default)
            has_default = default is not None and default is not False and default != ""
            text = f"{meaning} (default: {default})" if has_default else meaning
            group.add_argument(f"--{name}", help=text, **how)
    return parser


OTHER_NAMES = {  # what elsewhere is the name of an option
    "--steps": "--updates",
    "--iterations": "--updates",
    "--epochs": "--updates",
    "--dmt-steps": "--dmt-updates",
    "--learning-rate": "--lr",
    "--hidden-size": "--dim",
}


def refuse_unknown(option: str, task: str, groups: dict[str, list]):
    """WrongInput for an option that does not exist; it names the most similar one."""
    known = [f"--{name}" for options in groups.values() for name, *_ in options]
    similar = difflib.get_close_matches(option, ["--task", *known], 1, 0.75)
    advice = f"did you mean {similar[0]}?" if similar else "--help shows all"
    elsewhere = [
        name
        for name, other in TASKS.items()
        if option in [f"--{own}" for own, *_ in other.options]
    ]
    if elsewhere:
        advice = f"it is an option of {', '.join(elsewhere)}"
    name = option.removeprefix("--")
    if OTHER_NAMES.get(f"--{name}") in known:
        advice = f"here it is {OTHER_NAMES[f'--{name}']}"
    elif name in (*TASKS, "list"):
        advice = f"did you mean --task {name}?"
    elif f"--{name}" in ("--task", *known) and not option.startswith("-"):
        advice = f"did you mean --{name}?"
    elif not option.startswith("-"):
        message = (
            "no option takes this value; on/off options such as --compile take none"
        )
        raise WrongInput(f"{option}: {message}")
    program = Path(__file__).name
    message = f"{program} has no such option for the task {task}; {advice}"
    raise WrongInput(f"{option}: {message}")


def python_name(option: str) -> str:
    """The name of an option as an attribute of args."""
    return option.replace("-", "_")


def special_defaults(task) -> dict:
    """The defaults that a task sets for networks and training."""
    names = [python_name(name) for name, *_ in NETWORK_OPTIONS + TRAINING_OPTIONS]
    special = task.sizes | task.recipe.get(METHOD, {})
    return {name: value for name, value in special.items() if name in names}


def settings(argv: list[str] | None) -> tuple[Namespace, dict, dict | None]:
    """The options -> args, the run (new, or to go on with), the run to begin from.

    Later ones win: defaults, the task's, the task options of --init, the preset, an
    earlier run, what is given.
    """
    groups = {
        "the run": RUN_OPTIONS,
        "training": TRAINING_OPTIONS,
        "networks": NETWORK_OPTIONS,
    }
    # A first look finds the task, whose options and defaults the parser then has.
    first_look, rest = make_parser(groups).parse_known_args(argv)
    task_name = getattr(first_look, "task", "copy")
    if task_name == "list":
        others = [f"--{name.replace('_', '-')}" for name in vars(first_look)]
        fine = ("--task", "-h", "--help")
        others = [name for name in rest + others if name not in fine]
        if others:
            message = "--task list takes nothing else; leave it out"
            raise WrongInput(f"{others[0]}: {message}")
        say(list_tasks())
        sys.exit(0)
    earlier, run, source = earlier_run(first_look, task_name)
    task_name = earlier.get("task", task_name)
    if task_name not in TASKS:
        similar = difflib.get_close_matches(task_name, TASKS, 1, 0.75)
        advice = f"did you mean {similar[0]}? " if similar else ""
        advice += f"give one of {', '.join(TASKS)}, or list"
        raise WrongInput(f"--task {task_name}: {advice}")

    task = TASKS[task_name]
    groups = {f"the task {task_name}": task.options} | groups
    shown = special_defaults(task)
    if hasattr(first_look, "preset"):
        shown |= PAPER
    given, unknown = make_parser(groups, shown).parse_known_args(argv)
    if unknown:
        refuse_unknown(unknown[0].split("=")[0], task_name, groups)
    given = vars(given)
    keep_what_was(given, earlier)

    config = {"task": task_name, "method": METHOD, "ranks": number_of_processes()}
    for options in groups.values():
        config |= {python_name(option): default for option, default, *_ in options}
    config |= special_defaults(task)
    if source is not None:  # the task as it was
        names = [python_name(name) for name, *_ in task.options]
        config |= {name: source["config"][name] for name in names}
    if "preset" in given:
        config |= PAPER
    config |= earlier
    config |= given
    config["out"] = default_out(first_look, task_name)
    args = Namespace(**config)
    settle_device(args)
    check(args, given)
    return args, run, source


def earlier_run(first_look: Namespace, task: str) -> tuple[dict, dict, dict | None]:
    """What an earlier run settles, the run to go on with, the run to begin from."""
    if getattr(first_look, "resume", False) or hasattr(first_look, "sample"):
        out = default_out(first_look, task)
        option = "--resume" if getattr(first_look, "resume", False) else "--sample"
        run = read_run(out, option)
        if run["config"]["method"] != METHOD:
            made_by = run["config"]["method"]
            program = {"bptt": "bptt_baseline"}.get(made_by, made_by)
            message = f"{made_by} made this run, not {METHOD}; use {program}.py"
            raise WrongInput(f"--out {out}: {message}")
        kept = {k: v for k, v in run["config"].items() if k not in MACHINE}
        return kept, run, None
    new = {"state": new_state()}
    if hasattr(first_look, "init"):
        source = read_run(first_look.init, "--init")
        if source["state"]["update"] == 0:
            message = "this run has made no updates; name a trained one"
            raise WrongInput(f"--init {first_look.init}: {message}")
        names = ["task", *[python_name(name) for name, *_ in NETWORK_OPTIONS]]
        kept = {
            name: source["config"][name] for name in names if name in source["config"]
        }
        return kept, new, source
    return {}, new, None


def keep_what_was(given: dict, earlier: dict):
    """WrongInput if a given option differs from the earlier run and may not."""
    # The data may have another path; start() makes sure that they are the same.
    may_change = MACHINE | {"data", "eval_length"}
    if "sample" in given:
        may_change |= {"seed"}  # samples are drawn anew
    for option, value in given.items():
        if option in may_change or option not in earlier:
            continue
        if value == "auto":  # it was settled when the run began
            given[option] = earlier[option]
        elif value != earlier[option]:
            shown = f"--{option.replace('_', '-')} {value}"
            was = "none" if earlier[option] is None else earlier[option]
            message = f"the earlier run has {was}, and that can't change"
            advice = "leave it out"
            trains = option in [python_name(name) for name, *_ in TRAINING_OPTIONS]
            if trains and given.get("resume"):
                advice += ", or begin a new run by --init in the place of --resume"
            raise WrongInput(f"{shown}: {message}; {advice}")


def default_out(first_look: Namespace, task: str) -> str:
    """The directory of the run, as given or by task, method, cell and seed."""
    parts = [task, METHOD]
    for name in ("cell", "seed"):
        if name in first_look:
            parts.append(str(getattr(first_look, name)))
    return getattr(first_look, "out", "runs/" + "-".join(parts))


def settle_device(args: Namespace):
    """Settle device and precision; WrongInput if the machine lacks them."""
    started = os.environ.get("WORLD_SIZE", "1")
    if started != "1" and not distributed.is_torchelastic_launched():
        message = "several processes have to be started by torchrun"
        raise WrongInput(f"WORLD_SIZE={started}: {message}; otherwise unset it")
    there = ["cpu"]
    if torch.accelerator.is_available():
        there.insert(0, torch.accelerator.current_accelerator().type)
    if args.device not in ("auto", *there):
        message = f"this machine has {' and '.join(there)}"
        raise WrongInput(f"--device {args.device}: {message}")
    if args.device == "auto":
        args.device = there[0]
    if args.device == "mps" and number_of_processes() > 1:
        raise WrongInput("--device mps: trains in one process only; leave torchrun out")
    if args.device == "cuda":
        launched = distributed.is_torchelastic_launched()
        local_rank = int(os.environ["LOCAL_RANK"]) if launched else 0
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            message = f"this machine has {gpus} GPUs; give torchrun no more processes"
            raise WrongInput(f"--device cuda: {message}")
        torch.cuda.set_device(local_rank)
    if args.precision == "auto":
        args.precision = "fp32"
        if args.device == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            args.precision = "bf16" if native else "fp32"  # emulation is slow


def idle_options(args: Namespace) -> dict[str, str]:
    """Options that nothing reads, each with the reason."""
    idle = {}
    if args.cell in ONE_LAYER_CELLS:
        idle["cell_depth"] = f"with --cell {args.cell}, which has one layer"
    if args.sample:
        idle["compile"] = "with --sample, as only updates are compiled"
        idle["eval_length"] = "with --sample"
        if not TASKS[args.task].samples_need_data:
            idle["data"] = "with --sample"
    if args.updates == 0:
        smt = ("lr", "batch_size", "future", "windows", "lambda_dyn", "lambda_unif")
        idle |= dict.fromkeys(smt, "with --updates 0")
    if args.dmt_updates == 0:
        dmt = ("dmt_lr", "dmt_batch_size", "truncate", "attach_readout")
        idle |= dict.fromkeys(dmt, "with --dmt-updates 0")
    return idle


def check(args: Namespace, given: dict):
    """WrongInput if options don't go together."""
    batch_sizes = [name for name in ("batch_size", "dmt_batch_size") if name in args]
    for name in batch_sizes:
        size = getattr(args, name)
        if size % args.ranks:
            option = name.replace("_", "-")
            message = f"give a multiple of {args.ranks}, the number of processes"
            raise WrongInput(f"--{option} {size}: {message}")
    if args.resume and args.ranks != number_of_processes():
        now = number_of_processes()
        message = f"the run has {args.ranks} processes, and these are {now}"
        raise WrongInput(f"--resume: {message}; give torchrun the same number")
    if "preset" in given and "init" in given:
        raise WrongInput("--preset paper: its sizes are not those of --init; give one")
    for name, reason in idle_options(args).items():
        if name in given:
            option = name.replace("_", "-")
            raise WrongInput(f"--{option}: has no effect {reason}; leave it out")
    if args.updates == 0 and args.dmt_updates > 0 and args.init is None:
        raise WrongInput(
            "--updates 0: DMT needs labels; give some updates, or --init RUN"
        )
    if args.resume and args.sample:
        raise WrongInput("--sample: shows the run and does not --resume it; give one")


def make_task(args: Namespace):
    """The task with the options that belong to it."""
    names = [python_name(name) for name, *_ in TASKS[args.task].options]
    return TASKS[args.task](**{name: getattr(args, name) for name in names})


def start(args: Namespace, run: dict, source: dict | None) -> tuple:
    """The task, and the networks with the weights of the run or the source, if any."""
    if args.cell not in CELLS:  # as may be in a run of another program
        message = f"this program has no such cell; give a run with {', '.join(CELLS)}"
        raise WrongInput(f"--cell {args.cell}: {message}")
    task = make_task(args)
    if not args.sample or task.samples_need_data:
        identity = task.identity()
        if (args.resume or args.sample) and identity != args.data_identity:
            was = args.data_identity or "no file"
            message = f"is not what the run began with ({was}); give that"
            raise WrongInput(f"--data {args.data}: {message}")
        args.data_identity = identity
    if not args.sample:
        check_memory(args, task)
    torch.manual_seed(args.seed)
    models = Models(args, task)
    if args.sample:  # it needs no other network
        models = nn.ModuleDict({"rnn": models.rnn})
    weights = (source or run).get("models")
    if weights is not None:
        where = f"--init {args.init}" if source else f"--out {args.out}"
        load_weights(models, weights, where)
    models.to(args.device)
    if args.compile:
        for network in models.modules():
            if isinstance(network, (Block, *CELLS.values())):
                network.compile()
    return task, models


def check_memory(args: Namespace, task):
    """WrongInput if weights, gradients and optimisers alone need more than there is."""
    with torch.device("meta"):  # shapes without numbers
        numbers = sum(p.numel() for p in Models(args, task).parameters())
    needed = 3 * 4 * numbers  # a weight, its gradient and a moment, in fp32
    if args.device == "cuda":
        there = torch.cuda.get_device_properties("cuda").total_memory
    elif hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # Windows does not say
        return
    if needed > there:
        message = f"training needs over {needed >> 30} GiB of {there >> 30}"
        raise WrongInput(f"--dim, --width: {message}; give smaller sizes")


def load_weights(models: nn.Module, weights: dict, where: str):
    """Load the weights of these networks; WrongInput if those of a run don't fit.

    where is the option and the run that the weights are of, for the message.
    """
    there = {name.split(".")[0] for name in weights}
    missing = [name for name, _ in models.named_children() if name not in there]
    if missing:
        held = ", ".join(sorted(there))
        message = f"the run holds only {held}, and no {missing[0]}; name another run"
        raise WrongInput(f"{where}: {message}")
    try:
        weights = {name: weights[name] for name in models.state_dict()}
        models.load_state_dict(weights)
    except (KeyError, RuntimeError):
        message = "a network has another size; leave out what changes sizes or T"
        raise WrongInput(f"{where}: {message}") from None


def next_commands(args: Namespace) -> str:
    """What can be done with a finished run."""
    out = shlex.quote(args.out)
    return (
        f"The run is in {out}. To see more samples, or its curves:\n"
        f"  python {Path(__file__).name} --sample 9 --out {out}\n"
        f"  python experiments/figures.py run {out}  (needs matplotlib)"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that there is no more memory, on the GPU or the CPU."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def main(argv: list[str] | None = None) -> int:
    """Train and show samples; with --sample, only show samples.

    The exit status is 0, 2 for wrong input (one line says what), 130 for Ctrl-C.
    """
    # Gradients that fade become denormal numbers. They are taken for zeros, as an Intel
    # CPU computes with them at a quarter of its speed (BPTT in retrieval).
    torch.set_flush_denormal(True)
    try:
        args, run, source = settings(argv)
        task, models = start(args, run, source)
        if not args.sample:
            longer = longer_tasks(args, task)
            # All wrong input is found by now, before a directory is made.
            with claim(args, run):
                announce(args, task, models, run["state"])
                train_and_test(models, task, args, run, longer)
        elif not run["state"]["finished"]:
            made = run["state"]["update"]
            say(f"This run is not finished. It has made {made} updates.")
        if process_number() == 0:
            with not_compiled(args):
                say(show(models.rnn, task, args.sample or 4, args))
        if not args.sample:
            say(next_commands(args))
        if distributed.is_initialized():
            distributed.destroy_process_group()
    except WrongInput as error:
        make_parser({}).error(str(error))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            advice = "give smaller sizes, --batch-size, --dmt-batch-size or --sample"
            make_parser({}).error(f"the memory is full; {advice}")
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).splitlines()[0]
            make_parser({}).error(f"--compile: the compiler failed: {reason}")
        raise
    except KeyboardInterrupt as stop:
        message = "stopped; --resume goes on from the last checkpoint, if there is one"
        warn(str(stop) or message)
        return 130
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a terminal that lacks a character shows its code
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
