from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.model_settings import InitSettings, TokenizerSettings
from grpo.policy import save_policy
from grpo.scratch import make_config, make_policy, make_tokenizer
from grpo.types import UserError

DENSE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
DEEPSEEK = DENSE | {
    "num_hidden_layers": 2,
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
TEXT = "user: naïve 数学 🙂\u0000\n\n\t<think>1 + 2</think>  don't\r\n é "


def deepseek(**config: Any) -> InitSettings:
    return InitSettings(architecture="deepseek_v3", config=DEEPSEEK | config)


def llama(**config: Any) -> InitSettings:
    return InitSettings(architecture="llama", config=DENSE | config)


# --- models -----------------------------------------------------------------------------------------------------------


def test_deepseek_v3_comes_back_from_disk_with_the_same_logits(tmp_path: Path) -> None:
    policy = make_policy(deepseek(), seed=3)
    router = policy.model.model.layers[1].mlp.gate
    router.e_score_correction_bias += torch.tensor([0.5, -0.5, 0.25, 0.0])
    save_policy(policy, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(24).reshape(2, 12)
    assert torch.equal(policy.model(ids).logits, loaded(ids).logits)
    halved = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert halved.model.layers[1].mlp.gate.e_score_correction_bias.dtype == torch.float32
    assert halved.model.layers[1].mlp.gate.e_score_correction_bias[0] == 0.5


def test_deepseek_v3_config_says_what_vllm_routes_by_and_promises_no_mtp() -> None:
    config = make_config(deepseek()).to_dict()
    assert config["topk_method"] == "noaux_tc"
    assert config["scoring_func"] == "sigmoid"
    assert config["num_nextn_predict_layers"] == 0


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3"])
def test_dense_families_can_be_made(architecture: str) -> None:
    init = InitSettings(architecture=architecture, config=DENSE)
    policy = make_policy(init, seed=0)
    assert policy.model.get_input_embeddings().weight.shape == (258, 16)
    assert policy.model.dtype == torch.float32


def test_the_seed_decides_the_weights_and_no_other_random_number() -> None:
    before = torch.get_rng_state()
    one, same, other = (make_policy(llama(), seed).model.lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_special_tokens_come_from_the_tokenizer() -> None:
    config = make_config(llama())
    assert (config.vocab_size, config.pad_token_id, config.eos_token_id, config.bos_token_id) == (258, 256, 257, None)


def test_small_models_start_with_larger_weights() -> None:
    assert make_config(llama(hidden_size=40)).initializer_range == pytest.approx(0.1)  # sqrt(2 / (5 * 40))
    assert make_config(llama(initializer_range=0.02)).initializer_range == 0.02


def test_key_value_heads_follow_the_heads() -> None:
    init = InitSettings(architecture="qwen2", config=DENSE)
    assert make_config(init).num_key_value_heads == 2
    assert make_config(llama(num_key_value_heads=1)).num_key_value_heads == 1


@pytest.mark.parametrize(
    ("init", "sentence"),
    [
        (llama(hiden_size=8), "config.hiden_size: no such key of llama (nearest: hidden_size)"),
        (llama(vocab_size=99), "config.vocab_size: comes from the tokenizer"),
        (llama(architectures=["X"]), "config.architectures: no such key"),
        (llama(hidden_size="big"), "expected int, got str"),
        (llama(hidden_size=-16), "llama can't be built from it"),
        (llama(hidden_size=17), "not a multiple of the number of attention heads"),
        (llama(hidden_act="silly"), "silly"),
        (deepseek(n_group=3), "deepseek_v3 can't be built from it"),
        (deepseek(num_experts_per_tok=5), "deepseek_v3 can't be built from it"),
        (deepseek(scoring_func="softmax"), "config.scoring_func: expected 'sigmoid', got 'softmax'"),
        (deepseek(num_nextn_predict_layers=1), "config.num_nextn_predict_layers: expected 0, got 1"),
        (InitSettings(architecture="lama"), "got 'lama' (nearest: llama)"),
        (InitSettings(architecture="t5"), "expected a causal language model of transformers, got 't5'"),
        (InitSettings(architecture="bert", config=DENSE), "'bert', whose tokens see what follows them"),
    ],
)
def test_a_wrong_config_is_one_sentence(init: InitSettings, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        make_policy(init, seed=0)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model.init.")


# --- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(f"{a} plus {b} is {a + b}" for a in range(20) for b in range(20)), encoding="utf-8")
    return path


def settings(text: Path, kind: str = "bytes", **more: Any) -> TokenizerSettings:
    trained = {"corpus": str(text), "vocab_size": 300} if kind == "bpe" else {}
    special = {"special_tokens": ["<think>", "</think>"]}
    return TokenizerSettings.model_validate({"kind": kind} | trained | special | more)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_any_text_survives_encoding_saving_and_decoding(kind: str, corpus: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(settings(corpus, kind))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = tokenizer.encode(TEXT)
    assert loaded.encode(TEXT) == ids
    assert loaded.decode(ids) == TEXT
    assert loaded.decode([*ids, loaded.eos_token_id], skip_special_tokens=True) == TEXT
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1


def test_in_a_byte_tokenizer_a_byte_is_its_own_id() -> None:
    tokenizer = make_tokenizer(TokenizerSettings())
    assert tokenizer.encode("aé\x00") == [97, 0xC3, 0xA9, 0]
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id) == (258, 256, 257)
    assert [tokenizer.decode([byte]) for byte in range(128)] == [chr(byte) for byte in range(128)]


def test_bpe_has_the_size_asked_for_and_shortens_its_corpus(corpus: Path) -> None:
    tokenizer = make_tokenizer(settings(corpus, "bpe"))
    assert len(tokenizer) == 300
    assert len(tokenizer.encode(" plus")) == 1


def test_the_chat_template_ends_where_the_assistant_begins() -> None:
    tokenizer = make_tokenizer(TokenizerSettings())
    question = [{"role": "user", "content": "1+1"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt == "user:\n1+1\nassistant:\n"
    answered = [*question, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == "user:\n1+1\nassistant:\n2<eos>\n"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"special_tokens": ["<a>", "<a>"]}, "got '<a>'"),
        ({"special_tokens": ["<eos>"]}, "got '<eos>'"),
        ({"special_tokens": [""]}, "got ''"),
        ({"special_tokens": ["é"]}, "got 'é'"),
        ({"kind": "bpe", "vocab_size": 200}, "expected at least 260"),
        ({"kind": "bpe", "vocab_size": 100_000}, "is too small for vocab_size 100000"),
        ({"kind": "bpe", "corpus": "/nowhere.txt"}, "expected a UTF-8 text file, got /nowhere.txt"),
    ],
)
def test_an_impossible_tokenizer_is_one_sentence(more: dict[str, Any], sentence: str, corpus: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_tokenizer(settings(corpus, **more))
    assert sentence in str(caught.value)
