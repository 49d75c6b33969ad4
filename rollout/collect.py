"""From problems to groups of completions, each completion with a seed that only its place in the run decides."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from accelerate import Accelerator
from accelerate.utils import gather_object

from grpo.rollout.engine import Engine, SampleRequest, Sampling
from grpo.types import Completion, Drafts, Group, Problem

SEED_BITS = 63
"""Seeds fit a signed 64-bit integer, the widest that every engine takes."""


def completion_seed(*parts: int) -> int:
    """A stable 63-bit hash of whole numbers below 2^63: (run seed, stage, step, ..., problem, completion)."""
    digest = blake2b(b"".join(part.to_bytes(8, "big", signed=True) for part in parts), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)


def collect(
    engine: Engine,
    problems: Sequence[Problem],
    prompt_ids: Mapping[str, tuple[int, ...]],
    sampling: Sampling,
    n: int,
    seed: tuple[int, ...],
) -> list[Group]:
    """Sample `n` completions of every problem, in the problems' order.

    `prompt_ids` is looked up by problem id. `seed` says where in the run this is, such as (run seed, stage, step); the
    place of the problem in `problems` and of the completion in its group are added to it.
    """
    requests = _requests(problems, prompt_ids, n, seed)
    return _groups(problems, requests, engine.generate(requests, sampling))


def collect_everywhere(
    accelerator: Accelerator,
    engine: Engine,
    problems: Sequence[Problem],
    prompt_ids: Mapping[str, tuple[int, ...]],
    sampling: Sampling,
    n: int,
    seed: tuple[int, ...],
    first: int = 0,
) -> list[Group]:
    """As `collect`, the problems shared out among the processes; every process returns all groups, in order.

    Seeds do not depend on the number of processes. `first` is the place of the first problem, where these are a part of
    more: the parts together get the seeds of the whole.
    """
    mine = share(len(problems), accelerator.process_index, accelerator.num_processes)
    requests = _requests(problems, prompt_ids, n, seed, first)[mine]
    groups = _groups(problems[mine], requests, engine.generate(requests, sampling))
    return list(gather_object(groups))


def share(count: int, process: int, processes: int) -> slice:
    """The consecutive items of `count` that are a process's own; shares differ by one at most.

    >>> [share(5, process, 2) for process in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(count * process // processes, count * (process + 1) // processes)


def rollout_figures(groups: Sequence[Group], seconds: float) -> dict[str, float]:
    """Lengths in tokens, the share that the token limit cut, and tokens sampled a second."""
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    cut = sum(completion.finish == "length" for completion in completions)
    return {
        "completion/length_mean": sum(lengths) / len(lengths),
        "completion/length_max": float(max(lengths)),
        "completion/truncated": cut / len(completions),
        "tokens/rollout_per_s": sum(lengths) / seconds,
        **draft_figures(completions),
    }


def draft_figures(completions: Sequence[Completion]) -> dict[str, float]:
    """Of speculative decoding, as `speculation_figures` has it."""
    return speculation_figures([(len(completion.token_ids), completion.drafts) for completion in completions])


def speculation_figures(completions: Sequence[tuple[int, Drafts | None]]) -> dict[str, float]:
    """Of speculative decoding: the share of drafts that were right, tokens a pass of the policy after the prompt, and
    the share of completions that went on without drafts; nothing where nothing was drafted. Each completion has its
    number of tokens and its drafts."""
    drafts = [drafts for _, drafts in completions if drafts is not None]
    passes, drafted, accepted = map(sum, zip(*drafts, strict=True)) if drafts else (0, 0, 0)
    if not drafted:
        return {}
    tokens = sum(length - 1 for length, drafts in completions if drafts is not None)
    return {
        "speculative/acceptance": accepted / drafted,
        "speculative/tokens_per_pass": tokens / passes,
        "speculative/fallbacks": sum(one.drafted < one.passes for one in drafts) / len(drafts),
    }


def _requests(
    problems: Sequence[Problem],
    prompt_ids: Mapping[str, tuple[int, ...]],
    n: int,
    seed: tuple[int, ...],
    first: int = 0,
) -> list[SampleRequest]:
    return [
        SampleRequest(prompt_ids[problem.id], tuple(completion_seed(*seed, place, copy) for copy in range(n)))
        for place, problem in enumerate(problems, first)
    ]


def _groups(
    problems: Sequence[Problem], requests: Sequence[SampleRequest], completions: Sequence[Sequence[Completion]]
) -> list[Group]:
    return [
        Group(problem, request.prompt_ids, tuple(sampled))
        for problem, request, sampled in zip(problems, requests, completions, strict=True)
    ]
