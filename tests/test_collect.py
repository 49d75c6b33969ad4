import os
import socket
import subprocess
import sys
from itertools import chain

import pytest
from accelerate import Accelerator

from grpo.rollout.collect import collect, collect_everywhere, completion_seed, rollout_figures, share
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.types import Completion, Group, Problem

SAMPLING = Sampling(1.0, 3)
PROBLEMS = [Problem(f"p{i}", "?", {"answer": i}) for i in range(5)]
PROMPT_IDS = {problem.id: (i + 1, 7) for i, problem in enumerate(PROBLEMS)}


class EchoEngine:
    """Says the seed and the first token of the prompt."""

    def generate(self, requests: list[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        return [
            [Completion(str(seed), request.prompt_ids[:1], (0.0,), "stop", 0) for seed in request.seeds]
            for request in requests
        ]

    def load_weights(self, model: object, version: int) -> None: ...


def test_groups_keep_the_order_of_problems_and_seeds() -> None:
    groups = collect(EchoEngine(), PROBLEMS, PROMPT_IDS, SAMPLING, 3, (1, 2, 3))
    assert [group.problem for group in groups] == PROBLEMS
    assert [group.prompt_ids for group in groups] == [(i, 7) for i in range(1, 6)]
    assert [[c.token_ids for c in group.completions] for group in groups] == [[(i,)] * 3 for i in range(1, 6)]
    assert groups[2].completions[1].text == str(completion_seed(1, 2, 3, 2, 1))


def test_seeds_are_stable_63_bit_and_all_different() -> None:
    # blake2b of three big-endian int64, first 8 bytes, without the lowest bit: written down once, never to change,
    # for a resumed run to sample what the first would have.
    assert completion_seed(0, 1, 2) == 7286398643104651072
    seeds = {
        completion_seed(0, stage, step, problem) for stage in range(5) for step in range(50) for problem in range(8)
    }
    assert len(seeds) == 5 * 50 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


@pytest.mark.parametrize(("count", "processes"), [(0, 2), (1, 3), (5, 2), (7, 3), (8, 4)])
def test_shares_cover_everything_once_and_are_even(count: int, processes: int) -> None:
    shares = [list(range(count))[share(count, process, processes)] for process in range(processes)]
    assert list(chain(*shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_collects_everything_without_torch_distributed() -> None:
    everywhere = collect_everywhere(Accelerator(cpu=True), EchoEngine(), PROBLEMS, PROMPT_IDS, SAMPLING, 2, (9,))
    assert everywhere == collect(EchoEngine(), PROBLEMS, PROMPT_IDS, SAMPLING, 2, (9,))


def test_two_processes_return_what_one_does() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == [f"2 {collect(EchoEngine(), PROBLEMS, PROMPT_IDS, SAMPLING, 2, (9,))}\n"] * 2


def test_figures_by_hand() -> None:
    def completion(length: int, finish: str) -> Completion:
        return Completion("", (1,) * length, (0.0,) * length, finish, 0)

    groups = [
        Group(PROBLEMS[0], (1,), (completion(1, "stop"), completion(4, "length"))),
        Group(PROBLEMS[1], (1,), (completion(2, "stop"), completion(5, "stop"))),
    ]
    assert rollout_figures(groups, seconds=0.5) == {
        "completion/length_mean": 3.0,
        "completion/length_max": 5.0,
        "completion/truncated": 0.25,
        "tokens/rollout_per_s": 24.0,
    }


def test_pushed_weights_are_sampled_with_under_their_version(tiny_model, byte_tokenizer) -> None:
    first, second = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    engine = TransformersEngine(first, byte_tokenizer, 8, "fp32")
    before = collect(engine, PROBLEMS, PROMPT_IDS, SAMPLING, 2, (0,))
    engine.load_weights(second, 4)
    after = collect(engine, PROBLEMS, PROMPT_IDS, SAMPLING, 2, (0,))
    assert {c.weight_version for group in before for c in group.completions} == {0}
    assert {c.weight_version for group in after for c in group.completions} == {4}
    fresh = collect(TransformersEngine(second, byte_tokenizer, 8, "fp32"), PROBLEMS, PROMPT_IDS, SAMPLING, 2, (0,))
    assert [[c.token_ids for c in g.completions] for g in after] == [
        [c.token_ids for c in g.completions] for g in fresh
    ]
    assert [[c.token_ids for c in g.completions] for g in after] != [
        [c.token_ids for c in g.completions] for g in before
    ]


if __name__ == "__main__":
    accelerator = Accelerator()
    gathered = collect_everywhere(accelerator, EchoEngine(), PROBLEMS, PROMPT_IDS, SAMPLING, 2, (9,))
    print(accelerator.num_processes, gathered)
    accelerator.end_training()
