"""From a recipe's settings to the engine that samples, and the check that belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from grpo.engine_settings import EngineSettings
from grpo.policy import Policy
from grpo.rollout.adapters import adapter_rank, sends_adapter
from grpo.rollout.engine import Engine
from grpo.rollout.server_engine import ServerEngine
from grpo.rollout.stopping import find_eos_ids
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.rollout.verification import PROMPT_TOKENS, Precision, Probe, make_probe
from grpo.rollout.vllm_engine import VllmEngine
from grpo.rollout.vllm_options import Load, on_cpu, vllm_options
from grpo.types import UserError


@dataclass(frozen=True)
class Work:
    """What an engine is to do for a stage: its prompts, the room after them, and the precision of the learner."""

    prompts: Sequence[tuple[int, ...]]
    max_new_tokens: int
    temperature: float
    precision: Precision
    logs: Path


def make_engine(settings: EngineSettings, policy: Policy, work: Work) -> Engine:
    """Start the engine of a stage. Raises UserError when it cannot be had or cannot serve the policy."""
    if chosen_engine(settings) == "transformers":
        return TransformersEngine(policy.model, policy.tokenizer, settings.max_concurrent, work.precision)
    rollout = max(map(len, work.prompts)) + work.max_new_tokens
    adapter = settings.servers is None and sends_adapter(policy.model, settings.vllm.lora)
    load = Load(max(rollout, PROMPT_TOKENS + settings.check.tokens), adapter_rank(policy.model) if adapter else 0)
    config = policy.model.config
    options = vllm_options(settings, policy.path, config, engine_dtype(settings, policy, work), load, on_cpu())
    # Adapters do not bring back a base model that level 2 has dropped.
    sleep_level = 0 if on_cpu() else min(settings.vllm.sleep_level, 1 if adapter else 2)
    eos_ids = find_eos_ids(policy.model, policy.tokenizer)
    if settings.servers is not None:
        return ServerEngine(settings, options, policy.tokenizer, eos_ids, work.logs)
    return VllmEngine(options, policy.tokenizer, eos_ids, sleep_level)


def chosen_engine(settings: EngineSettings) -> Literal["transformers", "vllm", "vllm-server"]:
    """The engine, `auto` resolved: vLLM where it is installed and one process learns.

    Raises:
        UserError: an engine of vLLM is asked for by several learner processes.
    """
    processes = PartialState().num_processes
    if settings.engine == "auto":
        return "vllm" if find_spec("vllm") is not None and processes == 1 else "transformers"
    if settings.engine != "transformers" and processes > 1:
        raise UserError(
            f"rollout.engine: {settings.engine} samples for one learner process, got {processes}: launch one, or set "
            "engine: transformers, with which every process samples its share"
        )
    return settings.engine


def engine_dtype(settings: EngineSettings, policy: Policy, work: Work) -> Literal["float32", "bfloat16"]:
    """The dtype of vLLM's copy; auto follows the learner's forward passes."""
    if settings.vllm.dtype != "auto":
        return settings.vllm.dtype
    return "float32" if _computes_in_fp32(policy, work) else "bfloat16"


def probe_of(settings: EngineSettings, policy: Policy, work: Work) -> Probe:
    """The check of every push of weights, at the temperature of the stage."""
    exact = engine_dtype(settings, policy, work) == "float32" and _computes_in_fp32(policy, work)
    positions = getattr(policy.model.config, "max_position_embeddings", None) or PROMPT_TOKENS + settings.check.tokens
    length = min(PROMPT_TOKENS, positions - settings.check.tokens)
    return make_probe(work.prompts, length, settings.check, work.temperature, work.precision, exact)


def _computes_in_fp32(policy: Policy, work: Work) -> bool:
    return work.precision == "fp32" and str(policy.model.dtype) == "torch.float32"
