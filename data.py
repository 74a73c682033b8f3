"""The tasks: sequences with known answers, and text.

A task is a class with
  options     {name: default} of the task's own command-line options
  sizes       {name: value} of the RNN, over the programs' own defaults
  smt, bptt   {name: value} of how smt.py and bptt_baseline.py train it, likewise
  vocab, T    vocabulary size V and sequence length
  axis        the option that longer(times) multiplies, None where sequences have one length
  batch(split, step, rows) -> x, y    int64 (B, T); y = -1 where there is no loss
  show(x, y, answers) -> str          some sequences with the RNN's answers, to be printed
or, where the RNN can write on by itself, instead of show
  prompts(text, rows) -> [(name, tokens (B, S), length to go on to)]
  draw(tokens) -> str                 one of the sequences that it wrote, the start token first
Row r of step n depends on (seed, split, n, r) alone, not on what was drawn before or beside it: a
run can be resumed, or its rows split over processes, with nothing to save. Splits: "train", "val"
(looked at while training) and "test" (for the final figure; of text, the same held-out tenth).
"""

import string
from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor

from run import LARGEST, Parser, UsageError, default_text, random_bits, read_bytes, read_images
from run import task_of, whole

# The tasks' own options, as argparse takes them. A task lists those it has, with its defaults.
OPTIONS = {
    "length": {"type": whole(1, LARGEST), "help": "symbols; of text: bytes in a sequence"},
    "delay": {"type": whole(0, LARGEST), "help": "copy: blanks before the answer"},
    "reverse": {"action": "store_true", "default": None, "help": "copy: answer in reverse order"},
    "distractors": {"type": whole(0, LARGEST), "help": "retrieval: marked symbols to be forgotten"},
    "depth": {"type": whole(1, LARGEST), "help": "stack: what it holds at most"},
    "pairs": {"type": whole(1, LARGEST), "help": "recall, modular: pairs in a sequence"},
    "modulus": {"type": whole(2, 61), "help": "modular: V, a prime"},
    "side": {"type": whole(4, 1024), "help": "pixels: width and height of an image"},
    "levels": {"type": whole(2, 256), "help": "pixels: levels of grey"},
    "data": {"help": "text, pixels: a file (default: CPython's language reference; strokes)"},
}
Batch = tuple[Tensor, Tensor]  # x, y
LETTERS = string.digits + string.ascii_letters  # how tokens are shown


class Task:
    """What the generated tasks share. letters: what shows token 0, 1, ..; V of them."""

    sizes, smt, bptt, test_rows = {}, {}, {}, 1024
    axis = "length"  # the option that longer sequences have more of; None: they have one length

    def __init__(self, seed: int, device: torch.device, **options):
        vars(self).update(seed=seed, device=device, **options)
        if wrong := self.wrong():
            raise UsageError(wrong)

    def wrong(self) -> str:
        """What can't be had with these options, and what can; "" if all is well."""
        return ""

    def longer(self, times: int) -> "Task":
        """The same task with sequences so many times as long."""
        options = {name: getattr(self, name) for name in self.options}
        options[self.axis] *= times
        return type(self)(self.seed, self.device, **options)

    vocab = property(lambda self: len(self.letters))
    T = property(lambda self: self.length)

    def bits(self, split: str, step: int, rows: Tensor, columns: int) -> Tensor:
        return random_bits((self.seed, split, step), rows, columns)

    def show(self, x: Tensor, y: Tensor, answers: Tensor) -> str:
        lines = []
        for x, y, answer in zip(x.tolist(), y.tolist(), answers.tolist()):
            given = "".join(self.letters[token] for token in x)
            given = given if len(given) <= 64 else f"{given[:40]}...{given[-20:]}"
            scored = [t for t, target in enumerate(y) if target >= 0]
            said, right = ("".join(self.letters[row[t]] for t in scored) for row in (answer, y))
            wrong = sum(a != b for a, b in zip(said, right))
            lines.append(f"{given}  {said}  {f'{wrong} wrong: {right}' if wrong else 'right'}")
        return "\n".join(lines)


class Copy(Task):
    """Repeat L random symbols after a delay: x = s, delay blanks, delimiter, s without its end.

    Loss on the L answers alone. T = 2 L + delay.
    """

    options = {"length": 8, "delay": 32, "reverse": False}
    smt, axis = {"decoder_context": 8, "dmt_steps": 800}, "delay"
    letters = "01234567.|"  # 8 is the blank, 9 the delimiter
    T = property(lambda self: 2 * self.length + self.delay)

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        s = self.bits(split, step, rows, self.length) % 8
        answer = s.flip(1) if self.reverse else s
        blanks, delimiter = s.new_full((len(rows), self.delay), 8), s.new_full((len(rows), 1), 9)
        x = torch.cat([s, blanks, delimiter, answer[:, :-1]], 1)
        return x, F.pad(answer, (self.T - self.length, 0), value=-1)


class Retrieval(Task):
    """Find the symbol behind the marker > in the first half; the query ? at the end asks for it.

    Distractors are symbols there behind another marker, -. Loss on the one answer. T = length.
    """

    options = {"length": 64, "distractors": 0}
    smt = {"batch_size": 64, "labels": 8, "decoded": 2, "noise": 0.3}
    smt |= {"steps": 1200, "cell_only": 0.4, "dmt_steps": 200}
    letters = "01234567>-?"

    def wrong(self) -> str:
        least = 4 * (self.distractors + 1)
        said = f"--length {self.length}: its half can't hold the markers; give {least} or more"
        return said if self.length < least else ""

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        bits = self.bits(split, step, rows, self.T + self.T // 4)
        x = bits[:, : self.T] % 8
        # Each marker has two places of its own, for itself and its symbol.
        place = 2 * bits[:, self.T :].argsort(1)[:, : 1 + self.distractors]  # (B, 1 + distractors)
        x.scatter_(1, place, 9).scatter_(1, place[:, :1], 8)[:, -1] = 10
        needle = x.gather(1, place[:, :1] + 1)
        return x, F.pad(needle, (self.T - 1, 0), value=-1)


class Stack(Task):
    """Random pushes of 4 symbols and pops; the answer at a pop is what it pops, on top till then.

    No loss at a push. Pushes and pops are as likely where both can be; in training they also come
    in runs of 2, 4 or 8: else few futures ask for what lies deep, and labels lack it. T = length.
    """

    options, sizes = {"length": 32, "depth": 8}, {"cell_depth": 2, "decoder_depth": 1}
    smt = {"encoder_depth": 3, "decoded": 16, "future": 8, "cell_only": 0.15, "dmt_steps": 2800}
    letters = "abcd-"  # the last is a pop

    def wrong(self) -> str:
        return "--length 1: has no pop; give 2 or more" if self.length < 2 else ""

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        bits, t = self.bits(split, step, rows, self.T + 1), torch.arange(self.T).to(rows.device)
        run = 2 ** (bits[:, -1:] % 4 * (split == "train"))  # (B, 1)
        wish, bits = bits.gather(1, t // run * run), bits[:, :-1]  # each (B, T)
        depth = torch.zeros_like(bits[:, :1])
        stack, x, y = depth.expand(-1, self.depth + 1).clone(), [], []
        for b, w in zip(bits.split(1, 1), wish.split(1, 1)):  # each depth tells the next
            pop = (depth > 0) & ((w % 8 >= 4) | (depth == self.depth))
            x.append(torch.where(pop, 4, b % 4))
            y.append(torch.where(pop, stack.gather(1, (depth - 1).clamp(min=0)), -1))
            stack.scatter_(1, depth, b % 4)  # at a pop: into a place that is free
            depth = torch.where(pop, depth - 1, depth + 1)
        return torch.cat(x, 1), torch.cat(y, 1)


class Recall(Task):
    """Pairs of a key and its value, all keys different, then one of the keys: what is its value?

    8 values, twice as many keys as pairs. Loss on the one answer. T = 2 pairs + 1. In training up
    to half of the pairs give way to more questions: one tells little of what a memory lacks.
    """

    options, axis = {"pairs": 8}, None
    smt = {"labels": 8, "decoded": 8, "lambda_dyn": 30.0, "steps": 6000, "dmt_steps": 1600}
    T = property(lambda self: 2 * self.pairs + 1)
    letters = property(lambda self: LETTERS[:8] + LETTERS[10 : 10 + 2 * self.pairs])

    def wrong(self) -> str:
        return f"--pairs {self.pairs}: of 52 keys; give at most 26" if self.pairs > 26 else ""

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        P, t = self.pairs, torch.arange(self.T, device=rows.device)
        bits = self.bits(split, step, rows, 3 * P + 1 + self.T)
        keys, values = 8 + bits[:, : 2 * P].argsort(1)[:, :P], bits[:, 2 * P : 3 * P] % 8  # (B, P)
        given = P - bits[:, 3 * P, None] % (P // 2 + 1) * (split == "train")  # (B, 1) pairs
        asked = bits[:, -self.T :] % given  # (B, T)
        pairs = F.pad(torch.stack([keys, values], 2).flatten(1), (0, 1))  # (B, T)
        x = torch.where(t < 2 * given, pairs, keys.gather(1, asked))
        return x, torch.where(t < 2 * given, -1, values.gather(1, asked))


class Modular(Task):
    """Pairs a, (w a + b) mod V, w and b hidden, w not 0, other ones in each sequence; V is prime.

    The answer at each a is the second of its pair; two pairs with other a give w and b away. Loss
    on the later half; in training from the third pair on, where look-ups find little. T = 2 pairs.
    """

    options, axis = {"pairs": 16, "modulus": 7}, "pairs"
    smt = {"labels": 8, "decoded": 8, "future": 2, "registers": "now", "lambda_tok": 3.0}
    smt |= {"lr": 3e-3, "steps": 8000, "cell_only": 0.2, "dmt_steps": 700}
    T = property(lambda self: 2 * self.pairs)
    letters = property(lambda self: LETTERS[: self.modulus])

    def wrong(self) -> str:
        prime = all(self.modulus % factor for factor in range(2, self.modulus))
        return "" if prime else f"--modulus {self.modulus}: is not prime; give 2, 3, 5, 7, 11, ..."

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        bits, V = self.bits(split, step, rows, self.pairs + 2), self.modulus
        a, w, b = bits[:, 2:] % V, bits[:, :1] % (V - 1) + 1, bits[:, 1:2] % V
        second = (w * a + b) % V  # (B, pairs)
        known = min(2, self.pairs // 2) if split == "train" else self.pairs // 2
        answer = second.masked_fill(torch.arange(self.pairs, device=a.device) < known, -1)
        y = torch.stack([answer, torch.full_like(answer, -1)], 2)
        return torch.stack([a, second], 2).flatten(1), y.flatten(1)


class Parity(Task):
    """Bits; the answer at each is whether the number of ones so far is odd. T = length."""

    options, sizes = {"length": 32}, {"memory": 1, "decoder_depth": 1}
    smt = {"encoder_depth": 3, "registers": "now", "decoded": 16, "future": 2, "noise": 1.0}
    smt |= {"lambda_unif": 0.0, "steps": 5000, "dmt_steps": 800}
    letters = "01"

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        x = self.bits(split, step, rows, self.T) % 2
        return x, x.cumsum(1) % 2


class Text(Task):
    """The next byte of a file; x is y shifted by one behind a start token: m_∅ can begin a text.

    The last tenth of the file is held out; "val" and "test" read it in windows of T side by side.
    """

    options = {"data": "", "length": 64}
    sizes = {"memory": 2, "dim": 128, "decoder_depth": 1}
    # Registers now: times relative to the present, as text has no end.
    smt = {"encoder_depth": 3, "registers": "now", "decoded": 16, "future": 4}
    smt |= {"lambda_readout": 1.0, "steps": 1200, "cell_only": 0.0, "dmt_steps": 300}
    bptt = {"steps": 2000, "lr": 3e-3}
    start, vocab = 256, 257  # tokens 0..255 are the bytes

    def __init__(self, seed: int, device: torch.device, data: str, length: int):
        super().__init__(seed, device, data=data, length=length)
        raw = read_bytes(data) if data else default_text()
        held_out = len(raw) // 10
        if held_out < length:
            raise UsageError(f"--data {data}: of {len(raw)} bytes no tenth holds --length {length}")
        everything = torch.frombuffer(bytearray(raw), dtype=torch.uint8).to(device)
        self.test_rows = min(held_out // length, -(-100_000 // length))
        self.train, self.held_out = everything[:-held_out], everything[-held_out:]

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        text = self.train if split == "train" else self.held_out
        if split == "train":
            begin = self.bits(split, step, rows, 1)[:, 0] % (len(text) - self.T + 1)
        else:
            # 7919 is prime: rows walk over all windows before one comes again, and far apart.
            windows = len(text) // self.T
            begin = rows * (7919 if windows % 7919 else 1) % windows * self.T
        y = text[begin[:, None] + torch.arange(self.T, device=rows.device)].long()
        return torch.cat([torch.full_like(y[:, :1], self.start), y[:, :-1]], 1), y

    def prompts(self, text: str, rows: Tensor) -> list[tuple]:
        written = text.encode(errors="surrogateescape")
        tokens = torch.tensor([self.start, *written], device=rows.device)
        return [("sample", tokens.expand(len(rows), -1), len(tokens) + 4 * self.T)]

    def draw(self, tokens: Tensor) -> str:
        return bytes(t for t in tokens.tolist() if t < self.start).decode(errors="replace")


class Pixels(Task):
    """The next pixel of an image in raster order, as one of so many levels of grey.

    Images of a file, shrunk to side x side, the last tenth held out; else strokes, an arc and a
    line from its end, drawn anew for each row. T = side^2; x is y behind a start token.
    """

    options, axis = {"data": "", "side": 14, "levels": 4}, None
    smt = {"encoder_depth": 3, "registers": "now", "decoded": 8, "future": 16, "steps": 900}
    smt |= {"lambda_readout": 1.0, "cell_only": 0.0, "dmt_steps": 900, "rollout": 32}
    bptt = {"steps": 900, "lr": 1e-3}
    vocab = property(lambda self: self.levels + 1)  # the last is the start token
    T = property(lambda self: self.side**2)

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.images = None
        if self.data:
            images = torch.from_numpy(read_images(self.data)).to(self.device)
            small = [F.adaptive_avg_pool2d(i.float(), self.side) for i in images.split(1000)]
            self.images = self.quantise(torch.cat(small) / 256)
            self.test_rows = min(1024, len(images) // 10)

    def quantise(self, images: Tensor) -> Tensor:
        """Grey 0..1 (B, side, side) -> levels, int64 (B, T)."""
        return (images.flatten(1) * self.levels).long().clamp(max=self.levels - 1)

    def batch(self, split: str, step: int, rows: Tensor) -> Batch:
        if self.images is None:
            y = self.quantise(strokes(self.bits(split, step, rows, 8) / 2**62, self.side))
        elif split == "train":
            seen = len(self.images) - len(self.images) // 10
            y = self.images[self.bits(split, step, rows, 1)[:, 0] % seen]
        else:
            y = self.images[len(self.images) - 1 - rows % (len(self.images) // 10)]
        return F.pad(y[:, :-1], (1, 0), value=self.levels), y

    def prompts(self, text: str, rows: Tensor) -> list[tuple]:
        x, _ = self.batch("test", 0, rows)
        half = x[:, : 1 + self.side * (self.side // 2)]
        return [("upper half given", half, 1 + self.T), ("from nothing", x[:, :1], 1 + self.T)]

    def draw(self, tokens: Tensor) -> str:
        on = (2 * tokens[1:] >= self.levels).view(self.side, self.side).long()
        on = F.pad(on, (0, 0, 0, self.side % 2)).tolist()
        pairs = (zip(*rows) for rows in zip(on[::2], on[1::2]))  # two rows of pixels a line
        return "\n".join("".join(" ▄▀█"[2 * a + b] for a, b in pair) for pair in pairs)


def strokes(u: Tensor, side: int) -> Tensor:
    """An arc p0 p1 p2 and a line p2 p3: points u (B, 8) in 0..1 -> grey 0..1 (B, side, side)."""
    p0, p1, p2, p3 = (1 + u * (side - 3)).unflatten(1, (4, 1, 2)).unbind(1)  # each (B, 1, 2)
    s = torch.arange(2 * side, device=u.device)[:, None] / (2 * side)  # (2 side, 1)
    arc = (1 - s) ** 2 * p0 + 2 * s * (1 - s) * p1 + s**2 * p2  # (B, 2 side, 2)
    row, column = torch.cat([arc, p2 + s * (p3 - p2)], 1)[..., None].unbind(2)  # (B, 4 side, 1)
    at = torch.arange(side, device=u.device)
    away = (row - at).square()[..., None] + (column - at).square()[:, :, None]
    return (1.5 - away.amin(1)).clamp(0, 1)


TASKS = {"copy": Copy, "retrieval": Retrieval, "stack": Stack, "recall": Recall}
TASKS |= {"modular": Modular, "parity": Parity, "text": Text, "pixels": Pixels}


def make_task(args: Namespace) -> Task:
    """The task that the options ask for; UsageError if one of them is another task's."""
    task = TASKS[args.task]
    for name in OPTIONS:
        value = getattr(args, name)
        if value is not None and name not in task.options:
            raise UsageError(f"--{name} {value}: no option of task {args.task}; see --task list")
    task = task(args.seed, args.device, **{name: getattr(args, name) for name in task.options})
    if args.eval_length > 1 and task.axis:
        task.longer(args.eval_length)  # finds out what can't be had before the run, not after it
    return task


def add_task(p: Parser):
    """The option --task, and those of all tasks; their defaults come with the task."""
    p.add("--task", "copy", task_of(TASKS), "what to learn; list: tells what there is")
    for name, kind in OPTIONS.items():
        p.add_argument("--" + name, **kind)
