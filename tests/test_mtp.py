import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import MtpModel

from grpo.checkpoint_names import checkpoint_tensors
from grpo.cli import train
from grpo.learner import Learner
from grpo.model_settings import LoraSettings, ModelSettings
from grpo.mtp import add_predictor, predicting_decoder, predictor_input, predictor_of
from grpo.mtp_loss import mtp_settings
from grpo.mtp_settings import UNMOVED, MtpSettings
from grpo.policy import Policy, add_lora, load_policy, save_policy
from grpo.rollout.vllm_options import can_serve
from grpo.sft_stage import SftStage
from grpo.types import UserError

FAMILIES = ["deepseek_v3", "llama", "qwen2", "qwen3_moe", "gemma2"]
IDS = torch.tensor([[5, 60, 7, 200, 9, 31]])


@pytest.fixture
def save(byte_tokenizer, tmp_path):
    def write(model, name: str = "model") -> Path:
        save_policy(Policy(model, byte_tokenizer, ""), tmp_path / name)
        return tmp_path / name

    return write


def load(folder: Path, mtp: str = "keep", **settings):
    return load_policy(ModelSettings(path=str(folder), mtp=mtp, **settings), str(folder))


@torch.no_grad()
def draft_logits(model, ids=IDS) -> torch.Tensor:
    """What the predictor says of token i + 2 at every i, (B, T - 1, V)."""
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    given = predictor_input(model, hidden[:, :-1], ids[:, 1:])
    return model.get_output_embeddings()(predicting_decoder(model)(inputs_embeds=given, use_cache=False)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trunk_computes_what_it_did_and_a_folder_gives_everything_back(tiny_model, save, family) -> None:
    model = tiny_model(family)
    before = model(input_ids=IDS).logits
    add_predictor(model, seed=3)
    assert torch.equal(model(input_ids=IDS).logits, before)
    folder = save(model)
    again = load(folder).model
    assert torch.equal(again(input_ids=IDS).logits, before)
    assert torch.equal(draft_logits(again), draft_logits(model))
    assert json.loads((folder / "config.json").read_text())["num_nextn_predict_layers"] == 1
    assert again.config.num_hidden_layers == 2
    twice = load_file(save(again, "again") / "model.safetensors")
    assert all(torch.equal(tensor, twice[name]) for name, tensor in load_file(folder / "model.safetensors").items())


def test_weights_have_the_released_names(tiny_model, save) -> None:
    model = tiny_model("deepseek_v3")
    add_predictor(model, seed=0)
    weights = load_file(save(model) / "model.safetensors")
    own = {name.removeprefix("model.layers.2.") for name in weights if name.startswith("model.layers.2.")}
    layer = {name.removeprefix("model.layers.1.") for name in weights if name.startswith("model.layers.1.")}
    parts = {"embed_tokens", "enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head"}
    assert own == layer | {f"{part}.weight" for part in parts}
    assert "mlp.experts.3.down_proj.weight" in own
    assert torch.equal(weights["model.layers.2.embed_tokens.weight"], weights["model.embed_tokens.weight"])
    assert torch.equal(weights["model.layers.2.shared_head.head.weight"], weights["lm_head.weight"])


def test_transformers_own_predictor_says_the_same(tiny_model, save) -> None:
    model = tiny_model("deepseek_v3", seed=1)
    add_predictor(model, seed=1)
    trunk = AutoModelForCausalLM.from_pretrained(save(model))
    trunk._keys_to_ignore_on_load_unexpected = {r"model\.layers\.2\..*"}  # it knows the published depth alone
    theirs = MtpModel.from_pretrained(trunk)
    with torch.no_grad():
        hidden = trunk.model(input_ids=IDS).last_hidden_state
        for length in (2, 5):
            positions = torch.arange(length)[None]
            seen = torch.ones_like(positions)
            _, logits, _ = theirs(IDS[:, 1 : length + 1], hidden[:, :length], seen, positions, None)
            torch.testing.assert_close(logits[:, 0], draft_logits(model)[:, length - 1], atol=1e-5, rtol=0)


def test_plain_transformers_and_an_older_folder_go_on_without_it(tiny_model, save, caplog) -> None:
    model = tiny_model("deepseek_v3")
    add_predictor(model, seed=0)
    before, folder = model(input_ids=IDS).logits, save(model)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(input_ids=IDS).logits, before)
    caplog.clear()
    dropped = load(folder, "drop").model
    assert predictor_of(dropped) is None
    plain = load(save(dropped, "plain"))
    assert predictor_of(plain.model) is None
    assert plain.model.config.num_nextn_predict_layers == 0
    assert torch.equal(plain.model(input_ids=IDS).logits, before)
    assert predictor_of(load(save(dropped, "other"), "add").model) is not None
    assert caplog.text == ""  # no report of weights that went unused


def test_a_promise_without_weights_is_not_passed_on(tiny_model, save) -> None:
    folder = save(tiny_model("deepseek_v3", num_nextn_predict_layers=1))
    assert load(folder).model.config.num_nextn_predict_layers == 0


def test_a_new_one_is_decided_by_the_seed(tiny_model, save) -> None:
    folder = save(tiny_model("llama"))
    first, second = load(folder, "add").model, load(folder, "add").model
    assert torch.equal(draft_logits(first), draft_logits(second))
    other = tiny_model("llama")
    add_predictor(other, seed=1)
    assert not torch.equal(draft_logits(other), draft_logits(first))


def test_it_is_trained_whole_beside_adapters_which_leave_it_alone(tiny_model, save) -> None:
    model = tiny_model("deepseek_v3")
    add_predictor(model, seed=0)
    names = [name for name in checkpoint_tensors(model) if ".layers.2." in name]
    assert names == []  # an engine's model is the trunk alone
    adapted = add_lora(model, LoraSettings(rank=2))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        f"base_model.model.model.layers.2.{name}" for name, _ in predictor_of(adapted).named_parameters()
    }
    assert not any("lora_" in name and ".layers.2." in name for name in trained)
    assert torch.equal(draft_logits(load(save(adapted)).model), draft_logits(model))


def test_half_precision_is_warned_of_where_it_is_trained(tiny_model, save) -> None:
    """Under LoRA that is the predictor alone, when a stage moves it: adapters are float32."""
    model = tiny_model("llama")
    add_predictor(model, seed=0)
    adapted = load(save(model), dtype="bfloat16", lora=LoraSettings(rank=2)).model
    assert [note.split(":")[0] for note in learner_of(adapted).notes] == ["weights are trained in bfloat16"]
    assert mtp_settings(adapted, UNMOVED, MtpSettings()) is None
    assert learner_of(adapted).notes == []
    assert len(learner_of(load(save(tiny_model("llama"), "whole"), dtype="bfloat16").model).notes) == 1


def test_adapters_that_are_added_in_half_precision_are_warned_of(tiny_model) -> None:
    """Those of linear layers are multiplied by themselves, in float32."""
    for dtype, targets, notes in (
        (torch.bfloat16, None, ["adapters of experts are added to weights in bfloat16 in every forward pass"]),
        (torch.bfloat16, ["q_proj"], []),
        (torch.float32, None, []),
    ):
        model = add_lora(tiny_model("qwen3_moe").to(dtype), LoraSettings(rank=2, targets=targets))
        assert [note.split(":")[0] for note in learner_of(model).notes] == notes


def learner_of(model) -> Learner:
    stage = {"kind": "sft", "steps": 1, "lr": 1e-3, "problems": {"path": "none"}}
    return Learner(model, SftStage.model_validate(stage), 1, Accelerator(cpu=True))


def test_an_architecture_without_such_layers_is_refused(tiny_model) -> None:
    with pytest.raises(UserError, match="GPT2LMHeadModel keeps its layers in a way"):
        add_predictor(tiny_model("gpt2"), seed=0)


@pytest.mark.parametrize("kind", ["grpo", "evaluate"])
def test_a_predictor_that_vllm_does_not_know_is_found_ahead(
    tiny_model, save, write_recipe, monkeypatch, capsys, kind: str
) -> None:
    monkeypatch.setenv("GRPO_SERVER_KEY", "none")
    engine = {"engine": "vllm-server", "servers": {"urls": ["http://localhost:1"]}}
    stage = {"kind": "grpo", "steps": 1, "lr": 1e-3, "rollout": engine} if kind == "grpo" else {"kind": kind} | engine
    model = {"path": str(save(tiny_model("llama"))), "mtp": "add"}
    assert train([str(write_recipe(model=model, stages=[stage]))]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "rollout.engine: vLLM loads no llama model with a layer of multi-token prediction: set engine: transformers, "
        "or model.mtp: drop"
    )


def test_vllm_serves_a_predictor_of_deepseek_alone(tiny_model) -> None:
    for family, served in (("llama", False), ("deepseek_v3", True)):
        model = tiny_model(family, **({"qk_nope_head_dim": 24} if served else {}))
        assert can_serve(model.config)
        add_predictor(model, seed=0)
        assert can_serve(model.config) is served


def test_a_router_keeps_its_bias_in_float32_beside_half_precision(tiny_model, save) -> None:
    model = tiny_model("deepseek_v3")
    add_predictor(model, seed=0)
    half = load(save(model), dtype="bfloat16").model
    assert {parameter.dtype for parameter in predictor_of(half).parameters()} == {torch.bfloat16}
    assert predictor_of(half).mlp.gate.e_score_correction_bias.dtype == torch.float32


def test_a_recipe_that_starts_from_a_folder_is_asked_for_its_predictor(tiny_model, save, write_recipe, capsys) -> None:
    with_one = tiny_model("llama")
    add_predictor(with_one, seed=0)
    stage = {"kind": "sft", "steps": 1, "examples_per_step": 2, "lr": 1e-3, "mtp": {"weight": 0.5}}
    for model, status in ((with_one, 0), (tiny_model("llama"), 2)):
        folder = save(model, f"of-{status}")
        recipe = write_recipe(f"run-{status}", model={"path": str(folder)}, stages=[stage])
        assert train([str(recipe)]) == status
    assert "stages[0].mtp needs a policy with a layer of multi-token prediction" in capsys.readouterr().err
