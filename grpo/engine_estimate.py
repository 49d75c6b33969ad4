"""What the engine of a stage would take, in words: its copy of the weights, keys and values, and who sleeps when."""

from grpo.engine_settings import EngineSettings
from grpo.rollout.make_engine import chosen_engine
from grpo.rollout.transfer import WORDS, planned_way
from grpo.rollout.vllm_options import MOST_CPU_CACHE_GB, on_cpu

BYTES = {"float32": 4, "bfloat16": 2}

SLEEP = {
    0: "it stays there while the learner works",
    1: "while the learner works, weights wait in the host's memory and keys and values are dropped",
    2: "while the learner works, weights, keys and values are dropped",
}


def engine_words(settings: EngineSettings, parameters: int, cache_values: int, length: int, dtype: str) -> str:
    """One line. `cache_values`: numbers that a token keeps as keys and values; `length`: the longest sequence."""
    engine = chosen_engine(settings)
    own = dtype if settings.vllm.dtype == "auto" or engine == "transformers" else settings.vllm.dtype
    cache = settings.max_concurrent * length * cache_values * BYTES[own] / 1e9
    if engine == "transformers":
        return f"engine transformers: the policy itself samples; keys and values take at most {cache:.2f} GB"
    if not on_cpu() and settings.vllm.kv_cache_gb is None:
        share = f"{settings.vllm.memory_share:.0%} of each GPU's memory"
        after = _way_words(settings) if engine == "vllm-server" else f"; {SLEEP[settings.vllm.sleep_level]}"
        return f"engine {engine} ({own}): {share}, of which weights {parameters * BYTES[own] / 1e9:.2f} GB{after}"
    cache = settings.vllm.kv_cache_gb or min(cache, MOST_CPU_CACHE_GB)
    weights = parameters * BYTES[own] / 1e9
    servers = "" if settings.servers is None else " each server"
    return (
        f"engine {engine} ({own}): about {weights + cache:.2f} GB{servers} = a copy of the weights {weights:.2f} + "
        f"keys and values {cache:.2f}{_way_words(settings)}"
    )


def _way_words(settings: EngineSettings) -> str:
    """How weights reach servers that the run starts; with others it shows when the run meets them."""
    if settings.servers is None or settings.servers.count is None:
        return ""
    return f"; {WORDS[planned_way(settings.servers, on_cpu())]}"
