import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BloomConfig, PreTrainedModel

from grpo.families import FAMILIES, UNKNOWN, Router, family_of, positions, write_config_keys
from grpo.model_settings import LoraSettings
from grpo.policy import add_lora
from grpo.rollout.transformers_engine import check_room
from grpo.types import UserError


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_is_a_model_type_of_transformers(model_type: str) -> None:
    assert family_of(CONFIG_MAPPING[model_type]()) is FAMILIES[model_type]


def test_an_unknown_architecture_counts_as_dense_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    config = BloomConfig()
    with caplog.at_level(logging.WARNING, logger="grpo.families"):
        assert family_of(config) is UNKNOWN
        assert family_of(config) is UNKNOWN
    assert [record.getMessage() for record in caplog.records if "bloom" in record.getMessage()] == [
        "model type bloom is unknown: treated as a plain dense model"
    ]


def test_deepseek_v3_is_told_to_route_as_transformers_computes() -> None:
    config = CONFIG_MAPPING["deepseek_v3"](num_mtp_layers=1)
    write_config_keys(config)
    written = config.to_dict()
    assert (written["topk_method"], written["scoring_func"]) == ("noaux_tc", "sigmoid")
    assert config.num_mtp_layers == 1  # a published checkpoint keeps what it says


def test_what_a_config_already_says_is_kept() -> None:
    config = CONFIG_MAPPING["deepseek_v2"](topk_method="group_limited_greedy")
    write_config_keys(config)
    assert (config.topk_method, config.scoring_func) == ("group_limited_greedy", "softmax")


def test_a_mixture_of_experts_is_adapted_in_its_attention_and_its_experts() -> None:
    for model_type, family in FAMILIES.items():
        assert bool(family.not_lora_targets) == bool(family.lora_experts) == family.experts, model_type
        if family.not_lora_targets:
            assert set(family.lora_targets).isdisjoint(family.not_lora_targets), model_type
            config = CONFIG_MAPPING[model_type]
            assert config in AutoModelForCausalLM._model_mapping


PLAIN = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt_neox")
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "deepseek_v2", "deepseek_v3")


@pytest.mark.parametrize("model_type", [*PLAIN, *MIXTURES])
def test_lora_reaches_every_layer(tiny_model: Callable[..., PreTrainedModel], model_type: str) -> None:
    """All linear layers of a dense model, known or not; of a mixture those of attention, and every routed expert."""
    model = tiny_model(model_type)
    routed = {name for name, p in model.named_parameters() if p.ndim == 3}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "layers." in name}
    wanted = {name for name in linear if ".mlp." not in name} if model_type in MIXTURES else linear
    names = {name for name, _ in add_lora(model, LoraSettings(rank=2)).named_parameters() if "lora_B" in name}
    reached = {name.removeprefix("base_model.model.").partition(".lora_B")[0] for name in names}
    assert {name for name in reached if not name.endswith((".experts", ".experts.base_layer"))} == wanted
    assert bool(routed) == (model_type in MIXTURES)
    assert sum(name.endswith((".experts", ".experts.base_layer")) for name in reached) == len(routed)


def test_sequences_of_longrope_end_where_they_would_change_each_other(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    model = tiny_model(
        "phi3", rope_parameters=rope, original_max_position_embeddings=16, max_position_embeddings=64, pad_token_id=0
    )
    assert positions(model.config) == 16
    ids_2L = torch.arange(40).view(2, 20)

    def of_the_first_ten(longest: int) -> Tensor:
        alone, beside = model(ids_2L[:1, :10]).logits, model(ids_2L[:, :longest]).logits[:1, :10]
        return (alone - beside).abs().max()

    assert of_the_first_ten(16) < 1e-5 < 1e-4 < of_the_first_ten(17)
    with pytest.raises(
        UserError, match=r"16 positions, of LongRoPE's original length.*; a prompt of 10 tokens and max_new_tokens 7"
    ):
        check_room(model, [range(10)], 7)


def test_positions_are_those_of_the_config() -> None:
    assert positions(CONFIG_MAPPING["llama"](max_position_embeddings=77)) == 77
    assert positions(BloomConfig()) is None


def test_routers_read_the_config() -> None:
    def router(model_type: str, **config: object) -> Router:
        made = CONFIG_MAPPING[model_type](**config)
        family = family_of(made)
        assert family.router is not None
        return family.router(made)

    assert router("mixtral") == Router("softmax")
    assert router("qwen3_moe", norm_topk_prob=False) == Router("softmax", normalise=False)
    assert router("deepseek_v2", routed_scaling_factor=16.0, norm_topk_prob=True) == Router("softmax", False, 16.0)
    assert router("deepseek_v3", routed_scaling_factor=2.5) == Router("sigmoid", True, 2.5, has_bias=True)
