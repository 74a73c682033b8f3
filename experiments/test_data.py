"""The tasks of data.py: their answers, texts and images."""

from pathlib import Path
import zipfile

import data
import numpy as np
import pytest
import torch
from test_smt import in_an_empty_folder  # noqa: F401


# ---------------------------------------------------------------------------- the tasks
def answers_of_copy(x):
    return [-1] * 40 + x[:8]


def answers_of_retrieval(x):
    assert x.index(8) < 32
    return [-1] * 63 + [x[x.index(8) + 1]]


def answers_of_stack(x):
    stack, y = [], []
    for token in x:
        y.append(stack.pop() if token == 4 else -1)
        if token != 4:
            stack.append(token)
        assert len(stack) <= 8
    return y


def answers_of_recall(x):
    values = {}
    for at in range(0, 16, 2):
        if x[at + 1] >= 8:  # no more pairs
            break
        values[x[at]] = x[at + 1]
    asked = range(2 * len(values), 17)
    return [values[x[t]] if t in asked else -1 for t in range(17)]


def answers_of_modular(x, first=8):
    a, c = x[0::2], x[1::2]
    fits = []
    for w in range(1, 7):
        for b in range(7):
            if all((w * p + b) % 7 == q for p, q in zip(a, c)):
                fits.append((w, b))
    assert fits and (len(fits) == 1 or len(set(a)) == 1)
    return [-1 if t % 2 or t < 2 * first else x[t + 1] for t in range(32)]


def answers_of_parity(x):
    return [sum(x[: t + 1]) % 2 for t in range(32)]


GENERATED = ["copy", "retrieval", "stack", "recall", "modular", "parity"]


@pytest.mark.parametrize("name", GENERATED)
def test_the_answers_of_the_generated_tasks(name):
    kind = data.TASKS[name]
    task = kind(**{option: default for option, default, *_ in kind.options})
    answers = globals()[f"answers_of_{name}"]
    x, y = task.held_out("test", 50)
    assert x.shape == y.shape == (50, task.T) and x.dtype == y.dtype == torch.int64
    assert 0 <= x.min() and x.max() < task.vocab and y.max() < task.vocab
    assert y.tolist() == [answers(row) for row in x.tolist()]
    assert len(y[y >= 0].unique()) == task.answers
    if name == "copy":  # the answers before are shown, and no later one
        assert torch.equal(x[:, -7:], y[:, -8:-1])
    again, _ = task.held_out("test", 50)
    assert torch.equal(x, again) and not torch.equal(x, task.held_out("val", 50)[0])
    batches = []
    for seed in (1, 1, 2):
        x, y = task.batch(50, torch.Generator().manual_seed(seed))
        batches.append(x)
        if name == "modular":
            assert y.tolist() == [answers_of_modular(row, 2) for row in x.tolist()]
        else:
            assert y.tolist() == [answers(row) for row in x.tolist()]
    assert torch.equal(*batches[:2]) and not torch.equal(*batches[1:])
    if name == "modular":
        options = {option: default for option, default, *_ in kind.options}
        assert kind(**options | {"modulus": 11}).answers == 11
    longer = task.longer(4)
    assert longer is None or longer.T >= 3 * task.T


def test_text_is_shifted_behind_a_start_token_and_held_out(tmp_path):
    content = "".join(map(chr, range(256, 306))).encode() * 10  # 100 bytes, 10 times
    Path("text").write_bytes(b"\xef\xbb\xbf" + content)
    task = data.Text("text", length=10)
    x, y = task.batch(200, torch.Generator().manual_seed(0))
    assert (x[:, 0] == 256).all() and torch.equal(x[:, 1:], y[:, :-1])
    assert all(bytes(row) in content[:900] for row in y.tolist())
    splits = [task.held_out(split, 1000)[1].tolist() for split in ("val", "test")]
    assert splits[0][0] == list(content[:10]) and splits[1][0] == list(content[10:20])
    assert len(splits[0]) == len(splits[1]) == 5
    assert task.draw(torch.tensor([256, 72, 105])) == "Hi"
    assert task.draw(torch.tensor([27, 91, 10, 9, 255])) == "\\x1b[\n\t\\xff"


def images_for_a_test(count=40, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)


def test_pixels_are_levels_of_the_file(tmp_path):
    images = images_for_a_test()
    np.save("images.npy", images)
    np.savez("images.npz", labels=np.zeros(40), images=images)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    Path("images.idx").write_bytes(header + images.tobytes())
    for name in ("images.npy", "images.npz", "images.idx"):
        task = data.Pixels(name, side=4, levels=3)
        small = images.reshape(40, 4, 2, 4, 2).mean((2, 4)) / 256
        levels = torch.from_numpy((small * 3).astype(int)).flatten(1)
        assert torch.equal(task.images, levels)
    x, y = task.held_out("val", 100)
    assert torch.equal(y, levels[[9, 29]]) and (x[:, 0] == 3).all()
    assert torch.equal(task.held_out("test", 100)[1], levels[[19, 39]])
    _, y = task.batch(2000, torch.Generator().manual_seed(0))
    seen = [levels.tolist().index(row) for row in y.unique(dim=0).tolist()]
    assert sorted(seen) == [n for n in range(40) if n % 10 != 9]


def test_the_images_of_a_file_are_found_among_its_arrays():
    images = images_for_a_test()
    others = {"labels": np.zeros(40, np.uint8), "names": np.array(["a", 1], object)}
    np.savez("one.npz", x_test=255 - images, x_train=images, **others)
    np.savez("colours.npz", rgb=np.stack(3 * [images], 3), grey=images[:, None])
    np.save("wide.npy", images[:, :, :4])
    one_hot = np.full((40, 1, 10), 255, np.uint8)
    np.savez("many.npz", train_y=one_hot, constraints=255 - images, train_x=images)
    with zipfile.ZipFile("many.npz", "a") as archive:
        archive.writestr("README.txt", "not an array")
    end = "of 8 x 8, resized to 4 x 4; they use 3 of 3 levels."
    sentences = {
        "one.npz": f"one.npz, array x_train: 40 {end}",
        "colours.npz": f"colours.npz, array grey: 40 {end}",
        "wide.npy": f"wide.npy: 40 {end.replace('8 x 8', '8 x 4')}",
        "many.npz": f"many.npz, array train_x: 40 {end}",
    }
    for name, sentence in sentences.items():
        task = data.Pixels(name, side=4, levels=3)
        assert task.about() == f"The images are {sentence}"
        wanted = images[:, :, :4] if name == "wide.npy" else images
        assert np.array_equal(task.file[1], wanted)


def test_copy_shows_a_question_without_its_answer():
    task = data.Copy(length=3, delay=2, reverse=False)
    x, y = task.held_out("test", 1)
    shown = task.show(x, y, y.clamp(min=0))
    symbols = "".join(str(symbol) for symbol in x[0, :3].tolist())
    assert shown == f"{symbols}..|  RNN: {symbols}  all right"


def test_a_task_shows_its_options():
    task = data.Copy(length=3, delay=5, reverse=False)
    assert repr(task) == "Copy(length=3, delay=5, reverse=False)"


def test_a_split_that_there_is_not_is_named(tmp_path):
    file = tmp_path / "text"
    file.write_text("To be, or not to be. " * 100)
    text = data.Text(data=str(file), length=8)
    pixels = data.Pixels(data=None, side=4, levels=2)
    for task in (data.Parity(length=8), text, pixels):
        with pytest.raises(ValueError, match="split 'tests': give one of val, test"):
            task.held_out("tests", 50)
