"""A model with grouped keys and values, and what it becomes with latents."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from grpo.cli import main
from grpo.convert.text import perplexity, read_windows
from grpo.convert.to_mla import Latents, cached_values, to_mla
from grpo.convert.upcycle import Upcycling, upcycle
from grpo.convert.weights import Tensors

Save = Callable[..., Path]
Load = Callable[[Path], PreTrainedModel]
Logprobs = Callable[[Path, tuple[int, ...]], torch.Tensor]

TEXT = "".join(f"{number} squared is {number * number}, and its half is {number / 2}. " for number in range(40))
WINDOW = 8


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture
def source(save_tiny: Save) -> Save:
    """Weights small enough for a model to know how little it knows."""
    return partial(save_tiny, initializer_range=0.1)


@pytest.fixture
def logprobs(load_whole: Load) -> Logprobs:
    """Of every token after each of some ids, by the model of a folder."""

    @torch.no_grad()
    def of(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
        return load_whole(folder)(torch.tensor([ids])).logits.float().log_softmax(-1)

    return of


@pytest.mark.parametrize("tied", [True, False])
def test_what_a_window_shows_is_kept_when_ranks_suffice(
    source: Save, text: Path, tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, tied: bool, logprobs: Logprobs
) -> None:
    """One key head: its keys turn as before, and 9 latents tell all 8 tokens' values, whatever their norm."""
    src = source(num_key_value_heads=1, tie_word_embeddings=tied)
    settings = Latents(rank=9, text=text, rope=8, nope=8, window=WINDOW, calibration_tokens=WINDOW)
    to_mla(str(src), tmp_path / "out", settings)
    ids = read_windows(text, byte_tokenizer, WINDOW)[0]
    torch.testing.assert_close(logprobs(tmp_path / "out", ids), logprobs(src, ids), rtol=0, atol=1e-3)


def test_more_rank_loses_less(
    source: Save, text: Path, tmp_path: Path, byte_tokenizer: Any, logprobs: Logprobs
) -> None:
    src = source(initializer_range=0.3)
    ids = read_windows(text, byte_tokenizer, 64)[-1]
    gaps = []
    for rank in (2, 8, 32):
        to_mla(str(src), tmp_path / f"{rank}", Latents(rank=rank, text=text, window=64))
        before, after = logprobs(src, ids), logprobs(tmp_path / f"{rank}", ids)
        gaps.append((before.exp() * (before - after)).sum(-1).mean().item())
    assert gaps[0] > 1.2 * gaps[1] > 1.44 * gaps[2]


def test_perplexity_is_that_of_transformers(source: Save, text: Path, byte_tokenizer: Any, load_whole: Load) -> None:
    windows, model = read_windows(text, byte_tokenizer, 32)[:3], load_whole(source())
    with torch.no_grad():
        losses = [model(ids, labels=ids).loss.item() for ids in (torch.tensor([window]) for window in windows)]
    assert perplexity(model, windows) == pytest.approx(math.exp(sum(losses) / 3), rel=1e-5)


def test_figures_are_of_the_text_s_end(
    source: Save, text: Path, tmp_path: Path, byte_tokenizer: Any, load_whole: Load
) -> None:
    src = source()
    done = to_mla(str(src), tmp_path / "out", Latents(rank=8, text=text, window=32, held_out=0.1))
    windows = read_windows(text, byte_tokenizer, 32)
    held_out = windows[-round(0.1 * len(windows)) :]
    assert done.tokens == 32 * len(held_out)
    assert done.perplexity_before == pytest.approx(perplexity(load_whole(src), held_out), rel=1e-5)
    assert done.perplexity_after == pytest.approx(perplexity(load_whole(tmp_path / "out"), held_out), rel=1e-5)
    assert (done.cached_before, done.cached_after) == (2 * 2 * 2 * 8, 2 * (8 + 4))


def test_the_config_says_what_transformers_and_vllm_route_by(source: Save, text: Path, tmp_path: Path) -> None:
    to_mla(str(source()), tmp_path / "out", Latents(rank=8, text=text, window=32))
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.architectures == ["DeepseekV3ForCausalLM"]
    assert (config.kv_lora_rank, config.qk_rope_head_dim, config.qk_nope_head_dim, config.v_head_dim) == (8, 4, 8, 8)
    assert (config.topk_method, config.scoring_func, config.num_nextn_predict_layers) == ("noaux_tc", "sigmoid", 0)
    assert config.first_k_dense_replace == config.num_hidden_layers
    assert config.eos_token_id == 256


def test_experts_are_kept_as_they_are(source: Save, text: Path, tmp_path: Path, load_whole: Load) -> None:
    """Experts, then latents, as well as latents, then experts (tests/test_upcycle.py)."""
    mixture, out = tmp_path / "mixture", tmp_path / "out"
    upcycle(str(source()), mixture, Upcycling(experts=4, top_k=2, granularity=2))
    to_mla(str(mixture), out, Latents(rank=8, text=text, window=32))
    config = load_whole(out).config
    assert (config.n_routed_experts, config.n_shared_experts, config.routed_scaling_factor) == (4, 2, 2.0)
    before, after = Tensors(mixture), Tensors(out)
    same = [name for name in before.names() if ".self_attn." not in name]
    assert len(same) == 3 + 4 + 3 + 5 + 4 * 3  # outside of layers, norms, a dense layer, router and shared, experts
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_bfloat16_stays(source: Save, text: Path, tmp_path: Path) -> None:
    to_mla(str(source(dtype=torch.bfloat16)), tmp_path / "out", Latents(rank=8, text=text, window=32))
    tensors = Tensors(tmp_path / "out")
    assert {tensors[name].dtype for name in tensors.names()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


# --- the command ------------------------------------------------------------------------------------------------------


def test_what_it_measured_is_said(source: Save, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rank", "8", "--text", str(text), "--window", "32"]
    assert main(["to-mla", str(source()), str(tmp_path / "out"), *arguments]) == 0
    said = capsys.readouterr().out
    assert f"perplexity on {round(0.2 * len(TEXT) // 32) * 32:,} tokens: " in said
    assert "cache: 128 bytes a token before, 48 after (38%)" in said
    assert "vLLM serves latent attention on a CPU with" in said  # heads of 12 it does not


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rank", "1"], "--rank: expected from 2 to 33, one more than it replaces, got 1"),
        (["--rank", "34"], "--rank: expected from 2 to 33"),
        (["--rank", "8", "--rope", "6"], "--rope: expected an even divisor of the head's 8, got 6"),
        (["--rank", "8", "--rope", "1"], "--rope: expected an even divisor"),
        (["--rank", "8", "--nope", "9"], "--nope: expected from 1 to the head's 8, got 9"),
        (["--rank", "8", "--window", "1"], "--window: expected at least 2 tokens"),
        (["--rank", "8", "--held-out", "1"], "--held-out: expected above 0 and below 1"),
        (["--rank", "8", "--window", "5000"], "--text: expected at least two windows of 5000 tokens"),
        (["--rank", "8", "--text", "none.txt"], "--text: expected a UTF-8 text file, got none.txt"),
    ],
)
def test_numbers_and_texts_that_do_not_fit(
    source: Save, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    src = source()
    capsys.readouterr()  # the progress of saving it
    assert main(["to-mla", str(src), str(tmp_path / "out"), "--text", str(text), *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith(sentence)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "config", "sentence"),
    [
        ("qwen2", {}, "expected a model of the types llama, mistral, glm4_moe, got qwen2"),
        ("llama", {"attention_bias": True}, "expected an output projection of attention without bias"),
        ("mistral", {"sliding_window": 6}, "expected full attention in every layer"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "expected rotary embeddings of the whole head without scaling",
        ),
    ],
)
def test_models_without_a_latent_form(
    source: Save,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    family: str,
    config: dict[str, Any],
    sentence: str,
) -> None:
    arguments = ["to-mla", str(source(family, **config)), str(tmp_path / "out"), "--rank", "8", "--text", str(text)]
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_qwen3_s_mixture_has_norms_that_stand_in_the_way(
    source: Save, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upcycle(str(source("qwen3")), tmp_path / "mixture", Upcycling(experts=4, top_k=2))
    arguments = ["to-mla", str(tmp_path / "mixture"), str(tmp_path / "out"), "--rank", "8", "--text", str(text)]
    assert main(arguments) == 2
    assert "norm" in capsys.readouterr().err


def test_values_that_a_cache_holds(tiny_model: Any) -> None:
    assert cached_values(tiny_model("llama").config) == 2 * 2 * 2 * 8
    assert cached_values(tiny_model("deepseek_v3").config) == 2 * (16 + 8)
