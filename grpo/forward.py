"""The policy's forward pass over packed sequences, and the check that packing mixes nothing.

A model whose attention is ours computes a shared prompt once, and on a CPU whatever else sequences have in common. Any
other model gets its sequences as padded rows.

Axes: T packed tokens, R rows computed, S sequences, L tokens of the longest, N tokens trained on, U of them that differ
in their row or target, D hidden units, V vocabulary.
"""

from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.batch import pack, token_indices
from grpo.families import family_of
from grpo.fused import fuse
from grpo.kernels.head_divergence import States
from grpo.kernels.head_logprobs import LogitRules, TokenScores, head_scores, module_scores
from grpo.kernels.layout import Layout
from grpo.kernels.packed_attention import PACKED
from grpo.kernels.rows import take
from grpo.prefix_tree import fold
from grpo.types import PackedTokens, TokenSequence, one_line

TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2}
ROUNDED_TOLERANCE = 1e-1
"""Largest difference of a log-probability between two ways to compute it: rounding stays below."""

OWN_LOGITS = "_grpo_own_logits"
"""Marks a model whose logits are no linear head's: they come from its own forward pass, all at once."""


# --- scores -----------------------------------------------------------------------------------------------------------


def target_scores(model: nn.Module, tokens: PackedTokens, temperature: float = 1.0) -> TokenScores:
    """The targets' log-probabilities at a sampling temperature, and more about their distributions, in float32."""
    base = _base(model)
    if getattr(base, OWN_LOGITS, False):
        hidden_NV = _own_logits(base, tokens)
        return module_scores(hidden_NV, nn.Identity(), tokens.target_ids_N, LogitRules(temperature=temperature))
    hidden_RD, index_N = final_hidden(model, tokens)
    if not _folds(base, hidden_RD.device):
        return hidden_scores(model, take(hidden_RD, index_N), tokens.target_ids_N, temperature)
    rows = len(hidden_RD)
    asked_U, place_N = (tokens.target_ids_N * rows + index_N).unique(return_inverse=True)
    scores = hidden_scores(model, take(hidden_RD, asked_U % rows), asked_U // rows, temperature)
    return TokenScores(*(score_U.index_select(0, place_N) for score_U in scores))


def hidden_scores(model: nn.Module, hidden_ND: Tensor, target_ids_N: Tensor, temperature: float = 1.0) -> TokenScores:
    """The targets' scores under the model's head, from the final hidden states that predict them."""
    base = _base(model)
    rules, head = logit_rules(base, temperature), base.get_output_embeddings()
    if type(head) is nn.Linear:
        return head_scores(hidden_ND, head.weight, head.bias, target_ids_N, rules)
    return module_scores(hidden_ND, cast(Any, head), target_ids_N, rules)


def target_logprobs(model: nn.Module, tokens: PackedTokens, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (N,) of the target tokens at a sampling temperature, in float32."""
    return target_scores(model, tokens, temperature).logprobs_N


def next_token_states(model: nn.Module, tokens: PackedTokens) -> States:
    """Hidden states where the targets are predicted, with the model's head, for losses over the whole vocabulary."""
    base = _base(model)
    if getattr(base, OWN_LOGITS, False):
        return States(_own_logits(base, tokens), nn.Identity(), LogitRules())
    hidden_RD, index_N = final_hidden(base, tokens)
    head = cast(Any, base.get_output_embeddings())
    return States(take(hidden_RD, index_N), head, logit_rules(base, 1.0))


def packs(model: nn.Module) -> bool:
    """Whether the model computes a shared prompt once; elsewhere each sequence is a row with a prompt of its own."""
    return bool(_base(model).config._attn_implementation == PACKED)


def _base(model: nn.Module) -> PreTrainedModel:
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def logit_rules(base: PreTrainedModel, temperature: float) -> LogitRules:
    """What the architecture does with its head's output: Gemma 2 caps it, Cohere and Granite scale it."""
    config: Any = base.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return LogitRules(scale, getattr(config, "final_logit_softcapping", None), temperature)


# --- the layouts ------------------------------------------------------------------------------------------------------


def final_hidden(model: nn.Module, tokens: PackedTokens) -> tuple[Tensor, Tensor]:
    """Final hidden states (R, D), rows laid end to end, and where among them the N targets are predicted.

    Of a model with experts or a layer of multi-token prediction the rows are the T packed tokens, where it packs.
    """
    base = _base(model)
    inputs, index_N = _inputs(base, tokens)
    hidden = base.get_decoder()(**inputs, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1), index_N


def _own_logits(base: PreTrainedModel, tokens: PackedTokens) -> Tensor:
    inputs, index_N = _inputs(base, tokens)
    return take(base(**inputs, use_cache=False).logits.flatten(0, 1), index_N)


def _inputs(base: PreTrainedModel, tokens: PackedTokens) -> tuple[dict[str, Any], Tensor]:
    """What the model is called with, and where in its output, rows laid end to end, the targets are predicted."""
    if not packs(base):
        return _rows(tokens)
    if _folds(base, tokens.token_ids_T.device):
        tree = fold(tokens)
        layout = Layout(tree.segments, tokens.token_ids_T.device)
        inputs = {"input_ids": tree.token_ids_R[None], **packed_inputs(tree.position_ids_R, layout)}
        return inputs, tree.row_T[tokens.predictor_N]
    layout = Layout.of_groups(tokens.groups, tokens.token_ids_T.device)
    return {"input_ids": tokens.token_ids_T[None], **packed_inputs(tokens.position_ids_T, layout)}, tokens.predictor_N


def _folds(base: PreTrainedModel, device: torch.device) -> bool:
    """Whether common beginnings, and a row's logits for equal targets, are computed once.

    A GPU's kernel knows shared prompts alone, experts are counted and replayed a packed token, and a layer of
    multi-token prediction reads every packed token's state.
    """
    predicts = getattr(base.config.get_text_config(), "num_nextn_predict_layers", 0)
    return device.type == "cpu" and not predicts and family_of(base.config).router is None


def packed_inputs(position_ids_T: Tensor, layout: Layout) -> dict[str, Any]:
    """What a decoder with our attention is called with beside its T tokens."""
    # transformers hands a mask of four axes on as it is, so that it builds none: ours follows from the packing.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=layout.device)
    return {"position_ids": position_ids_T[None], "attention_mask": no_mask, "packing": layout}


def _rows(tokens: PackedTokens) -> tuple[dict[str, Any], Tensor]:
    """Sequences as rows (S, L) with padding on the right, which nothing before it sees."""
    index_SL, valid_SL = _padded(tokens)
    inputs = {"input_ids": tokens.token_ids_T[index_SL], "attention_mask": valid_SL.long()}
    return inputs, tokens.sequence_N * index_SL.shape[1] + tokens.position_ids_T[tokens.predictor_N]


def _padded(tokens: PackedTokens) -> tuple[Tensor, Tensor]:
    """Where the tokens of each row lie in the packing, and which are no padding, both (S, L)."""
    rows = token_indices(tokens)
    index_SL = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(tokens.token_ids_T.device)
    lengths_S1 = torch.tensor([[len(row)] for row in rows], device=index_SL.device)
    return index_SL, torch.arange(index_SL.shape[1], device=index_SL.device) < lengths_S1


def row_map(model: nn.Module, tokens: PackedTokens) -> tuple[Tensor, Tensor] | None:
    """Which packed token each row of the model's hidden states shows, and one row of each token.

    None where the rows are the packed tokens, as those of a model with experts are. Padding shows some token.
    """
    if packs(model):
        return None
    index_SL, valid_SL = _padded(tokens)
    row_T = torch.empty_like(tokens.token_ids_T)
    row_T[index_SL[valid_SL]] = valid_SL.flatten().nonzero()[:, 0]
    return index_SL.flatten(), row_T


# --- preparing a model ------------------------------------------------------------------------------------------------


@torch.no_grad()
def prepare_packing(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Give the model attention over packed groups where its architecture lets it be replaced, and check it.

    Returns what a user should know: that the model falls back to padded rows, or to logits held whole, because the fast
    way does not give what its own forward pass gives.
    """
    base = _base(model)
    was_training = model.training
    model.eval()
    fuse(base)
    notes = [*_choose_head(base, tokenizer), *_choose_layout(base, tokenizer)]
    model.train(was_training)
    return notes


def _choose_head(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    tokens = _trial(base, tokenizer)
    logits_NV = _own_logits(base, tokens).float()
    own_N = logits_NV.log_softmax(-1).gather(1, tokens.target_ids_N[:, None]).squeeze(1)
    try:
        worst = (target_logprobs(base, tokens) - own_N).abs().max().item()
    except (AttributeError, TypeError, RuntimeError) as error:
        worst, reason = float("inf"), one_line(error)
    else:
        reason = f"a log-probability of its own logits is off by {worst:.2g}"
    if worst <= _tolerance(base):
        return []
    setattr(base, OWN_LOGITS, True)
    return [f"{type(base).__name__}: logits are computed whole, which takes memory: no plain linear head ({reason})"]


def _choose_layout(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    tokens, before = _trial(base, tokenizer), base.config._attn_implementation
    reason = "its attention cannot be replaced"
    if base._can_set_attn_implementation():
        try:
            base.set_attn_implementation(PACKED)
            worst = (target_logprobs(base, tokens) - _apart(base, tokenizer)).abs().max().item()
            if worst <= _tolerance(base):
                return []
            reason = f"packed side by side, sequences change each other's log-probabilities by {worst:.2g}"
        except (NotImplementedError, TypeError, ValueError) as error:
            reason = one_line(error)
        base.set_attn_implementation(before)
    return [f"{type(base).__name__}: sequences are padded to the longest, and prompts repeated: {reason}"]


def _apart(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """What the trial's log-probabilities are when every sequence goes through the model by itself."""
    rows = []
    for sequence in _trial_sequences(tokenizer):
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.target_ids]], device=base.device)
        logits_LV = base(input_ids=ids, use_cache=False).logits[0, len(sequence.prompt_ids) - 1 : -1].float()
        rows.append(logits_LV.log_softmax(-1).gather(1, ids[0, len(sequence.prompt_ids) :, None]).squeeze(1))
    return torch.cat(rows)


def _trial(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PackedTokens:
    return pack(_trial_sequences(tokenizer), base.device)


def _trial_sequences(tokenizer: PreTrainedTokenizerBase) -> list[TokenSequence]:
    """Two completions of one prompt and one of another."""
    ids = [tuple((7 * i + 3 * j + 1) % len(tokenizer) for i in range(6)) for j in range(3)]
    return [
        TokenSequence(ids[0][:3], ids[0][3:]),
        TokenSequence(ids[0][:3], ids[1][2:]),
        TokenSequence(ids[2][:2], ids[2]),
    ]


def _tolerance(base: PreTrainedModel) -> float:
    return TOLERANCE.get(base.dtype, ROUNDED_TOLERANCE)
