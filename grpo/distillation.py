"""Learning from a teacher's distributions: forward KL beside cross-entropy, over the whole vocabulary.

Axes: N trained tokens of a micro-batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo.experts.observe import observe
from grpo.experts.terms import NO_BALANCE, BalanceLoss
from grpo.forward import next_token_states, prepare_packing
from grpo.kernels.head_divergence import divergence_scores
from grpo.model_settings import ModelSettings
from grpo.policy import Policy
from grpo.pretrained import load_model, load_tokenizer
from grpo.tally import Tally
from grpo.teacher_settings import TeacherSettings
from grpo.types import PackedTokens, UserError


@dataclass(frozen=True)
class Distillation:
    """Mean over the `total_tokens` target tokens of a step: share * KL(teacher, policy) + (1 - share) * -log p."""

    total_tokens: int
    teacher: nn.Module
    share: float
    balance: BalanceLoss = NO_BALANCE

    def __call__(self, model: nn.Module, tokens: PackedTokens) -> tuple[Tensor, Tally]:
        """The micro-batch's share of the step's mean, and its own figures."""
        with torch.no_grad():
            taught = next_token_states(self.teacher, tokens)
        states, routing = observe(model, tokens, None, lambda: next_token_states(model, tokens))
        logprobs_N, kl_N = divergence_scores(states, taught, tokens.target_ids_N)
        loss_N = self.share * kl_N - (1 - self.share) * logprobs_N
        tally = Tally().add("tokens", tokens.sequence_tokens).tokens("distill/kl", kl_N)
        tally.tokens("distill/cross_entropy", -logprobs_N)
        return self.balance.added(loss_N.sum() / self.total_tokens, tally, routing)


def load_teacher(settings: TeacherSettings, policy: Policy, device: torch.device) -> tuple[PreTrainedModel, list[str]]:
    """The frozen teacher, without a predictor, which teaches nothing here; and what a user should know of it.

    Raises:
        UserError: there is no model at its path, or it knows other tokens than the policy.
    """
    given = settings.model_dump(include={"path", "dtype", "trust_remote_code"})
    tokenizer = load_tokenizer(settings.path, settings.trust_remote_code)
    model = load_model(settings.path, ModelSettings(**given, mtp="drop"), tokenizer)
    if tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UserError(
            f"teacher.path: expected a model with the policy's {len(policy.tokenizer)} tokens, got {settings.path} "
            "with other ones: choose a teacher with the same tokenizer"
        )
    model.requires_grad_(False).to(device)  # type: ignore[arg-type]
    return model, [f"teacher: {note}" for note in prepare_packing(model, tokenizer)]
