"""The policy's forward pass over packed sequences, and the check that packing mixes nothing.

Axes: T packed tokens, N of them trained on, V vocabulary.
"""

from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.batch import TokenSequence, pack
from grpo.kernels.logprobs import token_logprobs, token_logprobs_and_entropy
from grpo.kernels.packed_attention import PACKED
from grpo.types import PackedTokens, UserError

PACKING_TOLERANCE = 1e-2
"""Largest difference of a log-probability between packed and separate passes: bf16 rounding stays below it."""


def target_logits(model: nn.Module, tokens: PackedTokens) -> Tensor:
    """Logits (N, V) of the target tokens alone.

    Where the model's attention is ours, `packed_lengths` tells it the sequences apart; elsewhere positions that start
    again at 0 tell transformers, which then masks.
    """
    ours = model.config._attn_implementation == PACKED  # type: ignore[union-attr]
    output = model(
        input_ids=tokens.token_ids_T[None],
        position_ids=tokens.position_ids_T[None],
        logits_to_keep=tokens.predictor_N,
        use_cache=False,
        **({"packed_lengths": tokens.lengths} if ours else {}),
    )
    return output.logits[0].float()


def target_logprobs(model: nn.Module, tokens: PackedTokens, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (N,) of the target tokens at a sampling temperature, in float32."""
    return token_logprobs(target_logits(model, tokens) / temperature, tokens.target_ids_N)


def target_logprobs_and_entropy(model: nn.Module, tokens: PackedTokens, temperature: float) -> tuple[Tensor, Tensor]:
    """As `target_logprobs`, and the entropy (N,) in nats of the distributions they come from."""
    return token_logprobs_and_entropy(target_logits(model, tokens) / temperature, tokens.target_ids_N)


@torch.no_grad()
def prepare_packing(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model attention over packed sequences where its architecture lets it be replaced, and check it.

    Stops if a sequence's log-probabilities depend on what is packed beside it.

    Raises:
        UserError: the architecture does not tell packed sequences apart by their positions.
    """
    base = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
    if base._can_set_attn_implementation():
        base.set_attn_implementation(PACKED)
    device = next(model.parameters()).device
    ids = [tuple((7 * i + 3 * j) % len(tokenizer) for i in range(6)) for j in range(3)]
    sequences = [TokenSequence(row[:3], row[3:]) for row in ids]
    was_training = model.training
    model.eval()
    together = target_logprobs(model, pack(sequences, device))
    apart = torch.cat([target_logprobs(model, pack([sequence], device)) for sequence in sequences])
    model.train(was_training)
    worst = (together - apart).abs().max().item()
    if not worst <= PACKING_TOLERANCE:
        raise UserError(
            f"model: {type(model).__name__} mixes sequences that are packed side by side (a log-probability moves by "
            f"{worst:.2g}, expected at most {PACKING_TOLERANCE}): choose an architecture with plain causal attention"
        )
