"""How routers of mixtures of experts spread their tokens. L routers, E experts of each."""

from collections.abc import Sequence

from grpo.doctor.chart import ENOUGH, Chart, Load
from grpo.doctor.finding import Finding, finding
from grpo.grpo_stage import GrpoStage
from grpo.sft_stage import SftStage

EVEN = 50
"""Tokens of an even share below which the load of a window says nothing: at 50, a healthy expert gets less than a tenth
of it with a chance of 1e-13."""
STARVED = 0.1
"""Share of an even load below which an expert is starved: it learns from a tenth of the tokens that it was made for."""
COLLAPSED = 0.5
"""Share of a router's experts that are starved when it has collapsed: half of the model is then of no use. Few experts
that get everything and so learn everything is what balance losses are for (DeepSeekMoE, arXiv 2401.06066, section
3.3). A router made from scratch is uneven in its first steps, though not by so much."""


def router_collapse(chart: Chart) -> Finding | None:
    """A router sends all of its tokens to few of its experts, over a whole window."""
    stage = chart.stage
    if not isinstance(stage, GrpoStage | SftStage) or len(chart.loads) < ENOUGH:
        return None
    for router, load_E in enumerate(summed([load for _, load in chart.loads])):
        starved, dead = starving(load_E)
        if starved >= COLLAPSED * len(load_E):
            evidence = (
                f"router {router} (from 0) starves {starved} of {len(load_E)} experts, {dead} of which got no token; "
                f"MaxVio is {max(load_E) * len(load_E) / sum(load_E) - 1:.2f}"
            )
            return finding(chart, "router collapse", chart.loads[0][0], evidence, _evener(chart, stage))
    return None


def summed(loads: list[Load]) -> list[list[float]]:
    """The load of several steps together."""
    return [[sum(expert) for expert in zip(*router, strict=True)] for router in zip(*loads, strict=True)]


def starving(load_E: Sequence[float]) -> tuple[int, int]:
    """How many experts get less than a tenth of an even share, and how many get nothing.

    >>> starving([500, 500, 0, 0]), starving([900, 60, 60, 1]), starving([2, 2, 0, 0])
    ((2, 2), (1, 0), (0, 0))
    """
    even = sum(load_E) / len(load_E)
    if even < EVEN:
        return 0, 0
    return sum(load < STARVED * even for load in load_E), sum(load == 0 for load in load_E)


def _evener(chart: Chart, stage: GrpoStage | SftStage) -> tuple[str, float]:
    """DeepSeek-V3's bias update where routers have a bias, ten times that where it is at work; transformers' loss."""
    if chart.latest("router/bias_range") is None:
        return "experts.auxiliary_loss", 10 * stage.experts.auxiliary_loss or 0.001
    return "experts.bias_update_rate", 10 * stage.experts.bias_update_rate or 0.001
