"""What a report tells of runs, in numbers worked out by hand, and what it does with what it cannot read."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo.cli import main
from grpo.lines import read_log
from grpo.plugins import load_object
from grpo.report.charts import Spec, draw, preference_charts
from grpo.report.command import examined, leave_report
from grpo.report.comparison import group_runs, recipes, run_labels, side_by_side
from grpo.report.figures import other_charts
from grpo.report.load import load_pictures, picture
from grpo.report.overview import overview
from grpo.report.page import embedded, page
from grpo.report.run import read_run
from grpo.report.samples import MOST_BYTES, pack_samples, spread
from grpo.report.series import Series, mean_of, series, stacked, thinned
from grpo.report.story import Examined, story
from grpo.report.tables import evaluation_table, reasons
from grpo.types import UserError

write_run = load_object(f"{Path(__file__).parents[1] / 'benchmarks' / 'report.py'}:write_run")
DOCTOR_RUNS = Path(__file__).parent / "doctor_runs"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 steps, 300 completions and an evaluation of two models."""
    return Path(write_run(tmp_path_factory.mktemp("runs") / "short", 300, 5))


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_recipe(folder: Path, *stages: dict[str, Any], **keys: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": folder.name, "stages": list(stages), **keys}))
    return folder


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_left_out_and_a_broken_one_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\nnonsense\n[3]\n{"step": 2}\n{"step": 3, "rew')
    log = read_log(file)
    assert (log.rows, log.broken) == ([{"step": 1}, {"step": 2}], 2)
    assert read_log(tmp_path / "absent.jsonl").rows == []


def test_the_newest_row_of_a_step_counts(tmp_path: Path) -> None:
    run = write_recipe(tmp_path / "r", {"kind": "grpo", "steps": 3})
    write_rows(run / "01-grpo" / "metrics.jsonl", [{"step": s, "loss": v} for s, v in ((2, 0.2), (3, 0.3), (2, 0.5))])
    (stage,) = read_run(run).stages
    assert [(row["step"], row["loss"]) for row in stage.rows] == [(2, 0.5), (3, 0.3)]
    assert (stage.steps, stage.complete) == (3, False)


@pytest.mark.parametrize("recipe", [None, "- a list\n", "stages: [\n", "name: x\n"])
def test_what_is_no_run_is_one_sentence(recipe: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path) in said


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_recipe(tmp_path / "empty", {"kind": "sft"}, {"kind": "evaluate"})
    assert main(["report", str(run)]) == 0
    assert "wrote" in capsys.readouterr().out
    told = story([Examined(read_run(run), None)])
    assert [stage["state"] for stage in told["runs"][0]["stages"]] == ["not begun", "not begun"]
    assert (run / "report.html").stat().st_size > 50_000  # the charts' library is in it


@pytest.mark.parametrize("kept", range(0, 100, 9))
def test_a_log_that_ends_anywhere_has_a_page(kept: int, run_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "torn"
    shutil.copytree(run_folder, run)
    for file in (run / "01-grpo").glob("*.jsonl"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) * kept // 100])
    assert leave_report(run) == f"report: {run / 'report.html'}"


def test_a_page_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path) -> None:
    assert leave_report(tmp_path).startswith("report.html could not be written: UserError: ")


# --- curves -----------------------------------------------------------------------------------------------------------


def test_seeds_are_a_mean_between_the_lowest_and_the_highest() -> None:
    line = mean_of("reward", [{1: 0.0, 2: 1.0}, {1: 0.5, 2: 2.0}, {1: 1.0}])
    assert line == Series("reward", [1, 2], [0.5, 1.5], [0.0, 1.0], [1.0, 2.0])


def test_one_run_has_the_interval_of_its_figure() -> None:
    rows = [{"step": 4, "a": 0.5, "a_low": 0.4, "a_high": 0.7, "b": None}, {"step": 8, "a": 0.6, "a_low": 0.5}]
    assert series("a", [rows[:1]], "a") == Series("a", [4], [0.5], [0.4], [0.7])
    assert series("a", [rows], "a") == Series("a", [4, 8], [0.5, 0.6])
    assert series("b", [rows], "b") is None


@pytest.mark.parametrize("name", ["x/../../private/01-sft", "../..", "a b"])
def test_a_stage_that_leads_out_of_the_run_is_refused(tmp_path: Path, name: str) -> None:
    run = write_recipe(tmp_path / "r", {"kind": "sft", "name": name})
    with pytest.raises(UserError, match="leads out of the run's folder"):
        read_run(run)


def test_a_link_that_leads_out_of_the_run_is_refused(tmp_path: Path) -> None:
    run = write_recipe(tmp_path / "r", {"kind": "sft"})
    (run / "01-sft").mkdir()
    (tmp_path / "secret.jsonl").write_text("{}\n")
    (run / "01-sft" / "samples.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(UserError, match="leads out of the run's folder"):
        read_run(run)


def test_what_is_stacked_has_one_grid_whatever_was_measured_when() -> None:
    """2,000 steps are drawn as 1,000 pairs; every fourth step has an evaluation of 8 seconds beside a rollout of 2."""
    rows = [{"step": n, "time/rollout": 2.0} | ({"time/evaluate": 8.0} if n % 4 == 0 else {}) for n in range(1, 2001)]
    names = {"rollout": "time/rollout", "evaluate": "time/evaluate", "check": "time/check"}
    rollout, evaluate = stacked(names, [rows, rows[:4]])
    assert (rollout.label, evaluate.label) == ("rollout", "evaluate")
    assert rollout.steps == evaluate.steps == list(range(2, 2001, 2))
    assert rollout.values == [2.0] * 1000
    assert evaluate.values == [0.0, 4.0] * 500


def test_long_curves_are_means_of_neighbours_that_keep_their_extremes() -> None:
    line = thinned(Series("loss", [1, 2, 3, 4, 5], [0.0, 4.0, 2.0, 2.0, 7.0]), most=3)
    assert line == Series("loss", [2, 4, 5], [2.0, 2.0, 7.0], [0.0, 2.0, 7.0], [4.0, 2.0, 7.0])


def test_one_recipe_has_its_figures_in_one_chart_and_two_recipes_a_chart_a_figure() -> None:
    spec = Spec("Length", {"mean": "mean", "longest": "longest"})
    one, two = [{"step": 1, "mean": 3.0, "longest": 5.0}], [{"step": 2, "mean": 4.0}]
    (together,) = draw(spec, {"a": [one]})
    assert [line["label"] for line in together["lines"]] == ["mean", "longest"]
    mean, longest = draw(spec, {"a": [one], "b": [two]})
    assert (mean["title"], mean["steps"]) == ("Length: mean", [1, 2])
    assert [(line["label"], line["values"]) for line in mean["lines"]] == [("a", [3.0, None]), ("b", [None, 4.0])]
    assert [line["label"] for line in longest["lines"]] == ["a"]


def test_preference_stands_beside_accuracy_with_the_steps_at_which_they_part() -> None:
    rows = [
        {"step": 1, "reward/helpful": 1.0, "watch/helpful": 1.0, "evaluation/accuracy": 0.5},
        {"step": 2, "reward/helpful": 3.0, "watch/helpful": 1.4, "evaluation/accuracy": 0.2, "watch/parted": 1.0},
    ]
    (chart,) = preference_charts({"run": [rows]})
    assert [line["label"] for line in chart["lines"]] == ["held-out accuracy", "helpful"]
    assert (chart["right"], chart["marks"]) == (["helpful"], [2])
    assert preference_charts({"run": [[{"step": 1, "reward/helpful": 1.0}]]}) == []


def test_the_total_stands_beside_accuracy_with_a_preference_and_never_alone() -> None:
    """Every run with an evaluation watches its total."""
    total = {"reward/mean": 1.0, "watch/mean": 1.0, "reward/accuracy": 0.5, "evaluation/accuracy": 0.5}
    liked = {"reward/helpful": 2.0, "watch/helpful": 2.0}
    (chart,) = preference_charts({"plain": [[{"step": 1} | total]], "liked": [[{"step": 1} | total | liked]]})
    assert chart["title"] == "Preference and held-out accuracy: liked"
    assert chart["right"] == ["mean", "helpful"]


def test_no_figure_is_hidden() -> None:
    row = {"step": 1, "loss": 1.0, "sampler/chi2": 0.1, "reward/accuracy": 1.0, "reward/accuracy/error": 0.0}
    row |= {"reward/kind/not_applicable": 3, "reward/accuracy/not_applicable": 0, "watch/fell": 0.1, "watch/noise": 0.2}
    charts = other_charts("grpo", {"run": [[row]]})
    assert {chart["title"]: [line["label"] for line in chart["lines"]] for chart in charts} == {
        "sampler/chi2": ["sampler/chi2"],
        "Rewards that do not apply": ["kind"],
        "What is watched for reward hacking": ["fell", "noise"],
    }


def test_the_routers_of_a_policy_share_a_chart() -> None:
    rows = [{"step": 1, "router/0/entropy": 0.5, "router/1/entropy": 0.75, "evaluation/source/a/accuracy": 1.0}]
    routers, sources = other_charts("grpo", {"run": [rows]})
    assert (routers["title"], [line["label"] for line in routers["lines"]]) == ("entropy by router", ["0", "1"])
    assert (sources["title"], sources["lines"][0]["label"]) == ("evaluation/accuracy by source", "a")


# --- tables and pictures ----------------------------------------------------------------------------------------------


def test_an_evaluation_of_seeds_is_a_mean_with_a_range(tmp_path: Path) -> None:
    stage = {"kind": "evaluate", "accuracy": "accuracy"}
    for seed, accuracy in enumerate((0.5, 0.75)):
        run = write_recipe(tmp_path / f"r-{seed}", stage, seed=seed)
        row = {"step": 1, "model": "base", "accuracy": accuracy, "accuracy_low": 0.1, "accuracy_high": 0.9}
        write_rows(run / "01-evaluate" / "metrics.jsonl", [row | {"source/a/accuracy": 1.0, "source/b/accuracy": 0.0}])
    (group,) = group_runs([read_run(tmp_path / f"r-{seed}") for seed in (0, 1)])
    table = evaluation_table([group], "evaluate")
    assert (group.label, table["seeds"]) == ("r (2 seeds)", 2)
    assert table["lines"][0]["cells"] == {"accuracy": {"value": 0.625, "low": 0.5, "high": 0.75}}
    assert [line["source"] for line in table["lines"]] == ["all", "a", "b"]
    (alone,) = group_runs([read_run(tmp_path / "r-0")])
    cell = evaluation_table([alone], "evaluate")["lines"][0]["cells"]["accuracy"]
    assert cell == {"value": 0.5, "low": 0.1, "high": 0.9}


def test_reasons_are_those_of_the_last_chunk(tmp_path: Path) -> None:
    run = write_recipe(tmp_path / "r", {"kind": "rejection"})
    rows = [{"step": s, "reasons/kept": 2.0 * s, "reasons/layout": 1.0} for s in (1, 2)]
    write_rows(run / "01-rejection" / "metrics.jsonl", rows)
    assert reasons(read_run(run).stages) == [{"reason": "kept", "count": 4}, {"reason": "layout", "count": 1}]


def test_an_even_load_is_64_and_four_times_as_much_the_most_a_byte_says(tmp_path: Path) -> None:
    assert list(picture([[2, 2, 2, 2, 2], [10, 0, 0, 0, 0]])) == [64, 255, 64, 0, 64, 0, 64, 0, 64, 0]
    file = tmp_path / "experts.jsonl"
    write_rows(file, [{"step": step, "load": [[1, 3], [2, 2]]} for step in range(1, 322)])
    pictures = load_pictures(file)
    assert pictures is not None
    assert (pictures["steps_per_column"], len(pictures["first_steps"])) == (3, 107)
    assert set(base64.b64decode(pictures["routers"][0])[:107]) == {32}
    assert load_pictures(tmp_path / "absent.jsonl") is None


def test_runs_that_differ_in_their_seed_alone_are_one_recipe(tmp_path: Path) -> None:
    stage = {"kind": "grpo", "lr": 1e-3}
    folders = [
        write_recipe(tmp_path / "one" / "r", stage, seed=0),
        write_recipe(tmp_path / "two" / "r", stage, seed=1),
        write_recipe(tmp_path / "two" / "s", {**stage, "lr": 1e-4}, seed=1),
    ]
    runs = [read_run(folder) for folder in folders]
    assert run_labels(runs) == ["one/r", "two/r", "s"]
    assert [list(group.numbers) for group in group_runs(runs)] == [[0, 1], [2]]
    differing = [row["key"] for row in side_by_side([run.recipe for run in runs]) if row["differs"]]
    assert differing == ["name", "seed", "stages[0].lr"]


def test_recipes_of_the_same_name_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    lrs = {"a-0": 1e-3, "a-1": 1e-3, "a-2": 1e-4, "a-3": 1e-4}
    runs = [read_run(write_recipe(tmp_path / name, {"kind": "grpo", "lr": lr})) for name, lr in lrs.items()]
    assert [group.label for group in group_runs(runs)] == ["a-0, a-1", "a-2, a-3"]


def test_accuracy_is_compared_with_the_same_template(tmp_path: Path) -> None:
    run = write_recipe(tmp_path / "r", {"kind": "evaluate"})
    cases = [("base", "training", 0.1), ("base", "native", 0.2), ("1", "training", 0.3), ("1", "native", 0.9)]
    rows = [{"step": s, "model": m, "template": t, "accuracy": a} for s, (m, t, a) in enumerate(cases)]
    write_rows(run / "01-evaluate" / "metrics.jsonl", rows)
    (told,) = overview(read_run(run), "r")["accuracies"]
    assert (told["first"]["value"], told["last"]["value"], told["names"]) == (0.1, 0.3, ["base", "1"])


def test_runs_are_compared_on_the_same_problems(tmp_path: Path) -> None:
    """One seed has come to both evaluations, another to the first, and the last to the one inside its training."""
    stages = {"kind": "grpo"}, {"kind": "evaluate", "name": "easy"}, {"kind": "evaluate", "name": "hard"}
    for seed in range(3):
        run = write_recipe(tmp_path / f"r-{seed}", *stages, seed=seed)
        write_rows(run / "01-grpo" / "metrics.jsonl", [{"step": 0, "evaluation/accuracy": 0.5}])
        for number, name in list(enumerate(("easy", "hard"), 2))[: 2 - seed]:
            row = {"step": 1, "model": "base", "accuracy": 0.1 * number}
            write_rows(run / f"{number:02d}-{name}" / "metrics.jsonl", [row])
    runs = story([Examined(read_run(tmp_path / f"r-{seed}"), None) for seed in range(3)])["runs"]
    told = [{one["key"]: one["last"]["value"] for one in run["accuracies"]} for run in runs]
    assert told == [{"easy": 0.2, "hard": 0.3}, {"easy": 0.2}, {}]
    (alone,) = story([Examined(read_run(tmp_path / "r-2"), None)])["runs"]
    assert [one["last"]["value"] for one in alone["accuracies"]] == [0.5]


def test_recipes_with_other_stages_are_compared_stage_by_stage(tmp_path: Path) -> None:
    sft, grpo = {"kind": "sft", "lr": 1e-3}, {"kind": "grpo", "lr": 1e-4}
    runs = [read_run(write_recipe(tmp_path / "a", sft, grpo)), read_run(write_recipe(tmp_path / "b", grpo))]
    differing = [row["key"] for row in side_by_side(recipes(runs)) if row["differs"]]
    assert differing == ["name", "stages.sft.kind", "stages.sft.lr"]
    told = story([Examined(run, None) for run in runs])
    assert [stage["name"] for stage in told["stages"]] == ["01-sft", "grpo"]


@dataclass(frozen=True)
class Found:
    name: str
    stage: str
    first_step: int
    last_step: int
    evidence: str
    change: str


def test_a_run_of_four_steps_is_not_called_healthy(tmp_path: Path) -> None:
    shutil.copy(DOCTOR_RUNS / "quickstart" / "recipe.yaml", tmp_path)
    write_rows(tmp_path / "02-grpo" / "metrics.jsonl", [{"step": n, "loss": 0.1} for n in range(1, 5)])
    assert not examined(read_run(tmp_path)).is_long_enough
    write_rows(tmp_path / "02-grpo" / "metrics.jsonl", [{"step": n, "loss": 0.1} for n in range(1, 6)])
    assert examined(read_run(tmp_path)).is_long_enough


@pytest.mark.parametrize(
    "load", [[5], [[1, 2], [3]], [[]], [[1, "2"]], [[1, None]], {"0": 1}, 3, [[1, 2], 4], [[-1, 3]], [[True, 1]]]
)
def test_an_odd_line_in_the_log_of_experts_costs_its_step_alone(load: Any, tmp_path: Path) -> None:
    file = tmp_path / "experts.jsonl"
    file.write_text("".join(json.dumps({"step": n, "load": one}) + "\n" for n, one in ((1, load), (2, [[1, 3]]))))
    pictures = load_pictures(file)
    assert pictures is not None
    assert (pictures["first_steps"], pictures["experts"], len(pictures["routers"])) == ([2], 2, 1)


def test_findings_are_told(run_folder: Path) -> None:
    over = Found("format never found", "01-grpo", 1, 2, "0 of 200", "stages.0.lr: 0.001 -> 0.0001")
    lasting = Found("no signal", "01-grpo", 2, 3, "0.9 of groups", "stages.0.lr: 0.001 -> 0.0001")
    (told,) = story([Examined(read_run(run_folder), [over, lasting])])["findings"]
    assert told["findings"] == [
        lasting.__dict__ | {"key": "grpo", "lasts": True},
        over.__dict__ | {"key": "grpo", "lasts": False},
    ]
    assert story([Examined(read_run(run_folder), None)])["findings"] == [{"run": "short", "findings": None}]


# --- completions ------------------------------------------------------------------------------------------------------


def test_completions_come_in_whole_groups_with_prompts_once(run_folder: Path) -> None:
    packed = pack_samples([read_run(run_folder)])
    content = unpacked(packed.text)
    assert (packed.count, packed.total, len(content["groups"]), len(content["prompts"])) == (300, 300, 30, 30)
    assert {len(group["samples"]) for group in content["groups"]} == {10}
    half = pack_samples([read_run(run_folder)], most=150)
    assert (half.count, half.total) == (150, 300)
    assert [group["step"] for group in unpacked(half.text)["groups"]] == [1] * 5 + [2] * 5 + [3] * 5


def test_a_problem_that_a_step_asks_twice_has_two_groups(tmp_path: Path) -> None:
    run = write_recipe(tmp_path / "r", {"kind": "grpo", "completions_per_prompt": 2})
    rows = [{"step": 1, "problem_id": "p", "completion": "c", "total": float(number > 1)} for number in range(4)]
    write_rows(run / "01-grpo" / "samples.jsonl", rows)
    groups = unpacked(pack_samples([read_run(run)]).text)["groups"]
    assert [[sample["total"] for sample in group["samples"]] for group in groups] == [[0.0, 0.0], [1.0, 1.0]]


def test_a_share_of_the_groups_is_spread_evenly() -> None:
    assert spread(list(range(10)), 0.3) == [3, 6, 9]  # type: ignore[type-var]
    assert spread(list(range(10)), 0.01) == [9]  # type: ignore[type-var]
    assert spread(list(range(10)), 0.0) == []  # type: ignore[type-var]


def test_completions_that_are_too_much_for_a_page_are_fewer(run_folder: Path) -> None:
    whole = pack_samples([read_run(run_folder)])
    few = pack_samples([read_run(run_folder)], most_bytes=len(whole.text) // 2)
    assert 0 < few.count < 300
    assert len(few.text) <= len(whole.text) // 2 < MOST_BYTES


# --- the page ---------------------------------------------------------------------------------------------------------


def test_data_cannot_end_its_element() -> None:
    hostile = "</script><!--<script>&\u2028\u2029"
    text = embedded({"text": hostile})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"text": hostile}


def test_the_page_allows_its_own_scripts_and_styles_and_nothing_else(run_folder: Path) -> None:
    run = read_run(run_folder)
    html = page(story([Examined(run, None)]), pack_samples([run]))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    allowed = set(re.findall(r"sha256-([\w+/=]+)", policy[1]))
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", html, re.DOTALL)
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline} == allowed
    assert "default-src 'none'" in policy[1].replace("&#39;", "'")
    assert "unsafe" not in policy[1]
    assert not re.search(r'(?:src|href)="(?!#)', html)


def test_several_runs_are_one_page(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(tmp_path / "other", 100, 5, lr=1e-4)
    out = tmp_path / "both.html"
    assert main(["report", str(run_folder), str(other), "--out", str(out), "--samples", "0"]) == 0
    assert str(out) in capsys.readouterr().out
    html = out.read_text(encoding="utf-8")
    embedded_story = re.search(r'<script type="application/json" id="story">(.*?)</script>', html)
    assert embedded_story is not None
    told = json.loads(embedded_story[1])
    assert (told["title"], told["samples"]) == ("short / other", {"count": 0, "total": 400})
    reward = next(chart for chart in told["stages"][0]["charts"] if chart["title"] == "Reward")
    assert [line["label"] for line in reward["lines"]] == ["short", "other"]
