"""Whether an engine samples with the weights it was given: it continues fixed prompts, the learner judges every token.

The continuation is sampled as a rollout is, so the check covers all that a rollout relies on: the weights, the cache of
earlier prompts, the architecture's options, and probabilities at a temperature, the one that sampling begins with.

Axes: N tokens of all continuations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from grpo.batch import pack
from grpo.engine_settings import CheckSettings
from grpo.forward import target_logprobs
from grpo.rollout.collect import completion_seed
from grpo.rollout.engine import Sampler, SampleRequest, Sampling
from grpo.types import Completion, TokenSequence

PROMPT_TOKENS = 36
"""Longer than a block of any engine's prefix cache, so that keys and values of older weights cannot hide."""

LARGEST_GAP_FP32 = 1e-3
"""Nats at temperature 1. Sound engines stay below 1e-4; each known fault of a weight push is above 0.1."""

MEAN_GAP_BF16 = {"dense": 0.1, "experts": 0.25}
"""Nats. Rounding gives 0.03 in dense models and 0.14 in small mixtures of experts, whose routes flip."""

MOVED = 0.02
"""Nats by which the learner must have moved for an engine that answers exactly as before to be told stale."""

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Probe:
    """The fixed prompts, and what counts as a gap. `exact`: engine and learner both compute in float32."""

    requests: tuple[SampleRequest, ...]
    sampling: Sampling
    precision: Precision
    exact: bool
    tolerance: float


@dataclass(frozen=True)
class Answer:
    """What a replica answered to the probe and how the learner judged it."""

    completions: tuple[Completion, ...]
    learner_logprobs_N: Tensor

    @property
    def engine_logprobs_N(self) -> Tensor:
        """The engine's own probabilities of its tokens."""
        return torch.tensor([x for completion in self.completions for x in completion.sampler_logprobs])

    @property
    def gap_N(self) -> Tensor:
        """|learner - engine| in nats; infinite where one of them is no number."""
        return (self.learner_logprobs_N - self.engine_logprobs_N).abs().nan_to_num(nan=torch.inf)


def make_probe(
    prompts: Sequence[Sequence[int]],
    length: int,
    settings: CheckSettings,
    temperature: float,
    precision: Precision,
    kind: Literal["exact", "dense", "experts"],
) -> Probe:
    """A probe of the run's own tokens: windows of `length` from the prompts laid end to end, as often as needed.

    `kind` sets the tolerance: exact where both sides compute in float32, or else by the architecture.

    The gap's tolerance grows as the temperature falls: logits, and with them their rounding, are divided by it.
    """
    needed = settings.sequences * length
    tokens = [token for prompt in prompts[:needed] for token in prompt]
    tokens = (tokens * (needed // len(tokens) + 1))[:needed]
    windows = [tuple(tokens[start : start + length]) for start in range(0, needed, length)]
    requests = tuple(SampleRequest(window, (completion_seed(place),)) for place, window in enumerate(windows))
    known = LARGEST_GAP_FP32 if kind == "exact" else MEAN_GAP_BF16[kind]
    tolerance = settings.tolerance or known * max(1.0, 1.0 / temperature)
    return Probe(requests, Sampling(temperature, settings.tokens), precision, kind == "exact", tolerance)


@torch.no_grad()
def ask_replica(replica: Sampler, model: nn.Module, probe: Probe) -> Answer:
    """Let a replica continue the prompts, and the learner judge the tokens."""
    completions = tuple(group[0] for group in replica.generate(probe.requests, probe.sampling))
    sequences = [TokenSequence(r.prompt_ids, c.token_ids) for r, c in zip(probe.requests, completions, strict=True)]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=probe.precision == "bf16"):
        logprobs_N = target_logprobs(model, pack(sequences, device), probe.sampling.temperature)
    model.train(was_training)
    return Answer(completions, logprobs_N.float().cpu())


def is_sound(answer: Answer, probe: Probe, before: Answer | None) -> bool:
    """Whether the gap is within the tolerance and the engine is not the one of before."""
    statistic = answer.gap_N.max() if probe.exact else answer.gap_N.mean()
    return bool(statistic <= probe.tolerance) and not _is_stale(answer, before)


def gap_figures(answers: Sequence[Answer]) -> Mapping[str, float]:
    """The largest and the mean gap over all replicas, in nats."""
    gap_N = torch.cat([answer.gap_N for answer in answers])
    return {"check/gap_max": gap_N.max().item(), "check/gap_mean": gap_N.mean().item()}


def compared_with_next(answer: Answer, before: Answer | None) -> Answer:
    """What the next answer is compared with: the first of those that were the same, so that small moves add up."""
    return before if before is not None and _same_answer(answer, before) else answer


def _is_stale(answer: Answer, before: Answer | None) -> bool:
    """Whether it answers to the bit as it did before, though the learner has moved on since then."""
    if before is None or not _same_answer(answer, before):
        return False
    return bool((answer.learner_logprobs_N - before.learner_logprobs_N).abs().mean() > MOVED)


def _same_answer(answer: Answer, before: Answer) -> bool:
    pairs = zip(answer.completions, before.completions, strict=True)
    return all((a.token_ids, a.sampler_logprobs) == (b.token_ids, b.sampler_logprobs) for a, b in pairs)


def describe(answer: Answer, probe: Probe, cause: str) -> str:
    """What was found, the worst tokens, and the likeliest cause."""
    gap_N = answer.gap_N
    places = [(s, t) for s, completion in enumerate(answer.completions) for t in range(len(completion.token_ids))]
    worst = [(n, *places[n]) for n in gap_N.argsort(descending=True)[:3].tolist()]
    tokens = [
        f"token {answer.completions[s].token_ids[t]} at place {t + 1} of sequence {s + 1} (engine "
        f"{answer.engine_logprobs_N[n]:.4f}, learner {answer.learner_logprobs_N[n]:.4f})"
        for n, s, t in worst
    ]
    kind, found = ("largest", gap_N.max()) if probe.exact else ("mean", gap_N.mean())
    return (
        f"the {kind} gap between engine and learner is {found:.4g} nats, expected at most {probe.tolerance:.4g}; "
        f"the worst: {'; '.join(tokens)}; likely cause: {cause}"
    )


def likely_cause(answer: Answer, before: Answer | None, uncached: Answer, probe: Probe) -> str:
    """The fault that explains the answers best; `uncached` is one to prompts that the engine has never seen."""
    if before is not None and _same_answer(answer, before):
        return "the engine did not take the weights: its answers are those of the version before, to the bit"
    if is_sound(uncached, probe, None):
        return "the prefix cache was not reset: prompts that the engine has not seen before are answered rightly"
    first_N = torch.cat([torch.arange(len(completion.token_ids)) for completion in uncached.completions]) == 0
    later = uncached.gap_N[~first_N].tolist()
    if uncached.gap_N[first_N].max() <= LARGEST_GAP_FP32 < max(later, default=0.0):
        return "tokens after the first are computed differently: the rotary embedding or the cache of keys and values"
    return (
        "some weights did not arrive or are packed wrongly (an output layer tied to the embedding, experts), or the "
        "engine computes another architecture (keys of config.json, the rotary embedding)"
    )


def unseen(probe: Probe) -> Probe:
    """The same prompts turned round, which no cache holds."""
    requests = tuple(SampleRequest(request.prompt_ids[::-1], request.seeds) for request in probe.requests)
    return replace(probe, requests=requests)
