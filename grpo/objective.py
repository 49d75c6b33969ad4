"""What a micro-batch contributes to the loss: the policy gradient with its penalties, and plain cross-entropy.

Axes: N trained tokens of a micro-batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grpo.correction import NO_CORRECTION, Correction
from grpo.experts.observe import observe
from grpo.experts.terms import NO_BALANCE, BalanceLoss
from grpo.forward import target_logprobs
from grpo.loss_settings import KlSettings
from grpo.losses import Loss
from grpo.losses.kl import kl_penalty
from grpo.mtp_loss import MtpTerm, scores_with_mtp
from grpo.policy import Reference
from grpo.tally import Tally
from grpo.types import Batch, PackedTokens


@dataclass(frozen=True)
class PolicyGradient:
    """The loss of a stage: corrected surrogate + beta * KL - entropy coefficient * entropy, weighted and summed.

    That of multi-token prediction has the same weights of tokens beside its own.
    """

    surrogate: Loss
    temperature: float
    kl: KlSettings
    reference: Reference | None
    entropy_coefficient: float
    correction: Correction = NO_CORRECTION
    balance: BalanceLoss = NO_BALANCE
    mtp: MtpTerm | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tally]:
        """The micro-batch's share of the minibatch's loss, and figures about its tokens."""
        ref_logprobs_N = self._ref_logprobs(batch)
        (scores, mtp_N, mtp_tally), routing = observe(
            model,
            batch.tokens,
            batch.replayed_routes_TLK,
            lambda: scores_with_mtp(model, batch.tokens, self.temperature, self.mtp),
        )
        policy_logprobs_N, entropy_N, likeliest_N = scores
        anchor_N = self.correction.anchor(policy_logprobs_N, batch)
        token = self.surrogate(policy_logprobs_N, anchor_N, batch.advantages_N, batch.tokens.sequence_N)
        correction_N, tally = self.correction.weights(policy_logprobs_N, batch)
        loss_N = correction_N * token.loss_N - self.entropy_coefficient * entropy_N
        tally.merge(mtp_tally).merge(_drift(policy_logprobs_N, batch.sampler_logprobs_N))
        tally.tokens("ratio/clipped", token.clipped_N.float()).tokens("entropy", entropy_N)
        tally.tokens("likeliest", likeliest_N).add("tokens", batch.tokens.sequence_tokens)
        if ref_logprobs_N is not None:
            kl_N = kl_penalty(policy_logprobs_N, batch.sampler_logprobs_N, ref_logprobs_N, self.kl.estimator)
            loss_N = loss_N + self.kl.beta * kl_N
            tally.tokens("kl", kl_N)
        loss, tally = _with_mtp((batch.weights_N * loss_N).sum(), mtp_N, batch.weights_N, tally)
        return self.balance.added(loss, tally, routing, batch.sampler_routes_TLK)

    def _ref_logprobs(self, batch: Batch) -> Tensor | None:
        if self.reference is None or self.kl.place == "reward":
            return None
        with torch.no_grad(), self.reference.model() as ref:
            return target_logprobs(ref, batch.tokens, self.temperature)


def _drift(policy_logprobs_N: Tensor, sampler_logprobs_N: Tensor) -> Tally:
    """How far the policy is from the sampler: |log rho| and KL(sampler, policy) by k3 in nats a token, and chi^2."""
    log_rho_N = policy_logprobs_N.detach() - sampler_logprobs_N
    tally = Tally().tokens("sampler/mismatch_mean", log_rho_N.abs())
    tally.tokens("sampler/kl", torch.expm1(log_rho_N) - log_rho_N).tokens("sampler/chi2", torch.expm1(2 * log_rho_N))
    return tally.maximum("sampler/mismatch_max", log_rho_N.abs().max().item())


def _with_mtp(loss: Tensor, mtp_N: Tensor | None, weights_N: Tensor | float, tally: Tally) -> tuple[Tensor, Tally]:
    """Both losses; the figure `loss`, to which the learner adds their sum, is to be the first one alone."""
    if mtp_N is None:
        return loss, tally
    mtp = (weights_N * mtp_N).sum()
    return loss + mtp, tally.add("loss", -mtp.item())


@dataclass(frozen=True)
class CrossEntropy:
    """Mean negative log-likelihood over the `total_tokens` target tokens of a step.

    That of multi-token prediction is divided by the same number, as in the paper, though it has fewer terms.
    """

    total_tokens: int
    balance: BalanceLoss = NO_BALANCE
    mtp: MtpTerm | None = None

    def __call__(self, model: nn.Module, tokens: PackedTokens) -> tuple[Tensor, Tally]:
        """The micro-batch's share of the step's mean, and its own figures."""
        (scores, mtp_N, tally), routing = observe(
            model, tokens, None, lambda: scores_with_mtp(model, tokens, 1.0, self.mtp)
        )
        tally.add("tokens", tokens.sequence_tokens)
        loss = -scores.logprobs_N.sum() / self.total_tokens
        return self.balance.added(*_with_mtp(loss, mtp_N, 1 / self.total_tokens, tally), routing)
