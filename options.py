"""What both programs need of a command line and of files: wrong input is found and told in a line,
and what is written is written whole.
"""

import argparse
import gzip
import io
import os
import struct
from pathlib import Path

import numpy as np
import torch

# This process's number and how many there are, as torchrun tells them. The first alone writes.
RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
LARGEST = 2**20  # bound of lengths and delays: far beyond what memory allows, to catch typos


class UsageError(Exception):
    """Wrong input by the user; its text is the one line to print."""


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are told as all wrong input is."""

    def add(self, name: str, default, kind, meaning: str):
        """An option with its default and its kind: a type, or a list of the values it can have."""
        kind = {"choices": kind} if isinstance(kind, list) else {"type": kind}
        self.add_argument(name, default=default, help=f"{meaning} (default: {default})", **kind)

    def error(self, message):
        raise UsageError(message.removeprefix("argument "))


def whole(low: int, high: int = 2**62):
    """An option's type: a whole number from low to high."""

    def parse(text: str) -> int:
        try:
            if low <= int(text) <= high:
                return int(text)
        except ValueError:
            pass
        upper = "" if high == 2**62 else f" and at most {high}"
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {low}{upper}")

    return parse


def number(low: float, high: float = 1e30, above: bool = False):
    """An option's type: a number from low to high; above: not low itself."""

    def parse(text: str) -> float:
        try:
            value = float(text)
            if (low < value if above else low <= value) and value <= high:
                return value
        except ValueError:
            pass
        upper = "" if high == 1e30 else f" and at most {high}"
        least = "above" if above else "of at least"
        raise argparse.ArgumentTypeError(f"{text} is not a number {least} {low}{upper}")

    return parse


def device(text: str) -> str:
    """An option's type: a device that is here, or auto for the best of them."""
    there = ["cpu"]
    if torch.accelerator.is_available():
        there.insert(0, torch.accelerator.current_accelerator().type)
    if text not in ("auto", *there):
        raise argparse.ArgumentTypeError(f"{text} is not to be had here; give {' or '.join(there)}")
    return there[0] if text == "auto" else text


def agree(args, earlier: dict):
    """UsageError if an option asks for something else than the earlier run has."""
    for name, value in earlier.items():
        if getattr(args, name) != value:
            option = f"--{name.replace('_', '-')} {getattr(args, name)}"
            raise UsageError(f"{option}: the earlier run has {value}; give that, or leave it out")


def write(path, content):
    """Write a file whole or not at all: under another name first, then renamed."""
    if RANK:
        return
    with open(path + ".tmp", "wb") as file:
        file.write(content)
    os.replace(path + ".tmp", path)


def load(directory, option):
    """The checkpoint of a run; UsageError naming the option if there is none or it is damaged."""
    path = f"{directory}/checkpoint.pt"
    if not os.path.isfile(path):
        raise UsageError(f"{option}: {directory} holds no run; name the --out of an earlier one")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["config"]["method"], checkpoint["models"].items(), checkpoint["state"]["lines"]
        return checkpoint
    except Exception:  # what damaged files make torch raise is of many kinds
        raise UsageError(f"{option}: {path} is damaged, or of another program") from None


def read_images(path: str):
    """Images uint8 (N, H, W) of a .npz, .npy or idx file (.gz); UsageError if there are none."""
    raw = read_bytes(path)
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        if raw[:4] == b"\0\0\x08\x03":  # idx: unsigned bytes, three axes
            shape = struct.unpack(">3i", raw[4:16])
            images = np.frombuffer(raw, np.uint8, offset=16).reshape(shape).copy()
        else:
            images = np.load(io.BytesIO(raw), allow_pickle=False)
            if not isinstance(images, np.ndarray):
                images = next(array for array in images.values() if array.ndim == 3)
        if images.dtype != np.uint8 or images.ndim != 3 or not images.size or len(images) < 10:
            raise ValueError
    except Exception:  # what damaged files make their readers raise is of many kinds
        raise UsageError(
            f"--data {path}: no images; give uint8 (N, H, W), N at least 10, as .npz, .npy or idx"
        ) from None
    return images


def npz(arrays: dict) -> bytes:
    """The content of an .npz file of arrays by their names."""
    np.savez(buffer := io.BytesIO(), **arrays)
    return buffer.getvalue()


def read_bytes(path: str) -> bytes:
    """The bytes of a file; UsageError if it can't be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"--data {path}: can't be read ({error.strerror}); give a readable file"
        ) from None
