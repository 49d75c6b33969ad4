"""What self-speculative decoding is worth: tokens a second with and without it, in the policy's own engine.

    python benchmarks/speculative.py recipes/self_speculative.yaml runs/self-speculative/02-grpo/model [--pairs 5]

Both sides answer the recipe's held-out problems in one process, in turn, after a round that warms up. Greedy text is
checked to be the same; in sampling, both have the policy's distribution, and lengths differ by chance. The ratio is
that of the medians of tokens a second.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from grpo.data import load_problems
from grpo.grpo_stage import GrpoStage
from grpo.model_settings import ModelSettings
from grpo.mtp_settings import SpeculativeSettings
from grpo.policy import Policy, load_policy
from grpo.recipe_file import load_recipe
from grpo.rollout.collect import draft_figures
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.types import Completion


def answers(
    policy: Policy, requests: list[SampleRequest], rows: int, sampling: Sampling, drafts: bool
) -> tuple[list[Completion], float]:
    """The completions, and the seconds that they took."""
    settings = SpeculativeSettings() if drafts else None
    engine = TransformersEngine(policy.model, policy.tokenizer, rows, "fp32", speculative=settings)
    start = time.perf_counter()
    groups = engine.generate(requests, sampling)
    return [completion for group in groups for completion in group], time.perf_counter() - start


def compare(policy: Policy, prompts: list[tuple[int, ...]], rows: int, sampling: Sampling, pairs: int) -> None:
    """Print one line: tokens a second of both sides, their ratio, and how the drafts fared."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    figures: list[dict[str, float]] = []
    for pair in range(pairs + 1):
        requests = [SampleRequest(prompt, (1000 * pair + place,)) for place, prompt in enumerate(prompts)]
        texts = []
        for drafts in speeds:
            completions, seconds = answers(policy, requests, rows, sampling, drafts)
            texts.append([completion.text for completion in completions])
            if pair:
                speeds[drafts].append(sum(len(completion.token_ids) for completion in completions) / seconds)
        figures.append(draft_figures(completions))
        assert sampling.temperature or texts[0] == texts[1], "greedy text differs"
    plain, drafted = (statistics.median(found) for found in speeds.values())
    means = {name: statistics.mean(found[name] for found in figures) for name in figures[0]}
    print(
        f"{rows:4d} rows, temperature {sampling.temperature}: {plain:7.0f} tokens/s plain, {drafted:7.0f} with drafts, "
        f"ratio {drafted / plain:.2f}; acceptance {means['speculative/acceptance']:.3f}, tokens a pass "
        f"{means['speculative/tokens_per_pass']:.2f}, without drafts at last {means['speculative/fallbacks']:.2f}",
        flush=True,
    )


def main() -> None:
    """Compare at several sizes of a batch, greedy and at temperature 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    options = parser.parse_args()
    recipe = load_recipe(Path(options.recipe), [])
    stage = next(stage for stage in recipe.stages if isinstance(stage, GrpoStage))
    policy = load_policy(ModelSettings(path=options.model), options.model)
    problems = load_problems(stage.problems, policy.tokenizer, recipe.seed)
    for rows in options.rows:
        prompts = [problems.prompt_ids[problem.id] for problem in problems.held_out[: options.problems]]
        for temperature in options.temperatures:
            compare(policy, prompts, rows, Sampling(temperature, stage.rollout.max_new_tokens), options.pairs)


if __name__ == "__main__":
    main()
