"""Runs that are sick on purpose: what was planted is found, by name, with the line of the recipe that cures it.

One recipe makes all of them, a stage each: a tiny mixture of experts learns to add and to think in tags, and every
later stage starts from it, or from the untrained model, with one setting that is wrong.
"""

import contextlib
import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from grpo.cli import train
from grpo.doctor import Finding, examine
from grpo.doctor.finding import present, written
from grpo.doctor.registry import FINDINGS
from grpo.recipe_file import load_recipe

REWARDS = Path(__file__).parent / "sick_rewards.py"
README = Path(__file__).parents[1] / "README.md"
MODEL = {
    "architecture": "deepseek_v3",
    "config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 1,
        "num_attention_heads": 2,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "q_lora_rank": None,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "max_position_embeddings": 128,
    },
    "tokenizer": {"kind": "bytes", "special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]},
}
SUMS = {
    "function": "grpo.tasks.arithmetic:sums",
    "params": {"size": 36, "terms": 2, "max_value": 6},
    "held_out": 0.4,
    "template": {"kind": "plain"},
}
SEEN = {"name": "accuracy", "weight": 0}
FORMAT = {"name": "format", "weight": 0.5}


def own(name: str) -> dict[str, Any]:
    return {"name": f"{REWARDS}:{name}"}


def sft(name: str, **settings: Any) -> dict[str, Any]:
    common = {"kind": "sft", "name": name, "examples_per_step": 4, "checkpoint_every": 1000}
    return common | ({} if name == "start" else {"start": "start"}) | settings


def grpo(name: str, **settings: Any) -> dict[str, Any]:
    rollout = {"engine": "transformers", "max_new_tokens": 24} | settings.pop("rollout", {})
    return {
        "kind": "grpo",
        "name": name,
        "start": "start",
        "steps": 8,
        "prompts_per_step": 4,
        "completions_per_prompt": 4,
        "lr": 1e-3,
        "kl": {"beta": 0},
        "rewards": [{"name": "accuracy"}, FORMAT],
        "rollout": rollout,
        "checkpoint_every": 1000,
    } | settings


SHORT = {"max_new_tokens": 12}
TINY_GROUPS = {"prompts_per_step": 2, "completions_per_prompt": 2}
NOTHING = {"start": "base", "steps": 6, "lr": 1e-9, "rewards": [own("jitter")]}
CORRUPT = SUMS | {"function": f"{REWARDS}:some_garbage", "params": {}}
ALWAYS = {"every": 1, "problems": 12}
ALL_KNOWN = SUMS | {"held_out": 0}
"""So that held-out accuracy has something to lose, on whatever processor: 36 sums are learned by heart."""
STAGES = [
    sft("start", steps=120, examples_per_step=8, lr=1e-2, problems=ALL_KNOWN),
    grpo("healthy", steps=12),
    grpo("unseen", start="base", steps=9, rewards=[{"name": "format"}], rollout=SHORT),
    grpo("failing", steps=6, rewards=[own("raises")], max_reward_errors=0.9),
    grpo("cut", steps=6, rollout={"max_new_tokens": 4}),
    grpo("one_letter", start="base", steps=21, lr=5e-2, rewards=[SEEN, own("letter")], rollout=SHORT),
    grpo("noise", steps=11, lr=1e-2, entropy={"bonus": 5.0}, rewards=[SEEN, FORMAT]),
    grpo("long", steps=16, lr=4e-3, rewards=[SEEN, own("longer")], rollout={"max_new_tokens": 60}),
    grpo("short", steps=18, lr=5e-3, warmup_steps=6, rewards=[SEEN, own("shorter")]),
    grpo("astray", steps=6, lr=1e-1, kl={"beta": 0.001}),
    grpo("rounded", steps=6, precision="fp8_block"),
    grpo("clipped", start="base", steps=6, lr=2e-2, epochs_per_step=4, rewards=[SEEN, own("letter")], rollout=SHORT),
    grpo("gamed", lr=1e-2, rewards=[SEEN, own("wrong")], evaluation={"every": 2, "problems": 20}),
    grpo("idle", steps=10, lr=1e-9, **TINY_GROUPS, evaluation=ALWAYS, rollout={"max_concurrent": 4}),
    grpo("judged", **NOTHING | {"rewards": [own("slow")]}, rollout={"max_new_tokens": 8}),
    grpo("studied", **NOTHING, epochs_per_step=48, rollout={"max_new_tokens": 4}),
    grpo("queued", **NOTHING, **TINY_GROUPS, rollout={"max_new_tokens": 64, "max_concurrent": 1}),
    grpo(
        "known",
        steps=9,
        rewards=[own("thinks")],
        rollout={"temperature": 0.1},
        evaluation=ALWAYS | {"accuracy": "thinks", "every": 99, "problems": 1},
    ),
    sft("broken", steps=6, lr=1e30, max_bad_steps=99),
    sft("climbing", steps=12, lr=1.0),
    sft("spiked", steps=24, lr=3e-4, problems=CORRUPT, examples_per_step=2),
]


@dataclass(frozen=True)
class Ward:
    """A run, its recipe, what it printed and what `examine` says of it."""

    recipe: Path
    folder: Path
    output: str
    findings: list[Finding]

    def of(self, stage: str) -> dict[str, Finding]:
        return {found.name: found for found in self.findings if found.stage.endswith(f"-{stage}")}


def ward(folder: Path, stages: list[dict[str, Any]], **model: Any) -> Ward:
    file = write(folder, stages, **model)
    status, output = run(file)
    assert status == 0
    return Ward(file, folder / "ward", output, examine(folder / "ward"))


def write(folder: Path, stages: list[dict[str, Any]], **model: Any) -> Path:
    recipe = {"name": "ward", "output": str(folder), "model": model, "problems": SUMS, "stages": stages}
    file = folder / "ward.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def run(file: Path) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        return train([str(file)]), output.getvalue()


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """Stages that evaluate what the first has learned by heart start from the model of another run, as they must."""
    taught = ward(tmp_path_factory.mktemp("taught"), STAGES[:1], init=MODEL).folder / "01-start" / "model"
    stages = [stage | {"start": str(taught)} if "evaluation" in stage else stage for stage in STAGES]
    return ward(tmp_path_factory.mktemp("sick"), stages, init=MODEL)


def test_healthy_stages_have_no_findings(sick: Ward) -> None:
    assert sick.of("start") == {}
    untimed = [name for name in sick.of("healthy") if not name.startswith("bound by")]  # a busy machine is no sickness
    assert untimed == []


PLANTED = {
    "unseen": {
        "format never found": "rewards.0.options.graded: null -> true",
        "no signal": "rewards.0.options.graded: null -> true",
    },
    "failing": {
        "verifier errors": f"rewards.0.name: {REWARDS}:raises -> corrected, so that it answers on every completion"
    },
    "cut": {"truncation": "rollout.max_new_tokens: 4 -> 8"},
    "one_letter": {"entropy collapse": "entropy.bonus: 0 -> 0.001"},
    "noise": {"entropy explosion": "entropy.bonus: 5 -> 0.5"},
    "long": {"length explosion": "rewards.1.weight: 1 -> 0.5"},
    "short": {"length collapse": "rewards.1.weight: 1 -> 0.5"},
    "astray": {"KL growth": "lr: 0.1 -> 0.01"},
    "rounded": {"sampler mismatch": "correction: null -> {kind: token_truncate}"},
    "clipped": {"clipping saturated": "epochs_per_step: 4 -> 2"},
    "gamed": {"reward hacking": "rewards.1.weight: 1 -> 0.5"},
    "idle": {"held-out accuracy flat": "lr: 1e-09 -> 3e-09", "bound by evaluation": "evaluation.every: 1 -> 5"},
    "judged": {"bound by rewards": "rewards.0.isolate: false -> true"},
    "studied": {"bound by learning": "epochs_per_step: 48 -> 24"},
    "queued": {"bound by rollout": "rollout.max_concurrent: 1 -> 2"},
    "known": {"solved": "steps: 9 -> 1"},
    "broken": {"not finite": "lr: 1e+30 -> 1e+29"},
    "climbing": {"loss diverging": "lr: 1 -> 0.1"},
    "spiked": {"gradient spikes": "max_grad_norm: 1 -> 0.5"},
}  # fmt: skip
NAMES = [stage["name"] for stage in STAGES]


@pytest.mark.parametrize("stage", PLANTED)
def test_what_was_planted_is_found_with_the_line_to_change(sick: Ward, stage: str) -> None:
    changes = {
        name: found.change.removeprefix(f"stages.{NAMES.index(stage)}.") for name, found in sick.of(stage).items()
    }
    assert {name: changes.get(name) for name in PLANTED[stage]} == PLANTED[stage]


def test_a_router_that_is_biased_starves_experts(sick: Ward, tmp_path: Path) -> None:
    """Two of four experts have a bias that no score outweighs; each token chooses two."""
    model = tmp_path / "biased"
    shutil.copytree(sick.folder / "01-start" / "model", model)
    weights = load_file(model / "model.safetensors")
    (bias,) = [name for name in weights if name.endswith("e_score_correction_bias")]
    weights[bias] = torch.tensor([100.0, 100.0, 0.0, 0.0])
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (found,) = ward(tmp_path, [sft("biased", start="base", steps=6, lr=1e-4)], path=str(model)).findings
    assert (found.name, found.change) == ("router collapse", "stages.0.experts.bias_update_rate: 0 -> 0.001")
    assert "starves 2 of 4 experts, 2 of which got no token; MaxVio is 1.00" in found.evidence


def test_every_finding_is_told_once_while_the_run_goes_on(sick: Ward) -> None:
    """And what is read from the folder afterwards is what was told."""
    told = re.findall(r"^doctor: (.+) \(from step \d+\): .+; change (stages\.\d+)\.", sick.output, re.MULTILINE)
    found = [(one.name, ".".join(one.change.split(".")[:2])) for one in sick.findings]
    assert sorted(told) == sorted(found)


def test_every_change_is_one_that_the_recipe_takes(sick: Ward) -> None:
    """The key is there, its present value is the recipe's, and with the other values the recipe still loads."""
    recipe, changes = load_recipe(sick.recipe), []
    for found in sick.findings:
        key, _, values = found.change.partition(": ")
        before, _, after = values.rpartition(" -> ")
        assert written(present(recipe, key)) == before
        if found.name != "verifier errors":  # a reward that raises is no matter of a number
            changes.append(f"{key}={after}")
    load_recipe(sick.recipe, changes)


def test_a_run_that_is_resumed_keeps_its_findings(tmp_path: Path) -> None:
    """It stops in its tenth step and goes on from the eighth: what was found in the first five is said once by each."""
    judge = own("interrupts") | {"options": {"calls": str(tmp_path / "calls"), "after": 9 * 16 + 1}}
    cut = grpo(
        "cut", **NOTHING | {"steps": 12, "rewards": [judge], "checkpoint_every": 4}, rollout={"max_new_tokens": 4}
    )
    file = write(tmp_path, [cut], init=MODEL)
    begins = "doctor: truncation (from step 1): "
    assert [(status, said.count(begins)) for status, said in (run(file), run(file))] == [(1, 1), (0, 1)]
    (found,) = [one for one in examine(tmp_path / "ward") if one.name == "truncation"]
    assert (found.first_step, found.last_step) == (1, 12)


def test_each_finding_has_a_run_that_is_sick_of_it() -> None:
    named = {name for names in PLANTED.values() for name in names}
    named = {*named, "router collapse", "bound by sync"}  # the last one in a recorded run: tests/test_doctor.py
    assert len(named) == len(FINDINGS)
    told = re.findall(r"^\| ([a-zA-Z -]+(?:, [a-zA-Z -]+)*) \| .+ \| .+ \|$", README.read_text(), re.MULTILINE)
    assert named <= {name for row in told for name in row.split(", ")}
