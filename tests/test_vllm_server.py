"""Real servers of vLLM on this machine: they answer as the engine in this process, and one that dies costs nothing."""

import copy
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import torch

from grpo.engine_settings import RolloutSettings
from grpo.model_settings import InitSettings, ModelSettings, TokenizerSettings
from grpo.policy import Policy, load_policy, save_policy
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.make_engine import Work, make_engine, probe_of
from grpo.rollout.server_engine import ServerEngine
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.rollout.weights import WeightPush
from grpo.scratch import make_policy
from grpo.types import TrainingFailure, UserError

if not os.environ.get("CI"):
    pytest.importorskip("vllm")

LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
SERVERS = {"count": 2, "deadline_s": 10.0}
SETTINGS = RolloutSettings.model_validate({"engine": "vllm-server", "servers": SERVERS, "max_concurrent": 8})
PROMPTS = [tuple(range(65 + i, 105 + i)) for i in range(4)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("served") / "model"
    init = InitSettings(architecture="llama", config=LLAMA, tokenizer=TokenizerSettings())
    save_policy(make_policy(init, seed=0), folder)
    return load_policy(ModelSettings(path=str(folder)), str(folder))


@pytest.fixture(scope="module")
def engine(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerEngine]:
    work = Work(PROMPTS, 128, 1.0, "fp32", tmp_path_factory.mktemp("logs"))
    engine = make_engine(SETTINGS, policy, work)
    assert isinstance(engine, ServerEngine)
    WeightPush(engine, probe_of(SETTINGS, policy, work))(policy.model, 1)
    yield engine
    engine.close()


def during_a_rollout(engine: ServerEngine, number: int, action: Callable[[int], None]) -> None:
    """Do something to a server's processes while both servers sample, and see every question answered once."""
    process = engine._pool._processes[number]

    def strike() -> None:
        time.sleep(0.5)
        action(process.pid)

    thread = threading.Thread(target=strike)
    thread.start()
    requests = [SampleRequest(prompt, tuple(range(100 * i, 100 * i + 32))) for i, prompt in enumerate(PROMPTS)]
    answers = engine.generate(requests, Sampling(1.0, 128))
    thread.join()
    assert [len(group) for group in answers] == [32, 32, 32, 32]
    again = engine.generate(requests, Sampling(1.0, 128))
    # The seed decides; what is sampled side by side differs, and with it the rounding of a few close calls.
    same = sum(
        a.token_ids == b.token_ids for g, h in zip(answers, again, strict=True) for a, b in zip(g, h, strict=True)
    )
    assert same >= 120
    assert {c.weight_version for group in answers for c in group} == {engine._version}
    assert engine._pool.servers[number].deaths


@pytest.mark.slow
def test_servers_answer_as_transformers(engine: ServerEngine, policy: Policy) -> None:
    requests = [SampleRequest(prompt, (1,)) for prompt in PROMPTS]
    greedy = Sampling(0.0, 24)
    theirs = engine.generate(requests, greedy)
    ours = TransformersEngine(policy.model, policy.tokenizer, 8, "fp32").generate(requests, greedy)
    for one, other in zip(theirs, ours, strict=True):
        assert (one[0].token_ids, one[0].text, one[0].finish) == (other[0].token_ids, other[0].text, other[0].finish)
        assert one[0].sampler_logprobs == pytest.approx(other[0].sampler_logprobs, abs=1e-4)


@pytest.mark.slow
def test_nothing_but_health_is_answered_without_the_key(engine: ServerEngine) -> None:
    url = engine._pool.servers[0].client.url
    assert url.startswith("http://127.0.0.1:")
    assert httpx2.get(f"{url}/health").status_code == 200
    for path in ("/weight_info", "/v1/models", "/docs"):
        assert httpx2.get(f"{url}{path}").status_code == 401
    for path in ("/collective_rpc", "/inference/v1/generate", "/reset_prefix_cache"):
        wrong = {"Authorization": "Bearer no"}
        assert httpx2.post(f"{url}{path}", json={"method": "load_policy_file"}, headers=wrong).status_code == 401


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_server_that_dies_in_a_rollout_costs_nothing_and_comes_back(
    engine: ServerEngine, policy: Policy, blow: signal.Signals
) -> None:
    during_a_rollout(engine, 0, lambda group: os.killpg(group, blow))
    while len(engine._pool.live()) < 2:
        time.sleep(0.2)
    engine.load_weights(policy.model, engine._version + 1)
    assert [server.weights for server in engine._pool.servers] == [engine._label] * 2
    probe = probe_of(SETTINGS, policy, Work(PROMPTS, 128, 1.0, "fp32", Path("unused")))
    assert WeightPush(engine, probe)(policy.model, engine._version)["check/gap_max"] < 1e-4


@pytest.mark.slow
def test_a_server_that_comes_back_when_no_other_is_left_is_verified_before_it_samples(
    engine: ServerEngine, policy: Policy
) -> None:
    """The weights that it gets are not those of the learner, as if their file had changed since the push."""
    moved = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    version = engine._version + 1
    probe = probe_of(SETTINGS, policy, Work(PROMPTS, 128, 1.0, "fp32", Path("unused")))
    WeightPush(engine, probe)(policy.model, version)
    for process in engine._pool._processes.values():
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    engine._weights.hold(moved)
    with pytest.raises(TrainingFailure, match=f"version {version}: an engine that came back and got them by itself"):
        engine.generate([SampleRequest(PROMPTS[0], (1,))], Sampling(1.0, 8))
    while len(engine._pool.live()) < 2:
        time.sleep(0.2)
    assert WeightPush(engine, probe)(policy.model, version + 1)["check/gap_max"] < 1e-4


@pytest.mark.slow
def test_servers_of_others_are_asked_what_they_are(
    engine: ServerEngine, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_SERVER_KEY", engine._pool._key)
    servers = {"urls": [server.client.url for server in engine._pool.servers]}
    work = Work(PROMPTS, 128, 1.0, "fp32", tmp_path)

    def settings(**more: str) -> RolloutSettings:
        given = {"engine": "vllm-server", "servers": servers | more, "max_concurrent": 8}
        return RolloutSettings.model_validate(given)

    theirs = make_engine(settings(), policy, work)
    assert isinstance(theirs, ServerEngine)
    assert theirs._pool.way == "file" or torch.cuda.is_available()
    assert WeightPush(theirs, probe_of(settings(), policy, work))(policy.model, 1)["check/gap_max"] < 1e-4
    theirs.close()
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"servers\.transfer: nccl needs a learner on a GPU, got one on a CPU"):
            make_engine(settings(transfer="nccl"), policy, work)
    engine.load_weights(policy.model, engine._version + 1)


@pytest.mark.gpu
@pytest.mark.parametrize(("way", "gpus"), [("ipc", 1), ("nccl", 2)])
def test_weights_reach_a_server_on_gpus(policy: Policy, tmp_path: Path, way: str, gpus: int) -> None:
    """The engine's probabilities are those of transformers before and after an update, and the update moves them."""
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} CUDA devices")
    servers = {"count": 1, "transfer": way}
    settings = RolloutSettings.model_validate(
        {"engine": "vllm-server", "servers": servers, "vllm": {"memory_share": 0.2}}
    )
    work = Work(PROMPTS, 24, 1.0, "fp32", tmp_path)
    moved = replace(policy, model=copy.deepcopy(policy.model).to("cuda"))
    engine = make_engine(settings, moved, work)
    push = WeightPush(engine, probe_of(settings, moved, work))
    probabilities = []
    for version in (1, 2):
        assert push(moved.model, version)["check/gap_max"] < 1e-3
        (answer,) = engine.generate([SampleRequest(PROMPTS[0], (1,))], Sampling(0.0, 24))
        (ours,) = TransformersEngine(moved.model, moved.tokenizer, 8, "fp32").generate(
            [SampleRequest(PROMPTS[0], (1,))], Sampling(0.0, 24)
        )
        assert answer[0].sampler_logprobs == pytest.approx(ours[0].sampler_logprobs, abs=1e-3)
        assert answer[0].weight_version == version
        probabilities.append(answer[0].sampler_logprobs)
        with torch.no_grad():
            for parameter in moved.model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    assert probabilities[0] != pytest.approx(probabilities[1], abs=0.01)
    engine.close()


def test_a_url_without_a_key_or_a_server_is_one_sentence(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = {"urls": ["http://127.0.0.1:9"], "key_env": "ABSENT_KEY"}
    settings = RolloutSettings.model_validate({"engine": "vllm-server", "servers": servers})
    work = Work(PROMPTS, 24, 1.0, "fp32", Path("unused"))
    with pytest.raises(UserError, match="environment variable ABSENT_KEY, got none: grpo serve prints it"):
        make_engine(settings, policy, work)
    monkeypatch.setenv("ABSENT_KEY", "key")
    with pytest.raises(UserError, match=r"servers\.urls: http://127\.0\.0\.1:9 does not answer, or not to this key"):
        make_engine(settings, policy, work)
