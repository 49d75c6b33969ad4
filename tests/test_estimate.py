from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo.engine_estimate import engine_words
from grpo.engine_settings import EngineSettings
from grpo.estimate import describe
from grpo.model_settings import LoraSettings, ModelSettings
from grpo.policy import add_lora, load_policy, save_policy
from grpo.recipe import Recipe
from grpo.recipe_file import load_recipe
from grpo.scratch import make_policy

LLAMA = {
    "architecture": "llama",
    "config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
}
DEEPSEEK = {
    "architecture": "deepseek_v3",
    "config": {
        "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "n_routed_experts": 4, "n_shared_experts": 1, "kv_lora_rank": 32,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    },
}  # fmt: skip
GRPO = {
    "kind": "grpo", "lr": 1e-6, "steps": 10, "prompts_per_step": 16, "completions_per_prompt": 8,
    "minibatches_per_step": 4, "epochs_per_step": 2, "rollout": {"engine": "transformers", "max_new_tokens": 100},
    "tokens_per_micro_batch": 1000,
}  # fmt: skip


def recipe(model: dict[str, Any], *stages: dict[str, Any]) -> Recipe:
    problems = {"path": "p.jsonl", "max_prompt_tokens": 50}
    shared = [
        {"problems": problems} | ({} if s["kind"] == "sft" else {"rewards": [{"name": "accuracy"}]}) | s for s in stages
    ]
    return Recipe.model_validate({"name": "demo", "model": model, "stages": shared})


def words(model: dict[str, Any], *stages: dict[str, Any]) -> list[str]:
    """What is said after the resolved recipe."""
    lines = describe(recipe(model, *stages)).splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("policy: ")) :]


@pytest.mark.parametrize("init", [LLAMA, LLAMA | {"config": LLAMA["config"] | {"tie_word_embeddings": True}}, DEEPSEEK])
def test_counts_are_those_of_the_real_model(init: dict[str, Any]) -> None:
    settings = ModelSettings.model_validate({"init": init})
    assert settings.init is not None
    real = sum(p.numel() for p in make_policy(settings.init, seed=0).model.parameters())
    assert words({"init": init}, GRPO)[0] == f"policy: {real:,} parameters, {real:,} trained"


@pytest.mark.parametrize("init", [LLAMA, DEEPSEEK])
def test_lora_trains_what_peft_would(init: dict[str, Any], tmp_path: Path) -> None:
    settings = ModelSettings.model_validate({"init": init})
    assert settings.init is not None
    save_policy(make_policy(settings.init, seed=0), tmp_path / "model")
    adapted = load_policy(ModelSettings(path="m", lora=LoraSettings(rank=4)), str(tmp_path / "model")).model
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    bare = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" not in name)
    said = words({"path": str(tmp_path / "model"), "lora": {"rank": 4}}, GRPO)
    assert said[0] == f"policy: {bare:,} parameters, {trained:,} trained"
    assert trained == sum(
        p.numel() for p in add_lora(make_policy(settings.init, 0).model, LoraSettings(rank=4)).parameters()
        if p.requires_grad
    )  # fmt: skip
    assert not any("reference" in line for line in said)


def test_the_arithmetic_of_a_grpo_stage_by_hand() -> None:
    assert words({"init": LLAMA}, GRPO)[1:7] == [
        "",
        "01-grpo, from base",
        "  16 prompts a step x 8 completions a prompt = 128 completions a step, 1,280 in 10 steps",
        "  4 minibatches of 4 prompts x 2 epochs = 8 updates a step",
        "  at most 12,800 new tokens a step (completions of at most 100)",
        # (128 completions x 100 + 16 prompts x 50) tokens x 2 epochs
        "  the learner computes at most 27,200 tokens a step (each prompt of at most 50 once), 1,000 at a time",
    ]


def test_the_arithmetic_of_the_other_stages_by_hand() -> None:
    sft = {"kind": "sft", "lr": 1e-3, "epochs": 3, "examples_per_step": 5}
    said = words({"init": LLAMA}, sft, {"kind": "evaluate", "limit": 10, "samples": 8, "max_new_tokens": 20})
    assert said[2:4] == ["01-sft, from base", "  5 examples a step, one update a step, 3 epochs"]
    # 10 problems x (1 + 8) completions x 20 tokens
    assert said[-3] == "02-evaluate, from base, 01-sft"
    assert said[-1] == (
        "  at most 10 problems, one greedy completion and 8 samples of each: at most 1,800 new tokens a model"
    )


def test_what_an_engine_takes_by_hand() -> None:
    """A 7B Llama keeps 2 x 32 layers x 32 heads x 128 numbers a token: 64 completions of 150 tokens are 10.07 GB."""
    parameters, cache_values = 7_000_000_000, 262_144
    settings = EngineSettings(engine="transformers")
    assert "at most 10.07 GB" in engine_words(settings, parameters, cache_values, 150, "float32")
    halved = EngineSettings(engine="vllm", vllm={"dtype": "bfloat16", "kv_cache_gb": 2.5})  # type: ignore[arg-type]
    said = engine_words(halved, parameters, cache_values, 150, "float32")
    assert said == ("engine vllm (bfloat16): about 16.50 GB = a copy of the weights 14.00 + keys and values 2.50")


def test_memory_by_hand() -> None:
    """Llama 7B's layers with a vocabulary of bytes, from the config alone."""
    config = {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    said = words({"init": {"architecture": "llama", "config": config}}, GRPO)
    embeddings = 2 * 258 * 4096  # raw bytes, <pad> and <eos>
    parameters = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096 + embeddings
    assert said[0] == f"policy: {parameters:,} parameters, {parameters:,} trained"
    weights, activations, logits = parameters * 4, 1000 * 4096 * 32 * 17 * 4, 1000 * 258 * 4 * 3
    total = weights * 5 + activations + logits  # the weights, their gradients, AdamW's two moments and the reference
    assert said[-1] == (
        f"  memory: about {total / 1e9:.2f} GB = weights {weights / 1e9:.2f} + gradients {weights / 1e9:.2f} + "
        f"AdamW {2 * weights / 1e9:.2f} + reference {weights / 1e9:.2f} + activations {activations / 1e9:.2f} + "
        f"logits {logits / 1e9:.2f} (with every token of a micro-batch trained on)"
    )


def test_memory_of_the_options_that_save_it() -> None:
    saving = GRPO | {"activations": "recompute", "optimizer": "adamw_8bit", "kl": {"beta": 0}}
    said = words({"init": LLAMA | {"config": LLAMA["config"] | {"num_hidden_layers": 40}}}, saving)
    parameters = int(said[0].split()[1].replace(",", ""))
    # Two bytes of moments a weight; of each layer its input, and one layer's 17 values at a time.
    activations, logits = 1000 * 16 * (40 + 17) * 4, 1000 * 258 * 4 * 3
    total = parameters * (4 + 4 + 2) + activations + logits
    assert said[-1].startswith(f"  memory: about {total / 1e9:.2f} GB")


def test_no_penalty_no_reference() -> None:
    assert "reference" in words({"init": LLAMA}, GRPO)[-1]
    assert "reference" not in words({"init": LLAMA}, GRPO | {"kl": {"beta": 0}})[-1]


def test_the_resolved_recipe_comes_first(tmp_path: Path) -> None:
    text = describe(recipe({"init": LLAMA}, GRPO)).partition("policy: ")[0]
    assert yaml.safe_load(text)["stages"][0]["adam_epsilon"] == 1e-8
    (tmp_path / "again.yaml").write_text(text)
    assert load_recipe(tmp_path / "again.yaml") == recipe({"init": LLAMA}, GRPO)
