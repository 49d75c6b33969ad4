"""How fast the learner is, against TRL's GRPOTrainer on the same rollouts.

    python benchmarks/learner_rollouts.py record models/smollm2-135m rollouts.json --prompt 200 --new 128
    python benchmarks/learner.py compare models/smollm2-135m rollouts.json --pairs 5 [--beta 0.04] [--dtype bf16]

`compare` starts one process a run, in turn, and says the ratio of medians. Both sides make the same number of updates
from the same tokens with the same loss; the first update of each process warms up and is not counted. TRL runs without
gradient checkpointing and, unless `--trl-old` asks for it, without the pass for old log-probabilities that it makes by
default when vLLM samples: its fastest way.

With `--device cuda` each side is one process that is asked in turn, memory is what torch allocates on the GPU, and
every time is taken after the GPU has finished. `learner_rollouts.py` makes models and rollouts of other sizes.
"""

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import clock
import torch
from torch import Tensor, nn

ANSWER = "answer "
"""What a line with a result begins with, among whatever libraries print."""


# --- the two learners -------------------------------------------------------------------------------------------------


def run_ours(model_path: str, rollouts: dict[str, Any], settings: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each update of this learner, its loss and gradient norm."""
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grpo.allocator import keep_freed_memory
    from grpo.batch import Trajectory, micro_batches, pack
    from grpo.forward import prepare_packing, target_logprobs
    from grpo.grpo_stage import GrpoStage
    from grpo.learner import Learner, train_step
    from grpo.losses import make_loss
    from grpo.objective import PolicyGradient
    from grpo.policy import Policy, make_reference
    from grpo.types import TokenSequence

    keep_freed_memory()  # as grpo-train does
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).to(settings.device)
    prepare_packing(model, tokenizer)
    stage = GrpoStage.model_validate(
        {
            "kind": "grpo", "lr": 1e-6, "steps": 100, "problems": {"path": "-"}, "rewards": [{"name": "accuracy"}],
            "precision": settings.dtype, "kl": {"beta": settings.beta}, "tokens_per_micro_batch": settings.budget,
        }
    )  # fmt: skip
    reference = make_reference(Policy(model, tokenizer, "")) if settings.beta else None
    learner = Learner(model, stage, 100, Accelerator(cpu=settings.device == "cpu"))
    objective = PolicyGradient(make_loss(stage.loss), 1.0, stage.kl, reference, 0.0)
    count = sum(len(group["completions"]) for group in rollouts["groups"])
    trajectories = [
        Trajectory(
            TokenSequence(tuple(g["prompt"]), tuple(ids)), (0.0,) * len(ids), (), advantage, 1 / (count * len(ids))
        )
        for g in rollouts["groups"]
        if settings.beta or any(g["advantages"])  # without a penalty the others are left out, as grpo-train does
        for ids, advantage in zip(g["completions"], g["advantages"], strict=True)
    ]
    device = torch.device(settings.device)
    sampled = []
    with torch.no_grad(), learner.autocast():
        for trajectory in trajectories:  # the sampler's own log-probabilities
            logprobs = tuple(target_logprobs(model, pack([trajectory.tokens], device)).tolist())
            sampled.append(replace(trajectory, sampler_logprobs=logprobs, anchor_logprobs=logprobs))
    seconds, losses, norms = [], [], []
    for step in range(settings.updates + 1):
        begin = clock.now(settings.device)
        batches = micro_batches(sampled, settings.budget, device)
        figures = train_step(learner, batches, objective, step).figures()
        seconds.append(clock.now(settings.device) - begin)
        losses.append(figures["loss"])
        norms.append(figures["grad_norm"])
    return {"seconds": seconds[1:], "loss": losses, "grad_norm": norms}


def run_trl(model_path: str, rollouts: dict[str, Any], settings: argparse.Namespace) -> dict[str, Any]:
    """The same of TRL: its trainer is given the recorded completions where it would sample."""
    import tempfile

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Recorded(GRPOTrainer):
        """A trainer that has sampled already."""

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            batch = {name: t.to(settings.device) for name, t in _padded(rollouts).items()}
            if self.beta:
                batch["ref_per_token_logps"] = self._logprobs(self.ref_model, batch)
            if settings.trl_old:
                batch["old_per_token_logps"] = self._logprobs(self.model, batch)
            return batch

        @torch.no_grad()
        def _logprobs(self, model: Any, batch: dict[str, Any]) -> Tensor:
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
            mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
            size = self.args.per_device_train_batch_size
            logprobs: Tensor = self._get_per_token_logps_and_entropies(
                model, ids, mask, batch["completion_ids"].size(1), size
            )[0]
            return logprobs

    class Watch(TrainerCallback):
        """Notes how long every update takes."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.begin = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begin = clock.now(settings.device)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(clock.now(settings.device) - self.begin)

    count = sum(len(group["completions"]) for group in rollouts["groups"])
    size, together = settings.trl_batch or count, len(rollouts["groups"][0]["completions"])
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=size, gradient_accumulation_steps=count // size,
            num_generations=together, max_completion_length=rollouts["new"], loss_type="grpo", beta=settings.beta,
            learning_rate=1e-6, lr_scheduler_type="constant", max_grad_norm=1.0, max_steps=settings.updates + 1,
            gradient_checkpointing=False, bf16=settings.dtype == "bf16", use_cpu=settings.device == "cpu",
            report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, use_bias_correction_kl=False,
        )  # fmt: skip
        watch = Watch()
        trainer = Recorded(
            model=AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": ["-"] * (4 * count)}),
            processing_class=AutoTokenizer.from_pretrained(model_path),
            callbacks=[watch],
        )
        trainer.train()
    logs = [row for row in trainer.state.log_history if "grad_norm" in row]
    return {
        "seconds": watch.seconds[1:],
        "loss": [row["loss"] for row in logs],
        "grad_norm": [row["grad_norm"] for row in logs],
    }


def _padded(rollouts: dict[str, Any]) -> dict[str, Any]:
    """The rollouts as TRL holds them: every prompt once a completion, completions padded to the longest."""
    rows = [(group["prompt"], ids) for group in rollouts["groups"] for ids in group["completions"]]
    given = [torch.tensor(prompt) for prompt, _ in rows]
    prompts = nn.utils.rnn.pad_sequence(given, batch_first=True, padding_side="left")
    seen = nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in given], batch_first=True, padding_side="left")
    completions = nn.utils.rnn.pad_sequence([torch.tensor(ids) for _, ids in rows], batch_first=True)
    lengths = torch.tensor([len(ids) for _, ids in rows])
    mask = (torch.arange(completions.shape[1]) < lengths[:, None]).long()
    return {
        "prompt_ids": prompts,
        "prompt_mask": seen,
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": torch.tensor([a for group in rollouts["groups"] for a in group["advantages"]]),
        "num_items_in_batch": mask.sum(),
    }


def one(settings: argparse.Namespace) -> None:
    """A single process's run, as JSON on the last line."""
    print(json.dumps(_measured(settings)))


def answer(settings: argparse.Namespace) -> None:
    """Runs as they are asked for, a line of JSON each."""
    for line in sys.stdin:
        result = _measured(argparse.Namespace(**vars(settings) | json.loads(line)))
        print(ANSWER + json.dumps(result), flush=True)


def _measured(settings: argparse.Namespace) -> dict[str, Any]:
    rollouts = json.loads(Path(settings.rollouts).read_text())
    result = (run_ours if settings.who == "ours" else run_trl)(settings.model, rollouts, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = torch.cuda.max_memory_allocated() / 2**20 if settings.device == "cuda" else peak
    rate = gemm_rate(torch.bfloat16 if settings.dtype == "bf16" else torch.float32, settings.device)
    if settings.device == "cuda":  # the other side's run is next
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return result | {"peak_mb": peak, "gemm": rate, "tf32": torch.backends.cuda.matmul.allow_tf32}


class Side:
    """A process that runs one of the two, again and again."""

    def __init__(self, who: str):
        self.errors = Path(f"{who}.stderr").open("w+")  # noqa: SIM115
        command = [sys.executable, __file__, "answer", "-", "-", "--who", who]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def run(self, settings: argparse.Namespace) -> dict[str, Any]:
        """One run's result."""
        asked = {name: value for name, value in vars(settings).items() if name not in ("who", "command")}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                result: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
                return result
        self.errors.seek(0)
        sys.exit(self.errors.read()[-3000:])


def compare(settings: argparse.Namespace) -> None:
    """Let the two run in turn and say medians and their ratio, for each of the given rollouts and precisions."""
    for dtype in settings.dtypes:
        # Processes of their own, because transformers' trainer keeps its precision in the environment.
        sides = {who: Side(who) for who in ("ours", "trl")} if settings.device == "cuda" else {}
        for rollouts in settings.rollouts:
            case = argparse.Namespace(**vars(settings) | {"rollouts": rollouts, "dtype": dtype})
            print(f"--- {Path(settings.model).name}, {Path(rollouts).stem}, {dtype}, KL {settings.beta}", flush=True)
            _compare(case, {who: side.run for who, side in sides.items()})
        for side in sides.values():
            side.process.communicate()


def _apart(who: str, settings: argparse.Namespace) -> dict[str, Any]:
    """A run in a process of its own, whose peak memory is the run's."""
    given = ["--updates", str(settings.updates), "--beta", str(settings.beta), "--dtype", settings.dtype]
    sizes = ["--budget", str(settings.budget), "--trl-batch", str(settings.trl_batch)]
    sizes += ["--trl-old"] if settings.trl_old else []
    command = [sys.executable, __file__, "one", settings.model, settings.rollouts, "--who", who, *given, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _compare(settings: argparse.Namespace, sides: dict[str, Callable[..., dict[str, Any]]]) -> None:
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for pair in range(settings.pairs):
        for who in ("ours", "trl") if pair % 2 == 0 else ("trl", "ours"):
            results[who].append(sides[who](settings) if sides else _apart(who, settings))
            print(f"{who}: {_said(results[who][-1])}", flush=True)
    seconds = {who: [statistics.median(r["seconds"]) for r in runs] for who, runs in results.items()}
    peak = {who: statistics.median(r["peak_mb"] for r in runs) for who, runs in results.items()}
    ours, theirs = (statistics.median(seconds[who]) for who in ("ours", "trl"))
    ratios = sorted(t / o for o, t in zip(*seconds.values(), strict=True))
    rate = statistics.median(r["gemm"] for r in results["ours"])
    flops = model_flops(settings.model, json.loads(Path(settings.rollouts).read_text()), settings.beta > 0)
    print(f"update: ours {ours:.4g} s, TRL {theirs:.4g} s, ratio of medians {theirs / ours:.2f}")
    print(f"ratios of the {len(ratios)} pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"peak memory: ours {peak['ours']:.0f} MB, TRL {peak['trl']:.0f} MB, {peak['ours'] / peak['trl']:.2f} of it")
    print(f"{flops / 1e9:.0f} G model FLOPs an update: {flops / ours / 1e9:.0f} GF/s, TRL {flops / theirs / 1e9:.0f}")
    print(f"that is {flops / ours / 1e9 / rate:.0%} of the {rate:.0f} GF/s of a matrix product", flush=True)


def _said(run: dict[str, Any]) -> str:
    first = f"loss {run['loss'][0]:.6f}, gradient {run['grad_norm'][0]:.6f}"
    return f"{statistics.median(run['seconds']):.4g} s, {run['peak_mb']:.0f} MB, {run['gemm']:.0f} GF/s, {first}"


# --- what a step must compute -----------------------------------------------------------------------------------------


def model_flops(model_path: str, rollouts: dict[str, Any], with_reference: bool) -> float:
    """Multiplications and additions that an update needs: each prompt once, 2 a weight and token forward, 4 backward.

    Logits of completion tokens alone, causal attention without what it masks, nothing for computing anything twice, nor
    for groups without signal. What else sequences have in common is counted each time.
    """
    config = json.loads((Path(model_path) / "config.json").read_text())
    hidden, layers, vocabulary = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    weights = layers * hidden * (2 * hidden + 2 * hidden * shared // heads + 3 * config["intermediate_size"])
    forward = 0.0
    for group in rollouts["groups"]:
        if not (with_reference or any(group["advantages"])):
            continue
        prompt, lengths = len(group["prompt"]), [len(ids) for ids in group["completions"]]
        tokens = prompt + sum(n - 1 for n in lengths)
        seen = prompt * (prompt + 1) / 2 + sum((n - 1) * (prompt + n / 2) for n in lengths)
        forward += 2 * weights * tokens + 4 * layers * hidden * seen + 2 * hidden * vocabulary * sum(lengths)
    return forward * (4 if with_reference else 3)


def gemm_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """The best of many products, in GF/s: on a CPU of this model's shapes, on a GPU of large ones."""
    rows, inner, columns = (8192, 8192, 8192) if device == "cuda" else (2048, 576, 1536)
    a, b = torch.randn(rows, inner, dtype=dtype, device=device), torch.randn(columns, inner, dtype=dtype, device=device)
    best = min(clock.seconds(lambda: a @ b.T, device) for _ in range(30))
    return 2 * rows * inner * columns / best / 1e9


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("compare", "one", "answer"):
        comparing = commands.add_parser(name)
        comparing.add_argument("model")
        comparing.add_argument("rollouts", nargs="+" if name == "compare" else None)
        comparing.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        comparing.add_argument("--updates", type=int, default=2)
        comparing.add_argument("--beta", type=float, default=0.0)
        comparing.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
        comparing.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], help="one after the other")
        comparing.add_argument("--budget", type=int, default=4096, help="tokens of a micro-batch, ours")
        comparing.add_argument("--trl-batch", type=int, default=8, help="sequences of a micro-batch, TRL's")
        comparing.add_argument(
            "--trl-old", action="store_true", help="TRL's pass for old log-probabilities, as with vLLM"
        )
        comparing.add_argument("--pairs", type=int, default=5)
        comparing.add_argument("--who", choices=["ours", "trl"])
    settings = parser.parse_args()
    if settings.command == "compare":
        settings.dtypes = settings.dtypes or [settings.dtype]
    {"compare": compare, "one": one, "answer": answer}[settings.command](settings)


if __name__ == "__main__":
    main()
