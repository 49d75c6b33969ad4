"""Real vLLM on a CPU: what it samples, that pushed weights arrive, and that each known fault of a push is found."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import grpo.families
import grpo.rollout.vllm_worker
from grpo.convert.upcycle import Upcycling, upcycle
from grpo.engine_settings import RolloutSettings
from grpo.experts.observe import bias_buffers
from grpo.model_settings import InitSettings, LoraSettings, ModelSettings, TokenizerSettings
from grpo.policy import Policy, load_policy, save_policy
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.make_engine import Work, make_engine, probe_of
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.rollout.vllm_engine import VllmEngine
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
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
"""A dense model whose output layer is tied to the embedding, as SmolLM2's is."""

DEEPSEEK = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
"""Mixture of experts and latent attention of the size that vLLM has kernels for."""

BIAS = "e_score_correction_bias"

SMALL_LATENTS = {"kv_lora_rank": 32, "qk_nope_head_dim": 48, "qk_rope_head_dim": 16}

SETTINGS = RolloutSettings(engine="vllm", max_new_tokens=24)
PROMPTS = [tuple(range(65 + i, 65 + i + 40)) for i in range(3)]
WORK = Work(PROMPTS, max_new_tokens=24, temperature=0.7, precision="fp32", logs=Path("unused"))
REQUESTS = [SampleRequest(prompt, (10 + i, 20 + i, 30 + i)) for i, prompt in enumerate(PROMPTS)]
SAMPLING = Sampling(temperature=0.7, max_new_tokens=24)

MakePolicy = Callable[..., Policy]


@pytest.fixture(scope="module")
def policy_of(tmp_path_factory: pytest.TempPathFactory) -> MakePolicy:
    """A policy made from scratch, saved and loaded, with the weights that are in its folder."""

    def make(architecture: str, config: Mapping[str, Any], lora: LoraSettings | None = None) -> Policy:
        init = InitSettings(architecture=architecture, config=dict(config), tokenizer=TokenizerSettings())
        folder = tmp_path_factory.mktemp(architecture) / "model"
        save_policy(make_policy(init, seed=0), folder)
        return load_policy(ModelSettings(path=str(folder), lora=lora), str(folder))

    return make


def move(model: nn.Module, seed: int) -> None:
    """An update as large as many steps of training, every weight and bias of the router included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if BIAS in n)]:
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.device)


def start(policy: Policy, settings: RolloutSettings = SETTINGS) -> tuple[VllmEngine, WeightPush]:
    engine = make_engine(settings, policy, WORK)
    assert isinstance(engine, VllmEngine)
    return engine, WeightPush(engine, probe_of(settings, policy, WORK))


@pytest.fixture
def llama(policy_of: MakePolicy) -> Iterator[tuple[Policy, VllmEngine]]:
    policy = policy_of("llama", LLAMA)
    engine, _ = start(policy)
    yield policy, engine
    engine.close()


def fresh_push(policy: Policy, engine: VllmEngine) -> WeightPush:
    """A push that has verified its first version."""
    push = WeightPush(engine, probe_of(SETTINGS, policy, WORK))
    push(policy.model, 1)
    return push


def logprobs(engine: Any, requests: Sequence[SampleRequest] = REQUESTS, sampling: Sampling = SAMPLING) -> list[Any]:
    return [c for group in engine.generate(requests, sampling) for c in group]


# --- what it samples --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_completion_and_weights_have_a_version(llama: tuple[Policy, VllmEngine]) -> None:
    policy, engine = llama
    fresh_push(policy, engine)
    first = engine.generate(REQUESTS, SAMPLING)
    again = engine.generate(REQUESTS, SAMPLING)
    assert first == again
    completions = [c for group in first for c in group]
    assert len({c.token_ids for c in completions}) == 9
    assert {c.weight_version for c in completions} == {1}
    assert all(len(c.token_ids) == len(c.sampler_logprobs) for c in completions)


def test_more_prompts_than_a_step_takes_are_answered_as_few_are(policy_of: MakePolicy) -> None:
    """100 prompts of 60 tokens are 6,000, and vLLM takes 4,096 at once: it would cut one, and stop at its seed."""
    policy = policy_of("llama", LLAMA)
    engine, push = start(policy, SETTINGS.model_copy(update={"max_concurrent": 128}))
    push(policy.model, 1)
    requests = [SampleRequest((70 + i, *range(65, 124)), (i,)) for i in range(100)]
    sampling = Sampling(temperature=0.7, max_new_tokens=4)
    together, apart = (logprobs(engine, part, sampling) for part in (requests, requests[60:70]))
    engine.close()
    assert len(together) == 100
    assert [c.token_ids for c in together[60:70]] == [c.token_ids for c in apart]


def test_greedy_tokens_and_probabilities_are_those_of_transformers(llama: tuple[Policy, VllmEngine]) -> None:
    policy, engine = llama
    fresh_push(policy, engine)
    greedy = Sampling(temperature=0.0, max_new_tokens=24)
    ours = TransformersEngine(policy.model, policy.tokenizer, 8, "fp32")
    for theirs, mine in zip(logprobs(engine, REQUESTS, greedy), logprobs(ours, REQUESTS, greedy), strict=True):
        assert (theirs.token_ids, theirs.text, theirs.finish) == (mine.token_ids, mine.text, mine.finish)
        assert theirs.sampler_logprobs == pytest.approx(mine.sampler_logprobs, abs=1e-4)


def test_completions_end_where_transformers_ends_them(llama: tuple[Policy, VllmEngine]) -> None:
    """Every byte is a token: a stop text of two bytes is met often enough, and any byte can be an end token."""
    policy, engine = llama
    fresh_push(policy, engine)
    greedy = Sampling(temperature=0.0, max_new_tokens=24)
    free = TransformersEngine(policy.model, policy.tokenizer, 8, "fp32").generate(REQUESTS, greedy)[0][0]
    for stop in (free.text[5], free.text[9:11], "never"):
        sampling = replace(greedy, stop=(stop,))
        mine = TransformersEngine(policy.model, policy.tokenizer, 8, "fp32").generate(REQUESTS, sampling)
        theirs = engine.generate(REQUESTS, sampling)
        assert [(c.token_ids, c.text, c.finish) for g in theirs for c in g] == [
            (c.token_ids, c.text, c.finish) for g in mine for c in g
        ]


def test_starting_and_sampling_leave_threads_and_random_numbers_alone(policy_of: MakePolicy) -> None:
    policy = policy_of("llama", LLAMA)
    torch.manual_seed(5)
    before, threads, setter = torch.get_rng_state(), torch.get_num_threads(), torch.set_num_threads
    engine, push = start(policy)
    push(policy.model, 1)
    logprobs(engine)
    engine.close()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert torch.set_num_threads is setter


# --- pushes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("llama", LLAMA), ("deepseek_v3", DEEPSEEK), ("deepseek_v3", DEEPSEEK | SMALL_LATENTS)],
    ids=["tied", "experts and latents", "small latents"],
)
def test_weights_arrive(policy_of: MakePolicy, architecture: str, config: dict[str, Any]) -> None:
    policy = policy_of(architecture, config)
    engine, push = start(policy)
    for version in range(3):
        figures = push(policy.model, version)
        assert figures["check/gap_max"] < 1e-4
        theirs = [p for n, p in engine._llm.collective_rpc("get_model")[0].named_parameters() if BIAS in n]
        ours = bias_buffers(policy.model)
        assert len(theirs) == len(ours) == (architecture == "deepseek_v3")
        assert all(torch.equal(*pair) for pair in zip(theirs, ours, strict=True))
        move(policy.model, version)
    engine.close()


def test_an_upcycled_model_is_sampled_before_and_after_its_experts_learn(policy_of: MakePolicy, tmp_path: Path) -> None:
    dense = policy_of("llama", LLAMA)
    upcycle(dense.path, tmp_path / "out", Upcycling(experts=4, top_k=2, granularity=2))
    policy = load_policy(ModelSettings(path="-"), str(tmp_path / "out"))
    engine, push = start(policy)
    for version in range(3):
        assert push(policy.model, version)["check/gap_max"] < 1e-4
        move(policy.model, version)
    engine.close()


def test_lora_is_pushed_as_a_merged_copy(policy_of: MakePolicy) -> None:
    policy = policy_of("deepseek_v3", DEEPSEEK, LoraSettings(rank=4))
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items() if "lora" not in name}
    torch.manual_seed(0)
    engine, push = start(policy)
    for version in range(2):
        assert push(policy.model, version)["check/gap_max"] < 1e-4
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    assert push(policy.model, 2)["check/gap_max"] < 1e-4
    engine.close()
    assert all(torch.equal(policy.model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("how", ["adapter", "merged"])
def test_lora_of_a_dense_model_is_pushed_as_an_adapter_or_merged(policy_of: MakePolicy, how: str) -> None:
    policy = policy_of("llama", LLAMA, LoraSettings(rank=4))
    settings = RolloutSettings.model_validate({"engine": "vllm", "max_new_tokens": 24, "vllm": {"lora": how}})
    engine, push = start(policy, settings)
    for version in range(3):
        assert push(policy.model, version)["check/gap_max"] < 1e-4
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1 * (version + 1))
    assert {c.weight_version for c in logprobs(engine)} == {2}
    engine.close()


def test_bfloat16_rollouts_are_within_their_tolerance(policy_of: MakePolicy) -> None:
    policy = policy_of("llama", LLAMA | {"initializer_range": 0.05})
    settings = RolloutSettings(engine="vllm", max_new_tokens=24, vllm={"dtype": "bfloat16"})  # type: ignore[arg-type]
    engine, push = start(policy, settings)
    figures = push(policy.model, 1)
    engine.close()
    assert 0 < figures["check/gap_mean"] < 0.25


# --- each fix, broken on purpose --------------------------------------------------------------------------------------


def refused(push: WeightPush, model: nn.Module, version: int = 2) -> str:
    with pytest.raises(TrainingFailure, match=f"weights of version {version}: engine 1 of 1") as failure:
        push(model, version)
    return str(failure.value)


def test_an_engine_that_took_no_weights_is_found(
    llama: tuple[Policy, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine = llama
    push = fresh_push(policy, engine)
    move(policy.model, 1)
    monkeypatch.setattr(grpo.rollout.vllm_worker.PolicyWeights, "load_policy", lambda self, weights: None)
    assert "did not take the weights" in refused(push, policy.model)


def test_an_output_layer_that_is_not_tied_again_is_found(
    llama: tuple[Policy, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine = llama
    push = fresh_push(policy, engine)
    move(policy.model, 2)
    monkeypatch.setattr(grpo.rollout.vllm_worker, "tie_again", lambda model: None)
    assert "packed wrongly" in refused(push, policy.model)


def test_a_prefix_cache_that_was_not_reset_is_found(
    llama: tuple[Policy, VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine = llama
    push = fresh_push(policy, engine)
    move(policy.model, 3)
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: None)
    assert "prefix cache" in refused(push, policy.model)


def test_experts_that_were_not_packed_anew_are_found(policy_of: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("deepseek_v3", DEEPSEEK)
    engine, push = start(policy)
    push(policy.model, 1)
    move(policy.model, 4)
    monkeypatch.setattr(grpo.rollout.vllm_worker, "forget_expert_kernels", lambda model: None)
    message = refused(push, policy.model)
    engine.close()
    assert "experts" in message


def test_a_wrong_rotary_embedding_is_found_before_training(
    policy_of: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = replace(grpo.families.FAMILIES["deepseek_v3"], engine_options=grpo.families.no_engine_options)
    monkeypatch.setitem(grpo.families.FAMILIES, "deepseek_v3", family)
    policy = policy_of("deepseek_v3", DEEPSEEK)
    engine, push = start(policy)
    refused(push, policy.model, version=0)
    engine.close()


def test_a_router_that_scores_otherwise_is_found_before_training(
    policy_of: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `scoring_func` in its config, vLLM routes by softmax and says nothing."""
    policy = policy_of("deepseek_v3", DEEPSEEK)
    move(policy.model, 5)
    keys = {"topk_method": "noaux_tc"}
    family = replace(grpo.families.FAMILIES["deepseek_v3"], config_keys=keys)
    monkeypatch.setitem(grpo.families.FAMILIES, "deepseek_v3", family)
    config = Path(policy.path) / "config.json"
    config.write_text(config.read_text().replace('"scoring_func": "sigmoid",', ""))
    assert "scoring_func" not in config.read_text()
    engine, push = start(policy)
    refused(push, policy.model, version=0)
    engine.close()


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_heads_that_vllm_has_no_kernel_for_are_said(policy_of: MakePolicy) -> None:
    policy = policy_of("deepseek_v3", DEEPSEEK | SMALL_LATENTS | {"qk_nope_head_dim": 24})
    with pytest.raises(UserError, match=r"qk_nope_head_dim \+ qk_rope_head_dim one of 32, 64, .* got 40"):
        start(policy)


def test_a_model_that_vllm_refuses_is_one_sentence(policy_of: MakePolicy) -> None:
    policy = policy_of("llama", LLAMA)
    settings = RolloutSettings(engine="vllm", vllm={"kv_cache_gb": 1e-6})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"vLLM cannot serve this model here: .*: change rollout\.vllm, or set engine"):
        start(policy, settings)


# --- a GPU that engine and learner share ------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_update_on_the_learners_gpu_is_handed_over_as_it_is(policy_of: MakePolicy) -> None:
    policy = policy_of("llama", LLAMA)
    policy.model.to("cuda")
    engine, push = start(policy, RolloutSettings.model_validate({"engine": "vllm", "vllm": {"memory_share": 0.2}}))
    greedy = Sampling(temperature=0.0, max_new_tokens=24)
    for version in (1, 2):
        assert push(policy.model, version)["check/gap_max"] < 1e-3
        ours = TransformersEngine(policy.model, policy.tokenizer, 8, "fp32")
        for theirs, mine in zip(logprobs(engine, REQUESTS, greedy), logprobs(ours, REQUESTS, greedy), strict=True):
            assert theirs.sampler_logprobs == pytest.approx(mine.sampler_logprobs, abs=1e-3)
        move(policy.model, version)
    engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("level", [1, 2])
def test_an_engine_at_rest_gives_its_memory_back_and_wakes_with_the_weights(policy_of: MakePolicy, level: int) -> None:
    policy = policy_of("llama", LLAMA)
    policy.model.to("cuda")
    vllm = {"memory_share": 0.2, "sleep_level": level}
    engine, push = start(policy, RolloutSettings.model_validate({"engine": "vllm", "vllm": vllm}))
    push(policy.model, 1)
    free_awake, _ = torch.cuda.mem_get_info()
    engine.rest()
    free_asleep, total = torch.cuda.mem_get_info()
    assert free_asleep - free_awake > 0.1 * total
    move(policy.model, 1)
    assert push(policy.model, 2)["check/gap_max"] < 1e-3
    engine.close()
