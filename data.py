"""The tasks: sequences with known answers, text and images.

Everything here runs on the CPU and draws from a torch.Generator that the caller seeds.
So a batch is the same on every device, and it depends only on its seed.

A task is a class with
  options     its command-line options, as (name, default, kind, meaning)
  sizes       {option: value} of the networks' sizes that differ from the defaults
  recipe      {method: {option: value}} of what else differs, for "smt" or "bptt";
              nextlat.py takes what it has of "smt"
  vocab, T    number of different tokens V, and length of the sequences
  has_timestamps  whether a time means the same in all sequences, so that the encoder
              can learn an embedding of each
  batch(B, generator)        B training sequences: x, y
  held_out(split, rows)      rows fixed sequences for "val" or "test": x, y
  longer(times)              the same task with longer sequences, or None
  samples_need_data  whether samples begin with something of a file
  identity()                 length and hash of the data, "" if all is generated
  about()                    a sentence about the data, "" if all is generated
  answers     how many answers there are, all as likely; None in text and pixels
  show(x, y, answers)        a text that shows sequences with the answers of the RNN
x and y are int64 (B, T). y[b, t] is the answer asked for after x[b, : t + 1].
y[b, t] = -1 means that nothing is asked there. A file is read when it is first needed.

A task in which the RNN can write on by itself (text, pixels) has, in place of show,
  prompts(rows)              a list of (name, tokens (rows, S), length to write up to)
  draw(tokens)               a text that shows one written sequence
"""

import argparse
import gzip
import hashlib
import io
import os
import re
import string
import struct
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LETTERS = string.digits + string.ascii_letters  # how tokens are shown
HELD_OUT_SEED = {"val": 1, "test": 2}  # the same sequences for each run and device
# How files begin that are often taken for text, and the bytes that are in no text.
NO_TEXT = {
    "compressed (gzip)": b"\x1f\x8b",
    "compressed (zip)": b"PK\x03\x04",
    "compressed (bzip2)": b"BZh",
    "compressed (xz)": b"\xfd7zXZ",
    "compressed (zstd)": b"\x28\xb5\x2f\xfd",
    "a PDF": b"%PDF-",
    "in UTF-16 or UTF-32": b"\xff\xfe",
    "in UTF-16 (big-endian)": b"\xfe\xff",
}
CONTROLS = {*range(32)} - {*b"\t\n\v\f\r\b\x1b"}


class WrongInput(Exception):
    """The user gave something that can't be used. The text is the line to print."""


# ----------------------------------------------------------------- the kinds of options
def whole(low: int, high: int = 2**31 - 1, step: int = 1):
    """An option's kind: a whole number from low to high, a multiple of step."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            message = f"{text!r} is not a whole number"
            raise argparse.ArgumentTypeError(message) from None
        if not low <= value <= high or value % step:
            multiple = f"a multiple of {step} " if step > 1 else ""
            message = f"{text} is not {multiple}in {low} .. {high}"
            if high == 2**31 - 1 and value < low:
                message = f"{text} is too small; give {low} or more"
            raise argparse.ArgumentTypeError(message)
        return value

    return parse


def filename(text: str) -> str:
    """An option's kind: the name of a file or a directory."""
    if not text:
        raise argparse.ArgumentTypeError("'' is no name; give one, or leave it out")
    if "\0" in text:
        raise argparse.ArgumentTypeError("no name has a zero byte")
    return text


def number(low: float, high: float = 1e9):
    """An option's kind: a number from low to high."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not low <= value <= high:  # this refuses nan, too
            raise argparse.ArgumentTypeError(f"{text} is not in {low:g} .. {high:g}")
        return value

    return parse


LENGTH = whole(1, 100_000)  # more than memory allows, to catch slips of the finger


# ------------------------------------------------------------------ the generated tasks
def check_split(split: str):
    """ValueError for a split that there is not."""
    if split not in HELD_OUT_SEED:
        raise ValueError(f"split {split!r}: give one of {', '.join(HELD_OUT_SEED)}")


class Task:
    """What the generated tasks share. letters[v] shows token v; there are V of them.

    length_option is the option that longer sequences have more of.
    """

    options, sizes, recipe, length_option = [], {}, {}, "length"
    has_timestamps, samples_need_data = True, False

    def __init__(self, **options):
        vars(self).update(options)
        problem = self.problem()
        if problem:
            raise WrongInput(problem)

    def problem(self) -> str:
        """What can't be had with these options, and what can; "" if all is well."""
        return ""

    def __repr__(self) -> str:
        names = [name for name, *_ in self.options if hasattr(self, name)]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({shown})"

    @property
    def vocab(self) -> int:
        return len(self.letters)

    @property
    def T(self) -> int:
        return self.length

    def longer(self, times: int) -> "Task | None":
        """The same task with sequences so many times as long."""
        if self.length_option is None:
            return None
        options = {name: getattr(self, name) for name, *_ in self.options}
        options[self.length_option] *= times
        return type(self)(**options)

    def identity(self) -> str:
        """All sequences are generated."""
        return ""

    about = identity

    def batch(self, B: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """B training sequences: x, y (B, T)."""
        return self.sequences(B, generator, training=True)

    def held_out(self, split: str, rows: int) -> tuple[Tensor, Tensor]:
        """Fixed sequences of a split, "val" or "test": x, y (rows, T)."""
        check_split(split)
        generator = torch.Generator().manual_seed(HELD_OUT_SEED[split])
        return self.sequences(rows, generator, training=False)

    def show(self, x: Tensor, y: Tensor, answers: Tensor) -> str:
        """Each sequence, the RNN's answers and the right ones; all (rows, T)."""
        lines = []
        for tokens, targets, said in zip(x.tolist(), y.tolist(), answers.tolist()):
            asked = [t for t, target in enumerate(targets) if target >= 0]
            given = "".join(self.letters[token] for token in tokens)
            if len(given) > 64:
                given = f"{given[:40]}...{given[-20:]}"
            answer = "".join(self.letters[said[t]] for t in asked)
            right = "".join(self.letters[targets[t]] for t in asked)
            wrong = sum(a != b for a, b in zip(answer, right))
            verdict = f"{wrong} wrong, right is {right}" if wrong else "all right"
            lines.append(f"{given}  RNN: {answer}  {verdict}")
        return "\n".join(lines)


class Copy(Task):
    """Repeat L symbols after a delay: after 5 1 7 . . | the answers are 5 1 7.

    x is the symbols, blanks for the delay, a delimiter, and all symbols but the last.
    y asks for the symbols, from the delimiter on. T = 2 L + delay.
    """

    answers = 8
    options = [
        ("length", 8, LENGTH, "L, symbols to repeat"),
        ("delay", 32, whole(0, 100_000), "blanks before the answer"),
        ("reverse", False, bool, "answer in reverse order"),
    ]
    sizes = {"width": 64}
    recipe = {"bptt": {"updates": 1500, "lr": 2.5e-4}}
    length_option = "delay"
    letters = "01234567.|"
    blank, delimiter = 8, 9

    @property
    def T(self) -> int:
        return 2 * self.length + self.delay

    def sequences(self, B: int, generator: Generator, training: bool):
        s = torch.randint(8, (B, self.length), generator=generator)
        answer = s.flip(1) if self.reverse else s
        blanks = torch.full((B, self.delay), self.blank)
        delimiter = torch.full((B, 1), self.delimiter)
        x = torch.cat([s, blanks, delimiter, answer[:, :-1]], 1)
        y = torch.full_like(x, -1)
        y[:, -self.length :] = answer
        return x, y

    def show(self, x: Tensor, y: Tensor, answers: Tensor) -> str:
        """As in other tasks, but x without the right answers so far at its end."""
        return super().show(x[:, : x.shape[1] + 1 - self.length], y, answers)


class Retrieval(Task):
    """Find the symbol behind the marker > in the first half; ? at the end asks for it.

    Distractors are symbols there behind another marker, -.
    Loss on the one answer. T = length.
    """

    answers = 8
    options = [
        ("length", 64, LENGTH, "symbols in a sequence"),
        ("distractors", 0, whole(0, 25_000), "marked symbols that must be forgotten"),
    ]
    sizes = {"width": 64}
    recipe = {
        "smt": {"windows": 2, "updates": 300, "dmt_updates": 200},
        "bptt": {"updates": 880, "lr": 1e-3},
    }
    letters = "01234567>-?"
    marker, other_marker, query = 8, 9, 10

    def problem(self) -> str:
        least = 4 * (self.distractors + 1)
        if self.length < least:
            markers = f"--distractors {self.distractors}"
            return f"--length {self.length}: with {markers} it must be {least} or more"
        return ""

    def sequences(self, B: int, generator: Generator, training: bool):
        x = torch.randint(8, (B, self.T), generator=generator)
        # The first half is cut into pairs of places: a marker and its symbol fill one.
        order = torch.rand(B, self.T // 4, generator=generator).argsort(1)
        places = 2 * order[:, : 1 + self.distractors]  # (B, 1 + distractors)
        needle = places[:, :1]
        x.scatter_(1, places, self.other_marker)
        x.scatter_(1, needle, self.marker)
        x[:, -1] = self.query
        y = torch.full_like(x, -1)
        y[:, -1:] = x.gather(1, needle + 1)
        return x, y


class Stack(Task):
    """Random pushes of 4 symbols and pops; the answer at a pop is what it takes off.

    Nothing is asked at a push. Pushes and pops are equally likely where both can be.
    In training they also come in runs of 2, 4 or 8: few random sequences ask for what
    lies deep in the stack, and then labels do not keep it. T = length.
    """

    answers = 4
    options = [
        ("length", 32, whole(2, 100_000), "pushes and pops"),
        ("depth", 8, LENGTH, "symbols on the stack, at most"),
    ]
    sizes = {"cell_depth": 2}
    recipe = {
        "smt": {
            "updates": 700,
            "dmt_updates": 600,
            "attach_readout": True,
            "dmt_lr": 1e-3,
        },
        "bptt": {"updates": 2000, "lr": 1e-3},
    }
    letters = "abcd-"
    pop = 4

    def sequences(self, B: int, generator: Generator, training: bool):
        symbols = torch.randint(4, (B, self.T), generator=generator)
        wishes = torch.rand(B, self.T, generator=generator) < 0.5  # True: a pop
        if training:
            run = 2 ** torch.randint(4, (B, 1), generator=generator)
            start_of_run = torch.arange(self.T) // run * run  # (B, T)
            wishes = wishes.gather(1, start_of_run)
        x = symbols.clone()
        y = torch.full_like(x, -1)
        stack = torch.zeros(B, self.depth + 1, dtype=torch.long)
        height = torch.zeros(B, dtype=torch.long)
        row = torch.arange(B)
        for t in range(self.T):
            pops = (height > 0) & (wishes[:, t] | (height == self.depth))  # (B,)
            top = stack[row, (height - 1).clamp(min=0)]
            x[pops, t] = self.pop
            y[pops, t] = top[pops]
            stack[row, height] = symbols[:, t]  # at a pop this place stays free
            height = torch.where(pops, height - 1, height + 1)
        return x, y


class Recall(Task):
    """Pairs of a key and its value, all keys different; then a key: what is its value?

    There are 8 values and twice as many keys as pairs. Loss on the one answer.
    In training up to half of the pairs give way to more questions, as one question a
    sequence tells little about what a memory lacks. T = 2 pairs + 1.
    """

    answers = 8
    options = [("pairs", 8, whole(1, 26), "pairs of a key and a value")]
    sizes = {"memory_tokens": 16, "dim": 16}  # the decoder looks pairs up by attention
    recipe = {
        "smt": {
            "updates": 4000,
            "lr": 2e-3,
            "windows": 16,
            "dmt_updates": 1500,
            "dmt_lr": 1e-3,
        },
        "bptt": {"updates": 14000, "lr": 1e-3},
    }
    length_option = None

    @property
    def letters(self) -> str:
        return LETTERS[:8] + LETTERS[10 : 10 + 2 * self.pairs]

    @property
    def T(self) -> int:
        return 2 * self.pairs + 1

    def sequences(self, B: int, generator: Generator, training: bool):
        P, t = self.pairs, torch.arange(self.T)
        keys = torch.rand(B, 2 * P, generator=generator).argsort(1)[:, :P] + 8
        values = torch.randint(8, (B, P), generator=generator)
        given = torch.full((B, 1), P)
        if training:
            given -= torch.randint(P // 2 + 1, (B, 1), generator=generator)
        pairs = torch.stack([keys, values], 2).flatten(1)  # (B, 2 P)
        pairs = F.pad(pairs, (0, 1))  # (B, T)
        draws = torch.rand(B, self.T, generator=generator)
        asked = (draws * given).long()  # (B, T), the number of a given pair
        is_given = t < 2 * given
        x = torch.where(is_given, pairs, keys.gather(1, asked))
        y = torch.where(is_given, -1, values.gather(1, asked))
        return x, y


class Modular(Task):
    """Pairs a, (w a + b) mod V: find the hidden w > 0 and b. V is prime.

    w and b are new in each sequence. The answer at each a is the second of its pair.
    Two pairs with different a tell w and b. Loss on the later half of the pairs; in
    training from the third pair on. T = 2 pairs.
    """

    options = [
        ("pairs", 16, LENGTH, "pairs in a sequence"),
        ("modulus", 7, whole(2, 61), "V, a prime"),
    ]
    recipe = {
        "smt": {
            "updates": 1200,
            "dmt_updates": 800,
            "attach_readout": True,
            "dmt_lr": 1e-3,
        },
        "bptt": {"updates": 4600, "lr": 2e-3},
    }
    has_timestamps = False
    length_option = "pairs"

    @property
    def answers(self) -> int:
        return self.modulus

    @property
    def letters(self) -> str:
        return LETTERS[: self.modulus]

    @property
    def T(self) -> int:
        return 2 * self.pairs

    def problem(self) -> str:
        for factor in range(2, self.modulus):
            if self.modulus % factor == 0:
                return f"--modulus {self.modulus}: give a prime: 2, 3, 5, 7, 11, .."
        return ""

    def sequences(self, B: int, generator: Generator, training: bool):
        V, P = self.modulus, self.pairs
        a = torch.randint(V, (B, P), generator=generator)
        w = torch.randint(1, V, (B, 1), generator=generator)
        b = torch.randint(V, (B, 1), generator=generator)
        second = (w * a + b) % V  # (B, P)
        x = torch.stack([a, second], 2).flatten(1)  # (B, T)
        y = torch.full_like(x, -1)
        first_asked = min(2, P // 2) if training else P // 2
        y[:, 2 * first_asked :: 2] = second[:, first_asked:]
        return x, y


class Parity(Task):
    """Bits; the answer at each is 1 if the number of ones so far is odd."""

    answers = 2
    options = [("length", 32, LENGTH, "bits in a sequence")]
    recipe = {
        "smt": {
            "updates": 400,
            "dmt_updates": 600,
            "attach_readout": True,
            "dmt_lr": 1e-3,
        },
        "bptt": {"updates": 1600, "lr": 4e-3},
    }
    has_timestamps = False
    letters = "01"

    def sequences(self, B: int, generator: Generator, training: bool):
        x = torch.randint(2, (B, self.T), generator=generator)
        return x, x.cumsum(1) % 2


# ---------------------------------------------------------------------- text and images
def spread(rows: int, total: int) -> Tensor:
    """At most rows indices of total things, evenly spaced."""
    rows = min(rows, total)
    return torch.arange(rows) * total // rows


class Text:
    """The next byte of a file. x is y shifted by one behind a start token.

    The last tenth of the file is held out, cut into windows of T bytes:
    "val" reads the even ones, "test" the odd ones.
    """

    answers = None
    options = [
        (
            "data",
            None,
            filename,
            "a file of text; without it, CPython's language reference",
        ),
        ("length", 64, LENGTH, "bytes in a sequence"),
        ("prompt", "", str, "the text that samples continue"),
        ("write", 256, LENGTH, "bytes that a sample goes on for"),
        ("temperature", 1.0, number(0.01, 100), "of samples; lower is less random"),
    ]
    sizes = {"encoder_depth": 3}
    recipe = {
        "smt": {
            "updates": 1130,
            "future": 16,
            "dmt_updates": 250,
            "attach_readout": True,
            "dmt_lr": 2e-3,
        },
        "bptt": {"updates": 2650, "lr": 4e-3},
    }
    has_timestamps, samples_need_data = False, False
    start, vocab = 256, 257  # tokens 0 .. 255 are the bytes

    def __init__(self, data: str | None, length: int, prompt="", write=256, **_):
        self.data, self.T, self.prompt, self.write = data, length, prompt, write

    @cached_property
    def content(self) -> Tensor:
        """The bytes of the file, uint8; WrongInput if it is no text, or too short."""
        raw = default_text() if self.data is None else read_text(self.data)
        tenth = len(raw) // 10
        if tenth < 2 * self.T:
            need = f"its last tenth needs 2 x --length {self.T} bytes"
            message = f"is too short: {need}, and has {tenth}"
            raise WrongInput(f"--data {self.data or 'default'}: {message}")
        return torch.from_numpy(np.frombuffer(raw, np.uint8).copy())

    def identity(self) -> str:
        """Number and hash of the bytes."""
        return f"{len(self.content)} bytes, {sha256(self.content)}"

    def about(self) -> str:
        """A sentence about the text."""
        name = self.data or "CPython's language reference"
        return f"The text is {name}, {len(self.content):,} bytes."

    def shifted(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = y.long()
        return F.pad(y[:, :-1], (1, 0), value=self.start), y

    def batch(self, B: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """B windows that begin anywhere in the first nine tenths: x, y (B, T)."""
        seen = self.content[: -(len(self.content) // 10)]
        begin = torch.randint(len(seen) - self.T + 1, (B, 1), generator=generator)
        return self.shifted(seen[begin + torch.arange(self.T)])

    def held_out(self, split: str, rows: int) -> tuple[Tensor, Tensor]:
        """Windows of the last tenth: x, y (rows or as many as there are, T)."""
        check_split(split)
        rest = self.content[-(len(self.content) // 10) :]
        windows = rest.unfold(0, self.T, self.T)
        windows = windows[0::2] if split == "val" else windows[1::2]
        return self.shifted(windows[spread(rows, len(windows))])

    def longer(self, times: int) -> "Text":
        """The same text in windows so many times as long."""
        return Text(self.data, self.T * times)

    def prompts(self, rows: int) -> list[tuple[str, Tensor, int]]:
        """What samples begin with: (name, tokens (rows, S), length to write up to)."""
        written = self.prompt.encode(errors="surrogateescape")
        tokens = torch.tensor([self.start, *written]).expand(rows, -1)
        return [("sample", tokens, tokens.shape[1] + self.write)]

    def draw(self, tokens: Tensor) -> str:
        """A written sequence (S,) as text."""
        written = bytes(t for t in tokens.tolist() if t < self.start)
        text = written.decode(errors="backslashreplace")
        # Control characters could change the terminal. They are shown by number, too.
        return "".join(
            c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text
        )


class Pixels:
    """The next pixel of an image, row by row, as one of so many levels of grey.

    x is y shifted by one behind a start token. T = side^2. The images of a file are
    resized to side x side. Each tenth image is held out, as files may be sorted: "val"
    and "test" have them in turn.
    Without a file, each image is drawn anew: an arc, and a line from its end.
    """

    answers = None
    options = [
        (
            "data",
            None,
            filename,
            "images as .npz, .npy or idx; without it, random strokes",
        ),
        ("side", 14, whole(4, 300), "width and height of an image"),
        ("levels", 4, whole(2, 256), "levels of grey"),
        ("temperature", 1.0, number(0.01, 100), "of samples; lower is less random"),
    ]
    sizes = {}
    recipe = {
        "smt": {
            "batch_size": 16,
            "updates": 550,
            "lr": 2e-3,
            "dmt_updates": 600,
            "attach_readout": True,
            "dmt_lr": 1e-3,
        },
        "bptt": {"updates": 1200, "lr": 2e-3},
    }
    has_timestamps, samples_need_data = True, True

    def __init__(self, data: str | None, side: int, levels: int, **_):
        self.data, self.side, self.levels = data, side, levels
        self.start, self.vocab, self.T = levels, levels + 1, side**2

    @cached_property
    def file(self) -> tuple[str, np.ndarray]:
        """The name of the array that is used, and the images in it, (N, H, W)."""
        return read_images(self.data)

    @cached_property
    def images(self) -> Tensor:
        """The levels of the file's images, int64 (N, T)."""
        parts = torch.from_numpy(self.file[1]).split(1000)
        resized = [F.adaptive_avg_pool2d(part.float(), self.side) for part in parts]
        return self.quantise(torch.cat(resized) / 256)

    def identity(self) -> str:
        """Number and hash of the images as they are used; "" without a file."""
        if self.data is None:
            return ""
        return f"{len(self.images)} images, {sha256(self.images)}"

    def about(self) -> str:
        """A sentence about the images."""
        size, levels = f"{self.side} x {self.side}", f"{self.levels} levels"
        if self.data is None:
            return f"The images are strokes, {size} with {levels}."
        name, images = self.file
        count, height, width = images.shape
        array = f", array {name}" if name else ""
        used = len(self.images.unique())
        return (
            f"The images are {self.data}{array}: {count:,} of {height} x {width}, "
            f"resized to {size}; they use {used} of {levels}."
        )

    def quantise(self, images: Tensor) -> Tensor:
        """Grey 0 .. 1 (B, side, side) -> levels, int64 (B, T)."""
        return (images.flatten(1) * self.levels).long().clamp(max=self.levels - 1)

    def shifted(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return F.pad(y[:, :-1], (1, 0), value=self.start), y

    def strokes(self, B: int, generator: Generator) -> Tensor:
        return self.quantise(strokes(torch.rand(B, 8, generator=generator), self.side))

    def batch(self, B: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """B images of the nine tenths to train on: x, y (B, T)."""
        if self.data is None:
            return self.shifted(self.strokes(B, generator))
        nine_tenths = len(self.images) - len(self.images) // 10
        chosen = torch.randint(nine_tenths, (B,), generator=generator)
        chosen = chosen + chosen // 9  # leaves out places 9, 19, 29, ..
        return self.shifted(self.images[chosen])

    def held_out(self, split: str, rows: int) -> tuple[Tensor, Tensor]:
        """Images that are held out: x, y (rows or as many as there are, T)."""
        check_split(split)
        if self.data is None:
            generator = torch.Generator().manual_seed(HELD_OUT_SEED[split])
            return self.shifted(self.strokes(rows, generator))
        rest = self.images[9::10]
        rest = rest[0::2] if split == "val" else rest[1::2]
        return self.shifted(rest[spread(rows, len(rest))])

    def longer(self, times: int) -> None:
        """Images have one size."""
        return None

    def prompts(self, rows: int) -> list[tuple[str, Tensor, int]]:
        """What samples begin with: (name, tokens (rows, S), length to write up to)."""
        x, _ = self.held_out("test", rows)
        upper_half = x[:, : 1 + self.side * (self.side // 2)]
        nothing = torch.full((rows, 1), self.start)
        end = 1 + self.T
        return [("upper half given", upper_half, end), ("from nothing", nothing, end)]

    def draw(self, tokens: Tensor) -> str:
        """A written image, its start token first (1 + T,), as text: two rows a line."""
        dark = (2 * tokens[1:] >= self.levels).view(self.side, self.side).long()
        dark = F.pad(dark, (0, 0, 0, self.side % 2))  # an even number of rows
        blocks = 2 * dark[0::2] + dark[1::2]
        return "\n".join("".join(" ▄▀█"[b] for b in line) for line in blocks.tolist())


def strokes(u: Tensor, side: int) -> Tensor:
    """An arc and a line from its end: u (B, 8) -> grey 0 .. 1 (B, side, side)."""
    points = 1 + u.unflatten(1, (4, 2)) * (side - 3)  # (B, 4, 2), off the edge
    p0, p1, p2, p3 = points[:, :, None].unbind(1)  # each (B, 1, 2)
    s = torch.arange(2 * side)[:, None] / (2 * side)  # (2 side, 1)
    arc = (1 - s) ** 2 * p0 + 2 * s * (1 - s) * p1 + s**2 * p2  # (B, 2 side, 2)
    line = p2 + s * (p3 - p2)  # (B, 2 side, 2)
    row, column = torch.cat([arc, line], 1).unbind(2)  # each (B, 4 side)
    place = torch.arange(side)
    to_row = (row[..., None] - place).square()  # (B, 4 side, side)
    to_column = (column[..., None] - place).square()
    distance = to_row[..., :, None] + to_column[..., None, :]  # (B, 4 side, side, side)
    return (1.5 - distance.amin(1)).clamp(0, 1)


# ------------------------------------------------------------------------ reading files
def read_bytes(path: str) -> bytes:
    """The bytes of a file; WrongInput if it can't be read."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe may have no end
        raise WrongInput(f"--data {path}: is not a file; give a readable file")
    try:
        return Path(path).read_bytes()
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", "the memory is too small")
        message = f"can't be read ({reason}); give a readable file"
        raise WrongInput(f"--data {path}: {message}") from None


def sha256(content: Tensor) -> str:
    """A hash that tells this content from any other."""
    return hashlib.sha256(content.numpy()).hexdigest()


def read_text(path: str) -> bytes:
    """The bytes of a text in UTF-8, without its mark; WrongInput if it is none."""
    raw = read_bytes(path)
    controls = CONTROLS.intersection(raw)
    found = f"holds the byte {min(controls)}, which no text has" if controls else ""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        found = f"is no UTF-8 at byte {error.start}"
    if not found:
        return raw.removeprefix(b"\xef\xbb\xbf")
    for kind, start in NO_TEXT.items():
        if raw.startswith(start):
            found = f"is {kind}"
    raise WrongInput(f"--data {path}: {found}; give a text in UTF-8")


def default_text() -> bytes:
    """CPython's language reference: half a megabyte of English and code."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        message = "this Python has no pydoc_data; give a file with --data FILE"
        raise WrongInput(f"--task text: {message}") from None
    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def read_images(path: str) -> tuple[str, np.ndarray]:
    """The images in a .npz, .npy or idx file, uint8 (N, H, W), and their array's name.

    Of several arrays of images in a .npz it is the first one with "train" in its name,
    or the first. WrongInput if there is none.
    """
    raw = read_bytes(path)
    try:
        arrays = decode_arrays(raw)
    except Exception:  # readers raise errors of many kinds on damaged files
        arrays = {}
    found, images = [], {}
    for name, array in arrays.items():
        if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):  # one colour
            array = array.squeeze(1 if array.shape[1] == 1 else 3)
        problem = no_images(array)
        if problem:
            found.append(f"{name} {problem}".strip())
        else:
            images[name] = array
    if not images:
        message = "; ".join(found) or "no arrays"
        wanted = "give grey images uint8 (N, H, W) of 0 .. 255 as .npz, .npy or idx"
        raise WrongInput(f"--data {path}: holds {message}; {wanted}")
    name = min(images, key=lambda name: "train" not in re.split("[^a-z]", name.lower()))
    return name, images[name]


def no_images(array: np.ndarray) -> str:
    """Why these are no images, with what was found; "" if they are."""
    kind = f"{array.dtype} {array.shape}"
    if array.dtype != np.uint8 or array.ndim != 3:
        return kind
    count, height, width = array.shape
    if count < 20:
        return f"{kind}: fewer than 20 images"
    if min(height, width) < 4 or max(height, width) > 3 * min(height, width):
        return f"{kind}: {height} x {width} is no image's size"
    if array.max() < 128:
        return f"{kind} with values of 0 .. {array.max()}"
    return ""


def decode_arrays(raw: bytes) -> dict[str, np.ndarray]:
    """The arrays in a file's bytes by name; the file may be gzipped."""
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if raw[:4] == b"\0\0\x08\x03":  # idx: unsigned bytes, three axes
        shape = struct.unpack(">3I", raw[4:16])
        pixels = np.frombuffer(raw, np.uint8, offset=16)
        return {"": pixels.reshape(shape).copy()}
    loaded = np.load(io.BytesIO(raw), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"": loaded}
    arrays = {}
    for name in loaded.files:
        try:
            array = loaded[name]
        except ValueError:  # Python objects, which are never loaded
            continue
        if isinstance(array, np.ndarray):  # other files in the zip come as bytes
            arrays[name] = array
    return arrays


TASKS = {
    "copy": Copy,
    "retrieval": Retrieval,
    "stack": Stack,
    "recall": Recall,
    "modular": Modular,
    "parity": Parity,
    "text": Text,
    "pixels": Pixels,
}


def list_tasks() -> str:
    """Each task with its options, for --task list."""
    lines = []
    for name, kind in TASKS.items():
        lines.append(f"{name}: {kind.__doc__.splitlines()[0]}")
        for option, default, _, meaning in kind.options:
            told = f" (default: {default})" if default else ""
            lines.append(f"    --{option}: {meaning}{told}")
    return "\n".join(lines)
