"""A dense model and the mixture of experts that it becomes compute the same; then the experts learn."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from grpo.cli import main
from grpo.convert.upcycle import Upcycling, slices, upcycle
from grpo.convert.weights import Tensors, TensorWriter
from grpo.model_settings import ModelSettings
from grpo.policy import load_policy

GOLDEN = Path(__file__).with_name("golden.json")
SETTINGS = Upcycling(experts=4, top_k=2)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
IDS = torch.arange(60).view(2, 30)

Save = Callable[..., Path]
Load = Callable[[Path], PreTrainedModel]
Logits = Callable[[Path], torch.Tensor]


@pytest.fixture
def logits(load_whole: Load) -> Logits:
    """A folder's answer to IDS."""

    @torch.no_grad()
    def of(folder: Path) -> torch.Tensor:
        return load_whole(folder)(IDS).logits.float()

    return of


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {"sliding_window": None}),
    ],
)
def test_the_mixture_computes_what_the_dense_model_does(
    save_tiny: Save, tmp_path: Path, family: str, config: dict[str, Any], load_whole: Load, logits: Logits
) -> None:
    src = save_tiny(family, **config)
    upcycle(str(src), tmp_path / "out", SETTINGS)
    torch.testing.assert_close(logits(tmp_path / "out"), logits(src), rtol=0, atol=1e-5)
    assert load_whole(tmp_path / "out").config.model_type == "glm4_moe"
    assert load_policy(ModelSettings(path="-"), str(tmp_path / "out")).tokenizer.eos_token_id == 256


@pytest.mark.parametrize(
    "changed",
    [
        {"granularity": 4, "experts": 8},
        {"shared": 2},
        {"symmetry": "noise", "amount": 0.5},
        {"symmetry": "none"},
        {"dense_layers": 0, "scale": 2.5},
    ],
)
def test_so_it_does_whatever_the_experts_are(
    save_tiny: Save, tmp_path: Path, changed: dict[str, Any], logits: Logits
) -> None:
    src = save_tiny()
    upcycle(str(src), tmp_path / "out", replace(SETTINGS, **changed))
    torch.testing.assert_close(logits(tmp_path / "out"), logits(src), rtol=0, atol=1e-5)


def test_in_bfloat16_only_the_router_bias_stays_float32(save_tiny: Save, tmp_path: Path, logits: Logits) -> None:
    src = save_tiny(dtype=torch.bfloat16)
    upcycle(str(src), tmp_path / "out", SETTINGS)
    torch.testing.assert_close(logits(tmp_path / "out"), logits(src), rtol=0, atol=0)
    tensors = Tensors(tmp_path / "out")
    wide = [name for name in tensors.names() if tensors[name].dtype == torch.float32]
    assert wide == ["model.layers.1.mlp.gate.e_score_correction_bias"]


def test_a_latent_model_without_experts_keeps_its_architecture(save_tiny: Save, tmp_path: Path, logits: Logits) -> None:
    src = save_tiny("deepseek_v3", first_k_dense_replace=2, tie_word_embeddings=False)
    upcycle(str(src), tmp_path / "out", replace(SETTINGS, granularity=2))
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.topk_method, config.scoring_func) == ("deepseek_v3", "noaux_tc", "sigmoid")
    assert (config.n_routed_experts, config.n_shared_experts, config.moe_intermediate_size) == (4, 2, 24)
    torch.testing.assert_close(logits(tmp_path / "out"), logits(src), rtol=0, atol=1e-5)


def test_parameters_are_counted(save_tiny: Save, tmp_path: Path) -> None:
    """A layer of experts: 4 routed of 32 x 12 x 3 beside the shared one, a router of 4 x 32, a bias of 4."""
    sizes = upcycle(str(save_tiny()), tmp_path / "out", replace(SETTINGS, granularity=4))
    assert sizes.total == sizes.dense + 4 * 32 * 12 * 3 + 4 * 32 + 4
    assert sizes.active == sizes.total - 2 * 32 * 12 * 3


def test_slices_of_a_group_are_the_whole_network() -> None:
    units = list(slices(12, Upcycling(experts=6, top_k=1, granularity=3), torch.Generator().manual_seed(0)))
    assert [len(one) for one in units] == [4] * 6
    for group in (units[:3], units[3:]):
        assert sorted(torch.cat(group).tolist()) == list(range(12))
    assert torch.cat(units[:3]).tolist() != torch.cat(units[3:]).tolist()


def experts_of(src: Path, out: Path, **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The dense model's gate projection (48, 32) and those of the four experts (4, 48, 32)."""
    upcycle(str(src), out, replace(SETTINGS, **changed))
    made, name = Tensors(out), "model.layers.1.mlp"
    experts = [made[f"{name}.experts.{e}.gate_proj.weight"] for e in range(4)]
    return made[f"{name}.shared_experts.gate_proj.weight"], torch.stack(experts)


def test_half_of_the_units_are_drawn_anew(save_tiny: Save, tmp_path: Path) -> None:
    gate_ID, experts_EWD = experts_of(save_tiny(), tmp_path / "out")
    kept = [sum((row == gate_ID).all(1).any().item() for row in expert_WD) for expert_WD in experts_EWD]
    assert kept == [24] * 4
    assert experts_EWD.std().item() == pytest.approx(gate_ID.std().item(), rel=0.05)


def test_noise_has_the_size_that_is_asked_for(save_tiny: Save, tmp_path: Path) -> None:
    """A copy is the dense network with its units in another order."""
    gate_ID, experts_EWD = experts_of(save_tiny(), tmp_path / "out", symmetry="noise", amount=0.1)
    gap = (experts_EWD[:, :, None] - gate_ID).norm(dim=-1).amin(-1) / 32**0.5
    assert gap.mean().item() == pytest.approx(0.1 * gate_ID.std().item(), rel=0.1)


def test_the_same_seed_gives_the_same_experts(save_tiny: Save, tmp_path: Path) -> None:
    src = save_tiny()
    first, again = experts_of(src, tmp_path / "a")[1], experts_of(src, tmp_path / "b")[1]
    assert torch.equal(first, again)
    assert not torch.equal(first, experts_of(src, tmp_path / "c", seed=1)[1])


def test_routed_experts_learn_from_the_first_step(save_tiny: Save, tmp_path: Path, load_whole: Load) -> None:
    """The output projections move at once, and with them the copies part."""
    upcycle(str(save_tiny()), tmp_path / "out", SETTINGS)
    model = load_whole(tmp_path / "out").train()
    model(IDS, labels=IDS).loss.backward()
    experts: Any = model.get_submodule("model.layers.1.mlp.experts")
    by_expert_E = experts.down_proj.grad.flatten(1).norm(dim=1)
    assert (by_expert_E > 0).all()
    assert experts.gate_up_proj.grad.norm() == 0


def test_slices_with_equal_weights_add_up_to_the_network() -> None:
    """The vector's case b: the scale that a granularity of 2 gets by default."""
    vector = json.loads(GOLDEN.read_text(encoding="utf-8"))["vectors"]["moe.upcycle"]
    given = vector["inputs"]
    x_D, gate_ID, up_ID, down_DI = (torch.tensor(given[k], dtype=torch.float64) for k in ("x", "gate", "up", "down"))

    def network(units: slice) -> torch.Tensor:
        hidden_I = torch.nn.functional.silu(gate_ID[units] @ x_D) * (up_ID[units] @ x_D)
        return down_DI[:, units] @ hidden_I

    expected = {k: torch.tensor(v, dtype=torch.float64) for k, v in vector["expected"].items()}
    shards = torch.stack([network(slice(0, 2)), network(slice(2, 4))])
    torch.testing.assert_close(network(slice(0, 4)), expected["dense_out"])
    torch.testing.assert_close(shards, expected["shard_outs"])
    scale = vector["options"]["m"]
    torch.testing.assert_close(scale * shards.mean(0), expected["case_b_equal_weights_scale_m"])


# --- files ------------------------------------------------------------------------------------------------------------


def test_large_models_are_written_in_parts(tmp_path: Path) -> None:
    parts = {f"t{i}": torch.full((100,), float(i)) for i in range(5)}
    writer = TensorWriter(tmp_path, limit=800)
    for name, tensor in parts.items():
        writer.add(name, tensor)
    writer.close()
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    read = Tensors(tmp_path)
    assert read.names() == list(parts)
    assert all(torch.equal(read[name], tensor) for name, tensor in parts.items())
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == 2000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--experts", "1", "--top-k", "1"], "--experts: expected at least 2"),
        (["--experts", "4", "--top-k", "5"], "--top-k: expected from 1 to 4 experts, got 5"),
        (["--experts", "4", "--top-k", "2", "--shared", "0"], "--shared: expected at least 1"),
        (["--experts", "4", "--top-k", "2", "--granularity", "5"], "--granularity: expected a divisor of the 48"),
        (["--experts", "4", "--top-k", "2", "--granularity", "3"], "--experts: expected a multiple of the 3 slices"),
        (["--experts", "4", "--top-k", "2", "--dense-layers", "2"], "--dense-layers: expected from 0 to 1, got 2"),
        (["--experts", "4", "--top-k", "2", "--scale", "-1"], "--scale: expected above 0"),
        (["--experts", "4", "--top-k", "2", "--amount", "1.5"], "--amount: expected from 0 to 1"),
        (["--experts", "4", "--top-k", "2", "--symmetry", "none", "--amount", "1"], "--amount: expected none"),
    ],
)
def test_numbers_that_do_not_fit(
    save_tiny: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    src = save_tiny()
    capsys.readouterr()  # the progress of saving it
    assert main(["upcycle", str(src), str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith(sentence)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "config", "sentence"),
    [
        ("gemma", {}, "expected a dense model of the types llama, mistral, qwen2, qwen3"),
        ("llama", {"mlp_bias": True}, "expected a feed-forward network without biases"),
        ("llama", {"attention_bias": True}, "expected an output projection of attention without bias"),
        ("llama", {"hidden_act": "gelu"}, "expected the activation silu"),
        ("mistral", {"sliding_window": 6}, "expected full attention in every layer"),
    ],
)
def test_models_that_the_architecture_can_not_compute(
    save_tiny: Save,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    family: str,
    config: dict[str, Any],
    sentence: str,
) -> None:
    arguments = ["upcycle", str(save_tiny(family, **config)), str(tmp_path / "out"), "--experts", "4", "--top-k", "2"]
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_kept(
    save_tiny: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = save_tiny()
    assert main(["upcycle", str(src), str(src), "--experts", "4", "--top-k", "2"]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_what_it_wrote_is_said(save_tiny: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upcycle", str(save_tiny()), str(tmp_path / "out"), "--experts", "4", "--top-k", "2"]) == 0
    assert "parameters, of which a token meets" in capsys.readouterr().out
