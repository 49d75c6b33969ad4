import logging

import pytest
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BloomConfig

from grpo.families import FAMILIES, UNKNOWN, family_of, write_config_keys


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


def test_a_mixture_of_experts_is_adapted_in_its_attention() -> None:
    for model_type, family in FAMILIES.items():
        if family.not_lora_targets:
            assert set(family.lora_targets).isdisjoint(family.not_lora_targets), model_type
            config = CONFIG_MAPPING[model_type]
            assert config in AutoModelForCausalLM._model_mapping
