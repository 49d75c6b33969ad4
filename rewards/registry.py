"""From a reward's settings to something that can be called, with every mistake found before the run starts."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from grpo.plugins import load_object
from grpo.reward_settings import RewardSettings
from grpo.rewards.accuracy import accuracy
from grpo.rewards.asynchronous import run_async
from grpo.rewards.format import format_reward
from grpo.rewards.isolated import call_all
from grpo.rewards.judge import Judge
from grpo.rewards.language import language
from grpo.rewards.length import length, overlong, repetition
from grpo.rewards.remote import remote
from grpo.rewards.reward_model import RewardModel
from grpo.types import Problem, UserError, one_line
from grpo.where import matches

BUILT_IN: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy,
    "format": format_reward,
    "language": language,
    "length": length,
    "overlong": overlong,
    "repetition": repetition,
    "remote": remote,
    "reward_model": RewardModel,
    "judge": Judge,
}
"""Their options are keyword-only parameters, of a class those of its making; the others are what they judge."""

PREFERENCES = ("reward_model", "judge")
"""Those that say what is liked, and not what is right."""

SINGLE_COLUMNS = frozenset({"completion", "prompt", "completion_tokens", "finish"})
BATCH_COLUMNS = frozenset({"completions", "prompts", "completion_ids", "completion_tokens", "finish"})
"""What every reward may ask for besides the problem's columns. The batch names are TRL's."""

RESERVED_NAMES = ("mean", "std")
"""`reward/mean` and `reward/std` are figures of the total."""


Many = Callable[[Sequence[Mapping[str, Any]]], Sequence[Any]]


@dataclass(frozen=True)
class Reward:
    """A reward, ready to be called with keywords.

    `batched` rewards get lists, others one completion. `accepts` are the parameters, None for any; `options` are those
    that the recipe alone sets, whatever columns are called. `needs` are the
    columns it cannot do without: one of each tuple. `messages`: whether a batched reward gets chat messages or texts.
    `many` makes the calls of a reward that gets one completion all at once, where it can: in processes, or
    asynchronously. `clip` bounds what it counts as; `gate` is the reward it depends on and the least of that. `where`
    are the columns of the problems that it is for. `prepare` is called once before the first completion is judged.
    """

    name: str
    weight: float
    call: Callable[..., Any]
    batched: bool
    messages: Literal["always", "never", "as_run"]
    accepts: frozenset[str] | None
    needs: tuple[tuple[str, ...], ...]
    many: Many | None = None
    clip: tuple[float, float] | None = None
    gate: tuple[str, float] | tuple[()] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    options: frozenset[str] = frozenset()

    def is_for(self, problem: Problem) -> bool:
        """Whether it judges answers to the problem."""
        return matches(self.where, problem.columns)


def load_rewards(settings: Sequence[RewardSettings]) -> tuple[Reward, ...]:
    """Every reward of a stage, each under a name of its own. Raises UserError."""
    rewards = tuple(load_reward(one) for one in settings)
    names = [reward.name for reward in rewards]
    twice = [s.name for s, name in zip(settings, names, strict=True) if names.count(name) > 1]
    if twice:
        raise UserError(
            f"rewards: {' and '.join(twice)} have the same name: rename a function or give one a label, figures are "
            "kept by name"
        )
    return rewards


def load_reward(settings: RewardSettings) -> Reward:
    """Find a reward by its name, check its signature and bind its options.

    A built-in is named as in `BUILT_IN`; any other is `path/to/file.py:function` or `package.module:function`, and is
    called by the function's name in figures and samples.

    Raises:
        UserError: no such reward, not a function a reward can be, or an option it does not take.
    """
    if settings.shown_as in RESERVED_NAMES:
        raise UserError(
            f"reward {settings.name}: reward/mean and reward/std are figures of the total: rename the function, or "
            "give it a label"
        )
    built_in = settings.name in BUILT_IN
    found = BUILT_IN[settings.name] if built_in else _load(settings.name)
    given = settings
    settings, fn = _instance(settings, found) if inspect.isclass(found) else (settings, found)
    parameters = _parameters(settings.name, fn)
    batched = "completion" not in parameters
    _check_options(settings, parameters, built_in, fn)
    bound = functools.partial(fn, **settings.options)
    call, many = _ways_to_call(given, found, bound, batched)
    return Reward(
        name=settings.shown_as,
        weight=settings.weight,
        call=call,
        batched=batched,
        messages="never" if built_in else "always" if _is_trl(fn) else "as_run",
        accepts=None if _takes_any(fn) else frozenset(parameters),
        options=frozenset(_keyword_only(parameters) if built_in else settings.options),
        needs=_needs(settings, parameters, BATCH_COLUMNS if batched else SINGLE_COLUMNS),
        many=many,
        clip=settings.clip,
        gate=(settings.only_if.reward, settings.only_if.at_least) if settings.only_if else (),
        where=settings.where,
        prepare=getattr(fn, "prepare", None) if built_in else None,
    )


def _instance(settings: RewardSettings, made_from: type) -> tuple[RewardSettings, Callable[..., Any]]:
    """The object of a class, made with the options: it keeps its state for as long as the run goes on."""
    known = inspect.signature(made_from).parameters
    unknown = [option for option in settings.options if option not in known and not _takes_any(made_from)]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}" if close else f"it takes {', '.join(known) or 'none'}"
        raise UserError(f"reward {settings.name}: has no option {unknown[0]}: {hint}")
    if settings.name in BUILT_IN:
        for option, value in settings.options.items():
            _check_value(settings.name, option, value, known[option].annotation)
    try:
        made = made_from(**settings.options)
    except UserError:
        raise
    except Exception as error:
        said = one_line(error)
        raise UserError(
            f"reward {settings.name}: making it raised {type(error).__name__}: {said}: correct it or its options"
        ) from error
    if not callable(made):
        raise UserError(f"reward {settings.name}: its objects cannot be called: define __call__")
    return settings.model_copy(update={"options": {}}), made


def _ways_to_call(
    settings: RewardSettings, found: Any, call: Callable[..., Any], batched: bool
) -> tuple[Callable[..., Any], Many | None]:
    """How one call is made, and how many are."""
    if settings.isolate:
        if settings.name in BUILT_IN or _is_async(found):
            raise UserError(
                f"reward {settings.name}: isolate is for functions of your own that are not async: leave it out"
            )
        many = functools.partial(_isolated, settings)
        return lambda **arguments: many([arguments])[0], None if batched else many
    if _is_async(call.func if isinstance(call, functools.partial) else call):
        return lambda **arguments: run_async(call, [arguments])[0], None if batched else functools.partial(
            run_async, call
        )
    return call, None


def _isolated(settings: RewardSettings, calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    options = settings.options
    return call_all(settings.name, options, calls, settings.seconds, int(settings.memory_gb * 2**30))


def _is_async(fn: Any) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def check_reward(reward: Reward, problems: Sequence[Problem]) -> None:
    """Raise UserError when a reward is for none of the problems, or cannot judge the first that it is for."""
    judged = next((problem for problem in problems if reward.is_for(problem)), None)
    if judged is None:
        raise UserError(
            f"reward {reward.name}: where ({reward.where}) matches none of {len(problems)} problems (columns of the "
            f"first: {', '.join(problems[0].columns) or 'none'}): correct it, or leave the reward out"
        )
    check_columns(reward, judged.columns.keys())


def check_columns(reward: Reward, columns: Collection[str]) -> None:
    """Raise UserError when the problems lack a column that the reward cannot do without."""
    for alternatives in reward.needs:
        if not (set(alternatives) - reward.options) & set(columns):
            raise UserError(
                f"reward {reward.name}: needs {' or '.join(alternatives)}, which is neither an option nor a column of "
                f"the problems ({', '.join(sorted(columns)) or 'none'}): map a column, or set an option"
            )


def _load(name: str) -> Callable[..., Any]:
    if ":" not in name:
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {close[0]}" if close else f"built-in are {', '.join(BUILT_IN)}"
        raise UserError(f"reward {name}: no such reward: {hint}; your own is path/to/file.py:function")
    fn = load_object(name)
    if not callable(fn):
        raise UserError(
            f"reward {name}: expected a function, got {type(fn).__name__}: name a function, a class, or an object to "
            "call"
        )
    return fn


def _parameters(name: str, fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by keyword, in order. Raises UserError when there is nothing to judge."""
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    every = inspect.signature(fn).parameters.values()
    positional = [p.name for p in every if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    parameters = {p.name: p for p in every if p.kind in by_keyword}
    judged = {"completion", "completions", "completion_ids"} & parameters.keys()
    if positional or not judged or {"completion", "completions"} <= judged:
        got = ", ".join(str(p) for p in every)
        raise UserError(
            f"reward {name}: expected a first parameter completion (called once a completion) or completions (once a "
            f"batch, as in TRL), got ({got}): rename the parameter"
        )
    return parameters


def _check_options(
    settings: RewardSettings, parameters: dict[str, inspect.Parameter], built_in: bool, fn: Callable[..., Any]
) -> None:
    taken = SINGLE_COLUMNS | BATCH_COLUMNS
    known = _keyword_only(parameters) if built_in else parameters.keys() - taken
    for option, value in settings.options.items():
        if option in taken or (option not in known and (built_in or not _takes_any(fn))):
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]}" if close else f"it takes {', '.join(sorted(known)) or 'none'}"
            raise UserError(f"reward {settings.name}: has no option {option}: {hint}")
        if built_in:
            _check_value(settings.name, option, value, parameters[option].annotation)


def _keyword_only(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    """The options of a built-in reward: a column of the data never stands for one."""
    return {name for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _check_value(name: str, option: str, value: Any, annotation: Any) -> None:
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise UserError(
            f"reward {name}: options.{option}: {message}, got {one_line(repr(value), 80)}: correct the recipe"
        ) from None


def _needs(
    settings: RewardSettings, parameters: dict[str, inspect.Parameter], given: frozenset[str]
) -> tuple[tuple[str, ...], ...]:
    if settings.name == "language" and settings.options.get("column"):
        return ((settings.options["column"],),)
    if settings.name == "accuracy":
        return ((settings.options.get("column", "answer"), "reasoning_gym"),)
    required = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]
    return tuple((name,) for name in required if name not in given and name not in settings.options)


def _takes_any(fn: Callable[..., Any]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(fn).parameters.values())


def _is_trl(fn: Callable[..., Any]) -> bool:
    """TRL's own functions read `completion[0]["content"]` whatever the prompt was."""
    module = getattr(fn, "__module__", None) or ""
    return module == "trl.rewards" or module.startswith("trl.rewards.")
