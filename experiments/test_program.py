"""The program around the method: devices, processes, files and the README."""

import contextlib
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import bptt_baseline
import filelock
import nextlat
import pytest
import smt
import torch
import torch.nn.functional as F
from test_smt import COPY, PROGRAMS, TINY, TINY_SMT, made, same, tiny, weights
from test_smt import in_an_empty_folder  # noqa: F401
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


# ------------------------------------------------------------------ a GPU, without one
class Gpu(TorchDispatchMode):
    """Takes the device "meta", which keeps shapes and no data, for a GPU.

    Operands on two devices are refused. copies counts what goes from one device to
    another: there a GPU and the CPU may have to wait for each other. Anything else that
    needs the data, such as .item() or a boolean index, is an error on "meta" itself.
    """

    copies = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        goal = torch.device(kwargs.get("device") or "cpu").type
        copied = operation is torch.ops.aten._to_copy.default
        if copied and kwargs.get("device") and {goal} != devices:
            self.copies += 1
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.ones(args[0].shape, dtype=dtype, device=goal)
        assert len(devices) < 2, f"{operation} has operands on {devices}"
        for tensor in tensors:
            assert not tensor.is_complex() and tensor.dtype != torch.float64, operation
        return operation(*args, **kwargs)


@pytest.mark.parametrize(
    "program, name",
    [
        (smt, "copy"),
        (smt, "text"),
        (smt, "pixels"),
        (bptt_baseline, "text"),
        (nextlat, "text"),
    ],
)
def test_a_gpu_has_all_operands_and_an_update_waits_for_none(program, name):
    short = {
        "copy": "--delay 3",
        "text": "--length 8 --write 9",
        "pixels": "--side 4",
    }
    sizes = short[name].split()
    args, _, _ = program.settings([*tiny(program), "--task", name, *sizes])
    task = program.make_task(args)
    models = program.Models(args, task).to("meta")
    for phase in program.phases(args):
        program.set_trained(models, phase)
        optimizers = program.make_optimizers(models, phase.peak_rate)
        program.set_rates(optimizers, 1, 100)
        batch = program.draw_batch(task, 4, 0, 0.5, args)
        batch = batch._replace(x=batch.x.to("meta"), y=batch.y.to("meta"))
        loss = program.Loss(models, phase.loss_fn, args)
        with Gpu() as gpu:
            program.update(models, optimizers, loss, batch)
        assert gpu.copies == 0
    x, y = task.held_out("val", 4)
    with Gpu(), torch.no_grad():
        logits = models.rnn.readout(models.rnn.rollout(x.to("meta")))
        assert program.score(logits, y.to("meta")).shape == (3,)
        if program is not bptt_baseline:
            program.hand_over_to_rnn(models)
        program.show(models.rnn, task, 2, args)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize(
    "limit, value, sizes",
    [("MAX_ROWS", 3, [3, 3, 1]), ("MAX_NUMBERS", 64, [2, 2, 2, 1])],
)
def test_many_rows_come_in_chunks(program, limit, value, sizes, monkeypatch):
    """The same result and gradient as at once, and fewer numbers kept for backward."""
    args, task, models = made("--cell", "transformer", program=program)
    rnn, x = models.rnn, torch.arange(7) % task.vocab
    memory = torch.randn(7, 2, 16, requires_grad=True)
    usual, rows, kept = F.scaled_dot_product_attention, [], []

    def counted(q, *args, **kwargs):
        rows.append(len(q))
        assert "attn_mask" not in kwargs  # a mask would keep CUDA from flash attention
        return usual(q, *args, **kwargs)

    def gradient() -> torch.Tensor:
        kept.append(0)
        keep = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with keep:
            stepped = program.in_chunks(rnn.step, memory, x)
            logits = program.in_chunks(rnn.readout, stepped)
        return torch.autograd.grad((stepped * memory).sum() + logits.sum(), memory)[0]

    def count(tensor):
        kept[-1] += tensor.numel()
        return tensor

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    whole = gradient()
    assert rows == [7, 7]  # of the cell and of the readout
    monkeypatch.setattr(program, limit, value)
    rows.clear()
    torch.testing.assert_close(gradient(), whole)
    assert rows[: 2 * len(sizes)] == sizes + sizes
    assert kept[1] < kept[0] / 4


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_losses_evaluation_and_samples_come_in_chunks(program, monkeypatch):
    args, task, models = made("--cell", "transformer", program=program)
    usual, rows = F.scaled_dot_product_attention, []

    def counted(q, *inputs, **kwargs):
        rows.append(len(q))
        return usual(q, *inputs, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(program, "MAX_ROWS", 4)
    batch = program.draw_batch(task, 4, 0, 0.5, args)
    for phase in program.phases(args):
        phase.loss_fn(models, batch, args)
        assert max(rows) == 4
    program.evaluate(models, task, "val", 4)
    program.show(models.rnn, task, 4, args)
    assert max(rows) == 4


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_weights_that_an_update_spoils_are_not_saved(program, monkeypatch, capsys):
    """Its loss was still finite; so evaluation has to find it."""
    usual = program.update

    def update(models, *inputs):
        parts = usual(models, *inputs)
        for p in models.parameters():
            p.data.fill_(math.nan)
        return parts

    monkeypatch.setattr(program, "update", update)
    with pytest.raises(SystemExit):
        program.main([*tiny(program), *COPY, "--updates", "1", "--out", "run"])
    assert "--lr: rnn_loss became nan at update 1" in capsys.readouterr().err
    assert smt.read_run("run", "test")["state"]["update"] == 0


def test_a_compiled_run_makes_few_graphs(monkeypatch):
    """Three networks, four graphs each at most, and no more for evaluation."""
    graphs = []

    def as_it_is(graph, inputs):
        graphs.append(graph)
        return graph

    usual = torch.nn.Module.compile
    compile_quickly = lambda network: usual(network, backend=as_it_is)  # noqa: E731
    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    sizes = "--decoder-depth 1 --windows 1 --eval-every 1"
    updates = "--compile --updates 2 --dmt-updates 2"
    assert smt.main([*TINY_SMT, *COPY, *sizes.split(), *updates.split()]) == 0
    assert 3 <= len(graphs) <= 12
    assert not torch._dynamo.utils.counters["unimplemented"]


def test_a_compiled_run_computes_its_parts_again(monkeypatch):
    """In the backward pass of a network in chunks both ways have to be compiled."""
    usual = torch.nn.Module.compile
    compile_quickly = lambda network: usual(network, backend="aot_eager")  # noqa: E731
    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    monkeypatch.setattr(smt, "MAX_ROWS", 10)
    sizes = "--width 16 --encoder-depth 1 --decoder-depth 1 --windows 1"
    updates = "--compile --updates 1 --dmt-updates 0"
    assert smt.main([*TINY, *COPY, *sizes.split(), *updates.split()]) == 0


class Precision(TorchFunctionMode):
    """Notes the precision that norms and losses take, and that linear maps give."""

    losses = {F.mse_loss, F.smooth_l1_loss, F.cross_entropy, F.kl_div}
    noted = {F.rms_norm, *losses}

    def __init__(self):
        super().__init__()
        self.seen, self.linear = {}, set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.noted:
            self.seen.setdefault(function.__name__, set()).add(args[0].dtype)
        result = function(*args, **(kwargs or {}))
        if function is F.linear:
            self.linear.add(result.dtype)
        return result


@pytest.mark.parametrize("cell", smt.CELLS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_in_bf16_norms_and_losses_are_in_fp32(program, cell):
    args, task, models = made("--cell", cell, "--precision", "bf16", program=program)
    # On CUDA the GRU's result is in bf16.
    models.rnn.cell.register_forward_hook(lambda _, inputs, memory: memory.bfloat16())
    for phase in program.phases(args):
        program.set_trained(models, phase)
        optimizers = program.make_optimizers(models, phase.peak_rate)
        program.set_rates(optimizers, 1, 100)
        batch = program.draw_batch(task, 4, 0, 0.5, args)
        loss = program.Loss(models, phase.loss_fn, args)
        with Precision() as precision:
            losses = program.update(models, optimizers, loss, batch)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        others = {
            "smt": {"mse_loss"},
            "dmt": {"mse_loss"},
            "nextlat": {"smooth_l1_loss", "kl_div"},
            "bptt": set(),
        }
        wanted = {"rms_norm", "cross_entropy"} | others[phase.name]
        assert precision.seen.keys() == wanted
        for seen in precision.seen.values():
            assert seen == {torch.float32}
        assert precision.linear == {torch.bfloat16}


@pytest.mark.parametrize("name", ["text", "pixels", "copy"])
def test_samples_repeat_and_another_seed_shows_others(name, capsys):
    Path("text").write_bytes(b"to be or not to be. " * 40)
    options = {
        "text": "--data text --length 8",
        "pixels": "--side 6",
        "copy": "--delay 3",
    }[name]
    run = f"--task {name} {options} --updates 1 --dmt-updates 1 --out run".split()
    smt.main(TINY_SMT + run)
    capsys.readouterr()
    shown = []
    prompt = ["--prompt", "to be"] if name == "text" else []
    for _ in range(2):
        smt.main(["--out", "run", "--sample", "2", "--task", name, *prompt])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    smt.main(["--out", "run", "--sample", "2", "--seed", "5", *prompt])
    assert capsys.readouterr().out != shown[0]
    assert shown[0].count("--- ") == {"text": 2, "pixels": 4, "copy": 0}[name]
    if name == "text":
        assert "--- sample\nto be" in shown[0]


def test_ctrl_c_saves_after_the_update_and_the_run_goes_on(monkeypatch, capsys):
    run = [*TINY_SMT, *COPY, "--updates", "5", "--dmt-updates", "1"]
    smt.main([*run, "--out", "whole"])
    usual, taken = smt.update, []

    def update(*inputs):
        taken.append(True)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(*inputs)

    monkeypatch.setattr(smt, "update", update)
    assert smt.main([*run, "--out", "parts"]) == 130
    assert smt.read_run("parts", "test")["state"]["update"] == 3
    assert "saved after update 3; give the same command with --resume to go on" in (
        capsys.readouterr().err
    )
    assert smt.main(["--resume", "--out", "parts"]) == 0
    assert same(weights("whole"), weights("parts"))
    taken.clear()
    closed = open("closed", "w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)  # nobody can read what Ctrl-C says
    assert smt.main([*run, "--out", "again"]) == 130
    assert smt.read_run("again", "test")["state"]["update"] == 3


@pytest.mark.parametrize("kill_at", range(2, 8))
def test_a_kill_between_two_files_loses_no_metrics(kill_at, monkeypatch):
    """There are four saves, each of two files; the first one is whole."""
    usual, calls = os.replace, []

    def replace(*files):
        calls.append(files)
        if len(calls) == kill_at + 1:
            raise SystemError("killed")
        usual(*files)

    monkeypatch.setattr(os, "replace", replace)
    run = [*TINY_SMT, *COPY, *"--updates 1 --dmt-updates 1 --out run".split()]
    with pytest.raises(SystemError):
        smt.main(run)
    assert smt.main(["--resume", "--out", "run"]) == 0
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["smt", "dmt", "final"]


@pytest.mark.parametrize("updates", [1, 2])  # between the phases, and within one
def test_a_run_of_other_optimisers_is_not_resumed(updates, monkeypatch, capsys):
    run = [*TINY_SMT, *COPY, *f"--updates {updates} --eval-every 1 --out run".split()]
    usual, taken = smt.update, []

    def update(*inputs):
        taken.append(True)
        return usual(*inputs) if len(taken) < 2 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(smt, "update", update)
        with pytest.raises(ZeroDivisionError):
            smt.main(run)
    adamw = smt.make_optimizers(made()[2], 1e-3)["adamw"]
    monkeypatch.setattr(smt, "make_optimizers", lambda *_: {"adamw": adamw})
    with pytest.raises(SystemExit):
        smt.main(["--resume", "--out", "run"])
    assert "other optimisers" in capsys.readouterr().err


def test_several_threads_give_the_same_gradient_again():
    m = torch.randn(32, 9, 4, 64, requires_grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(9):
            loss = smt.uniformity_loss(m, [1, 5, 5, 7])
            gradients.append(torch.autograd.grad(loss, m)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_init_begins_with_the_networks_of_another_run():
    smt.main([*TINY_SMT, *COPY, "--updates", "2", "--dmt-updates", "1", "--out", "run"])
    smt.main("--init run --updates 0 --dmt-updates 0 --out copy".split())
    assert same(weights("run"), weights("copy"))
    bptt_baseline.main("--init run --updates 0 --device cpu --out bptt".split())
    found = weights("bptt")
    assert all(torch.equal(found[name], weights("run")[name]) for name in found)


def test_two_processes_train_on_the_mean_of_their_gradients(monkeypatch):
    run = [*TINY_SMT, *COPY, *"--updates 2 --dmt-updates 2 --out run".split()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = Path(smt.__file__)
    call = [*torchrun, "--nproc-per-node=2", str(program), *run]
    subprocess.run(call, check=True, env=environment, capture_output=True)

    args, task, models = made(*run[len(TINY_SMT) + len(COPY) :][:4])
    for phase in smt.phases(args):
        smt.set_trained(models, phase)
        optimizers = smt.make_optimizers(models, phase.peak_rate)
        for index in range(phase.end - phase.begin):
            smt.set_rates(optimizers, index, phase.end - phase.begin)
            models.zero_grad()
            for rank in range(2):
                monkeypatch.setattr(smt, "process_number", lambda rank=rank: rank)
                monkeypatch.setattr(smt, "number_of_processes", lambda: 2)
                B, at = phase.batch_size, phase.begin + index
                batch = smt.draw_batch(task, B, at, index / 2, args)
                assert len(batch.x) == (2 if phase.name == "smt" else 4)
                (phase.loss_fn(models, batch, args)[0] / 2).backward()
            torch.nn.utils.clip_grad_norm_(models.parameters(), 1.0)
            with smt.FullPrecision():
                for optimizer in optimizers.values():
                    optimizer.step()
        if phase.name == "smt":
            smt.hand_over_to_rnn(models)
    found = weights("run")
    for name, value in models.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)


def test_runs_of_other_cells_and_seeds_have_directories_of_their_own():
    sizes = [*TINY_SMT, *COPY, "--updates", "1", "--dmt-updates", "1"]
    for more in ([], ["--seed", "2"], ["--cell", "gru", "--seed", "2"]):
        assert smt.main([*sizes, *more]) == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert names == ["copy-smt", "copy-smt-2", "copy-smt-gru-2"]
    assert smt.main(["--resume", "--seed", "2"]) == 0


def test_a_directory_belongs_to_one_process(capsys):
    run = [*TINY_SMT, *COPY, *"--updates 2 --dmt-updates 1 --out run".split()]
    Path("run").mkdir()
    with filelock.FileLock("run/lock"):
        with pytest.raises(SystemExit) as stop:
            smt.main(run)
        assert stop.value.code == 2
        assert "--out run: another process" in capsys.readouterr().err
        assert os.listdir("run") == ["lock"]
    assert smt.main(run) == 0


def test_a_run_that_failed_before_its_first_update_can_begin_anew(monkeypatch):
    run = [*TINY_SMT, *COPY, *"--updates 2 --dmt-updates 1 --out run".split()]
    with monkeypatch.context() as patch:
        patch.setattr(smt, "update", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            smt.main(run)
    assert smt.main([*run, "--seed", "1"]) == 0
    assert smt.read_run("run", "--out")["config"]["seed"] == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_does_not_end_the_run(stream, monkeypatch):
    run = [*TINY_SMT, *COPY, *"--updates 2 --dmt-updates 1".split()]
    closed = io.StringIO()
    closed.close()
    for out, value in (("none", None), ("closed", closed)):
        monkeypatch.setattr(sys, stream, value)
        assert smt.main([*run, "--out", out]) == 0


def test_a_run_that_another_process_went_on_with_is_not_resumed(monkeypatch, capsys):
    run = [*TINY_SMT, *COPY, *"--updates 2 --dmt-updates 1 --out run".split()]
    smt.main(run)
    usual = smt.start

    def start(args, run, source):  # meanwhile the checkpoint changes
        run["state"]["update"] -= 1
        return usual(args, run, source)

    monkeypatch.setattr(smt, "start", start)
    with pytest.raises(SystemExit):
        smt.main(["--resume", "--out", "run"])
    assert "--resume: another process" in capsys.readouterr().err


def test_data_may_move_but_not_change(capsys):
    Path("text").write_bytes(b"to be or not to be. " * 40)
    options = "--task text --data text --length 8 --updates 1 --dmt-updates 1 --out run"
    assert smt.main(TINY_SMT + options.split()) == 0
    Path("text").rename("moved")
    assert smt.main("--sample 1 --out run".split()) == 0
    rnn, task = smt.load("run")  # the file is not needed yet
    again = "--resume --out run --data".split()
    assert smt.main([*again, "moved"]) == 0
    Path("moved").write_bytes(b"to be or not to bee " * 40)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        smt.main([*again, "moved"])
    assert stop.value.code == 2
    assert "--data moved: is not what the run began with" in capsys.readouterr().err


def test_a_notebook_or_a_thread_can_train():
    run = [*TINY_SMT, *COPY, *"--updates 2 --dmt-updates 1 --out run".split()]
    written, status = io.StringIO(), []
    with contextlib.redirect_stdout(written):
        thread = threading.Thread(target=lambda: status.append(smt.main(run)))
        thread.start()
        thread.join()
    assert status == [0] and "rnn_acc" in written.getvalue()


def test_several_processes_without_torchrun_get_one_line(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        smt.main([*TINY_SMT, *COPY])
    assert stop.value.code == 2 and "torchrun" in capsys.readouterr().err


def test_a_reader_that_ends_does_not_end_the_run():
    run = [*TINY_SMT, *COPY, *"--updates 6 --dmt-updates 2 --out run".split()]
    call = [sys.executable, smt.__file__, *run]
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 0
    assert smt.read_run("run", "--out")["state"]["finished"]


def test_a_run_of_another_method_names_its_program(capsys):
    run = "--task copy --delay 3 --dim 16 --updates 1 --device cpu --out run"
    assert bptt_baseline.main(run.split()) == 0
    with pytest.raises(SystemExit) as stopped:
        smt.main("--sample 1 --out run".split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("not smt; use bptt_baseline.py\n")


def test_a_task_has_updates_of_its_own_for_each_method():
    for program, updates in ((smt, 400), (bptt_baseline, 1600)):
        args, _, _ = program.settings(["--task", "parity", "--device", "cpu"])
        assert args.updates == updates
        args, _, _ = program.settings(["--task", "stack", "--device", "cpu"])
        assert args.cell_depth == 2  # a size belongs to both


def test_a_full_memory_gets_one_line(monkeypatch, capsys):
    def train(*_):
        raise error

    monkeypatch.setattr(smt, "train", train)
    full = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
    for error in (torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError(full)):
        with pytest.raises(SystemExit) as stop:
            smt.main([*TINY_SMT, *COPY])
        assert stop.value.code == 2
        assert "the memory is full; give smaller sizes" in capsys.readouterr().err
    error = RuntimeError("another")
    with pytest.raises(RuntimeError, match="another"):
        smt.main([*TINY_SMT, *COPY])


# --------------------------------------------------------------------- the two programs
def test_the_python_of_the_readme_runs(monkeypatch):
    encoder = smt.Encoder
    root = Path(smt.__file__).parent
    shutil.copytree(root / "results/copy", "results/copy")
    readme = (root / "README.md").read_text()
    blocks = re.findall("```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        monkeypatch.setattr(smt, "Encoder", encoder)  # blocks put others there
        quick = re.sub(r"--(dmt-)?updates \d+", "", block).replace("(300)", "(2)")
        tiny = "--width 16 --encoder-depth 1 --updates 2 --dmt-updates 0"
        exec(quick.replace("--out", f"{tiny} --out"), {})


def test_the_commands_of_the_readme_run_in_their_order(capsys):
    root = Path(smt.__file__).parent
    commands = re.findall(r"python smt\.py ([^`\n]*)", (root / "README.md").read_text())
    commands = [c for c in commands if "TASK" not in c and "torchrun" not in c]
    assert len(commands) == 6
    shutil.copytree(root / "results/copy", "results/copy")
    Path("input.txt").write_text("To be, or not to be. " * 100)
    for command in commands:
        argv = shlex.split(command, comments=True)
        if "--sample" not in argv:
            argv += [*TINY_SMT, "--updates", "2", "--dmt-updates", "1"]
        assert smt.main(argv) == 0, command
    assert "--- sample\nROMEO:" in capsys.readouterr().out


def test_a_run_of_another_program_is_named(capsys):
    run = [*TINY_SMT, *COPY, *"--updates 1 --dmt-updates 1 --out run".split()]
    assert smt.main(run) == 0
    saved = torch.load("run/checkpoint.pt", weights_only=True)
    saved["config"]["cell"] = "lstm"
    Path("lstm").mkdir()
    torch.save(saved, "lstm/checkpoint.pt")
    capsys.readouterr()
    for call, message in {
        "--out run": "--out run: holds a run of smt; give another --out",
        "--init lstm --out new": "--cell lstm: this program has no such cell",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            bptt_baseline.main(call.split())
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_run_of_another_machine_can_be_sampled(capsys):
    updates = "--updates 1 --dmt-updates 1 --out there".split()
    assert smt.main([*TINY_SMT, *COPY, *updates]) == 0
    capsys.readouterr()
    run = torch.load("there/checkpoint.pt", weights_only=True)
    run["config"]["ranks"] = 4
    run["config"]["precision"] = "bf16"  # as auto was on the machine of the run
    Path("run").mkdir()
    torch.save(run, "run/checkpoint.pt")
    call = "--sample 2 --precision auto --device cpu --out run".split()
    assert smt.settings(call)[0].precision == "bf16"
    assert smt.main(call) == 0
    assert capsys.readouterr().out.count("RNN:") == 2
