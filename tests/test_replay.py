"""Routing replay: later updates of a rollout go through the experts that the first pass, or the engine, chose."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from grpo.batch import Trajectory, make_batch
from grpo.correction import first_pass
from grpo.experience import minibatches
from grpo.experts.observe import routers_of
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner, train_step
from grpo.losses import make_loss
from grpo.objective import PolicyGradient
from grpo.rollout.vllm_requests import told_routes
from grpo.types import Completion, Group, Problem, Routes, Score, ScoredGroup, TrainingFailure

CPU = torch.device("cpu")


def stage(**values: Any) -> GrpoStage:
    basis = {"kind": "grpo", "lr": 0.02, "steps": 10, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}]}
    return GrpoStage.model_validate(basis | {"epochs_per_step": 3, "kl": {"beta": 0.0}} | values)


def policy() -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mixtral", vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=64,
        initializer_range=0.4, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def groups(routes: Routes | None = None) -> list[ScoredGroup]:
    generator = torch.Generator().manual_seed(1)

    def completion(length: int) -> Completion:
        ids = torch.randint(32, (length,), generator=generator).tolist()
        return Completion("", tuple(ids), (-3.0,) * length, "stop", 0, routes)

    problem = Problem("p", "", {})
    rows = [Group(problem, (1, 2, 3), tuple(completion(9) for _ in range(4))) for _ in range(2)]
    return [ScoredGroup(group, tuple(Score(0.0, {}, {}) for _ in group.completions)) for group in rows]


def updates(settings: GrpoStage, scored: Sequence[ScoredGroup], model: nn.Module) -> list[dict[str, float]]:
    """The figures of every update of a step."""
    learner = Learner(model, settings, 10, Accelerator(cpu=True))
    first = first_pass(scored, settings, learner)
    advantages_PG = torch.tensor([[1.0, -1.0, 0.5, -0.5]]).expand(2, 4)
    objective = PolicyGradient(make_loss(settings.loss), 1.0, settings.kl, None, 0.0)
    return [
        train_step(learner, [make_batch(part, CPU)], objective, 0).figures()
        for part in minibatches(scored, first, advantages_PG, settings)
    ]


def test_the_first_pass_is_replayed_in_later_updates_and_the_router_still_learns() -> None:
    scored, settings = groups(), stage(experts={"routing_replay": "policy"})
    model = policy()
    learner = Learner(model, settings, 10, Accelerator(cpu=True))
    first = first_pass(scored, settings, learner)
    trajectories = minibatches(scored, first, torch.ones(2, 4), settings)[0]
    assert all(t.replayed_routes is not None and len(t.replayed_routes.tensor()) == 11 for t in trajectories)
    before = [router.weight.detach().clone() for router in routers_of(model)]
    objective = PolicyGradient(make_loss(settings.loss), 1.0, settings.kl, None, 0.0)
    train_step(learner, [make_batch(trajectories, CPU)], objective, 0)
    assert all((router.weight - b).abs().max() > 1e-3 for router, b in zip(routers_of(model), before, strict=True))

    # With its routers turned round, the policy chooses others by itself, and the old ones when told.
    with torch.no_grad():
        for router in routers_of(model):
            router.weight.neg_()

    def chosen(parts: Sequence[Trajectory]) -> list[tuple[int, ...]]:
        seen: list[torch.Tensor] = []
        experts: Any = [m for m in model.modules() if type(m).__name__ == "MixtralExperts"]
        handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[1])) for m in experts]
        objective(model, make_batch(parts, CPU))
        for handle in handles:
            handle.remove()
        return [tuple(e.sort(-1).values.flatten().tolist()) for e in seen]

    free = [replace(t, replayed_routes=None) for t in trajectories]
    assert chosen(free) != chosen(trajectories)
    told_TLK = torch.cat([t.replayed_routes.tensor() for t in trajectories if t.replayed_routes is not None])
    told = [tuple(told_TLK[:, layer].sort(-1).values.flatten().tolist()) for layer in range(2)]
    assert chosen(trajectories) == told


def test_the_first_update_is_the_same_and_later_ones_are_not() -> None:
    free = updates(stage(), groups(), policy())
    replayed = updates(stage(experts={"routing_replay": "policy"}), groups(), policy())
    for name in ("loss", "grad_norm", "sampler/mismatch_mean"):
        assert replayed[0][name] == pytest.approx(free[0][name], rel=1e-5)
    assert replayed[2]["grad_norm"] != pytest.approx(free[2]["grad_norm"], rel=1e-3)


def test_one_pass_gives_anchors_and_routes_however_it_is_split() -> None:
    model, scored = policy(), groups()
    both = stage(experts={"routing_replay": "policy"}, correction={"kind": "token_mask"})
    learner = Learner(model, both, 10, Accelerator(cpu=True))
    whole = first_pass(scored, both, learner)
    alone = first_pass(scored, both.model_copy(update={"tokens_per_micro_batch": 1}), learner)
    for one, other in zip(whole.routes_PG, alone.routes_PG, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours.tensor().sort(-1).values, theirs.tensor().sort(-1).values)
    routes_only = first_pass(scored, stage(experts={"routing_replay": "policy"}), learner)
    assert routes_only.routes_PG == whole.routes_PG
    assert routes_only.anchors_PG == [[c.sampler_logprobs for c in g.group.completions] for g in scored]
    assert first_pass(scored, stage(), learner).routes_PG == [[None] * 4] * 2


def test_the_engines_routes_are_replayed_or_missed() -> None:
    told = Routes.of(torch.tensor([[6, 7]]).expand(11, 2, 2))
    settings = stage(experts={"routing_replay": "sampler"})
    learner = Learner(policy(), settings, 10, Accelerator(cpu=True))
    first = first_pass(groups(told), settings, learner)
    assert first.routes_PG == [[told] * 4] * 2
    figures = updates(settings, groups(told), policy())
    assert 0.5 < figures[0]["router/rerouted"] <= 1
    with pytest.raises(TrainingFailure, match="the engine did not tell which experts it chose"):
        first_pass(groups(), settings, learner)


def test_vllms_array_is_read_by_its_layers() -> None:
    """Five tokens, three layers of which the first is dense."""
    array = np.arange(30, dtype=np.uint8).reshape(5, 3, 2)
    assert told_routes(array, [1, 2], 4) == Routes.of(torch.arange(30).reshape(5, 3, 2)[:4, 1:])
    with pytest.raises(TrainingFailure, match="told the experts of 5 tokens, expected 6"):
        told_routes(array, [1, 2], 6)
    with pytest.raises(TrainingFailure, match="of 0 tokens, expected 1"):
        told_routes(None, [1], 1)
