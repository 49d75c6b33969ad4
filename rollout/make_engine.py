"""From a recipe's settings to the engine that samples, and the check that belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState

from grpo.engine_settings import EngineSettings
from grpo.experts.observe import router_layers
from grpo.families import family_of, positions
from grpo.policy import Policy
from grpo.processes import meet_on_cpu
from grpo.rollout.adapters import AdapterFiles, adapter_rank, sends_adapter
from grpo.rollout.engine import Engine
from grpo.rollout.server_engine import ServerEngine
from grpo.rollout.stopping import find_eos_ids
from grpo.rollout.transformers_engine import TransformersEngine, check_room
from grpo.rollout.verification import PROMPT_TOKENS, Precision, Probe, make_probe
from grpo.rollout.vllm_engine import VllmEngine
from grpo.rollout.vllm_options import Load, can_serve, on_cpu, vllm_options
from grpo.types import UserError


@dataclass(frozen=True)
class Work:
    """What an engine is to do for a stage: its prompts, the room after them, and the precision of the learner.

    `tells_routes`: every completion must say which experts it went through.
    """

    prompts: Sequence[tuple[int, ...]]
    max_new_tokens: int
    temperature: float
    precision: Precision
    logs: Path
    trust_remote_code: bool = False
    tells_routes: bool = False


def make_engine(settings: EngineSettings, policy: Policy, work: Work) -> Engine:
    """Start the engine of a stage.

    Raises:
        UserError: it cannot be had, cannot serve the policy, or a prompt has no room.
    """
    check_room(policy.model, work.prompts, work.max_new_tokens)
    config = policy.model.config
    if chosen_engine(settings, config) == "transformers":
        rows, drafts = settings.max_concurrent, settings.speculative
        return TransformersEngine(policy.model, policy.tokenizer, rows, work.precision, speculative=drafts)
    adapter = settings.servers is None and sends_adapter(policy.model, settings.vllm.lora)
    load = Load(
        longest=max(max(map(len, work.prompts)) + work.max_new_tokens, PROMPT_TOKENS + settings.check.tokens),
        lora_rank=adapter_rank(policy.model) if adapter else 0,
        trust_remote_code=work.trust_remote_code,
        tells_routes=work.tells_routes,
    )
    options = vllm_options(settings, policy.path, config, engine_dtype(settings, policy, work), load)
    eos_ids = find_eos_ids(policy.model, policy.tokenizer)
    if settings.servers is not None:
        return ServerEngine(settings.servers, options, policy.tokenizer, eos_ids, work.logs)
    # Adapters do not bring back a base model that level 2 has dropped.
    sleep_level = 0 if on_cpu() else min(settings.vllm.sleep_level, 1 if adapter else 2)
    layers = router_layers(policy.model) if work.tells_routes else ()
    adapters = AdapterFiles(work.logs) if adapter else None
    return VllmEngine(options, policy.tokenizer, eos_ids, sleep_level, layers, adapters)


def chosen_engine(settings: EngineSettings, config: Any = None) -> Literal["transformers", "vllm", "vllm-server"]:
    """The engine, `auto` resolved: vLLM where it is installed, one process learns, and it has kernels for the config.

    Raises:
        UserError: an engine of vLLM is asked for by several learner processes.
    """
    processes = PartialState(cpu=meet_on_cpu()).num_processes
    if settings.engine == "auto":
        usable = find_spec("vllm") is not None and processes == 1 and (config is None or can_serve(config))
        return "vllm" if usable and settings.speculative is None else "transformers"
    if settings.engine != "transformers" and processes > 1:
        raise UserError(
            f"engine: {settings.engine} samples for one learner process, got {processes}: launch one, or set engine: "
            "transformers, with which every process samples its share"
        )
    return settings.engine


def check_tells_routes(settings: EngineSettings, config: Any = None) -> None:
    """Raise UserError where the engine cannot say which experts it chose."""
    if settings.speculative is not None:
        raise UserError(
            "experts.routing_replay: sampler: with rollout.speculative the engine does not tell which experts it "
            "chose: say policy, or leave speculative out"
        )
    engine = chosen_engine(settings, config)
    if engine == "vllm-server" or (engine == "vllm" and on_cpu()):
        raise UserError(
            f"experts.routing_replay: sampler: {engine} does not tell which experts it chose "
            f"{'on a CPU' if engine == 'vllm' else 'over the wire'}: say policy, or set rollout.engine: transformers"
        )


def engine_dtype(settings: EngineSettings, policy: Policy, work: Work) -> Literal["float32", "bfloat16"]:
    """The dtype of vLLM's copy; auto follows the learner's forward passes."""
    if settings.vllm.dtype != "auto":
        return settings.vllm.dtype
    return "float32" if _computes_in_fp32(policy, work) else "bfloat16"


def probe_of(settings: EngineSettings, policy: Policy, work: Work) -> Probe:
    """The check of every push of weights, at the temperature that the stage begins with.

    Raises:
        UserError: the check's tokens fill the model's positions.
    """
    config = policy.model.config
    exact = engine_dtype(settings, policy, work) == "float32" and _computes_in_fp32(policy, work)
    room = positions(config) or PROMPT_TOKENS + settings.check.tokens
    length = min(PROMPT_TOKENS, room - settings.check.tokens)
    if length < 1:
        raise UserError(
            f"rollout.check.tokens: expected fewer than the model's {room} positions, since a prompt goes before them, "
            f"got {settings.check.tokens}: lower it"
        )
    kind: Literal["exact", "dense", "experts"] = (
        "exact" if exact else "experts" if family_of(config).experts else "dense"
    )
    return make_probe(work.prompts, length, settings.check, work.temperature, work.precision, kind)


def _computes_in_fp32(policy: Policy, work: Work) -> bool:
    return work.precision == "fp32" and str(policy.model.dtype) == "torch.float32"
