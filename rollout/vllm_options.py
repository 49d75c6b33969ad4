"""From a recipe's settings and a model's config to the arguments that vLLM starts with. Nothing of vLLM is imported."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grpo.engine_settings import EngineSettings
from grpo.families import EngineOptions, family_of, positions
from grpo.types import UserError

WORKER_EXTENSION = "grpo.rollout.vllm_worker.PolicyWeights"

MOST_CPU_CACHE_GB = 4.0
"""Keys and values on a CPU when the recipe says nothing: more than this and sequences wait for each other."""

CPU_BLOCK = 32
"""Tokens of a cache block on a CPU, the smallest that its kernels take: whole blocks of a prompt are shared by its
completions."""

CPU_STEP_TOKENS = 4096
"""Tokens of prompts and completions that vLLM computes at once on a CPU, by its own default."""


@dataclass(frozen=True)
class Load:
    """What an engine is to sample: the longest prompt and completion together, in tokens, and the LoRA rank or 0."""

    longest: int
    lora_rank: int = 0
    trust_remote_code: bool = False
    tells_routes: bool = False


def vllm_options(
    settings: EngineSettings, path: str, config: Any, dtype: Literal["float32", "bfloat16"], load: Load
) -> EngineOptions:
    """The arguments of `vllm.LLM`, which are the flags of `vllm serve` too, and environment variables.

    Raises:
        UserError: vLLM cannot serve the architecture.
    """
    cpu = on_cpu()
    _check_predictor(config)
    family = family_of(config).engine_options(config, cpu)
    eager = cpu if settings.vllm.eager is None else settings.vllm.eager
    arguments: dict[str, Any] = {
        "model": path,
        "dtype": dtype,
        "hf_overrides": {key: getattr(config, key) for key in family_of(config).config_keys},
        "max_model_len": _model_length(config, load),
        "max_num_seqs": settings.max_concurrent,
        "enforce_eager": eager,
        "logprobs_mode": "processed_logprobs",  # vLLM's default leaves out the temperature
        "generation_config": "vllm",  # not the model's own, whose top_k would bend what is sampled
        "worker_extension_cls": WORKER_EXTENSION,
        "enable_prefix_caching": True,
        "seed": 0,
        "trust_remote_code": load.trust_remote_code,
        **_memory(settings, config, dtype, load, cpu),
        **(_whole_prompts(settings, config, load) if cpu else {}),
        **(family.arguments if eager else {}),
    }
    if settings.servers is not None:
        arguments |= {"tensor_parallel_size": settings.servers.tensor_parallel, "enable_sleep_mode": False}
    if load.tells_routes:
        arguments["enable_return_routed_experts"] = True
    if load.lora_rank:
        arguments |= {"enable_lora": True, "max_lora_rank": _served_rank(load.lora_rank), "max_loras": 1}
    return EngineOptions(arguments, {**_environment(cpu), **family.environment})


def can_serve(config: Any) -> bool:
    """Whether vLLM has kernels for an architecture here, as far as its family knows."""
    try:
        _check_predictor(config)
        family_of(config).engine_options(config, on_cpu())
    except UserError:
        return False
    return True


def _check_predictor(config: Any) -> None:
    if getattr(config, "num_nextn_predict_layers", 0):
        check_serves_predictor(config)


def check_serves_predictor(config: Any) -> None:
    """Raise UserError where vLLM does not know what the architecture's weights of multi-token prediction are."""
    if not family_of(config).engine_mtp:
        raise UserError(
            f"rollout.engine: vLLM loads no {config.model_type} model with a layer of multi-token prediction: set "
            "engine: transformers, or model.mtp: drop"
        )


def on_cpu() -> bool:
    """Whether vLLM runs on the CPU here."""
    import torch

    return not torch.cuda.is_available()


def visible_gpus() -> list[str]:
    """The GPUs of this process as a process that it starts must name them in CUDA_VISIBLE_DEVICES."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in given.split(",")] if given else []
    count = torch.cuda.device_count()
    return names[:count] if names else [str(number) for number in range(count)]


def gpus_of(servers: int, tensor_parallel: int, visible: Sequence[str], shared: bool) -> list[str | None]:
    """The GPUs of each server: behind the first one, which is the learner's, or `shared` with it; None on a CPU.

    Raises:
        UserError: there are too few.
    """
    if not visible:
        return [None] * servers
    if shared:
        return [visible[0]] * servers
    needed = 1 + servers * tensor_parallel
    if len(visible) < needed:
        raise UserError(
            f"rollout.servers: {servers} servers of {tensor_parallel} GPUs beside the learner need {needed}, got "
            f"{len(visible)}: lower count, or set servers.transfer: ipc or engine: vllm, which share the learner's GPU"
        )
    return [",".join(visible[start : start + tensor_parallel]) for start in range(1, needed, tensor_parallel)]


def cache_bytes_per_token(config: Any, dtype: str) -> int:
    """Keys and values of one token over all layers. Latent attention is counted as the heads that it expands to."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    nope, rope = getattr(text, "qk_nope_head_dim", None), getattr(text, "qk_rope_head_dim", None)
    if nope is not None and rope is not None:
        heads, head = text.num_attention_heads, nope + rope
    else:
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head * (4 if dtype == "float32" else 2)


def _model_length(config: Any, load: Load) -> int:
    room = positions(config)
    return load.longest if room is None else min(load.longest, room)


def _memory(settings: EngineSettings, config: Any, dtype: str, load: Load, on_cpu: bool) -> Mapping[str, Any]:
    gigabytes = settings.vllm.kv_cache_gb
    if not on_cpu:
        share: dict[str, Any] = {"gpu_memory_utilization": settings.vllm.memory_share}
        exact = {} if gigabytes is None else {"kv_cache_memory_bytes": int(gigabytes * 1e9)}
        return share | exact | {"enable_sleep_mode": settings.vllm.sleep_level > 0}
    one = cache_bytes_per_token(config, dtype) * (_model_length(config, load) + CPU_BLOCK)
    wanted = min(settings.max_concurrent * one, MOST_CPU_CACHE_GB * 1e9)
    # Never less than one whole sequence, which vLLM asks for.
    size = gigabytes * 1e9 if gigabytes is not None else max(wanted, 2 * one)
    return {"kv_cache_memory_bytes": int(size), "block_size": CPU_BLOCK}


def _whole_prompts(settings: EngineSettings, config: Any, load: Load) -> Mapping[str, Any]:
    """Let a prompt wait for a step that has room for all of it.

    vLLM would cut it, and stops at a cut one with a seed: a CPU's generator can't be turned back by the number that it
    drew for nothing.
    """
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_STEP_TOKENS, settings.max_concurrent, _model_length(config, load)),
    }


def _environment(on_cpu: bool) -> dict[str, str]:
    """Variables that must be set before vLLM starts; the user's own come first."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if not on_cpu:
        return quiet
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    # Named cores: with the default binding a learner in this process loses a quarter of its speed.
    return quiet | {"VLLM_CPU_OMP_THREADS_BIND": cores}


def _served_rank(rank: int) -> int:
    """The smallest rank that vLLM has kernels for and that holds `rank`."""
    served = (8, 16, 32, 64, 128, 256, 320, 512)
    for candidate in served:
        if rank <= candidate:
            return candidate
    raise UserError(f"model.lora.rank: vLLM serves adapters up to rank {served[-1]}, got {rank}: set vllm.lora: merged")
