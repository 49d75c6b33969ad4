"""Which problems are trained on, which are held out, and in which order they come."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest

from transformers import PreTrainedTokenizerBase

from grpo.problem_settings import ProblemSettings
from grpo.sources import read_problems
from grpo.templates import Template, make_template
from grpo.types import Problem, UserError


@dataclass(frozen=True)
class Prepared:
    """Problems whose prompts fit, their prompts' token ids by problem id, and how many were too long."""

    problems: tuple[Problem, ...]
    prompt_ids: Mapping[str, tuple[int, ...]]
    dropped_long: int


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a stage. `prompt_ids` holds those of both parts by problem id.

    Of a mixture, the held-out problems come in turns from its sources, so that the first few are of all of them.
    """

    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    prompt_ids: Mapping[str, tuple[int, ...]]
    dropped_long: int
    duplicates: int
    held_out_elsewhere: int = 0


def load_problems(settings: ProblemSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> ProblemSet:
    """Read problems, drop repeated rows, make their prompts, and split them.

    Raises:
        UserError: the source, the template or the length of a prompt is not what the recipe asks for.
    """
    if settings.sources is None:
        return _load_source(settings, tokenizer, seed)
    return mixed({source.shown_as: _load_source(source, tokenizer, seed) for source in settings.sources})


def left_out(problems: ProblemSet, settings: ProblemSettings) -> list[str]:
    """What a user should know of problems that are in the data and not in the set, a sentence each."""
    counts = {
        f"problems longer than {settings.longest_prompt} tokens are left out": problems.dropped_long,
        "problems that stand in the data twice are taken once": problems.duplicates,
        "problems that another source holds out are not trained on": problems.held_out_elsewhere,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def mixed(parts: Mapping[str, ProblemSet]) -> ProblemSet:
    """The problems of several sources, by name, each problem with its source's name, also in its id.

    A question that one source holds out is not trained on in another.
    """
    named = {name: _named(name, part) for name, part in parts.items()}
    asked = {problem.prompt for part in named.values() for problem in part.held_out}
    turns = zip_longest(*[part.held_out for part in named.values()])
    train = [problem for part in named.values() for problem in part.train]
    kept = tuple(problem for problem in train if problem.prompt not in asked)
    return ProblemSet(
        train=kept,
        held_out=tuple(problem for turn in turns for problem in turn if problem is not None),
        prompt_ids={problem: ids for part in named.values() for problem, ids in part.prompt_ids.items()},
        dropped_long=sum(part.dropped_long for part in named.values()),
        duplicates=sum(part.duplicates for part in named.values()),
        held_out_elsewhere=len(train) - len(kept),
    )


def _named(source: str, part: ProblemSet) -> ProblemSet:
    def own(problems: Sequence[Problem]) -> tuple[Problem, ...]:
        return tuple(replace(problem, id=f"{source}:{problem.id}", source=source) for problem in problems)

    ids = {f"{source}:{problem}": ids for problem, ids in part.prompt_ids.items()}
    return replace(part, train=own(part.train), held_out=own(part.held_out), prompt_ids=ids)


def _load_source(settings: ProblemSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> ProblemSet:
    read = read_problems(settings, seed)
    problems = distinct(read)
    prepared = prepare(problems, make_template(settings.template, tokenizer), settings)
    train, held_out = split(prepared.problems, settings.held_out)
    return ProblemSet(train, held_out, prepared.prompt_ids, prepared.dropped_long, len(read) - len(problems))


def in_turns(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems of a mixture by turns of its sources, so that the first few are of all of them."""
    lines = [[one for one in problems if one.source == source] for source in dict.fromkeys(p.source for p in problems)]
    return tuple(problem for turn in zip_longest(*lines) for problem in turn if problem is not None)


def distinct(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems without exact repetitions, each under an id of its own.

    Rows with one prompt and answer but other columns all stay, since several demonstrations of a problem are all data;
    from the second on their ids end in -2, -3, ...
    """
    seen: dict[str, set[str]] = {}
    kept = []
    for problem in problems:
        versions = seen.setdefault(problem.id, set())
        content = json.dumps(problem.columns, sort_keys=True, default=str)
        if content not in versions:
            versions.add(content)
            kept.append(problem if len(versions) == 1 else replace(problem, id=f"{problem.id}-{len(versions)}"))
    return tuple(kept)


def prepare(problems: Sequence[Problem], template: Template, settings: ProblemSettings) -> Prepared:
    """Make every problem's prompt, and drop or refuse those of more than `max_prompt_tokens`.

    Raises:
        UserError: a prompt is too long and the recipe says error, or none fits, or a prompt has no tokens.
    """
    encoded = {problem.id: template.encode(problem) for problem in problems}
    for problem in problems:
        _check_length(problem, len(encoded[problem.id]), settings)
    prompt_ids = {name: ids for name, ids in encoded.items() if len(ids) <= settings.max_prompt_tokens}
    if not prompt_ids:
        raise UserError(
            f"problems: expected prompts of at most {settings.max_prompt_tokens} tokens, got {len(problems)} longer "
            "ones: raise max_prompt_tokens"
        )
    kept = tuple(problem for problem in problems if problem.id in prompt_ids)
    return Prepared(kept, prompt_ids, len(problems) - len(kept))


def _check_length(problem: Problem, length: int, settings: ProblemSettings) -> None:
    if length == 0:
        raise UserError(f"template: problem {problem.prompt[:40]!r} becomes a prompt without tokens: use another one")
    if length > settings.max_prompt_tokens and settings.long_prompts == "error":
        raise UserError(
            f"problem {problem.prompt[:40]!r}: expected a prompt of at most {settings.max_prompt_tokens} tokens, got "
            f"{length}: raise max_prompt_tokens, or say long_prompts: drop"
        )


def split(problems: Sequence[Problem], held_out: float) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Training and held-out problems.

    The part depends on the prompt alone: neither order nor other problems nor other columns move a problem across, so
    a question is never in both parts, not even of two data sets.
    """
    parts: tuple[list[Problem], list[Problem]] = [], []
    for problem in problems:
        parts[_share(problem.prompt) < held_out].append(problem)
    return tuple(parts[0]), tuple(parts[1])


def _share(prompt: str) -> float:
    """A number from 0 to below 1, evenly spread over prompts."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big") / 2**48


def check_enough(problems: Sequence[Problem], count: int, settings: ProblemSettings, where: str = "problems") -> None:
    """Refuse data that is empty, or smaller than the `count` problems of one step unless it may wrap.

    Raises:
        UserError: there is too little data.
    """
    if not problems:
        raise UserError(f"{where}: expected some to train on, got none: lower held_out or add data")
    if len(problems) < count and settings.too_few == "error":
        raise UserError(
            f"{where}: expected at least {count} to train on, one step's, got {len(problems)}: "
            "add data, take fewer in a step, or say too_few: wrap to use some twice in a step"
        )


def draw(problems: Sequence[Problem], seed: int | str, start: int, count: int) -> list[Problem]:
    """The `count` problems that come after the first `start` of an endless sequence of shuffled epochs.

    The sequence is a function of the seed and the number of problems, so `start` is all that a resumed run needs. A
    draw that reaches the end of an epoch goes on in the next one: nothing is left over.
    """
    size = len(problems)
    places = [divmod(position, size) for position in range(start, start + count)]
    return [problems[_order(size, seed, epoch)[index]] for epoch, index in places]


@lru_cache(maxsize=8)
def _order(size: int, seed: int | str, epoch: int) -> tuple[int, ...]:
    """A permutation sorted by hash: unlike a library's generator, the same in every version of everything."""
    return tuple(sorted(range(size), key=lambda index: hashlib.sha256(f"{seed}/{epoch}/{index}".encode()).digest()))
