"""The recipes of R1's pipeline beyond r1_tiny: they hold together for their models, and in miniature they run."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_letters
from typing import Any

import pytest
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from grpo.chain import chain
from grpo.cli import train
from grpo.grpo_stage import GrpoStage
from grpo.plugins import load_object
from grpo.recipe import Recipe
from grpo.recipe_file import load_recipe
from grpo.rejection_stage import RejectionStage
from grpo.rewards.accuracy import accuracy
from grpo.rewards.format import format_reward
from grpo.templates import read_examples

ROOT = Path(__file__).parents[1]
NAMES = ("r1_smollm2", "r1_qwen2.5-1.5b", "r1_moe")
STAGES = [
    "01-cold_data", "02-cold_start", "03-reasoning", "04-samples", "05-second_sft", "06-helpful_model", "07-safe_model",
    "08-alignment",
]  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "r1_smollm2": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "r1_qwen2.5-1.5b": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "r1_moe": {
        "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 2048,
        "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_key_value_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
        "routed_scaling_factor": 1.0, "norm_topk_prob": False, "vocab_size": 102400, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""What the published models say of themselves, as far as their size goes."""

PARAMETERS = {"r1_smollm2": "134,515,008", "r1_qwen2.5-1.5b": "1,543,714,304", "r1_moe": "15,706,484,224"}
"""The published models have as many."""


def load(name: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / f"{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_counts_what_the_published_model_has(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    assert train([str(ROOT / "recipes" / f"{name}.yaml"), f"--set=model.path={tmp_path}", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"policy: {PARAMETERS[name]} parameters" in printed
    assert [stage for stage in STAGES if f"\n{stage}, from " not in printed] == []


def test_a_dry_run_names_every_file_that_is_missing(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    examples = {"path": "/no/problems.jsonl", "template": {"kind": "jinja", "file": "/no/question.jinja"}}
    own = [{"name": "accuracy"}, {"name": "/no/own.py:reward"}]
    assert train([str(write_recipe(problems=examples, rewards=own)), "--dry-run"]) == 2
    files = "these files are not there: /no/problems.jsonl, /no/question.jinja, /no/own.py: make them"
    assert files in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_the_chain_is_r1s(name: str) -> None:
    links = chain(load(name))
    assert [link.name for link in links[:8]] == STAGES
    starts = [
        "base",
        "base",
        "02-cold_start",
        "03-reasoning",
        "base",
        "05-second_sft",
        "05-second_sft",
        "05-second_sft",
    ]
    assert [link.start for link in links[:8]] == starts
    for link in links[8:]:
        assert link.models == ("base", "02-cold_start", "03-reasoning", "05-second_sft", "08-alignment")
    samples, alignment = links[3].stage, links[7].stage
    assert isinstance(samples, RejectionStage)
    assert isinstance(alignment, GrpoStage)
    assert sum(mix.ratio for mix in samples.mix) == pytest.approx(0.33)  # 200,000 to 600,000
    general = [one for one in alignment.problems.sources or () if one.label in ("helpful_prompts", "safe_prompts")]
    begins = {one.first_step for one in general}
    assert [(alignment.steps - step + 1) / alignment.steps for step in begins] == [pytest.approx(400 / 1700, abs=2e-3)]
    assert alignment.rollout.temperature == 0.7
    assert {reward.weight for reward in alignment.rewards} == {1.0}  # a plain sum


def test_examples_in_prompts_are_right_and_in_the_layout() -> None:
    tasks = ("worked_tasks.jsonl", "think_answer", ["13", "42", "35", "27"])
    reasoning = ("worked_reasoning.jsonl", "think_text", ["62", "12", "80", "9"])
    for file, mode, answers in (tasks, reasoning):
        shots = read_examples(str(ROOT / "examples" / file))
        assert {format_reward(text, mode=mode) for _, text in shots} == {1.0}  # type: ignore[arg-type]
        assert accuracy([text for _, text in shots], answer=answers) == [1.0] * len(shots)


def test_small_talk_is_in_the_layout_and_told_apart() -> None:
    general, pairs, labels = (
        list(load_object(f"{ROOT / 'examples' / 'small_talk.py'}:{name}")()) for name in ("general", "pairs", "labels")
    )
    assert (len(general), len(pairs), len(labels)) == (40 * 3 + 16 * 3, 40 * 3, 16 * 3 + 40)
    assert len({row["prompt"] for row in general}) == len(general)
    texts = [row["completion"] for row in general] + [row[key] for row in pairs for key in ("chosen", "rejected")]
    assert {format_reward(text) for text in texts + [row["response"] for row in labels]} == {1.0}
    assert [row for row in pairs if row["chosen"] == row["rejected"]] == []
    assert [sum(row["label"] for row in labels), len(labels)] == [24 + 40, 88]


# --- in miniature, on files in place of the hub -----------------------------------------------------------------------

SHORT: dict[str, dict[str, Any]] = {
    "rejection": {"limit": 6, "samples": 4, "max_new_tokens": 40, "keep_if": {"format": 0}, "layout": None,
                  "readable": None, "stop": list(ascii_letters)},
    "sft": {"layout": None, "examples_per_step": 2, "epochs": None, "steps": 2},
    "reward_model": {"examples_per_step": 4, "epochs": None, "steps": 2},
    "grpo": {"steps": 2, "prompts_per_step": 4, "completions_per_prompt": 2,
             "length_schedule": [{"step": 2, "max_new_tokens": 12}], "evaluation": {"every": 2, "problems": 4}},
    "evaluate": {"limit": 14, "samples": 1, "k": [1], "cons": [1], "max_new_tokens": 8},
}  # fmt: skip
"""What makes a stage of each kind a matter of a second, where nothing that an untrained model says is right."""

ROWS: dict[str, list[dict[str, Any]]] = {
    "openai/gsm8k": [{"question": f"{i} and 2?", "answer": f"so #### {i + 2}"} for i in range(24)],
    "agentica-org/DeepScaleR-Preview-Dataset": [{"problem": f"{i} * 2?", "answer": f"{i * 2}"} for i in range(24)],
    "HuggingFaceH4/MATH-500": [{"problem": f"{i} - 2?", "answer": f"{i - 2}"} for i in range(8)],
    "HuggingFaceH4/aime_2024": [{"problem": f"{i} - 9?", "answer": f"{i - 9}"} for i in range(4)],
    "databricks/databricks-dolly-15k": [
        {"instruction": f"say {i}", "response": f"{i}!", "category": ("open_qa", "closed_qa")[i % 2]} for i in range(24)
    ],
    "HuggingFaceH4/ultrafeedback_binarized": [
        {
            "prompt": f"say {i}",
            **{
                key: [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{word} {i}"}]
                for key, word in (("chosen", "yes"), ("rejected", "no"))
            },
        }
        for i in range(40)
    ],
    "PKU-Alignment/BeaverTails": [
        {"prompt": f"may I {i}?", "response": f"{'no' if i % 2 else 'yes'}, {i}", "is_safe": bool(i % 2)}
        for i in range(40)
    ],
}
"""A few rows for each data set of the hub, in its columns."""


def small(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage of a recipe for a second on a CPU, everything else as it is."""
    short = stage | SHORT[stage["kind"]] | {"precision": "fp32"}
    short.pop("activations", None)
    where = short["rollout"] if stage["kind"] == "grpo" else short
    if "engine" in where:
        where |= {"engine": "transformers", "max_new_tokens": min(where["max_new_tokens"], 40)}
        where.pop("servers", None)
        where.pop("vllm", None)
    return short


def from_files(node: Any, folder: Path) -> Any:
    """The same with files in place of data sets of the hub, and reward models on this machine's processor."""
    if isinstance(node, list):
        return [from_files(item, folder) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {key: from_files(value, folder) for key, value in node.items() if key != "device"}
    if "dataset" in changed:
        name = changed.pop("dataset")
        changed = {key: value for key, value in changed.items() if key not in ("config", "split", "size")}
        changed |= {"size": 2} if node.get("size", 10**6) < 1000 else {}  # of an evaluation
        changed["path"] = str(folder / f"{name.rpartition('/')[2]}.jsonl")
    if "held_out" in changed:
        changed["held_out"] = 0.2 if changed["held_out"] else 0
    if "sources" in changed:
        changed["max_prompt_tokens"] = 2000  # examples are long in bytes
    if "first_step" in changed:
        changed["first_step"] = 2
    return changed


def write_files(folder: Path) -> None:
    for name, rows in ROWS.items():
        file = folder / f"{name.rpartition('/')[2]}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("name", "family"), [("r1_qwen2.5-1.5b", "qwen2"), ("r1_moe", "deepseek_v2")])
def test_every_stage_of_a_recipe_for_gpus_runs_in_miniature(
    name: str,
    family: str,
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    byte_tokenizer = copy.deepcopy(byte_tokenizer)
    byte_tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    tiny_model(family, max_position_embeddings=2048, initializer_range=0.02).save_pretrained(tmp_path / "tiny")
    byte_tokenizer.save_pretrained(tmp_path / "tiny")
    write_files(tmp_path)
    raw = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    raw = from_files(raw, tmp_path) | {"output": str(tmp_path / "runs")}
    raw["model"] |= {"path": str(tmp_path / "tiny"), "dtype": "float32"}
    raw["stages"] = [small(stage) for stage in raw["stages"]]
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(raw).replace("../examples", str(ROOT / "examples")))
    assert train([str(file)]) == 0
    run = tmp_path / "runs" / name
    data = [json.loads(line) for line in (run / "04-samples" / "data.jsonl").read_text().splitlines()]
    mixed = [row for row in data if row["source"] == "databricks-dolly-15k.jsonl"]
    assert mixed
    assert all(row["completion"].startswith("<think>\n\n</think>\n\n") for row in mixed)
    first, second = [
        row
        for row in map(json.loads, (run / "08-alignment" / "metrics.jsonl").read_text().splitlines())
        if "loss" in row
    ]
    assert {"reward/helpful", "reward/safe"} & first.keys() == set()
    assert {"reward/helpful", "reward/safe"} & second.keys()
    table = [json.loads(line) for line in (run / "09-benchmarks" / "metrics.jsonl").read_text().splitlines()]
    assert len({row["model"] for row in table}) == 5
    assert all({"accuracy", "reward/format", "reward/helpful", "reward/safe"} <= row.keys() for row in table)
