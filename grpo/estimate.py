"""What a recipe would take, in words, before anything is computed."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from grpo.chain import chain
from grpo.engine_estimate import engine_words
from grpo.engine_settings import EngineSettings
from grpo.evaluate_stage import EvaluateStage
from grpo.grpo_stage import GrpoStage
from grpo.kernels.head_logprobs import GPU_TILE, NARROWEST, TILE
from grpo.model_settings import ModelSettings
from grpo.mtp import LAYERS_KEY, add_predictor
from grpo.policy import add_lora
from grpo.recipe import Recipe, Stage
from grpo.recipe_file import dump_recipe
from grpo.rejection_stage import RejectionStage
from grpo.reward_model_stage import RewardModelStage
from grpo.rollout.vllm_options import cache_bytes_per_token
from grpo.scratch import model_config
from grpo.sft_stage import SftStage
from grpo.training_settings import TrainingSettings

BYTES = {"float32": 4, "bfloat16": 2, "fp32": 4, "bf16": 2}

ACTIVATION_VALUES = 17
"""Values kept for the backward pass per token, layer and hidden unit, without attention (Korthikanti et al. 2022,
arXiv 2205.05198, section 4.1: 34 bytes at 2 bytes a value). Where norms and gates are made again it is about 10."""

LOGIT_COPIES = 3
"""A tile of logits, its exponentials and its gradient, in float32."""


@dataclass(frozen=True)
class ModelSize:
    """What memory depends on."""

    parameters: int
    trainable: int
    hidden: int
    layers: int
    vocabulary: int
    cache_values: int


def describe(recipe: Recipe) -> str:
    """The resolved recipe, then for every stage its batch arithmetic and an estimate of tokens and memory."""
    size = _model_size(recipe.model)
    lines = [dump_recipe(recipe), f"policy: {size.parameters:,} parameters, {size.trainable:,} trained", ""]
    for link in chain(recipe):
        lines.append(f"{link.name}, from {link.start or ', '.join(link.models)}")
        lines += [f"  {line}" for line in _words(link.stage, size, recipe.model)]
    return "\n".join(lines)


def _words(stage: Stage, size: ModelSize, model: ModelSettings) -> list[str]:
    if isinstance(stage, GrpoStage):
        learner = _memory(stage, size, model, reference=stage.kl.beta > 0)
        engine = _engine(stage.rollout, stage, stage.longest_completion, size, model)
        return [*_grpo_words(stage), engine, learner]
    if isinstance(stage, SftStage | RewardModelStage):
        length = f"{stage.steps} steps" if stage.steps else f"{stage.epochs} epochs"
        memory = _memory(stage, size, model, teacher=_teacher_bytes(stage) if isinstance(stage, SftStage) else 0)
        return [f"{stage.examples_per_step} examples a step, one update a step, {length}", memory]
    if isinstance(stage, RejectionStage):
        most = f"at most {stage.limit} problems" if stage.limit else "every problem of the training part"
        words = f"{most}, {stage.samples} samples of each of at most {stage.max_new_tokens:,} tokens"
        return [_engine(stage, stage, stage.max_new_tokens, size, model), words]
    asked = ["one greedy completion"] if stage.greedy else []
    asked += [f"{stage.samples} samples"] if stage.samples else []
    tokens = stage.limit * (stage.greedy + stage.samples) * stage.max_new_tokens * len(stage.templates)
    words = f"at most {stage.limit} problems, {' and '.join(asked)} of each: at most {tokens:,} new tokens a model"
    return [_engine(stage, stage, stage.max_new_tokens, size, model), words]


def _engine(
    settings: EngineSettings,
    stage: GrpoStage | RejectionStage | EvaluateStage,
    new: int,
    size: ModelSize,
    model: ModelSettings,
) -> str:
    dtype = "float32" if (stage.precision, model.dtype) == ("fp32", "float32") else "bfloat16"
    length = stage.problems.longest_prompt + new
    return engine_words(settings, size.parameters, size.cache_values, length, dtype)


def _grpo_words(stage: GrpoStage) -> list[str]:
    completions = stage.prompts_per_step * stage.completions_per_prompt
    new_tokens = completions * stage.longest_completion
    updates = stage.minibatches_per_step * stage.epochs_per_step
    per_minibatch = stage.prompts_per_step // stage.minibatches_per_step
    learned = (new_tokens + stage.prompts_per_step * stage.problems.longest_prompt) * stage.epochs_per_step
    return [
        f"{stage.prompts_per_step} prompts a step x {stage.completions_per_prompt} completions a prompt = "
        f"{completions} completions a step, {stage.steps * completions:,} in {stage.steps} steps",
        f"{stage.minibatches_per_step} minibatches of {per_minibatch} prompts x {stage.epochs_per_step} epochs = "
        f"{updates} updates a step",
        f"at most {new_tokens:,} new tokens a step (completions of at most {stage.longest_completion})",
        f"the learner computes at most {learned:,} tokens a step (each prompt of at most "
        f"{stage.problems.longest_prompt} once), {stage.tokens_per_micro_batch:,} at a time",
    ]


def _teacher_bytes(stage: SftStage) -> int:
    if stage.teacher is None:
        return 0
    teacher = ModelSettings(path=stage.teacher.path, trust_remote_code=stage.teacher.trust_remote_code)
    return _model_size(teacher).parameters * BYTES[stage.teacher.dtype]


def _memory(
    stage: TrainingSettings, size: ModelSize, model: ModelSettings, reference: bool = False, teacher: int = 0
) -> str:
    """Peak memory of the learner, part by part. LoRA needs no second copy for its reference."""
    tokens = stage.tokens_per_micro_batch
    weight = BYTES[model.dtype]
    moments = weight * 2 if stage.optimizer == "adamw" else 2
    kept = size.layers * ACTIVATION_VALUES if stage.activations != "recompute" else size.layers + ACTIVATION_VALUES
    tile = GPU_TILE if torch.cuda.is_available() else TILE
    parts = {
        "weights": size.parameters * weight,
        "gradients": size.trainable * weight,
        "AdamW": size.trainable * moments,
        "reference": size.parameters * weight if reference and model.lora is None else 0,
        "teacher": teacher,
        "activations": tokens * size.hidden * kept * BYTES[stage.sampling_precision],
        "logits": min(max(tile, tokens * NARROWEST), tokens * size.vocabulary) * 4 * LOGIT_COPIES,
    }
    listed = " + ".join(f"{name} {value / 1e9:.2f}" for name, value in parts.items() if value)
    return f"memory: about {sum(parts.values()) / 1e9:.2f} GB = {listed} (with every token of a micro-batch trained on)"


def _model_size(settings: ModelSettings) -> ModelSize:
    config = model_config(settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code)
        if settings.mtp == "add" or (settings.mtp == "keep" and getattr(config, LAYERS_KEY, 0) > 0):
            add_predictor(model, seed=0)
    parameters = sum(p.numel() for p in model.parameters())
    text = config.get_text_config()
    return ModelSize(
        parameters=parameters,
        trainable=_adapter_parameters(model, settings) if settings.lora else parameters,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        cache_values=cache_bytes_per_token(config, "float32") // BYTES["float32"],
    )


def _adapter_parameters(model: nn.Module, settings: ModelSettings) -> int:
    """The parameters that LoRA would train."""
    assert settings.lora is not None  # asked for by the caller
    with torch.device("meta"):
        adapted = add_lora(model, settings.lora)
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)
