import copy
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grpo.checkpoint import Checkpoint, load_latest, save_checkpoint
from grpo.checkpoint_names import checkpoint_tensors
from grpo.model_settings import InitSettings, LoraSettings, ModelSettings
from grpo.policy import (
    Policy,
    load_policy,
    lost_by_merging,
    make_reference,
    merged_model,
    save_policy,
)
from grpo.pretrained import load_config, load_tokenizer
from grpo.scratch import make_policy
from grpo.training import trained_state
from grpo.types import UserError

DENSE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
DEEPSEEK = DENSE | {
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
CONFIGS = {"llama": DENSE | {"tie_word_embeddings": True}, "deepseek_v3": DEEPSEEK}
IDS = torch.arange(24).reshape(2, 12)
LORA = LoraSettings(rank=2)


def settings(lora: LoraSettings | None = None, dtype: str = "float32") -> ModelSettings:
    return ModelSettings.model_validate({"path": "given apart", "dtype": dtype, "lora": lora})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) / "model" for name in CONFIGS}
    for name, folder in made.items():
        save_policy(make_policy(InitSettings(architecture=name, config=CONFIGS[name]), seed=0), folder)
    return made


@pytest.fixture
def llama(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "llama"))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def trained(policy: Policy) -> list[nn.Parameter]:
    return [parameter for parameter in policy.model.parameters() if parameter.requires_grad]


def size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def disturb(policy: Policy) -> None:
    """Move every trained parameter, as training does."""
    with torch.no_grad():
        for parameter in trained(policy):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_saved_policy_is_plain_transformers(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(settings(), str(folders["llama"]))
    disturb(policy)
    save_policy(policy, tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(policy.model))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").encode("1+1") == policy.tokenizer.encode("1+1")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_the_dtype_on_disk_is_the_models(folders: dict[str, Path], tmp_path: Path) -> None:
    save_policy(load_policy(settings(dtype="bfloat16"), str(folders["deepseek_v3"])), tmp_path / "saved")
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "saved" / "model.safetensors").items()}
    bias = [name for name in dtypes if name.endswith("e_score_correction_bias")]
    assert [dtypes.pop(name) for name in bias] == [torch.float32]
    assert set(dtypes.values()) == {torch.bfloat16}


def test_published_sampling_defaults_do_not_reach_the_policy(llama: Path, tmp_path: Path) -> None:
    published = {"eos_token_id": [257, 3], "top_k": 20, "temperature": 0.7, "repetition_penalty": 1.05}
    (llama / "generation_config.json").write_text(json.dumps(published))
    save_policy(load_policy(settings(), str(llama)), tmp_path / "saved")
    kept = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert kept.to_diff_dict().keys() == {"eos_token_id", "pad_token_id", "transformers_version"}
    assert kept.eos_token_id == [257, 3]


def test_a_tokenizer_without_padding_pads_with_its_end(llama: Path) -> None:
    _edit(llama / "tokenizer_config.json", pad_token=None)
    tokenizer = load_tokenizer(str(llama))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 257


def _edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def _fails(path: Path | str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load_policy(settings(), str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert sentence in message
    assert "\n" not in message


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    _fails(tmp_path / "none", "no such model folder")
    _fails("./none", "no such model folder")
    _fails("a/b/c", "no such model folder")


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    _fails(tmp_path / "model.gguf", "grpo import-gguf")


def test_a_hub_model_that_can_not_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _fails("no-such-owner/no-such-model", "check the name and the network")


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("tokenizer.json", "no usable tokenizer"),
        ("config.json", "no usable model config"),
        ("model.safetensors", "no usable model here"),
    ],
)
def test_an_incomplete_folder(llama: Path, missing: str, sentence: str) -> None:
    (llama / missing).unlink()
    _fails(llama, sentence)


def test_weights_cut_short(llama: Path) -> None:
    weights = llama / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    _fails(llama, "no usable model here")


def test_weights_that_lack_a_tensor_are_not_filled_with_noise(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    _fails(llama, "model.layers.1.mlp.up_proj.weight")


def test_a_tokenizer_without_an_end(llama: Path) -> None:
    _edit(llama / "tokenizer_config.json", eos_token=None)
    _fails(llama, "expected a tokenizer with an end token")


def test_a_tokenizer_larger_than_the_embedding(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(llama)
    _fails(llama, "260 tokens, got 258")


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["T5ForConditionalGeneration"]])
def test_a_model_that_is_not_causal(llama: Path, architectures: list[str]) -> None:
    _edit(llama / "config.json", architectures=architectures)
    _fails(llama, f"expected a causal language model, got {architectures[0]}")


def test_an_unknown_model_type(llama: Path) -> None:
    _edit(llama / "config.json", model_type="novel")
    with pytest.raises(UserError, match="novel"):
        load_config(str(llama))


# --- LoRA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_fresh_adapters_change_nothing_and_alone_are_trained(folders: dict[str, Path], name: str) -> None:
    plain = load_policy(settings(), str(folders[name]))
    adapted = load_policy(settings(LORA), str(folders[name]))
    assert isinstance(adapted.model, PeftModel)
    assert torch.equal(logits(plain.model), logits(adapted.model))
    assert size(adapted.model.parameters()) == size(plain.model.parameters()) + size(trained(adapted))
    assert len(trained(plain)) == len(list(plain.model.parameters()))


def test_adapters_of_llama_have_the_size_of_their_modules(folders: dict[str, Path]) -> None:
    adapted = load_policy(settings(LORA), str(folders["llama"]))
    # rank 2 * (in + out): four of 16 + 16, three of 16 + 24, in two layers
    assert size(trained(adapted)) == 2 * 2 * (4 * 32 + 3 * 40)


def test_checkpoints_of_adapters_leave_a_tied_embedding_to_the_base_model(folders: dict[str, Path]) -> None:
    names = trained_state(load_policy(settings(LORA), str(folders["llama"])))
    assert names
    assert all("lora_" in name for name in names)


def test_the_seed_decides_the_adapters(folders: dict[str, Path]) -> None:
    path = str(folders["llama"])
    one, same, other = (load_policy(settings(LORA), path, seed) for seed in (1, 1, 2))
    first = [trained(policy)[0] for policy in (one, same, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_are_saved_merged_and_stay_unmerged(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    policy = load_policy(settings(LORA), str(folders[name]))
    base = logits(policy.model)
    disturb(policy)
    before, weights = logits(policy.model), copy.deepcopy(policy.model.state_dict())
    save_policy(policy, tmp_path / "saved")
    after = policy.model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[key], after[key]) for key in weights)
    saved = load_policy(settings(), str(tmp_path / "saved"))
    torch.testing.assert_close(logits(saved.model), before, atol=1e-4, rtol=1e-4)
    assert (before - base).abs().max() > 0.01
    assert not any("lora" in key for key in load_file(tmp_path / "saved" / "model.safetensors"))


def test_experts_are_adapted_unless_targets_leave_them_out(folders: dict[str, Path], tmp_path: Path) -> None:
    """Their tensors lie in two adapters, one inside the other; what is pushed and saved holds both."""
    path = str(folders["deepseek_v3"])
    attention = load_policy(
        settings(LoraSettings(rank=2, targets=["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"])), path
    )
    policy = load_policy(settings(LoraSettings(rank=2)), path)
    layer: Any = load_policy(settings(), path).model.get_submodule("model.layers.1.mlp.experts")
    tensors = (layer.gate_up_proj, layer.down_proj)
    # of one layer, since the first of two is dense
    added = sum(2 * len(tensor) * (tensor.shape[1] + tensor.shape[2]) for tensor in tensors)
    assert size(policy.model.parameters()) == size(attention.model.parameters()) + added
    disturb(policy)
    before = logits(policy.model)
    pushed = checkpoint_tensors(policy.model)
    save_policy(policy, tmp_path / "saved")
    saved = load_policy(settings(), str(tmp_path / "saved"))
    torch.testing.assert_close(logits(saved.model), before, atol=1e-4, rtol=1e-4)
    written = load_file(tmp_path / "saved" / "model.safetensors")
    assert pushed.keys() == written.keys()
    for name, tensor in pushed.items():
        torch.testing.assert_close(tensor, written[name], atol=1e-5, rtol=1e-5)


def test_a_reference_leaves_none_of_its_adapters_in_autocasts_cache(folders: dict[str, Path]) -> None:
    policy = load_policy(settings(LORA), str(folders["llama"]))
    reference = make_reference(policy)
    disturb(policy)
    reference.refresh(policy)
    disturb(policy)
    with torch.autocast("cpu", torch.bfloat16):
        alone = policy.model(IDS).logits
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad(), reference.model() as ref:
            other = ref(IDS).logits
        together = policy.model(IDS).logits
    assert torch.equal(together, alone)
    assert not torch.equal(other, alone)


def test_what_rounding_takes_from_merged_adapters_by_hand() -> None:
    """0.1 is 0.10009765625 in bfloat16, whose steps are 4.9e-4 there: 2e-4 is lost, 2 ** -11 is kept."""
    linear = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    model = get_peft_model(torch.nn.Sequential(linear), LoraConfig(r=1, lora_alpha=1, target_modules=["0"]))
    linear.weight.data.fill_(0.1)
    (layer,) = [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "lora_B")]
    layer.lora_A["default"].to(torch.float32).weight.data.fill_(1.0)
    lost = []
    for change in (2e-4, 2.0**-11, 0.0):
        layer.lora_B["default"].to(torch.float32).weight.data.fill_(change)
        lost.append(lost_by_merging(model))
    assert lost == pytest.approx([1.0, 0.0, 0.0], abs=1e-3)
    assert lost_by_merging(torch.nn.Linear(1, 1).to(torch.bfloat16)) == 0.0


def test_a_model_without_adapters_is_its_own_merged_model(folders: dict[str, Path]) -> None:
    model = load_policy(settings(), str(folders["llama"])).model
    assert merged_model(model) is model


@pytest.mark.parametrize(
    ("name", "target"),
    [("llama", "qproj"), ("llama", "lm_head"), ("llama", "embed_tokens"), ("deepseek_v3", "up_proj")],
)
def test_a_wrong_target_is_one_sentence(folders: dict[str, Path], name: str, target: str) -> None:
    with pytest.raises(UserError, match=rf"o_proj.*got '{target}'"):
        load_policy(settings(LoraSettings(targets=["o_proj", target])), str(folders[name]))


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[None, LORA, LoraSettings(rank=2, dropout=0.5)], ids=["full", "lora", "lora with dropout"])
def policy(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Policy:
    return load_policy(settings(request.param), str(folders["llama"]))


def test_the_reference_stays_while_the_policy_moves(policy: Policy) -> None:
    start = logits(policy.model)
    reference = make_reference(policy)
    disturb(policy)
    policy.model.train()
    moved = copy.deepcopy(policy.model.state_dict())
    with reference.model() as model:
        assert torch.equal(logits(model), start)
        assert not model.training
    assert policy.model.training
    assert all(torch.equal(tensor, moved[name]) for name, tensor in policy.model.state_dict().items())
    assert reference.state_dict() == {}


def test_a_refreshed_reference_is_the_policy_of_that_moment(policy: Policy) -> None:
    reference = make_reference(policy)
    disturb(policy)
    then = logits(policy.model)
    reference.refresh(policy)
    disturb(policy)
    now = logits(policy.model)
    with reference.model() as model:
        assert torch.equal(logits(model), then)
    assert torch.equal(logits(policy.model), now)
    assert not torch.equal(now, then)


def test_the_policy_is_given_back_whole_when_the_reference_fails(policy: Policy) -> None:
    reference = make_reference(policy)
    reference.refresh(policy)
    disturb(policy)
    policy.model.train()
    before = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    with pytest.raises(ZeroDivisionError), reference.model():
        raise ZeroDivisionError
    assert policy.model.training
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert all(parameter.requires_grad for parameter in trained(policy))


def test_using_the_reference_leaves_gradients_of_the_policy_alone(policy: Policy) -> None:
    disturb(policy)
    policy.model.eval()
    reference = make_reference(policy)
    reference.refresh(policy)
    disturb(policy)
    policy.model(IDS).logits.square().sum().backward()
    alone = [parameter.grad.clone() for parameter in trained(policy)]
    policy.model.zero_grad()
    loss = policy.model(IDS).logits.square().sum()
    with torch.no_grad(), reference.model() as model:
        model(IDS)
    loss.backward()
    for parameter, gradient in zip(trained(policy), alone, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_reference_comes_back_from_a_checkpoint(policy: Policy, tmp_path: Path) -> None:
    """Its embedding is the output layer too, and is stored once."""
    reference = make_reference(policy)
    disturb(policy)
    reference.refresh(policy)
    save_checkpoint(tmp_path, Checkpoint(1, {}, {}, reference.state_dict(), [], {}, {}))
    disturb(policy)
    again = make_reference(policy)
    loaded, _ = load_latest(tmp_path)
    assert loaded is not None
    again.load_state_dict(loaded.reference)
    with reference.model() as model:
        expected = logits(model)
    with again.model() as model:
        assert torch.equal(logits(model), expected)
    assert again.state_dict().keys() == reference.state_dict().keys()
