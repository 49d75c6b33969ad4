"""Multi-token prediction at depth 1 (DeepSeek-V3, arXiv 2412.19437, section 2.2): one more layer sees a token further.

The predictor is a decoder layer behind the trunk's last, where the trunk does not run it: `layers.{num_hidden_layers}`,
with `enorm`, `hnorm`, `eh_proj` and `shared_head.norm` as its children, which are the names of the released weights.
Embedding and head are the trunk's. Input i is eh_proj([enorm(embedding of token i+1); hnorm(last hidden state i)]), the
order of the released weights (the paper's text has it the other way round), and predicts token i+2.
"""

import copy
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo.types import UserError

OWN_PARTS = ("enorm", "hnorm", "eh_proj", "shared_head.norm")
"""What the predictor has beside a decoder layer."""

LAYERS_KEY = "num_nextn_predict_layers"
"""How many predictors there are, in config.json."""

LISTS_BY_LAYER = ("layer_types", "mlp_layer_types")
"""Keys of a config that hold one item a layer."""


def plain_model(model: nn.Module) -> PreTrainedModel:
    """The model under the adapters, if there are any."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def predictor_of(model: nn.Module) -> Any:
    """The model's predictor, or None."""
    base = plain_model(model)
    layers = getattr(base.get_decoder(), "layers", ()) if isinstance(base, PreTrainedModel) else ()
    behind = layers[getattr(base.config, "num_hidden_layers", len(layers)) :] if len(layers) else ()
    return behind[0] if len(behind) and hasattr(behind[0], "eh_proj") else None


def own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The predictor's parameters: the ones that nothing but multi-token prediction uses."""
    predictor = predictor_of(model)
    return [] if predictor is None else list(predictor.parameters())


def predictor_prefix(model: nn.Module) -> str:
    """Where the predictor's weights lie in the state of the plain model, such as `model.layers.61.`."""
    base = plain_model(model)
    return f"{base.base_model_prefix}.layers.{base.config.num_hidden_layers}."


# --- making one -------------------------------------------------------------------------------------------------------


def add_predictor(model: PreTrainedModel, seed: int) -> None:
    """Give a model a predictor that starts as a copy of its last layer; a random projection, drawn by `seed`, feeds it.

    Raises:
        UserError: the model's layers are not a list that the trunk reads up to num_hidden_layers.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != getattr(model.config, "num_hidden_layers", None):
        raise UserError(
            f"model.mtp: {type(model).__name__} keeps its layers in a way that multi-token prediction can't follow: "
            "leave mtp out, or take a model of the llama, qwen or deepseek kind"
        )
    layers.append(copy.deepcopy(layers[-1], {id(model.config): model.config}))
    _complete(model, seed)


def complete_predictor(model: PreTrainedModel, own: dict[str, Tensor]) -> None:
    """Make the last layer of a model, which was loaded with one layer more than its trunk has, its predictor.

    `own` are the weights of its own parts, such as `enorm.weight`.
    """
    resize_config(model.config, -1)
    _complete(model, seed=0)
    predictor_of(model).load_state_dict(own, strict=False)


def resize_config(config: Any, by: int) -> None:
    """Let a config describe a trunk of so many layers more, the new ones like the last, or of so many fewer."""
    depth = config.num_hidden_layers
    for key in LISTS_BY_LAYER:
        values = getattr(config, key, None)
        if isinstance(values, list) and len(values) == depth:
            # Both are set at once: transformers checks that they agree.
            config.__dict__[key] = (values + values[-1:] * by)[: depth + by]
    config.__dict__["num_hidden_layers"] = depth + by


def _complete(model: PreTrainedModel, seed: int) -> None:
    """Add its own parts to the layer behind the trunk."""
    decoder: Any = model.get_decoder()
    layer, weight = decoder.layers[-1], decoder.embed_tokens.weight
    layer.enorm, layer.hnorm = _fresh_norm(model), _fresh_norm(model)
    layer.eh_proj = nn.Linear(
        2 * weight.shape[1], weight.shape[1], bias=False, device=weight.device, dtype=weight.dtype
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model._init_weights(layer.eh_proj)
    layer.shared_head = nn.Module()
    layer.shared_head.norm = copy.deepcopy(decoder.norm)
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = 0  # its place in a cache of its own
    layer.train(model.training)
    setattr(model.config, LAYERS_KEY, 1)


def _fresh_norm(model: PreTrainedModel) -> nn.Module:
    """A norm of the architecture's own kind that scales nothing yet."""
    norm = copy.deepcopy(cast(Any, model.get_decoder()).norm)
    norm.weight = nn.Parameter(torch.empty_like(norm.weight))
    model._init_weights(norm)
    return norm


# --- running it -------------------------------------------------------------------------------------------------------


def predicting_decoder(model: nn.Module) -> Any:
    """A decoder whose one layer is the predictor; whatever else an architecture's decoder does is the trunk's.

    It is a view: its parameters are the model's.
    """
    decoder: Any = plain_model(model).get_decoder()
    predictor = predictor_of(model)
    view, config = copy.copy(decoder), copy.copy(decoder.config)
    for key in LISTS_BY_LAYER:
        if getattr(config, key, None):
            config.__dict__[key] = getattr(config, key)[-1:]
    config.__dict__["num_hidden_layers"] = 1
    parts = {"layers": nn.ModuleList([predictor]), "norm": predictor.shared_head.norm}
    view.__dict__["_modules"] = decoder._modules | parts
    view.config = config
    return view


def predictor_input(model: nn.Module, hidden: Tensor, next_ids: Tensor, detached: bool = False) -> Tensor:
    """What the predictor reads: last hidden states (..., D) joined with the tokens (...) that follow them.

    `detached`: no gradient reaches the trunk through it.
    """
    predictor = predictor_of(model)
    embedding = plain_model(model).get_input_embeddings()(next_ids)
    if detached:
        hidden, embedding = hidden.detach(), embedding.detach()
    return cast(Tensor, predictor.eh_proj(torch.cat([predictor.enorm(embedding), predictor.hnorm(hidden)], dim=-1)))
