"""Sparse upcycling: a dense model becomes a mixture of experts in DeepSeek-V3's manner that computes the same at first.

The shared expert is the dense network. Routed experts are copies of it, or of slices of it, whose output projection is
zero, so that they add nothing until training moves it (algorithm: Komatsuzaki et al., arXiv 2212.05055; slices as
virtual groups: He et al., arXiv 2410.07524). A dense model with plain attention becomes a GLM-4-MoE, which has
DeepSeek-V3's router, bias and shared experts around grouped-query attention, in transformers and in vLLM alike; a
DeepSeek-V3 without experts gets experts of its own.

Axes: D hidden units, I units of the dense network, W = I / granularity units of an expert, E routed experts.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from grpo.convert.dense import DENSE, check_plain, head_size, is_dense_latent, same_settings
from grpo.convert.weights import Tensors, TensorWriter, check_new, local_folder, write_surroundings
from grpo.families import write_config_keys
from grpo.files import atomic_folder
from grpo.pretrained import load_config
from grpo.types import UserError

Symmetry = Literal["drop", "noise", "none"]

MLP = re.compile(r"^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight$")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Upcycling:
    """What the mixture of experts is to be.

    `shared` experts are as wide as the dense network, routed ones a `granularity`-th of it. `scale` multiplies the gate
    weights, which sum to 1; left out it is the granularity, with which slices that add up to the network weigh as much
    as the network. The first `dense_layers` stay dense: a mixture balances badly there (DeepSeekMoE, arXiv 2401.06066).
    `symmetry` makes copies differ: `drop` draws an `amount` of their units anew (Drop-Upcycling, arXiv 2502.19261),
    `noise` adds an `amount` of the weights' standard deviation, `none` leaves it to the router.
    """

    experts: int
    top_k: int
    shared: int = 1
    granularity: int = 1
    scale: float | None = None
    dense_layers: int = 1
    symmetry: Symmetry = "drop"
    amount: float | None = None
    seed: int = 0

    @property
    def share(self) -> float:
        """The amount, or what its paper found best."""
        return {"drop": 0.5, "noise": 0.02, "none": 0.0}[self.symmetry] if self.amount is None else self.amount


@dataclass(frozen=True)
class Upcycled:
    """Parameters of the dense model, of the mixture, and those of it that one token meets."""

    dense: int
    total: int
    active: int


def upcycle(src: str, out: Path, settings: Upcycling) -> Upcycled:
    """Write the upcycled model of a folder or hub name to `out`, whole or not at all, one layer in memory at a time.

    Raises:
        UserError: `src` is no model that can be upcycled, `out` holds something, or a number does not fit.
    """
    check_new(out)
    dense = load_config(src)
    check_numbers(settings, dense, src)
    config = moe_config(src, dense, settings)
    folder = local_folder(src)
    tensors = Tensors(folder)
    with atomic_folder(out) as unfinished:
        writer = TensorWriter(unfinished)
        for name, tensor in converted(tensors, config, settings):
            writer.add(name, tensor)
        writer.close()
        write_surroundings(folder, unfinished, config)
    sizes = sum(tensors[name].numel() for name in tensors.names())
    idle = (config.n_routed_experts - config.num_experts_per_tok) * 3 * config.moe_intermediate_size
    moe_layers = config.num_hidden_layers - config.first_k_dense_replace
    return Upcycled(sizes, writer.parameters, writer.parameters - moe_layers * idle * config.hidden_size)


# --- settings ---------------------------------------------------------------------------------------------------------


def check_numbers(settings: Upcycling, config: PreTrainedConfig, src: str) -> None:
    """Raise UserError for the first number that does not fit the others or the model."""
    pieces, layers, width = settings.granularity, config.num_hidden_layers, config.intermediate_size
    for option, fits, expected, got in (
        ("experts", settings.experts >= 2, "at least 2, since a router chooses", settings.experts),
        ("top-k", 1 <= settings.top_k <= settings.experts, f"from 1 to {settings.experts} experts", settings.top_k),
        ("shared", settings.shared >= 1, "at least 1, which holds the dense network", settings.shared),
        ("granularity", pieces >= 1 and width % pieces == 0, f"a divisor of the {width} units of {src}", pieces),
        ("experts", settings.experts % pieces == 0, f"a multiple of the {pieces} slices", settings.experts),
        ("scale", settings.scale is None or settings.scale > 0, "above 0", settings.scale),
        ("dense-layers", 0 <= settings.dense_layers < layers, f"from 0 to {layers - 1}", settings.dense_layers),
        ("amount", 0 <= settings.share <= 1, "from 0 to 1", settings.amount),
        ("amount", settings.symmetry != "none" or not settings.amount, "none with --symmetry none", settings.amount),
    ):
        if not fits:
            raise UserError(f"--{option}: expected {expected}, got {got}: choose another number")


def moe_config(src: str, dense: PreTrainedConfig, settings: Upcycling) -> PreTrainedConfig:
    """The config of the mixture. Raises UserError for an architecture that can't be upcycled."""
    if is_dense_latent(dense):
        config = copy.deepcopy(dense)
    elif dense.model_type in DENSE:
        check_plain(src, dense)
        config = _grouped_query_config(dense)
    else:
        raise UserError(
            f"{src}: expected a dense model of the types {', '.join(DENSE)}, or one that grpo to-mla made, got "
            f"{dense.model_type}: choose another model"
        )
    pieces = settings.granularity
    for key, value in {
        "n_routed_experts": settings.experts,
        "num_experts_per_tok": settings.top_k,
        "n_shared_experts": settings.shared * pieces,
        "moe_intermediate_size": dense.intermediate_size // pieces,
        "routed_scaling_factor": float(pieces if settings.scale is None else settings.scale),
        "first_k_dense_replace": settings.dense_layers,
    }.items():
        setattr(config, key, value)
    write_config_keys(config)
    return config


def _grouped_query_config(dense: PreTrainedConfig) -> PreTrainedConfig:
    """GLM-4-MoE rotates half of a head unless both of its keys say all of it."""
    return AutoConfig.for_model(
        "glm4_moe",
        **same_settings(dense),
        architectures=["Glm4MoeForCausalLM"],
        num_key_value_heads=dense.num_key_value_heads,
        head_dim=head_size(dense),
        rope_parameters={**dense.rope_parameters, "partial_rotary_factor": 1.0},
        partial_rotary_factor=1.0,
        attention_bias=dense.model_type == "qwen2",
        use_qk_norm=dense.model_type == "qwen3",
        norm_topk_prob=True,
        n_group=1,
        topk_group=1,
        num_nextn_predict_layers=0,
    )


# --- weights ----------------------------------------------------------------------------------------------------------


def converted(tensors: Tensors, config: PreTrainedConfig, settings: Upcycling) -> Iterator[tuple[str, Tensor]]:
    """The mixture's tensors by checkpoint name: the dense model's, with experts for its feed-forward networks."""
    for name in tensors.names():
        match = MLP.match(name)
        if match is None or int(match[1]) < settings.dense_layers:
            yield name, tensors[name]
        elif match[2] == "gate":
            yield from _layer(tensors, int(match[1]), config, settings)
    if HEAD not in tensors:
        yield HEAD, tensors[EMBEDDING].clone()


def _layer(tensors: Tensors, layer: int, config: PreTrainedConfig, settings: Upcycling) -> Iterator[tuple[str, Tensor]]:
    """Router, shared and routed experts of a layer."""
    prefix = f"model.layers.{layer}.mlp"
    gate_ID, up_ID, down_DI = (tensors[f"{prefix}.{kind}_proj.weight"] for kind in ("gate", "up", "down"))
    rng = torch.Generator().manual_seed(settings.seed * 100_003 + layer)
    router_ED = torch.empty(settings.experts, config.hidden_size).normal_(std=config.initializer_range, generator=rng)
    yield f"{prefix}.gate.weight", router_ED.to(gate_ID.dtype)
    yield f"{prefix}.gate.e_score_correction_bias", torch.zeros(settings.experts)
    spare = [distinct(gate_ID, up_ID, settings, rng) for _ in range(settings.shared - 1)]
    silent = [torch.zeros_like(down_DI)] * len(spare)
    yield f"{prefix}.shared_experts.gate_proj.weight", torch.cat([gate_ID, *[gate for gate, _ in spare]])
    yield f"{prefix}.shared_experts.up_proj.weight", torch.cat([up_ID, *[up for _, up in spare]])
    yield f"{prefix}.shared_experts.down_proj.weight", torch.cat([down_DI, *silent], dim=1)
    for expert, units_W in enumerate(slices(len(gate_ID), settings, rng)):
        gate_WD, up_WD = distinct(gate_ID[units_W], up_ID[units_W], settings, rng)
        yield f"{prefix}.experts.{expert}.gate_proj.weight", gate_WD
        yield f"{prefix}.experts.{expert}.up_proj.weight", up_WD
        yield f"{prefix}.experts.{expert}.down_proj.weight", torch.zeros_like(down_DI[:, units_W])


def slices(units: int, settings: Upcycling, rng: torch.Generator) -> Iterator[Tensor]:
    """The units (W,) of each routed expert: every `granularity` of them hold the whole network, cut at random."""
    for _ in range(settings.experts // settings.granularity):
        yield from torch.randperm(units, generator=rng).chunk(settings.granularity)


def distinct(gate_WD: Tensor, up_WD: Tensor, settings: Upcycling, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """An expert of its own: some of its units, the same in both projections, drawn anew, or noise on all of them."""
    if settings.symmetry == "none":
        return gate_WD, up_WD
    drawn_W = torch.randperm(len(gate_WD), generator=rng)[: round(settings.share * len(gate_WD))]
    return _moved(gate_WD, drawn_W, settings, rng), _moved(up_WD, drawn_W, settings, rng)


def _moved(weight_WD: Tensor, drawn_W: Tensor, settings: Upcycling, rng: torch.Generator) -> Tensor:
    """Units are drawn with the mean and standard deviation of the weights that they replace."""
    noise_WD = torch.empty(weight_WD.shape).normal_(generator=rng)
    if settings.symmetry == "noise":
        return (weight_WD + settings.share * weight_WD.float().std() * noise_WD).to(weight_WD.dtype)
    moved_WD, replaced = weight_WD.clone(), weight_WD[drawn_W].float()
    if len(drawn_W):
        moved_WD[drawn_W] = (replaced.mean() + replaced.std() * noise_WD[drawn_W]).to(weight_WD.dtype)
    return moved_WD
