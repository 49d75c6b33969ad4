"""TRL's side of `time_to_reward.py`: its GRPOTrainer on a recipe's stage, and whether it can do the same work."""

import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from time_to_reward_report import Row

LOSSES = {"grpo": "grpo", "dapo": "dapo", "dr_grpo": "dr_grpo"}
"""This toolkit's kind of loss, and TRL's name of the same."""
GIVEN = {
    "kind", "name", "start", "problems", "rewards", "steps", "prompts_per_step", "completions_per_prompt", "rollout",
    "lr", "weight_decay", "beta1", "beta2", "adam_epsilon", "max_grad_norm", "precision", "loss", "advantage", "kl",
    "correction", "mask_truncated", "evaluation",
}  # fmt: skip
"""Settings of a stage that TRL is given, or that are looked at; `correction` mends what another engine rounds."""
FREE = {
    "tokens_per_micro_batch", "activations", "max_bad_steps", "checkpoint_every", "keep_last", "keep_best",
    "token_logprobs", "max_reward_errors",
}  # fmt: skip
"""Settings that say how it is computed or kept, and not what. All others must be as they are when left out."""


def run_trl(options: Namespace, seed: int, file: Path, began: float) -> None:
    """Train with TRL in this process, which began at that time, and keep a line a step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from grpo.allocator import keep_freed_memory
    from grpo.data import draw, load_problems
    from grpo.rewards.registry import load_rewards
    from grpo.rewards.score import score
    from grpo.rollout.stopping import decode
    from grpo.types import Completion, Group

    keep_freed_memory()
    recipe, stage = same_work(options, seed)[1:]
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.path)
    model = AutoModelForCausalLM.from_pretrained(recipe.model.path, dtype=getattr(torch, recipe.model.dtype))
    rewards, problems = load_rewards(stage.rewards), load_problems(stage.problems, tokenizer, seed)
    by_id = {problem.id: problem for problem in (*problems.train, *problems.held_out)}
    ids_of = problems.prompt_ids
    texts = {id: tokenizer.decode(ids) for id, ids in ids_of.items()}
    checking = time.time()
    for id, text in texts.items():
        if tuple(tokenizer(text=text)["input_ids"]) != tuple(ids_of[id]):
            sys.exit(f"the prompt of problem {id} is not the same tokens when TRL reads it")
    checking -= time.time()

    def scored(ids: Sequence[str], completions: Sequence[str]) -> list[Any]:
        """The verdicts of the recipe's own rewards."""
        groups = [
            Group(by_id[id], tuple(ids_of[id]), (Completion(text, (), (), "stop", 0),))
            for id, text in zip(ids, completions, strict=True)
        ]
        return [group.scores[0] for group in score(groups, rewards, stage.problems.each[0].template.prefill).groups]

    def total(completion_ids: Sequence[Sequence[int]], problem: Sequence[str], **_: Any) -> list[float | None]:
        return [verdict.total for verdict in scored(problem, [read_out(ids) for ids in completion_ids])]

    def read_out(ids: Sequence[int]) -> str:
        """A completion's text before its end as this toolkit reads it, special tokens and all."""
        return decode(tokenizer, ids[: list(ids).index(end)] if (end := tokenizer.eos_token_id) in ids else ids)

    class Watch(TrainerCallback):
        """Writes a line a step, measures held-out accuracy, and stops when the time is over."""

        evaluating = -checking

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "reward" in logs:
                row = {"step": state.global_step, "seconds": self.seconds(), "reward": logs["reward"]}
                last = row["seconds"] >= 60 * options.minutes
                row |= {"accuracy": self.accuracy()} if last or state.global_step % options.every == 0 else {}
                _append(file, row)
                control.should_training_stop = last

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            _append(file, {"step": 0, "seconds": self.seconds(), "accuracy": self.accuracy()})

        def seconds(self) -> float:
            return time.time() - began - self.evaluating

        def accuracy(self) -> float:
            """Greedy, on the held-out problems that this toolkit evaluates on."""
            start, asked, right = time.time(), problems.held_out[: options.problems], 0
            for first in range(0, len(asked), options.rows):
                ids = [problem.id for problem in asked[first : first + options.rows]]
                batch = tokenizer([texts[id] for id in ids], return_tensors="pt", padding=True, padding_side="left")
                batch = batch.to(model.device)
                model.eval()
                with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
                    made = model.generate(**batch, do_sample=False, max_new_tokens=stage.rollout.max_new_tokens)
                model.train()
                said = [read_out(row) for row in made[:, batch["input_ids"].shape[1] :].tolist()]
                right += sum(verdict.parts[stage.evaluation.accuracy] == 1 for verdict in scored(ids, said))
            self.evaluating += time.time() - start
            return right / len(asked)

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    count = stage.prompts_per_step * stage.completions_per_prompt
    drawn = draw(problems.train, seed, 0, len(problems.train))
    train = Dataset.from_list([{"prompt": texts[one.id], "problem": one.id} for one in drawn])
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, seed=seed, per_device_train_batch_size=options.rows,
            gradient_accumulation_steps=count // options.rows, num_generations=stage.completions_per_prompt,
            max_completion_length=stage.rollout.max_new_tokens, temperature=stage.rollout.temperature,
            top_p=1.0, top_k=0, loss_type=LOSSES[stage.loss.kind],
            epsilon=stage.loss.clip_low, epsilon_high=stage.loss.clip_high,
            scale_rewards="group" if stage.advantage.kind == "grpo" else "none", beta=stage.kl.beta,
            learning_rate=stage.lr, lr_scheduler_type="constant",
            adam_beta1=stage.beta1, adam_beta2=stage.beta2, adam_epsilon=stage.adam_epsilon,
            weight_decay=stage.weight_decay, max_grad_norm=stage.max_grad_norm, max_steps=1_000_000,
            bf16=stage.precision != "fp32", use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
            mask_truncated_completions=stage.mask_truncated, shuffle_dataset=False, **_settings(options.trl),
        )  # fmt: skip
        GRPOTrainer(
            model=model,
            reward_funcs=total,
            args=config,
            train_dataset=train,
            processing_class=tokenizer,
            callbacks=[Watch()],
        ).train()


def same_work(options: Namespace, seed: int) -> tuple[str, Any, Any]:
    """The key, the recipe and the settings of the first grpo stage, once it is sure that TRL can do the same."""
    from grpo.recipe_file import load_recipe

    recipe = load_recipe(options.recipe, [*options.set, f"seed={seed}"])
    place = next(place for place, stage in enumerate(recipe.stages) if stage.kind == "grpo")
    stage = recipe.stages[place]
    count = stage.prompts_per_step * stage.completions_per_prompt
    wrong = [
        said
        for said, is_so in {
            "a start other than the recipe's model": place > 0 or stage.start not in ("previous", "base"),
            f"a loss of kind {stage.loss.kind}": stage.loss.kind not in LOSSES,
            "loss settings other than the clip": not _is_plain(stage.loss, "clip_low", "clip_high"),
            f"advantages of kind {stage.advantage.kind}": stage.advantage.kind not in ("grpo", "dr_grpo"),
            "advantage settings other than the kind": not _is_plain(stage.advantage),
            "a KL penalty": stage.kl.beta > 0,
            "stop texts": bool(stage.rollout.stop),
            f"precision {stage.precision}": stage.precision not in ("fp32", "bf16"),
            f"{count} completions a step, {options.rows} at a time": count % options.rows > 0,
            "no evaluation": stage.evaluation is None,
            "a mixture of problems": stage.problems.sources is not None,
            "a model made from scratch": recipe.model.path is None,
            "LoRA": recipe.model.lora is not None,
        }.items()
        if is_so
    ]
    wrong = [*_set_beside(stage), *wrong]
    if wrong:
        sys.exit(f"{options.recipe}: {', '.join(wrong)}: the two sides would not do the same; change it with --set")
    return f"stages.{place}", recipe, stage


def _set_beside(stage: Any) -> list[str]:
    """Settings that TRL is not given and that are not as they are when left out."""
    fields = {name: field for name, field in type(stage).model_fields.items() if name not in GIVEN | FREE}
    return [name for name, one in fields.items() if getattr(stage, name) != one.get_default(call_default_factory=True)]


def _is_plain(settings: Any, *free: str) -> bool:
    """Whether nothing but the kind and what is free differs from what is left out."""
    said = {name: getattr(settings, name) for name in ("kind", *free) if hasattr(settings, name)}
    return bool(settings == type(settings)(**said))


def _append(file: Path, row: Row) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    print(f"{file.stem}: {row}", flush=True)


def _settings(said: Sequence[str]) -> dict[str, Any]:
    """Values of GRPOConfig by name."""
    return {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in said)}
