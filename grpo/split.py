"""Which sequences go into which micro-batch: whole groups where they fit, even loads, by lengths and prompts alone."""

from collections.abc import Sequence

from grpo.types import TokenSequence

UNEVEN = 1.15
"""Load of the busiest process over the mean from which it pays to cut groups and repeat their prompts."""

Part = list[int]
"""Indices of sequences."""


def split(sequences: Sequence[TokenSequence], budget: int, processes: int = 1, share: bool = True) -> list[Part]:
    """Share sequences out over micro-batches of at most `budget` packed tokens.

    Completions of one prompt stay together, so that it is computed once (unless the model can't `share` it); a group
    above the budget is cut into pieces that each repeat the prompt, down to single sequences, which may exceed it.
    Every process takes each `processes`-th micro-batch: their number is a multiple of the processes where there are
    sequences enough, and their loads are even. The result depends on lengths and on which prompts are equal, alone.
    """
    groups = _groups(sequences) if share else [[index] for index in range(len(sequences))]
    fair = -(-sum(_cost(sequences, group) for group in groups) // processes)
    limits = [budget] if processes == 1 else [min(budget, -(-fair // parts)) for parts in (1, 2, 4)]
    plans = [_plan(sequences, _pieces(sequences, groups, limit), budget, processes) for limit in limits]
    loads = [_busiest(sequences, plan, processes) for plan in plans]
    best = next((i for i, load in enumerate(loads) if load <= UNEVEN * fair), loads.index(min(loads)))
    return [[index for piece in micro_batch for index in piece] for micro_batch in plans[best]]


def _plan(sequences: Sequence[TokenSequence], pieces: list[Part], budget: int, processes: int) -> list[list[Part]]:
    """As few micro-batches as hold the pieces, in which they keep their order."""
    costs = [_cost(sequences, piece) for piece in pieces]
    count = processes * max(1, -(-sum(costs) // (budget * processes)))
    bins = _level(costs, count)
    while count < len(pieces) and any(len(b) > 1 and sum(costs[i] for i in b) > budget for b in bins):
        count += processes
        bins = _level(costs, count)
    return [[pieces[i] for i in sorted(b)] for b in bins if b]


def _level(costs: Sequence[int], count: int) -> list[Part]:
    """Share costs out over bins, the largest first, each where least lies; the fullest bin comes first.

    Costs 4 7 3 6 over two bins give [1, 2] and [3, 0].
    """
    bins: list[Part] = [[] for _ in range(count)]
    loads = [0] * count
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = loads.index(min(loads))
        bins[least].append(i)
        loads[least] += costs[i]
    return [bins[b] for b in sorted(range(count), key=lambda b: (-loads[b], b))]


def _groups(sequences: Sequence[TokenSequence]) -> list[Part]:
    """Sequences with equal prompts, in the order in which prompts first appear."""
    by_prompt: dict[tuple[int, ...], Part] = {}
    for index, sequence in enumerate(sequences):
        by_prompt.setdefault(sequence.prompt_ids, []).append(index)
    return list(by_prompt.values())


def _pieces(sequences: Sequence[TokenSequence], groups: Sequence[Part], limit: int) -> list[Part]:
    """Each group as few pieces of at most `limit` tokens, or single sequences."""
    pieces = []
    for group in groups:
        own = [len(sequences[i].target_ids) for i in group]
        for count in range(1, len(group) + 1):
            cut = [[group[i] for i in sorted(b)] for b in _level(own, count) if b]
            if all(_cost(sequences, piece) <= limit for piece in cut):
                break
        pieces += cut
    return pieces


def _cost(sequences: Sequence[TokenSequence], piece: Part) -> int:
    """Packed tokens of sequences that share their prompt: a completion's last token is not computed."""
    return len(sequences[piece[0]].prompt_ids) + sum(max(len(sequences[i].target_ids) - 1, 0) for i in piece)


def _busiest(sequences: Sequence[TokenSequence], plan: list[list[Part]], processes: int) -> int:
    """The load of the process that has most to do."""
    loads = [sum(_cost(sequences, piece) for piece in micro_batch) for micro_batch in plan]
    return max((sum(loads[place::processes]) for place in range(processes)), default=0)
