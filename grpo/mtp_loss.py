"""The loss of multi-token prediction over packed sequences, from the trunk's one forward pass.

An input of the predictor stands at the token whose embedding it takes and reads the hidden state of the token before.
For the first token of a completion that is the last one of the prompt, so each completion has an input of its own
there, and the predictor's layout is the trunk's without the first token of every prompt.

Axes: T packed tokens, M inputs of the predictor, N targets, K of them that it predicts, D hidden units.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from grpo.forward import OWN_LOGITS, final_hidden, hidden_scores, logit_rules, packed_inputs, packs, target_scores
from grpo.kernels.head_logprobs import TokenScores, head_scores, module_scores
from grpo.kernels.layout import Layout
from grpo.kernels.rows import take
from grpo.mtp import own_parameters, plain_model, predicting_decoder, predictor_input, predictor_of
from grpo.mtp_settings import MtpSettings
from grpo.tally import Tally
from grpo.types import PackedGroup, PackedTokens, UserError


@dataclass(frozen=True)
class MtpTerm:
    """What multi-token prediction adds to a step's loss; `detached`: it moves nothing but the predictor."""

    weight: float
    detached: bool


def mtp_settings(model: nn.Module, given: MtpSettings | None, default: MtpSettings) -> MtpSettings | None:
    """The settings in force: None where the model has no predictor, or a stage leaves it as it is and it is frozen.

    Raises:
        UserError: settings are given for a model that has no predictor, or one whose sequences can't be packed.
    """
    if predictor_of(model) is None:
        if given is not None:
            raise UserError("mtp: the policy has no layer of multi-token prediction to train: set model.mtp: add")
        return None
    settings = given or default
    if not settings.trains:
        for parameter in own_parameters(model):
            parameter.requires_grad_(False)
        return None
    if not packs(model) or getattr(plain_model(model), OWN_LOGITS, False):
        raise UserError(
            f"model.mtp: {type(plain_model(model)).__name__} cannot be given packed sequences or has no plain head, "
            "which training a layer of multi-token prediction needs: set model.mtp: drop"
        )
    return settings


def term_at(settings: MtpSettings | None, step: int, steps: int) -> MtpTerm | None:
    """The term of the step with this number, counted from 0."""
    return None if settings is None else MtpTerm(settings.weight_at(step, steps), settings.trunk == "detach")


class Shifted(NamedTuple):
    """The predictor's inputs: at token `index_M` of T, after `before_M` of T. Target `target_K` of N is predicted at
    `place_K` of M; only the second token of a text has no place."""

    groups: tuple[PackedGroup, ...]
    index_M: Tensor
    before_M: Tensor
    place_K: Tensor
    target_K: Tensor


def scores_with_mtp(
    model: nn.Module, tokens: PackedTokens, temperature: float, term: MtpTerm | None
) -> tuple[TokenScores, Tensor | None, Tally]:
    """The targets' scores, the weighted loss (N,) of predicting them a token earlier, and figures about it."""
    if term is None or term.weight == 0:
        return target_scores(model, tokens, temperature), None, Tally()
    hidden_TD, index_N = final_hidden(model, tokens)
    scores = hidden_scores(model, take(hidden_TD, index_N), tokens.target_ids_N, temperature)
    shifted = shift(tokens)
    logprobs_K = predicted_logprobs(model, hidden_TD, tokens, shifted, temperature, term.detached)
    loss_N = torch.zeros_like(scores.logprobs_N).index_put((shifted.target_K,), -term.weight * logprobs_K)
    return scores, loss_N, Tally().tokens("mtp/loss", -logprobs_K).mean("mtp/weight", term.weight)


def predicted_logprobs(
    model: nn.Module, hidden_TD: Tensor, tokens: PackedTokens, shifted: Shifted, temperature: float, detached: bool
) -> Tensor:
    """Log-probabilities (K,) of the targets, from the hidden state two tokens before and the token between."""
    if not len(shifted.place_K):
        return hidden_TD.new_zeros(0)
    next_ids_M = tokens.token_ids_T[shifted.index_M]
    given_MD = predictor_input(model, hidden_TD[shifted.before_M], next_ids_M, detached)
    inputs = packed_inputs(tokens.position_ids_T[shifted.before_M], Layout.of_groups(shifted.groups, hidden_TD.device))
    out_MD = predicting_decoder(model)(inputs_embeds=given_MD[None], use_cache=False, **inputs).last_hidden_state[0]
    out_KD, target_ids_K = take(out_MD, shifted.place_K), tokens.target_ids_N[shifted.target_K]
    scores = _frozen_head_scores if detached else hidden_scores
    return scores(model, out_KD, target_ids_K, temperature).logprobs_N


def _frozen_head_scores(model: nn.Module, hidden_KD: Tensor, target_ids_K: Tensor, temperature: float) -> TokenScores:
    """As `hidden_scores`, without a gradient for the head."""
    base = plain_model(model)
    rules, head = logit_rules(base, temperature), cast(nn.Module, base.get_output_embeddings())
    frozen = {name: parameter.detach() for name, parameter in head.named_parameters()}
    if type(head) is nn.Linear:
        return head_scores(hidden_KD, frozen["weight"], frozen.get("bias"), target_ids_K, rules)
    return module_scores(hidden_KD, lambda some: functional_call(head, frozen, (some,)), target_ids_K, rules)


def shift(tokens: PackedTokens) -> Shifted:
    """Where the predictor's inputs lie.

    Prompt 5 6 with targets 7 8 and with targets 3 4 2 is packed as 5 6 7 3 4. The inputs are those of 6 after 5, 7
    after 6, 3 after 6 and 4 after 3. They predict 7 and 3 (both at 6), 8, 4 and 2.
    """
    groups: list[PackedGroup] = []
    index: list[int] = []
    before: list[int] = []
    start = 0
    for prompt, completions in tokens.groups:
        last = start + prompt - 1
        index += range(start + 1, start + prompt + sum(completions))
        before += range(start, last)
        start += prompt
        for length in completions:
            before += [last, *range(start, start + length - 1)] if length else []
            start += length
        # A prompt of one token leaves nothing to share.
        alone = [PackedGroup(length, ()) for length in completions if length]
        groups += [PackedGroup(prompt - 1, completions)] if prompt > 1 else alone
    device = tokens.token_ids_T.device
    index_M, before_M = (torch.tensor(column, dtype=torch.long, device=device) for column in (index, before))
    place_T = torch.full_like(tokens.token_ids_T, -1)
    place_T[index_M] = torch.arange(len(index), device=device)
    place_N = place_T[tokens.predictor_N]
    target_K = (place_N >= 0).nonzero()[:, 0]
    return Shifted(tuple(groups), index_M, before_M, place_N[target_K], target_K)
