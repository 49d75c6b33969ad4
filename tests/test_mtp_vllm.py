"""vLLM drafts with a predictor that was saved here: its own `mtp` reads the folder and is right as often as ours."""

import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from grpo.batch import pack
from grpo.engine_settings import RolloutSettings
from grpo.forward import prepare_packing
from grpo.learner import Learner, train_step
from grpo.model_settings import InitSettings
from grpo.mtp import add_predictor
from grpo.mtp_loss import MtpTerm
from grpo.mtp_settings import SpeculativeSettings
from grpo.objective import CrossEntropy
from grpo.policy import Policy, save_policy
from grpo.rollout.collect import draft_figures
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.rollout.vllm_engine import _undisturbed
from grpo.rollout.vllm_options import Load, vllm_options
from grpo.scratch import make_policy
from grpo.sft_stage import SftStage
from grpo.types import TokenSequence

if not os.environ.get("CI"):
    pytest.importorskip("vllm")

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 32,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
ORDER = random.Random(0).sample(range(65, 91), 26)
"""The alphabet in an order of its own, which the policy is taught to go on with."""
PROMPTS = [tuple((ORDER * 2)[start : start + 8]) for start in range(0, 26, 2)]
NEW = 32


def taught() -> Policy:
    """A policy and a predictor that know the order, more or less."""
    policy = make_policy(InitSettings(architecture="deepseek_v3", config=CONFIG), seed=0)
    add_predictor(policy.model, seed=1)  # type: ignore[arg-type]
    prepare_packing(policy.model, policy.tokenizer)
    problems = {"function": "grpo.tasks.arithmetic:sums"}
    stage = SftStage.model_validate({"kind": "sft", "steps": 30, "lr": 1e-2, "problems": problems})
    learner = Learner(policy.model, stage, 30, Accelerator(cpu=True))
    texts = [TokenSequence(prompt, tuple((ORDER * 3)[2 * i + 8 : 2 * i + 32])) for i, prompt in enumerate(PROMPTS)]
    objective = CrossEntropy(24 * len(texts), mtp=MtpTerm(0.3, detached=False))
    for step in range(30):
        train_step(learner, [pack(texts, torch.device("cpu"))], objective, step)
    policy.model.eval()
    return policy


@pytest.mark.slow
def test_vllm_drafts_with_the_saved_predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, folder, greedy = taught(), tmp_path / "model", Sampling(0.0, NEW)
    save_policy(policy, folder)
    engine = TransformersEngine(
        policy.model, policy.tokenizer, 64, "fp32", eos_ids=(), speculative=SpeculativeSettings(min_acceptance=0)
    )
    ours = [group[0] for group in engine.generate([SampleRequest(prompt, (0,)) for prompt in PROMPTS], greedy)]

    options = vllm_options(RolloutSettings(), str(folder), policy.model.config, "float32", Load(8 + NEW))
    for name, value in {**options.environment, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}.items():
        monkeypatch.setenv(name, value)
    with _undisturbed(), warnings.catch_warnings(action="ignore"):  # of vLLM's own use of torch
        from vllm import LLM, SamplingParams
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        drafts = {"method": "mtp", "num_speculative_tokens": 1}
        llm = LLM(**options.arguments, speculative_config=drafts, disable_log_stats=False)
        params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
        prompts = [{"prompt_token_ids": list(prompt)} for prompt in PROMPTS]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        counts = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
        llm.llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()
    assert [tuple(output.outputs[0].token_ids) for output in outputs] == [completion.token_ids for completion in ours]
    theirs = counts["vllm:spec_decode_num_accepted_tokens"] / counts["vllm:spec_decode_num_draft_tokens"]
    acceptance = draft_figures(ours)["speculative/acceptance"]
    assert acceptance > 0.5
    # vLLM leaves out the embedding of the first input, so a few drafts differ.
    assert abs(theirs - acceptance) < 0.1
