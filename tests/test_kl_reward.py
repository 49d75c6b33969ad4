from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from grpo.grpo_stage import GrpoStage
from grpo.kl_reward import sequence_kl
from grpo.learner import Learner
from grpo.policy import Policy, make_reference
from grpo.types import Completion, Group, Problem, Score, ScoredGroup

TEMPERATURE = 0.7


def stage(estimator: str, budget: int = 4096) -> GrpoStage:
    return GrpoStage.model_validate(
        {
            "kind": "grpo", "lr": 1, "steps": 1, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}],
            "rollout": {"temperature": TEMPERATURE}, "kl": {"place": "reward", "estimator": estimator},
            "advantage": {"kind": "rloo"},
            "tokens_per_micro_batch": budget,
        }
    )  # fmt: skip


def group(prompt: tuple[int, ...], *tokens: tuple[int, ...]) -> ScoredGroup:
    sampled = [Completion("", ids, tuple(-0.5 - 0.25 * i for i in ids), "stop", 0) for ids in tokens]
    return ScoredGroup(Group(Problem("p", "", {}), prompt, tuple(sampled)), tuple(Score(0, {}, {}) for _ in tokens))


SCORED = [group((5, 6), (7, 8, 9), (1,)), group((3,), (4, 5), (6, 7, 8, 9))]


def ref_logprobs(model: PreTrainedModel, prompt: tuple[int, ...], ids: tuple[int, ...]) -> Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]


BY_HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: d,
    "k2": lambda d: d**2 / 2,
    "k3": lambda d: (-d).exp() + d - 1,
}


@pytest.mark.parametrize("estimator", BY_HAND)
@pytest.mark.parametrize("budget", [1, 4096])
@torch.no_grad()
def test_equals_a_plain_computation(tiny_model: Callable[..., Any], estimator: str, budget: int) -> None:
    model = tiny_model("qwen3")
    settings = stage(estimator, budget)
    kl_PG = sequence_kl(
        SCORED,
        settings,
        Learner(model, settings, 1, Accelerator(cpu=True)),
        make_reference(Policy(model, None, "")),  # type: ignore[arg-type]  # a reference reads no text
    )
    expected = [
        [
            BY_HAND[estimator](
                torch.tensor(c.sampler_logprobs) - ref_logprobs(model, g.group.prompt_ids, c.token_ids)
            ).sum().item()
            for c in g.group.completions
        ]
        for g in SCORED
    ]  # fmt: skip
    assert kl_PG.dtype == torch.float64
    torch.testing.assert_close(kl_PG, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_it_is_0_where_the_sampler_is_the_reference(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("qwen3")
    prompt, ids = (5, 6), (7, 8, 9)
    own = Completion("", ids, tuple(ref_logprobs(model, prompt, ids).tolist()), "stop", 0)
    scored = [ScoredGroup(Group(Problem("p", "", {}), prompt, (own, own)), (Score(0, {}, {}),) * 2)]
    settings = stage("k3")
    learner = Learner(model, settings, 1, Accelerator(cpu=True))
    reference = make_reference(Policy(model, None, ""))  # type: ignore[arg-type]
    assert sequence_kl(scored, settings, learner, reference).abs().max() < 1e-6
