"""What each attention layer of a model is seen doing on a text, gathered in passes over its windows.

Axes: T tokens of a window, D hidden units, H heads, L distances, R rank.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo.convert.latent import Moments, normalised

Seen = Callable[[int, Tensor, Tensor], None]
"""Is told a layer's number, its input (T, D) in float64, and its attention (H, T, T)."""


def attention_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The attention modules in order."""
    return [layer.self_attn for layer in model.get_decoder().layers]


@torch.no_grad()
def watch(model: PreTrainedModel, windows: Sequence[Sequence[int]], seen: Seen) -> None:
    """Run the model over windows of token ids and tell `seen` what every attention layer does.

    The model must compute its attention plainly (`eager`), so that it can be seen.
    """

    def hook(number: int) -> Callable[..., None]:
        def told(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen(number, kwargs["hidden_states"][0].double().cpu(), output[1][0].cpu())

        return told

    handles = [
        module.register_forward_hook(hook(number), with_kwargs=True)
        for number, module in enumerate(attention_layers(model))
    ]
    try:
        for window in windows:
            model.get_decoder()(input_ids=torch.tensor([list(window)], device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def attended(attention_HTT: Tensor) -> Tensor:
    """How much attention each token gets (T,), from all heads and later tokens."""
    return attention_HTT.sum((0, 1), dtype=torch.float64)


def by_distance(values_HTT: Tensor) -> Tensor:
    """Sums (H, T) of what lies at each distance of query (first T) and key: [[5, 0], [7, 9]] gives 14 at 0, 7 at 1."""
    tokens = values_HTT.shape[1]
    reversed_HTU = nn.functional.pad(values_HTT.flip(2), (0, tokens))
    slanted_HTU = reversed_HTU.flatten(1)[:, :-tokens].unflatten(1, (tokens, -1))  # each row starts one column later
    return slanted_HTU[..., tokens - 1 :].sum(1, dtype=torch.float64)


def moments(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> list[Moments]:
    """The moments of every layer. At a distance, attention p counts by p (1 - p), by which a logit's error moves it."""
    layers, hidden, heads = len(attention_layers(model)), model.config.hidden_size, model.config.num_attention_heads
    longest = max(map(len, windows))
    query = torch.zeros(layers, hidden, hidden, dtype=torch.float64)
    key = torch.zeros_like(query)
    mean = torch.zeros(layers, hidden, dtype=torch.float64)
    distance = torch.zeros(layers, heads, longest, dtype=torch.float64)
    totals = torch.zeros(layers, 2, dtype=torch.float64)

    def seen(number: int, hidden_TD: Tensor, attention_HTT: Tensor) -> None:
        weight_T = attended(attention_HTT)
        query[number] += hidden_TD.mT @ hidden_TD
        key[number] += (hidden_TD * weight_T[:, None]).mT @ hidden_TD
        mean[number] += weight_T @ hidden_TD
        totals[number] += torch.stack([torch.tensor(float(len(hidden_TD))).double(), weight_T.sum()])
        distance[number, :, : len(hidden_TD)] += by_distance(attention_HTT * (1 - attention_HTT))

    watch(model, windows, seen)
    return [
        Moments(query[i] / totals[i, 0], key[i] / totals[i, 1], mean[i] / totals[i, 1], distance[i])
        for i in range(layers)
    ]


def latent_moments(
    model: PreTrainedModel, windows: Sequence[Sequence[int]], down: Sequence[Tensor], epsilon: float
) -> list[tuple[Tensor, Tensor]]:
    """Of every layer, weighed by attention: the moments (D, R) of input and normalised latents, and (R, R) of those."""
    crossed = [torch.zeros(down_RD.shape[::-1], dtype=torch.float64) for down_RD in down]
    squared = [torch.zeros(len(down_RD), len(down_RD), dtype=torch.float64) for down_RD in down]

    def seen(number: int, hidden_TD: Tensor, attention_HTT: Tensor) -> None:
        latent_TR = normalised(hidden_TD, down[number], epsilon)
        weighed_TR = latent_TR * attended(attention_HTT)[:, None]
        crossed[number] += hidden_TD.mT @ weighed_TR
        squared[number] += latent_TR.mT @ weighed_TR

    watch(model, windows, seen)
    return list(zip(crossed, squared, strict=True))
