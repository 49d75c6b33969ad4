"""The doctor's rounds: what healthy runs are told, when findings begin and end, and what half a run still says."""

import json
import math
import random
import shutil
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo.cli import main
from grpo.doctor import Finding, examine
from grpo.doctor.chart import Chart
from grpo.doctor.finding import present, written
from grpo.doctor.loss import loss_diverging
from grpo.doctor.noise import least_share, rise, trend
from grpo.doctor.reader import catch_up
from grpo.doctor.registry import FINDINGS
from grpo.doctor.rounds import Rounds
from grpo.doctor.routers import starving
from grpo.grpo_stage import GrpoStage
from grpo.recipe_file import load_recipe
from grpo.sft_stage import SftStage

RUNS = Path(__file__).parent / "doctor_runs"
"""Figures of whole runs as they were measured, rounded to four digits: the healthy ones, and one whose weights take
longer to reach the engine than its completions take (vLLM on a CPU, 8 completions of 2 tokens a step)."""


SFT = SftStage.model_validate({"kind": "sft", "problems": {"path": "p.jsonl"}, "steps": 9, "lr": 1e-3})


def stage(**settings: Any) -> GrpoStage:
    given = {
        "kind": "grpo",
        "problems": {"path": "p.jsonl"},
        "steps": 99,
        "lr": 1e-3,
        "rewards": [{"name": "accuracy"}],
    }
    return GrpoStage.model_validate(given | settings)


# --- healthy runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["quickstart", "smollm2_arithmetic", "r1_zero_smollm2"])
def test_healthy_runs_have_no_findings(run: str) -> None:
    assert examine(RUNS / run) == []
    assert sum(1 for _ in (RUNS / run).glob("*/metrics.jsonl")) > 0


def test_a_run_is_found_to_wait_for_its_weights() -> None:
    (found,) = [one for one in examine(RUNS / "slow_sync") if one.name == "bound by sync"]
    assert found.change == "stages.0.prompts_per_step: 2 -> 4"


# --- from step to step ------------------------------------------------------------------------------------------------


def cut(share: float) -> dict[str, float]:
    return {"completion/truncated": share}


def test_a_finding_begins_once_and_is_over_once() -> None:
    """16 groups a step: five steps that are all cut are enough; then the mean of ten steps has to fall to a quarter."""
    rounds = Rounds("01-grpo", 0, stage(mask_truncated=True))
    shares = [1.0] * 6 + [0.0] * 14 + [1.0] * 9
    news = [rounds.after(step, cut(share)) for step, share in enumerate(shares, 1)]
    began = [step for step, one in enumerate(news, 1) for _ in one.began]
    ended = [(step, found.first_step, found.last_step) for step, one in enumerate(news, 1) for found in one.ended]
    assert began[0] == 5
    assert len(began) == 2
    assert len(ended) == 1
    step, first, last = ended[0]
    assert (first, step - last) == (1, 5)  # told when five steps have been without it
    assert [found.name for found in rounds.findings] == ["truncation", "truncation"]
    assert [bool(one.present) for one in news] == [5 <= s < step or s >= began[1] for s in range(1, 30)]


def test_what_was_cut_at_another_limit_is_no_truncation_at_this_one() -> None:
    """Ten steps are cut at 64 tokens; from step 11 on the limit is 512 and nothing is, or everything is again."""
    for share, found in ((0.0, []), (1.0, [(1, "stages.0.length_schedule.0.max_new_tokens: 512 -> 1024")])):
        rounds = Rounds("01-grpo", 0, stage(length_schedule=[{"step": 11, "max_new_tokens": 512}]))
        for step in range(1, 21):
            rounds.after(step, cut(1.0 if step < 11 else share))
            assert share or "cut at 512" not in str(rounds.present)
        assert [(one.first_step, one.change) for one in rounds.present] == found


def test_a_higher_limit_is_no_explosion_of_lengths() -> None:
    for schedule, found in (([], ["length explosion"]), ([{"step": 11, "max_new_tokens": 2048}], [])):
        rounds = Rounds("01-grpo", 0, stage(rollout={"max_new_tokens": 1024}, length_schedule=schedule))
        for step in range(1, 26):
            rounds.after(step, {"completion/length_mean": 90.0 if step < 11 else 300.0, "reward/accuracy": 0.1})
        assert [one.name for one in rounds.present] == found


def test_what_moved_before_another_limit_explains_no_lengths_after_it() -> None:
    """The form is found by step 10 and accuracy with it; from step 41 on the limit is another, and lengths double."""
    rewards = [{"name": "accuracy"}, {"name": "format", "weight": 0.5}]
    told = stage(rewards=rewards, length_schedule=[{"step": 41, "max_new_tokens": 512}])
    rounds = Rounds("01-grpo", 0, told)
    for step in range(1, 81):
        length = 90.0 if step < 41 else 200.0 if step < 51 else 450.0
        found = 0.1 if step < 10 else 0.9
        figures = {"completion/length_mean": length, "reward/accuracy": found / 2, "reward/format": found}
        rounds.after(step, figures)
    (finding,) = [one for one in rounds.present if one.name == "length explosion"]
    assert finding.change == "stages.0.loss.kind: grpo -> dr_grpo"


def test_what_is_solved_is_solved_from_its_first_step_on() -> None:
    """Groups have signal for 40 steps and none for 160: the last 160 steps teach nothing."""
    rounds = Rounds("01-grpo", 0, stage(steps=200))
    for step in range(1, 201):
        rounds.after(step, {"groups/zero_std": float(step > 40), "reward/accuracy": 0.5 if step <= 40 else 1.0})
    (found,) = rounds.present
    assert (found.name, found.first_step, found.change) == ("solved", 41, "stages.0.steps: 200 -> 41")


def test_what_is_cut_less_and_less_is_left_to_heal() -> None:
    rounds = Rounds("01-grpo", 0, stage())
    for step in range(1, 11):
        rounds.after(step, cut(0.9 * 0.7**step))
    assert rounds.findings == []


@pytest.mark.parametrize(
    ("schedule", "expected"), [([], ["entropy explosion"]), ([{"step": 11, "temperature": 2.0}], [])]
)
def test_a_scheduled_temperature_is_no_explosion_of_entropy(
    schedule: list[dict[str, float]], expected: list[str]
) -> None:
    """0.6 nats a token for ten steps, and 1.3 from the eleventh on."""
    rounds = Rounds("01-grpo", 0, stage(temperature_schedule=schedule))
    for step in range(1, 26):
        rounds.after(step, {"entropy": (0.6 if step < 11 else 1.3) + 0.001 * (step % 2), "reward/accuracy": 0.1})
    assert [found.name for found in rounds.findings] == expected


def test_a_policy_that_is_noise_within_five_steps_has_exploded() -> None:
    """Their mean is 2.8, and 5.4 is not twice that: the first two count."""
    rounds = Rounds("01-grpo", 0, stage())
    for step, entropy in enumerate([0.09, 0.64, 3.2, 4.8, 5.2, 5.3, 5.4, 5.4, 5.4, 5.5], 1):
        rounds.after(step, {"entropy": entropy, "reward/accuracy": 0.8 if step == 1 else 0.0})
    assert [found.name for found in rounds.present] == ["entropy explosion"]


def test_lengths_that_burst_within_five_steps_have_exploded() -> None:
    """19 tokens, and from the sixth step on 60, where the limit is: the mean of the first five is 32."""
    rounds = Rounds("01-grpo", 0, stage(rewards=[{"name": "accuracy", "weight": 0}, {"name": "r.py:longer"}]))
    for step, length in enumerate([18.8, 19.0, 31.6, 35.9, 56.2, 60, 60, 60, 60, 60.1], 1):
        paid = {"reward/longer": length / 40, "reward/mean": length / 40}
        rounds.after(step, {"completion/length_mean": length, "reward/accuracy": 0.1, **paid})
    assert [found.change for found in rounds.present] == ["stages.0.rewards.1.weight: 1 -> 0.5"]


MIXTURE = {"sources": [{"path": "p.jsonl"}, {"path": "q.jsonl", "label": "later", "first_step": 30}]}


def test_a_collapse_is_found_before_a_source_of_problems_begins_and_measured_anew_after_it() -> None:
    """Entropy 1.0 for ten steps and 0.05 after them; from step 30 on there are other problems, and it stays."""
    rounds = Rounds("01-grpo", 0, stage(problems=MIXTURE))
    told = []
    for step in range(1, 61):
        news = rounds.after(
            step, {"entropy": (1.0 if step < 11 else 0.05) + 0.001 * (step % 2), "reward/accuracy": 0.1}
        )
        told.append([found.name for found in news.present])
    assert told[24] == ["entropy collapse"]
    assert told[-1] == []


@pytest.mark.parametrize(("since", "expected"), [(30, ["length explosion"]), (40, [])])
def test_lengths_of_other_problems_are_no_explosion(since: int, expected: list[str]) -> None:
    """80 tokens, from step 40 on 300: the problems that begin at step 40 explain it, those of step 30 do not."""
    sources = [{"path": "p.jsonl"}, {"path": "q.jsonl", "label": "later", "first_step": since}]
    rounds = Rounds("01-grpo", 0, stage(problems={"sources": sources}))
    for step in range(1, 61):
        rounds.after(step, {"completion/length_mean": 80.0 if step < 40 else 300.0, "reward/accuracy": 0.1})
    assert [found.name for found in rounds.present] == expected


@pytest.mark.parametrize(("held_out", "expected"), [((0.2, 0.2), ["entropy collapse"]), ((0.2, 0.5), []), ((0.2,), [])])
def test_under_a_curriculum_held_out_accuracy_says_what_a_collapse_bought(
    held_out: tuple[float, ...], expected: list[str]
) -> None:
    """Its interval is +-0.1. Measured once, it may have risen."""
    rounds = Rounds("01-grpo", 0, stage(curriculum={}, evaluation={"every": 19}))
    for step in range(20):
        figures = {"entropy": (1.0 if step < 8 else 0.01) + 0.001 * (step % 2), "reward/accuracy": 0.5}
        if step % 19 == 0 and held_out[step // 19 :]:
            accuracy = held_out[step // 19]
            ends = {"evaluation/accuracy_low": accuracy - 0.1, "evaluation/accuracy_high": accuracy + 0.1}
            figures |= {"evaluation/accuracy": accuracy, **ends}
        rounds.after(step, figures)
    assert [found.name for found in rounds.present] == expected


def test_a_curriculum_that_has_not_been_measured_since_may_have_gained() -> None:
    """Held-out accuracy rose from 0.2 at step 0 to 0.5 at step 50, and is measured next at step 100."""
    rounds = Rounds("01-grpo", 0, stage(curriculum={}, evaluation={"every": 50}))
    for step in range(100):
        figures = {"entropy": (1.0 if step < 8 else 0.01) + 0.001 * (step % 2), "reward/accuracy": 0.5}
        if step % 50 == 0:
            accuracy = 0.2 if step == 0 else 0.5
            ends = {"evaluation/accuracy_low": accuracy - 0.1, "evaluation/accuracy_high": accuracy + 0.1}
            figures |= {"evaluation/accuracy": accuracy, **ends}
        rounds.after(step, figures)
    assert rounds.findings == []


def test_a_few_prompts_a_step_are_solved_when_all_that_is_looked_at_is() -> None:
    """One prompt a step: 30 silent groups that are wrong and 10 that are right are not solved; 40 right ones are."""
    rounds = Rounds("01-grpo", 0, stage(prompts_per_step=1))
    told = []
    for step in range(1, 81):
        rounds.after(step, {"groups/zero_std": 1.0, "reward/accuracy": 0.0 if step <= 30 else 1.0})
        told.append([found.name for found in rounds.present])
    assert told[39] == ["no signal"]
    assert told[79] == ["solved"]


@pytest.mark.parametrize(("prompts", "first_told"), [(1, 35), (2, 18), (3, 12), (4, 9), (8, 5), (16, 5)])
def test_silence_is_found_however_few_prompts_a_step_has(prompts: int, first_told: int) -> None:
    """Nine tenths are sure from 35 silent groups on, and from five steps."""
    rounds = Rounds("01-grpo", 0, stage(prompts_per_step=prompts))
    told = [rounds.after(step, {"groups/zero_std": 1.0, "reward/accuracy": 0.0}).present for step in range(1, 41)]
    assert next(step for step, found in enumerate(told, 1) if found) == first_told
    assert {one.name for found in told for one in found} == {"no signal"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "correction: null -> {kind: token_truncate}"),
        (
            {"correction": {"kind": "token_truncate"}},
            "correction: {kind: token_truncate, high: 2} -> {kind: sequence_mask}",
        ),
        ({"correction": {"kind": "sequence_mask"}}, "lr: 0.001 -> 0.0001"),
        ({"correction": {"kind": "sequence_mask"}, "precision": "bf16"}, "precision: bf16 -> fp32"),
    ],
)
def test_a_mismatch_that_grows_is_found_while_it_is_small(settings: dict[str, Any], told: str) -> None:
    """From 2e-5 nats a token to 5e-4: less than asks for a correction, and 25 times what it was."""
    rounds = Rounds("01-grpo", 0, stage(**settings))
    for step in range(1, 21):
        rounds.after(step, {"sampler/kl": 2e-5 if step < 11 else 5e-4, "reward/accuracy": 0.1})
    (found,) = rounds.present
    assert (found.name, found.change) == ("sampler mismatch", f"stages.0.{told}")


def test_of_rewards_that_fail_the_worst_is_named_and_the_others_told() -> None:
    """128 completions a step: 4 of them fail one reward, and 40 the other."""
    rewards = [{"name": "r.py:one"}, {"name": "r.py:other"}]
    rounds = Rounds("01-grpo", 0, stage(rewards=rewards))
    counts = {"one": 4.0, "other": 40.0}
    zero = {f"reward/{name}/{status}": 0.0 for name in counts for status in ("timeout", "not_applicable")}
    for step in range(1, 11):
        rounds.after(step, zero | {f"reward/{name}/error": n if step > 2 else 0.0 for name, n in counts.items()})
    (found,) = rounds.present
    assert found.change.startswith("stages.0.rewards.1.name: r.py:other -> ")
    assert found.evidence.startswith("other failed on 320 of 1280 completions (320 errors, 0 timeouts)")
    assert "; one on 32 of 1280; " in found.evidence
    assert found.first_step == 3


@pytest.mark.parametrize(("pushed", "found"), [({}, 1), ({"check/gap_max": 1e-5}, 0)])
def test_the_engine_that_sampled_is_known_where_the_recipe_leaves_it_open(pushed: dict[str, float], found: int) -> None:
    rounds = Rounds("01-grpo", 0, stage(rollout={"max_concurrent": 128}))
    for step in range(1, 11):
        rounds.after(step, {"time/rollout": 9.8, "time/learn": 0.2, "grad_norm": 1.0, **pushed})
    assert [one.change for one in rounds.present] == ["stages.0.rollout.engine: auto -> vllm"] * found


def test_a_resumed_process_says_again_what_is_still_there() -> None:
    rounds = Rounds("01-grpo", 0, stage())
    for step in range(1, 8):
        rounds.after(step, cut(1.0))
    rounds.forget_what_was_said()
    assert [found.first_step for found in rounds.after(8, cut(1.0)).began] == [1]
    assert rounds.after(9, cut(1.0)).began == []


def test_findings_take_whatever_figures_there_are() -> None:
    """Figures that are missing, null, infinite or zero in any combination stop no run."""
    draw = random.Random(0)
    names = [
        "groups/zero_std",
        "groups/kept",
        "completion/truncated",
        "completion/length_mean",
        "entropy",
        "kl",
        "loss",
    ]
    names += ["reward/mean", "reward/accuracy", "reward/accuracy/error", "reward/accuracy/timeout", "skipped", "tokens"]
    names += ["sampler/kl", "ratio/clipped", "grad_norm", "time/rollout", "time/learn", "time/reward", "time/sync"]
    names += ["evaluation/accuracy", "evaluation/accuracy_low", "evaluation/accuracy_high", "time/evaluate"]
    kinds = [stage(), stage(dynamic_sampling={}, evaluation={}, epochs_per_step=2), stage(loss={"kind": "gspo"}), SFT]
    for number in range(60):
        rounds = Rounds("01-x", 0, kinds[number % len(kinds)])
        for step in range(30):
            figures = {name: draw.choice([0.0, 1.0, draw.random(), math.nan, math.inf, None]) for name in names}
            asked = {name: value for name, value in figures.items() if draw.random() < 0.8}
            rounds.after(step, asked, [[draw.choice([0.0, 900.0]) for _ in range(4)]])


def most_memory(work: Callable[[], Any]) -> int:
    """The bytes that were in use at once for it, whatever was before."""
    tracemalloc.start()
    work()
    (_, most), _ = tracemalloc.get_traced_memory(), tracemalloc.stop()
    return most


def test_what_a_finding_looks_at_does_not_grow_with_the_stage() -> None:
    """A list of all 20,000 points would take 160 kB: asked at every step, that is quadratic in steps."""
    draw, steps = random.Random(0), 20_000
    rl = stage(steps=steps, evaluation={"every": 1})
    for chart in (Chart("01-grpo", 0, rl), Chart("01-sft", 0, SFT)):
        for step in range(1, steps + 1):
            accuracy = draw.random() / 100
            ends = {"evaluation/accuracy_low": accuracy - 0.1, "evaluation/accuracy_high": accuracy + 0.1}
            names = ("loss", "entropy", "kl", "grad_norm", "completion/length_mean", "reward/accuracy", "time/learn")
            chart.add(step, {name: draw.random() for name in names} | {"evaluation/accuracy": accuracy} | ends)
        for find in FINDINGS:
            assert most_memory(lambda: find(chart)) < 50_000, find.__name__  # noqa: B023


# --- changes ----------------------------------------------------------------------------------------------------------


def change(name: str, figures: dict[str, float], **settings: Any) -> str:
    """What to change in a stage whose steps all had these figures."""
    rounds = Rounds("01-grpo", 0, stage(**settings))
    for step in range(1, 11):
        rounds.after(step, figures)
    (found,) = [one for one in rounds.present if one.name == name]
    return found.change.removeprefix("stages.0.")


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        ({"name": "judge"}, "rewards.0.options.seconds: null -> 240"),
        ({"name": "remote"}, "rewards.0.options.seconds: null -> 60"),
        ({"name": "accuracy"}, "rewards.0.options.seconds: null -> 6"),
        ({"name": "judge", "options": {"seconds": 30}}, "rewards.0.options.seconds: 30 -> 60"),
        ({"name": "r.py:ask", "options": {"seconds": 5.0}}, "rewards.0.options.seconds: 5 -> 10"),
        ({"name": "r.py:ask", "options": {"seconds": "5 s"}}, "rewards.0.name: r.py:ask -> one with a longer limit"),
        ({"name": "r.py:ask"}, "rewards.0.name: r.py:ask -> one with a longer limit"),
        ({"name": "r.py:ask", "isolate": True}, "rewards.0.seconds: 10 -> 20"),
    ],
)
def test_a_reward_that_times_out_gets_twice_its_own_limit(reward: dict[str, Any], told: str) -> None:
    """Those that the built-in rewards have when nothing is said, and what a function of one's own does is its own."""
    figures = {f"reward/{reward['name'].rpartition(':')[2]}/{status}": 0.0 for status in ("error", "not_applicable")}
    figures[f"reward/{reward['name'].rpartition(':')[2]}/timeout"] = 4.0
    assert change("verifier errors", figures, rewards=[reward]) == told


WORDS = "easier problems, or a reward with partial credit"


def test_without_accuracy_silent_groups_may_be_right_or_wrong() -> None:
    told = change("no signal", {"groups/zero_std": 1.0, "reward/mean": 1.0}, rewards=[{"name": "r.py:exact"}])
    assert told == "problems.path: p.jsonl -> problems that are right at times, or a reward with partial credit"


def test_a_penalty_is_raised_where_accuracy_rose_alone() -> None:
    """A curriculum excuses an accuracy that falls, and does not make it rise."""
    for last, told in ((0.9, "kl.beta: 0.001 -> 0.01"), (0.1, "lr: 0.001 -> 0.0001")):
        rounds = Rounds("01-grpo", 0, stage(curriculum={}, kl={"beta": 0.001}))
        for step in range(1, 21):
            rounds.after(step, {"kl": 2.0, "reward/accuracy": 0.1 if step < 11 else last})
        assert [one.change for one in rounds.present] == [f"stages.0.{told}"]


@pytest.mark.parametrize(("seconds", "found"), [(0.1, []), (1.0, ["bound by learning"])])
def test_a_larger_micro_batch_is_asked_for_where_a_step_has_more_than_one(seconds: float, found: list[str]) -> None:
    """6,400 tokens a second for 0.1 s are 640, and one micro-batch of 4,096 holds them."""
    rounds = Rounds("01-grpo", 0, stage(tokens_per_micro_batch=4096))
    figures = {"time/learn": seconds, "time/rollout": 0.001, "tokens/learn_per_s": 6400.0, "grad_norm": 1.0}
    for step in range(1, 11):
        rounds.after(step, figures)
    assert [one.name for one in rounds.present] == found


def measured(*accuracies: float) -> list[str]:
    """What a stage is told whose evaluations, every ten steps, have intervals of +-0.05."""
    rounds = Rounds("01-grpo", 0, stage(evaluation={}, steps=10 * len(accuracies)))
    for number, accuracy in enumerate(accuracies):
        ends = {"evaluation/accuracy_low": accuracy - 0.05, "evaluation/accuracy_high": accuracy + 0.05}
        rounds.after(10 * number, {"evaluation/accuracy": accuracy, **ends})
    return [one.name for one in rounds.present]


def test_accuracy_that_rose_and_fell_again_is_not_flat() -> None:
    assert measured(*[0.2] * 9) == ["held-out accuracy flat"]
    assert measured(0.2, 0.2, 0.6, 0.6, 0.6, 0.6, 0.2, 0.2, 0.2) == []


@pytest.mark.parametrize(
    ("problems", "told"),
    [
        ({"task": "chain_sum", "size": 9}, f"problems.params: {{}} -> {WORDS}"),
        ({"function": "p.py:sums", "params": {"n": 2}}, f"problems.params: {{n: 2}} -> {WORDS}"),
        ({"path": "p.jsonl"}, f"problems.path: p.jsonl -> {WORDS}"),
        ({"dataset": "openai/gsm8k"}, f"problems.dataset: openai/gsm8k -> {WORDS}"),
        ({"stage": "mix"}, f"problems.stage: mix -> {WORDS}"),
        (
            {"sources": [{"path": "p.jsonl"}, {"task": "lcm", "size": 9}]},
            f"problems.sources.0.path: p.jsonl -> {WORDS}",
        ),
    ],
)
def test_easier_problems_are_asked_for_where_the_recipe_says_what_they_are(problems: dict[str, Any], told: str) -> None:
    """Only a task or a function has params: elsewhere the recipe refuses them."""
    assert change("no signal", {"groups/zero_std": 1.0}, problems=problems) == told


# --- runs on disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, write_recipe: Callable[..., Path]) -> Path:
    """A run of two stages whose second one is cut short from the start; the third has not begun."""
    recipe = write_recipe()
    folder = tmp_path / "run"
    for name in ("01-sft", "02-grpo"):
        (folder / name).mkdir(parents=True)
    shutil.copy(recipe, folder / "recipe.yaml")
    log(folder / "01-sft", [{"step": n, "stage": "01-sft", "time": 1.0, "loss": 2.0 / n} for n in range(1, 7)])
    log(folder / "02-grpo", [{"step": n, "stage": "02-grpo", "time": 1.0, **cut(1.0)} for n in range(1, 9)])
    return folder


def log(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


TRUNCATION = Finding(
    "truncation",
    "02-grpo",
    1,
    8,
    "100% of the completions of 32 groups were cut at 24 tokens",
    "stages.1.rollout.max_new_tokens: 24 -> 48",
)


def test_half_a_run_is_examined_as_far_as_it_went(run: Path) -> None:
    assert examine(run) == [TRUNCATION]


def test_a_torn_last_line_is_left_out(run: Path) -> None:
    with (run / "02-grpo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "completion/trunc')
    assert examine(run) == [TRUNCATION]


def lines_of(steps: Iterable[int], **row: Any) -> str:
    return "".join(json.dumps({"step": step, **row}) + "\n" for step in steps)


def test_loads_join_the_figures_of_their_steps(tmp_path: Path) -> None:
    """A step may be torn out of either log, or have no load."""
    (tmp_path / "metrics.jsonl").write_text(lines_of([1, 2, 4, 5, 6]))
    (tmp_path / "experts.jsonl").write_text(
        lines_of([1], load=[[1]]) + '{"step": 2, "lo\n' + lines_of([3, 4, 6], load=[[2]]) + '{"step": 7, "load": [[9'
    )
    rounds = Rounds("01-sft", 0, SFT)
    catch_up(rounds, tmp_path)
    assert rounds.chart.loads == [(1, [[1]]), (4, [[2]]), (6, [[2]])]
    assert rounds.chart.step == 6


def test_odd_lines_of_experts_cost_their_steps_alone(tmp_path: Path) -> None:
    """And a load of another shape is that of another model, with which none before it is summed."""
    odd: list[Any] = [[5], [[1, 2], [3]], [[-1, 3]], 3, [[1, "2"]]]
    (tmp_path / "metrics.jsonl").write_text(lines_of(range(1, 18)))
    loads = [*odd, *[[[1, 3]]] * 6, *[[[900, 0, 0, 0]]] * 6]
    (tmp_path / "experts.jsonl").write_text("".join(lines_of([n], load=load) for n, load in enumerate(loads, 1)))
    rounds = Rounds("01-sft", 0, SFT)
    catch_up(rounds, tmp_path)
    assert [step for step, _ in rounds.chart.loads] == [12, 13, 14, 15, 16, 17]
    assert [(found.name, found.first_step) for found in rounds.present] == [("router collapse", 12)]


def test_a_long_log_of_experts_is_not_held_in_memory(tmp_path: Path) -> None:
    """Of 500 steps of 4 routers with 64 experts ten are kept: all of them are 0.8 MB of text, and 5 MB as numbers."""
    (tmp_path / "metrics.jsonl").write_text(lines_of(range(1, 501)))
    (tmp_path / "experts.jsonl").write_text(lines_of(range(1, 501), load=[[1000] * 64] * 4))
    rounds = Rounds("01-sft", 0, SFT)
    assert most_memory(lambda: catch_up(rounds, tmp_path)) < 500_000
    assert [step for step, _ in rounds.chart.loads] == list(range(491, 501))


def test_the_command_prints_findings_and_their_changes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(run)]) == 0
    assert capsys.readouterr().out == (
        "02-grpo: truncation, steps 1 to 8\n"
        "  seen    100% of the completions of 32 groups were cut at 24 tokens\n"
        "  change  stages.1.rollout.max_new_tokens: 24 -> 48\n"
    )
    assert main(["doctor", str(run), "--json", "--strict"]) == 1
    assert [Finding(**found) for found in json.loads(capsys.readouterr().out)] == [TRUNCATION]


def test_the_command_on_a_healthy_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(RUNS / "quickstart"), "--strict"]) == 0
    assert capsys.readouterr().out.endswith("quickstart: nothing found\n")


def test_a_run_of_a_few_steps_is_not_called_healthy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("01-sft", "02-grpo"):
        log(run / stage, [{"step": n, "loss": 1.0} for n in range(1, 5)])
    assert main(["doctor", str(run), "--strict"]) == 0
    said = "no stage of training has come to 5 steps, too few to find anything in"
    assert capsys.readouterr().out == f"{run}: {said}\n"


def test_a_folder_that_is_no_run_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path)]) == 2
    assert "expected a run's folder, found no recipe.yaml in it" in capsys.readouterr().err


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_shares_count_what_they_are_of() -> None:
    """Of n in n the lower end is n / (n + 1.96^2): 35 groups are enough for nine tenths, and 34 are not."""
    assert least_share(1.0, 35) == pytest.approx(35 / (35 + 1.959964**2))
    assert least_share(1.0, 34) < 0.9 < least_share(1.0, 35)
    assert least_share(0.5, 0) == 0


def test_a_rise_is_measured_in_standard_errors() -> None:
    assert rise([1, 2, 3], [4, 5, 6]) == pytest.approx(3 / (2 / 3) ** 0.5)
    assert rise([4, 5, 6], [1, 2, 3]) == -rise([1, 2, 3], [4, 5, 6])
    assert (rise([1, 1], [2, 2]), rise([1, 1], [1, 1]), rise([1], [5, 6])) == (math.inf, 0, 0)


def test_a_trend_is_one_in_any_shape() -> None:
    """All 10 pairs of 5 rise: (10 - 1) / sqrt(5 * 4 * 15 / 18)."""
    assert trend([1, 2, 3, 4, 100]) == pytest.approx(9 / (300 / 18) ** 0.5)
    assert trend([5, 4, 3, 2, 1]) == -trend([1, 2, 3, 4, 5])
    assert trend([1, 2, 1, 2]) < 1
    assert trend([3, 3, 3]) == 0


def test_starved_experts_are_told_from_few_tokens() -> None:
    assert starving([500, 500, 0, 0]) == (2, 2)
    assert starving([900, 60, 60, 1]) == (1, 0)
    assert starving([2, 2, 0, 0]) == (0, 0)


def losses(*values: float) -> Iterator[Finding | None]:
    chart = Chart("01-sft", 0, SFT)
    for step, value in enumerate(values, 1):
        chart.add(step, {"loss": value})
        yield loss_diverging(chart)


def test_a_source_that_begins_later_has_a_loss_of_its_own() -> None:
    """2.0 falls to 0.3; from step 50 on there are other problems, at 1.15."""
    for sources, found in (({}, True), ({"first_step": 50}, False)):
        settings = {"kind": "sft", "problems": {"sources": [{"path": "p.jsonl"}, {"path": "q.jsonl", **sources}]}}
        chart = Chart("01-sft", 0, SftStage.model_validate(settings | {"steps": 99, "lr": 1e-3}))
        told = []
        for step in range(1, 80):
            chart.add(step, {"loss": max(0.3, 2.0 / step) if step < 50 else 1.15})
            told.append(loss_diverging(chart))
        assert any(told) == found


def test_a_loss_near_0_may_double_and_more() -> None:
    assert not any(losses(*[6.0, 4, 2, 1, 0.5], *[0.002, 0.001] * 10, *[0.02, 0.03] * 10))
    assert any(losses(*[6.0, 4, 2, 1, 0.5], *[0.2, 0.1] * 10, *[2.0, 3.0] * 10))


def test_a_present_value_is_that_of_the_recipe() -> None:
    settings = load_recipe(RUNS / "quickstart" / "recipe.yaml").stages[1]
    values = [present(settings, key) for key in ("lr", "rewards.1.weight", "rewards.0.options.seconds", "correction")]
    assert list(map(written, values)) == ["0.0003", "0.25", "null", "null"]
