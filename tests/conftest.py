"""Tiny real parts that need no download: a byte-level tokenizer and random models of several families."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as grpo-train does, before torch: see grpo/cli.py
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from grpo.policy import Policy, save_policy

SPECIAL_TOKENS = ["<eos>", "<think>", "</think>", "<answer>", "</answer>"]

TINY = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # logits with a spread of some nats, so that an error moves a log-probability
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 6},
    # One layer that sees 6 tokens, fewer than the longest prompt of a test, and one that sees all.
    "gemma2": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "gemma": {"head_dim": 8},
    "qwen3_moe": {
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
    },
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "glm4_moe": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "attention_bias": True,
    },
    "deepseek_v2": {
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    # Its recurrent layers keep a state in place of keys and values.
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
}


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte (ids 0..255, in the order of ByteLevel's alphabet), then `SPECIAL_TOKENS` from 256 on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", additional_special_tokens=SPECIAL_TOKENS[1:]
    )


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """`tiny_model(family, seed=0, **config)`: a new random float32 model in eval mode, for `byte_tokenizer`."""

    def make(family: str, seed: int = 0, **config: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        settings = AutoConfig.for_model(family, **{**TINY, **FAMILIES.get(family, {}), **config})
        return AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()

    return make


@pytest.fixture
def save_tiny(
    tiny_model: Callable[..., PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., Path]:
    """`save_tiny(family, dtype, **config)`: the folder of a tiny random model and its tokenizer."""

    def save(family: str = "llama", dtype: torch.dtype = torch.float32, **config: Any) -> Path:
        policy = Policy(tiny_model(family, **config).to(dtype), byte_tokenizer, family)
        save_policy(policy, tmp_path / family)
        return tmp_path / family

    return save


@pytest.fixture(scope="session")
def load_whole() -> Callable[[Path], PreTrainedModel]:
    """A folder's model as transformers reads it, with not a weight too many or too few."""

    def load(folder: Path) -> PreTrainedModel:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(loaded[1].values())
        return loaded[0]

    return load


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Until the test ends, memory that is allocated holds NaN: whatever was not written is found out."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


# --- a whole run in seconds -------------------------------------------------------------------------------------------

TINY_RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "init": {
            "architecture": "deepseek_v3",
            "config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "moe_intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "kv_lora_rank": 32,
                "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8,
                "v_head_dim": 16,
                "max_position_embeddings": 128,
            },
            "tokenizer": {"kind": "bytes", "special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]},
        }
    },
    "problems": {
        "function": "grpo.tasks.arithmetic:sums",
        "params": {"size": 200, "terms": 2, "max_value": 20},
        "template": {"kind": "plain"},
    },
    "rewards": [{"name": "accuracy"}, {"name": "format", "weight": 0.5}, {"name": "language", "weight": 0.5}],
    "stages": [
        {"kind": "sft", "steps": 6, "examples_per_step": 8, "lr": 3e-3, "checkpoint_every": 2},
        {
            "kind": "grpo",
            "steps": 5,
            "prompts_per_step": 4,
            "completions_per_prompt": 4,
            "lr": 1e-3,
            "checkpoint_every": 2,
            "rollout": {"max_new_tokens": 24},
            "evaluation": {"every": 2, "problems": 4},
        },
        {"kind": "evaluate", "limit": 4, "samples": 2, "k": [1, 2], "max_new_tokens": 24},
    ],
}
"""Every kind of stage, on a small DeepSeek-V3-style policy made from scratch."""


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny recipe, other top-level keys replaced, into a folder of the test; its runs go there too.

    Stages that do not name an engine get transformers', which starts at once.
    """

    def write(name: str = "tiny", **replaced: Any) -> Path:
        file = tmp_path / f"{name}.yaml"
        recipe = json.loads(json.dumps(TINY_RECIPE | replaced)) | {"name": name, "output": str(tmp_path / "runs")}
        for stage in recipe["stages"]:
            settings = stage.setdefault("rollout", {}) if stage["kind"] == "grpo" else stage
            if stage["kind"] in ("grpo", "rejection", "evaluate"):
                settings.setdefault("engine", "transformers")
        file.write_text(yaml.safe_dump(recipe, sort_keys=False))
        return file

    return write
