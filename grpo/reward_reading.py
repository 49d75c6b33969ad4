"""How a prompt and a response become the tokens that a reward model reads, and the card that remembers it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from grpo.files import write_atomic
from grpo.preference_settings import Part
from grpo.problem_settings import TemplateSettings
from grpo.summary import OPEN, judged_text
from grpo.templates import Template, make_template, opened, plain_ids
from grpo.types import Problem, UserError, one_line

CARD, TEMPLATE_FILE = "reward_model.json", "reward_model.jinja"

Read = Callable[[Problem, str, bool], tuple[int, ...]]
"""Token ids of a problem with a response; the last argument says whether the response came to its end."""


@dataclass(frozen=True)
class Card:
    """What a reward model learned to judge, and by which template."""

    judges: Part
    objective: str
    template: TemplateSettings


def by_template(settings: TemplateSettings, tokenizer: PreTrainedTokenizerBase, part: Part) -> Read:
    """Prompts as the policy is given them, then the judged part of the response, then the end token if it ended.

    A summary stands right behind the prompt: a thought that the template opens is closed by nothing, so it is left out.
    """
    whole = make_template(settings, tokenizer)
    template = whole if part == "response" else _without_thought(whole)
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)  # a scalar model's tokenizer has one

    def read(problem: Problem, response: str, ended: bool) -> tuple[int, ...]:
        text = judged_text(response, part).removeprefix(opened(template, problem))
        ids = plain_ids(tokenizer, text)
        return template.encode(problem) + ids + ((eos,) if ended and ids[-1:] != (eos,) else ())

    return read


def _without_thought(template: Template) -> Template:
    def render(problem: Problem) -> str:
        text = template.render_problem(problem)
        return text.rstrip().removesuffix(OPEN) if text.rstrip().endswith(OPEN) else text

    return replace(template, prefill="", render_problem=render)


def by_conversation(tokenizer: PreTrainedTokenizerBase, part: Part) -> Read:
    """The tokenizer's chat template over prompt and response, as published reward models are used."""

    def read(problem: Problem, response: str, ended: bool) -> tuple[int, ...]:
        answer = {"role": "assistant", "content": judged_text(response, part)}
        messages = [{"role": "user", "content": problem.prompt}, answer]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert isinstance(text, str)  # it gives text when it does not tokenise
        return plain_ids(tokenizer, text)

    return read


def by_response_alone(tokenizer: PreTrainedTokenizerBase, part: Part) -> Read:
    """The response without its prompt, with the special tokens of the tokenizer, as classifiers of texts are used."""
    return lambda problem, response, ended: tuple(tokenizer(judged_text(response, part), verbose=False)["input_ids"])


# --- the card ---------------------------------------------------------------------------------------------------------


def write_card(folder: Path, card: Card) -> None:
    """Leave the card, and the file of a Jinja template, in the model's folder."""
    template = card.template
    if template.file is not None:
        write_atomic(folder / TEMPLATE_FILE, Path(template.file).read_text(encoding="utf-8"))
        template = template.model_copy(update={"file": TEMPLATE_FILE})
    content = {"judges": card.judges, "objective": card.objective, "template": template.model_dump()}
    write_atomic(folder / CARD, json.dumps(content, indent=2) + "\n")


def read_card(path: str) -> Card | None:
    """The card in a model's folder, or None for a model that another program made. Raises UserError if it is broken."""
    file = Path(path) / CARD
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        template = TemplateSettings.model_validate(content["template"])
        judges, objective = content["judges"], content["objective"]
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{file}: cannot be read: {one_line(error)}: train the reward model again") from None
    if template.file is not None:
        template = template.model_copy(update={"file": str(file.with_name(template.file))})
    return Card(judges, objective, template)
