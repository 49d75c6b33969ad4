"""`grpo eval`: a model measured on tasks, as a run of one evaluate stage; or figures made again from completions."""

import json
import re
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo.benchmarks import sources_of
from grpo.display import make_display
from grpo.evaluation_table import tables
from grpo.recipe import Recipe
from grpo.recipe_file import load_recipe, sentence_of
from grpo.recorded import INTERVALS, Figures, Recorded, Wanted, figures_of, read_recorded
from grpo.run_folder import is_complete
from grpo.types import UserError

STAGE = "01-evaluate"
EVERY_PROBLEM = 10**9


def evaluate_model(options: Namespace) -> None:
    """Answer the tasks' problems, and leave results.json and samples.jsonl; go on where an earlier call stopped."""
    from grpo.pipeline import run_recipe

    recipe = recipe_of(options)
    folder = Path(recipe.output) / recipe.name / STAGE
    known = is_complete(folder) and not options.fresh
    run_recipe(recipe, options.fresh)
    if known:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
        _print_table(options, [(one["model"], one["template"], one["figures"]) for one in results])
    print(f"intervals: {INTERVALS}\nwrote {folder / 'results.json'} and {folder / 'samples.jsonl'}")


def recipe_of(options: Namespace) -> Recipe:
    """The run that answers the tasks."""
    samples = options.samples
    stage = {
        "kind": "evaluate",
        "problems": {
            "sources": sources_of(options.tasks, options.limit),
            "template": _template(options.model, options.template),
            "held_out": 0.0,
            "max_prompt_tokens": options.max_prompt_tokens,
        },
        "part": "all",
        "limit": EVERY_PROBLEM,
        "rewards": [{"name": name} for name in dict.fromkeys(["accuracy", *options.reward])],
        "templates": ["training", "native"] if options.native else ["training"],
        "greedy": not options.no_greedy,
        "samples": samples,
        "k": options.k or sorted({1, max(samples, 1)}),
        "cons": options.cons if options.cons is not None else [samples] if samples > 1 else [],
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_new_tokens": options.max_new_tokens,
        "stop": options.stop,
        "engine": options.engine,
        "max_concurrent": options.max_concurrent,
        "precision": "bf16" if options.dtype == "bfloat16" else "fp32",
    }
    raw = {
        "name": re.sub(r"[^\w.-]+", "-", options.model).strip("-.") or "model",
        "output": options.out,
        "seed": options.seed,
        "model": {"path": options.model, "dtype": options.dtype},
        "stages": [stage],
    }
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"grpo eval: {sentence_of(error, raw)}") from None


def _template(model: str, name: str) -> dict[str, Any]:
    """The template by its name; left out, that which a run trained the model with, or else the model's own."""
    if name.endswith(".jinja"):
        return {"kind": "jinja", "file": name}
    trained_with = training_template(Path(model)) if name in ("", "training") else None
    if trained_with is None and name == "training":
        raise UserError(
            f"--template training: {model} is not the model of a stage in a run's folder: name one of native, r1_zero, "
            "plain, or a .jinja file"
        )
    return trained_with or {"kind": "chat" if name in ("", "native") else name}


def training_template(model: Path) -> dict[str, Any] | None:
    """The template of the stage that left a model, runs/<name>/02-grpo/model; of a mixture, its first source's."""
    stage = model.resolve().parent
    file, number = stage.parent / "recipe.yaml", stage.name.partition("-")[0]
    if not file.is_file() or not number.isdecimal() or model.name != "model":
        return None
    stages = load_recipe(file).stages
    place = min(max(int(number), 1), len(stages)) - 1  # 00-base is asked as the first stage asks it
    return stages[place].problems.each[0].template.model_dump(exclude_none=True)


# --- figures made again -----------------------------------------------------------------------------------------------


def from_samples(options: Namespace) -> None:
    """The figures of recorded completions, as a table or as JSON."""
    answers = read_recorded(options.from_samples, options.accuracy)
    wanted = wanted_of(answers, options.k, options.cons)
    asked = list(dict.fromkeys((answer.model, answer.template) for answer in answers))
    measured = [
        (
            model,
            template,
            figures_of([one for one in answers if (one.model, one.template) == (model, template)], wanted),
        )
        for model, template in asked
    ]
    if options.json:
        results = [{"model": model, "template": template, "figures": figures} for model, template, figures in measured]
        print(json.dumps({"intervals": INTERVALS, "results": results}))
        return
    _print_table(options, measured)
    print(f"intervals: {INTERVALS}")


def wanted_of(answers: list[Recorded], k: list[int] | None, cons: list[int] | None) -> Wanted:
    """The k that are asked for; left out, 1 and all samples of a problem, as many as each of them has."""
    counts = Counter((one.model, one.template, one.problem) for one in answers if not one.greedy)
    fewest = min(counts.values(), default=0)
    return Wanted(k or sorted({1, max(fewest, 1)}), cons if cons is not None else [fewest] if fewest > 1 else [])


def _print_table(options: Namespace, measured: list[tuple[str, str, Figures]]) -> None:
    title = str(options.from_samples or options.model)
    display = make_display("eval", is_main_process=True)
    for part, lines in tables(measured, options.accuracy).items():
        display.table(f"{title}{part}", lines)
