"""Does the test suite notice plausible bugs? One at a time is put into a copy of the project.

    python mutants.py           all of them: prints each with the test that noticed it, or SURVIVED
    python mutants.py 3 17      these alone

A mutant is a text of the programs, what takes its place, and the bug that this makes. A text that
stands in both programs is replaced in both: the test that they are the same must not notice it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = "smt.py", "bptt_baseline.py"
MUTANTS = [
    # Attention, encoder, decoder
    ("torch.complex(angle.cos(), angle.sin())", "torch.complex(angle.cos(), angle.cos())",
     "rotation is none"),
    ("h = h + self.out(", "h = self.out(", "no residual path around attention"),
    ("rotate(q, turn), rotate(k, turn)", "q, k", "no positions"),
    ("s <= last[..., None]", "s < last[..., None]", "labels don't see their own input"),
    ("s <= last[..., None]", "s <= last[..., None] + 1", "labels see an input too many"),
    ("> last[..., None] - context", ">= last[..., None] - context", "context is one too wide"),
    ("(owner[:, None] == owner[T:])", "(owner[:, None] >= owner[T:])", "registers of other labels"),
    ("last = times if bidirectional else", "last = times * 0 + T if bidirectional else", "no cut"),
    ("when + 2 if self.now else when * 0", "when + 2", "registers always stand at their time"),
    ("when + 2 if self.now else", "when * 0 if self.now else", "registers never move"),
    ("torch.arange(1, T + 1, device=x.device)", "torch.zeros(T).long()", "tokens without times"),
    ("return F.rms_norm(h[:, T:], h.shape[-1:]).reshape", "return h[:, T:].reshape",
     "labels not normalised"),
    ("tokens = e + self.before(", "tokens = e + 0 * self.before(",
     "tokens don't know the one before"),
    ("F.pad(x[:, :-1], (1, 0), value=len(self.before.weight) - 1)", "x.roll(-1, 1)",
     "tokens know the next one"),
    ("when[..., None] + 1, 1)  # t", "(when[..., None] + 2).clamp(max=T), 1)  # t",
     "registers know the next token"),
    ("repeat(times.shape[1], 1) + latest", "repeat(times.shape[1], 1) + 0 * latest",
     "registers don't know the latest token"),
    ("x.repeat_interleave(n, 0), times", "x.repeat(n, 1), times", "labels of other sequences"),
    ("mask = (s <= s[:, None]) &", "mask = (s <= s[:, None] + 1) &", "decoder sees its answer"),
    ("- context) | (s < K))", "- context))", "far inputs do not see the memory"),
    ("- context) | (s < K))", "- context) | (s < K) | True)", "decoder's context ignored"),
    ("mask=mask)[:, K - 1 :]", "mask=mask)[:, K:]", "first answer is missing"),
    # Cells and RNN
    ("1))[:, :-1]", "1))[:, 1:]", "the input's token kept, a memory's dropped"),
    ("h = h + block(torch.cat", "h = block(torch.cat", "no residual path in the MLP cell"),
    ("block(torch.cat([h, e], 1))", "block(torch.cat([h, e * 0], 1))", "cell without input"),
    ("return F.rms_norm(self.cell(memory, self.embed(x)), memory.shape[-1:])",
     "return self.cell(memory, self.embed(x))", "memories not normalised"),
    ("self.empty.expand(len(x), -1, -1) if", "0 * self.empty.expand(len(x), -1, -1) if",
     "m_∅ is 0"),
    ("(x, x - 1)[0][0, 0]", "(x, x)[0][0, 0]", "m_∅ is the label of a first token"),
    ("rnn.readout.load_state_dict(", "(lambda weights: None)(", "readout not taken over"),
    # SMT
    ('ignore_index=-1, reduction="sum"', 'ignore_index=0, reduction="sum"', "wrong target ignored"),
    ("count.clamp(min=1)", "count", "nothing scored: 0/0"),
    ("value=-1).unfold", "value=0).unfold", "targets beyond the end"),
    ("take_along_dim(times[..., None], 1)", "take_along_dim(times[..., None] * 0, 1)",
     "futures of t = 0"),
    ("inputs[part, 1:S]", "inputs[part, : S - 1]", "decoder's inputs shifted"),
    ("y.device)).amax(1)", "y.device)).amax(1) - 1", "last target cut off"),
    ("args.lambda_readout * cross", "0 * cross", "λ_readout ignored"),
    ("u = F.normalize(labels, dim=-1).permute", "u = labels.permute", "u not of length 1"),
    ("energy.tril(-1) + energy.triu(1)", "energy", "labels compared with themselves"),
    ("(1, 2, 0, 3)  # (n, K, B, d)", "(0, 1, 2, 3)", "pairs within a label"),
    ("% (T + length - 1) - length", "% T", "few runs reach the ends"),
    ("- 1 - bits[:, :1] % length", "- bits[:, :1] % length + length", "runs behind the target"),
    ("torch.where(kind == 0, -1,", "torch.where(kind == 5, -1,", "no runs from m_∅"),
    ("T - 1 - length) +", "T - length) +", "a run beyond the end"),
    ("blurred[:, :-1].flatten(0, 1), x.gather(1, times[:, 1:])",
     "blurred[:, :-1].flatten(0, 1), x.gather(1, times[:, :-1].clamp(min=0))", "input of t"),
    ("predicted, labels[:, 1:].flatten", "predicted, labels[:, :-1].flatten",
     "label of t as target"),
    ("predicted, labels[:, 1:].flatten(0, 1)", "predicted, labels[:, 1:].flatten(0, 1).detach()",
     "no gradient into m_{t+1}"),
    ("rnn.step(blurred[:, :-1].flatten(0, 1)", "rnn.step(blurred[:, :-1].detach().flatten(0, 1)",
     "no gradient into m_t"),
    ("100 ** min(0, 1.25 * done - 1) *", "1 *", "λ_dyn does not grow"),
    ("loss += args.lambda_dyn * dyn", "loss += args.lambda_dec * dyn", "λ exchanged"),
    ("args.lambda_tok * guessing", "args.lambda_dec * guessing", "λ_tok ignored"),
    ("== times.reshape(-1, 1), -1)", "<= times.reshape(-1, 1), -1)", "tokens guess what they saw"),
    ("y.repeat_interleave(times.shape[1], 0)", "y.repeat(times.shape[1], 1)",
     "other rows' targets"),
    ("labels + noise * 12**0.5 * (u - 0.5)", "labels + noise * 12**0.5 * u", "noise with a mean"),
    ("labels + noise * 12**0.5 * (u - 0.5)", "labels + noise * (u - 0.5)", "noise too weak"),
    ('random_bits(("noise",), bits[:, 0],', 'random_bits(("noise",), bits[:, 0] * 0,',
     "the same noise in each row"),
    ("labels, blur(labels, bits, args.noise), times, x)", "labels, labels, times, x)",
     "no noise when the cell is alone"),
    ("some = blurred.take_along_dim", "some = labels.take_along_dim",
     "labels decoded without noise"),
    ("* dynamics(rnn, labels, blurred, times, x)", "* dynamics(rnn, blurred, blurred, times, x)",
     "noise on the labels that f should reach"),
    ("+ args.lambda_unif * unif", "- args.lambda_unif * unif", "sign of λ_unif"),
    ("times.gather(1, pick), x, y, args)", "times.gather(1, pick - 1).clamp(min=0), x, y, args)",
     "labels decoded as those of t - 1"),
    ("asked = bits[:, -self.T :] % given", "asked = bits[:, -self.T :] % P", "unknown keys asked"),
    ("% (P // 2 + 1) * (split ==", "% (P // 2 + 1) * (split !=", "recall tested on fewer pairs"),
    # DMT
    ("        own = rnn.rollout(inputs[:, :-H], labels[:, 0]) if R > H else labels[:, :0]\n    ",
     "    own = rnn.rollout(inputs[:, :-H], labels[:, 0]) if R > H else labels[:, :0]\n",
     "DMT's gradient not cut"),
    ("[:, ::H]", "[:, : R // H]", "windows begin at other memories"),
    ("(inputs[:, :-H], labels[:, 0])", "(inputs[:, :-H], labels[:, 1])", "starts at another label"),
    ("args.rollout // args.window) * args.window", "args.rollout)", "rollouts of broken windows"),
    ("dyn = F.mse_loss(memories, labels[:, 1:])", "dyn = F.mse_loss(memories, labels[:, :-1])",
     "memories against labels of other times"),
    ("rnn.readout(memories.detach()", "rnn.readout(memories", "readout trained through"),
    ("return dyn + dec, args.encoder_depth", "return dyn, args.encoder_depth", "readout untrained"),
    ("R * rnn.cell.depth + args", "rnn.cell.depth + args", "depth without the rollout"),
    ("args.dmt_steps, args.dmt_lr)", "args.dmt_steps, args.lr)", "DMT at SMT's rate"),
    ("alone = round(args.cell_only * args.steps)", "alone = 0", "no time for the cell alone"),
    # BPTT
    ("memories[-1][:, -1].detach() if memories", "memories[-1][:, -1] if memories",
     "not truncated"),
    ("x.split(args.truncate, 1)", "x.split(len(x[0]), 1)", "--truncate ignored"),
    ("return loss, x.shape[1] * rnn", "return loss, rnn", "depth without the length"),
    # Evaluation and samples
    ("memories[y >= 0])[:, 0].float()", "memories.roll(1, 1)[y >= 0])[:, 0].float()", "old memory"),
    ("square - mean.square()", "square", "drift over the square, not the variance"),
    ('task.batch(split, 0, chunk)', 'task.batch("train", 0, chunk)', "measured on training data"),
    ("rows, 1) / 2**62", "rows, 1) / 2**61", "samples from half the distribution"),
    ('evaluate(models, task, "test")  #', 'evaluate(models, task, "val")  #', "val as test"),
    # Training loop
    ("warm_up = min(1, (step + 1) / (0.02 * steps + 1))", "warm_up = 1", "no warm-up"),
    ("(1 + math.cos(math.pi * step / steps)) / 2", "1", "rate does not fall"),
    ('optimizer.param_groups[0]["lr"] = learning_rate(step - first',
     'optimizer.param_groups[0]["lr"] = learning_rate(step - begin', "schedule anew at resuming"),
    ("nn.utils.clip_grad_norm_(network.parameters(), 1.0)", "loss", "no clipping"),
    ("loss = loss + 0 * norm", "loss + 0 * norm", "infinite gradients pass"),
    ("            if asked:\n                return\n", "", "Ctrl-C does not stop"),
    ("    if asked:  # in the last", "    if not steps:  # in the last",
     "Ctrl-C in a last step is lost"),
    ('        if state["step"] < last:  # Ctrl-C\n', "        if False:\n", "Ctrl-C is lost"),
    ('            state["losses"] = [loss.item() for loss in losses]\n', "",
     "losses before Ctrl-C forgotten"),
    ('losses += torch.tensor(state.pop("losses", [])', 'losses += torch.tensor([]',
     "losses before Ctrl-C not taken up"),
    ("    optimizer.zero_grad()\n", "", "gradients add up"),
    ("optimizer.load_state_dict(checkpoint", "(lambda state: 0)(checkpoint", "optimiser forgotten"),
    ("begin = min(max(first, state[\"step\"]), last)", "begin = first", "resuming begins anew"),
    ('random_bits((args.seed, phase, step), rows', 'random_bits((args.seed, phase), rows',
     "one draw"),
    ('random_bits((args.seed, phase, step), rows', 'random_bits((0, phase, step), rows', "seed"),
    ('task.batch("train", step, rows)', 'task.batch("train", 0, rows)',
     "one batch again and again"),
    (".chunk(RANKS)[RANK], 0", ".chunk(RANKS)[0], 0", "the first process's rows in all"),
    ("        torch.distributed.all_reduce(count)\n", "        count *= RANKS\n",
     "own count alone"),
    ('if phase == "smt":\n                    hand',
     'if phase == "none":\n                    hand', "no m_∅ and readout for the RNN"),
    ('if phase == "smt":\n                hand',
     'if phase == "none":\n                hand', "what Ctrl-C saves has an older readout"),
    ('for name in "future",', 'for name in "context", "future",', "context cut to T"),
    ("if args.compile and isinstance(network", "if 0 and isinstance(network", "--compile ignored"),
    ('enabled=args.precision == "bf16"', "enabled=False", "--precision ignored"),
    ("torch.manual_seed(args.seed)", "torch.manual_seed(0)", "weights of seed 0"),
    ('if not state["ended"]:', 'if state["ended"]:', "no final line"),
    # Tasks
    ("s.flip(1) if self.reverse else s", "s", "--reverse ignored"),
    ("answer[:, :-1]], 1)\n        return x, F.pad(answer, (self.T - self.length",
     "answer[:, 1:]], 1)\n        return x, F.pad(answer, (self.T - self.length",
     "answers shifted"),
    ("needle = x.gather(1, place[:, :1] + 1)", "needle = x.gather(1, place[:, 1:2] + 1)"
     " if self.distractors else x.gather(1, place[:, :1] + 1)", "a distractor asked for"),
    ("(depth - 1).clamp(min=0)), -1", "(depth - 2).clamp(min=0)), -1", "pops the one below"),
    ("% 4 * (split == \"train\")", "% 4", "the stack is tested on runs"),
    ("wish, bits = bits.gather(1, t // run * run)", "wish, bits = bits.gather(1, t)", "no runs"),
    ("values.gather(1, asked)", "values.gather(1, asked * 0)", "value of the first key"),
    ("(w * a + b) % V", "(w * a) % V", "b left out"),
    ("else self.pairs // 2\n", "else 0\n", "loss on pairs that can't be known"),
    ("known = min(2,", "known = min(9,", "modular trained on later pairs alone"),
    ("return x, x.cumsum(1) % 2", "return x, x.cumsum(1) % 2 ^ 1", "even for odd"),
    ("everything[:-held_out], everything[-held_out:]", "everything, everything[-held_out:]",
     "trained on the held-out text"),
    ("text[begin[:, None] + torch.arange(self.T, device=rows.device)].long()\n        return torch",
     "text[begin[:, None] + 1 + torch.arange(self.T, device=rows.device)].long()[:, :self.T]\n"
     "        return torch", "text read one byte late"),
    ("random_bits((self.seed, split, step), rows, columns)",
     "random_bits((0, split, step), rows, columns)", "--seed ignored by the task"),
    ("random_bits((self.seed, split, step), rows, columns)",
     "random_bits((self.seed, step), rows, columns)", "the same sequences in each split"),
    ("seen = len(self.images) - len(self.images) // 10", "seen = len(self.images)",
     "trained on held-out images"),
    ("F.pad(y[:, :-1], (1, 0), value=self.levels), y", "F.pad(y[:, :-1], (1, 0)), y",
     "black instead of the start token"),
    ("options[self.axis] *= times", "options[self.axis] *= 1", "longer is no longer"),
    # Files
    ("weights_only=True", "weights_only=False", "a checkpoint can run code"),
    ("allow_pickle=False", "allow_pickle=True", "a data file can run code"),
    ("if zipfile.ZipFile(path).testzip():", "if False:", "flipped bits pass"),
    ("if found != FORMAT:", "if False:", "a newer format passes"),
    ('        Path(path + ".tmp").unlink(missing_ok=True)', "        pass", "half a file is left"),
    ('os.replace(path + ".tmp", path)', "Path(path).write_bytes(content)", "written in place"),
    ("    if RANK:\n        return\n", "", "each process writes"),
]  # fmt: skip


def noticed_by(number: int) -> str:
    """The first test that fails with the mutant; "" if none does."""
    before, after, _ = MUTANTS[number]
    home = Path(__file__).parent
    with tempfile.TemporaryDirectory() as copy:
        found = 0
        for source in [*home.glob("*.py"), home / "pyproject.toml", home / "README.md"]:
            text = source.read_text()
            if source.name in (*PROGRAMS, "data.py", "run.py"):
                if text.count(before) > 1:
                    sys.exit(f"mutant {number}: {before!r} stands in {source.name} twice")
                found += text.count(before)
                text = text.replace(before, after)
            Path(copy, source.name).write_text(text)
        if not found:
            sys.exit(f"mutant {number}: {before!r} stands nowhere")
        command = [sys.executable, "-m", "pytest", "-xq", "--tb=no", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return "timeout"
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0] if failed else "pytest" if done.returncode else ""


def main(chosen: list[str]):
    """Try the chosen mutants, or all."""
    survivors = 0
    for number in [int(n) for n in chosen] or range(len(MUTANTS)):
        noticed = noticed_by(number)
        survivors += not noticed
        print(f"{number:3}  {MUTANTS[number][2]}: {noticed or 'SURVIVED'}", flush=True)
    print(f"{survivors} survived")


if __name__ == "__main__":
    main(sys.argv[1:])
