"""From a problem to prompt tokens, and from a demonstration to the tokens a policy learns from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from grpo.problem_settings import ProblemSettings, TemplateSettings
from grpo.sources import is_text, read_problems
from grpo.types import Problem, UserError

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: {prompt}. Assistant:"
)
"""DeepSeek-R1 (arXiv 2501.12948), Table 1."""

Render = Callable[[Problem], str]
Example = tuple[Problem, str]
"""A problem and its completion."""


@dataclass(frozen=True)
class Template:
    """Turns problems into prompts that end with `prefill`, the text that begins every completion.

    `leading_ids` are the special tokens, such as BOS, that the tokenizer sets before a text by itself.
    """

    tokenizer: PreTrainedTokenizerBase
    render_problem: Render
    prefill: str
    leading_ids: tuple[int, ...]

    def render(self, problem: Problem) -> str:
        """The prompt as text, `prefill` included, without the leading special tokens."""
        return self.render_problem(problem) + self.prefill

    def encode(self, problem: Problem) -> tuple[int, ...]:
        """The prompt's token ids; a BOS that the text already begins with is not set a second time."""
        ids = plain_ids(self.tokenizer, self.render(problem))
        return ids if ids[: len(self.leading_ids)] == self.leading_ids else self.leading_ids + ids


def make_template(settings: TemplateSettings, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template that a recipe names, for one tokenizer.

    A chat template says itself where special tokens go; with every other kind the tokenizer's own BOS comes first.

    Raises:
        UserError: the tokenizer has no chat template, or the Jinja file is missing or not valid.
    """
    leading_ids = () if settings.kind == "chat" else leading_special_ids(tokenizer)
    shots = () if settings.examples is None else read_examples(settings.examples)
    render = _renderer(settings, tokenizer, shots if settings.kind == "chat" else ())
    if shots and settings.kind != "chat":
        render = _after_examples(render, shots, settings)
    return Template(tokenizer, render, settings.prefill, leading_ids)


def read_examples(path: str) -> tuple[Example, ...]:
    """The worked examples of a file: problems, each with a text in the column `completion`.

    Raises:
        UserError: the file is not one of problems, or a completion is missing.
    """
    problems = read_problems(ProblemSettings(path=path))
    for problem in problems:
        if not is_text(problem.columns.get("completion")):
            raise UserError(f"{path}: the example {problem.prompt[:40]!r} has no text in a column completion: add it")
    return tuple((problem, problem.columns["completion"]) for problem in problems)


def _after_examples(render: Render, shots: Sequence[Example], settings: TemplateSettings) -> Render:
    """Examples as text: each one's prompt as any other, then its completion, with the prefill once."""
    begun = [render(problem) + settings.prefill + text.removeprefix(settings.prefill) for problem, text in shots]
    separator = "\n\n" if settings.separator is None else settings.separator
    head = "".join(example + separator for example in begun)
    return lambda problem: head + render(problem)


def opened(template: Template, problem: Problem) -> str:
    """What the prompt already says of the completion: the prefill, or a `<think>` that the template itself opens."""
    if template.prefill:
        return template.prefill
    text = template.render(problem)
    return text[len(text.rstrip()) - len("<think>") :] if text.rstrip().endswith("<think>") else ""


def encode_example(
    template: Template, tokenizer: PreTrainedTokenizerBase, problem: Problem, completion: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of the prompt, as it is sampled from, and of a demonstration, which ends with one EOS token.

    The two are tokenised apart, so that the prompt's tokens are those met at sampling. A completion that begins with
    what the prompt already says of it, such as the template's prefill, loses that.

    Raises:
        UserError: the tokenizer has no EOS token.
    """
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise UserError("tokenizer: expected an EOS token, got none: a completion needs an end; set eos_token")
    given = opened(template, problem)
    given = given if completion.startswith(given) else given.rstrip()
    ids = plain_ids(tokenizer, completion.removeprefix(given))
    return template.encode(problem), ids if ids[-1:] == (eos,) else (*ids, eos)


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text alone, with no special token added."""
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The special tokens that a tokenizer sets before a text by itself. What it sets after a text is left out."""
    bare = plain_ids(tokenizer, "a")
    full = tuple(tokenizer("a")["input_ids"])
    starts = (start for start in range(len(full)) if full[start : start + len(bare)] == bare)
    return full[: next(starts, 0)]


def _renderer(settings: TemplateSettings, tokenizer: PreTrainedTokenizerBase, shots: Sequence[Example]) -> Render:
    if settings.kind == "plain":
        return lambda problem: problem.prompt
    if settings.kind == "r1_zero":
        return lambda problem: R1_ZERO.format(prompt=problem.prompt)
    if settings.kind == "chat":
        return _chat_renderer(settings, tokenizer, shots)
    assert settings.file is not None, "TemplateSettings has a file with kind jinja"
    return _jinja_renderer(Path(settings.file))


def _chat_renderer(settings: TemplateSettings, tokenizer: PreTrainedTokenizerBase, shots: Sequence[Example]) -> Render:
    if not tokenizer.chat_template:
        raise UserError(
            "template: kind chat expected a tokenizer with a chat template, got one without: "
            "use kind r1_zero, plain or jinja, or an instruction-tuned model"
        )
    before = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    for problem, text in shots:
        before += [{"role": "user", "content": problem.prompt}, {"role": "assistant", "content": text}]

    def render(problem: Problem) -> str:
        messages = [*before, {"role": "user", "content": problem.prompt}]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise UserError(f"template: the tokenizer's chat template refused the messages: {error}") from None
        assert isinstance(text, str), "apply_chat_template gives text when it does not tokenise"
        bare = settings.prefill.rstrip()  # R1's own template already opens <think>, with the end of its line
        return text.rstrip().removesuffix(bare) if bare and text.rstrip().endswith(bare) else text

    return render


def _jinja_renderer(path: Path) -> Render:
    """A file may use `prompt` and every column. It runs in Jinja's sandbox, which gives no way to Python."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    try:
        template = environment.from_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: template file cannot be read: {error.strerror}: correct file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got {error.reason} at byte {error.start}") from None
    except TemplateSyntaxError as error:
        raise UserError(f"{path}: line {error.lineno} is not valid Jinja: {error.message}") from None

    def render(problem: Problem) -> str:
        try:
            return template.render({**problem.columns, "prompt": problem.prompt})
        except Exception as error:  # whatever a template does goes wrong because of the template
            names = ", ".join(["prompt", *problem.columns])
            raise UserError(f"{path}: problem {problem.id} does not render: {error}: it has {names}") from None

    return render
