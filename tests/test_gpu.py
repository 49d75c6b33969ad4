"""A GPU computes what a CPU does: models, steps, precision, sampling, and a whole run that is killed and goes on."""

import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from grpo.batch import Trajectory, micro_batches, pack
from grpo.checkpoint import restore_rng, rng_state
from grpo.experts.load import balance_of
from grpo.forward import packs, prepare_packing, target_logprobs, target_scores
from grpo.grpo_stage import GrpoStage
from grpo.kernels import fp8_blocks, fp8_linear, head_logprobs
from grpo.kernels.elementwise import gated_silu, rms_norm
from grpo.kernels.head_logprobs import LogitRules, head_scores
from grpo.kernels.layout import Layout
from grpo.kernels.logprobs import token_logprobs_and_entropy
from grpo.kernels.packed_attention import masked_attention
from grpo.learner import Learner, train_step
from grpo.losses import make_loss
from grpo.mtp import add_predictor
from grpo.mtp_settings import SpeculativeSettings
from grpo.objective import PolicyGradient
from grpo.policy import Policy, make_reference
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.types import TokenSequence

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MakeModel = Callable[..., Any]
SEQUENCES = [
    TokenSequence((7, 8, 9), (20, 21)),
    TokenSequence((7, 8, 9), (30, 21, 4, 4, 6)),
    TokenSequence((7, 8, 9), (5,)),
    TokenSequence((3,), (4, 5, 6, 7)),
    TokenSequence((1, 2), (3,) * 70),
    TokenSequence((1, 2), (3, 4) * 33),
]
TOKENS = sum(len(s.target_ids) for s in SEQUENCES)
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "qwen3_moe", "deepseek_v2", "deepseek_v3"]


@pytest.fixture(autouse=True)
def of_the_gpu() -> Iterator[None]:
    """accelerate keeps its device for the whole process, and other tests ask for a CPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten().double().cpu() for tensor in tensors])


def gap(one: Any, other: Any) -> float:
    """Relative to the norm; NaN is no number that is small."""
    ours, theirs = flat(one), flat(other)
    return ((ours - theirs).norm() / theirs.norm()).item()


# --- models -----------------------------------------------------------------------------------------------------------


def own_logprobs(model: Any) -> Tensor:
    """By the model's own eager attention, one sequence at a time."""
    rows = []
    for s in SEQUENCES:
        ids = torch.tensor([[*s.prompt_ids, *s.target_ids]], device=model.device)
        logits_LV = model(input_ids=ids).logits[0, len(s.prompt_ids) - 1 : -1] / 0.7
        rows.append(logits_LV.log_softmax(-1).gather(1, ids[0, len(s.prompt_ids) :, None])[:, 0])
    return torch.cat(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_packing_changes_no_loss_and_no_gradient(family: str, tiny_model: MakeModel, byte_tokenizer: Any) -> None:
    model = tiny_model(family, attn_implementation="eager").cuda()
    weights = torch.rand(TOKENS, generator=torch.Generator().manual_seed(0)).cuda()
    parameters = list(model.parameters())
    expected = (weights * own_logprobs(model)).sum()
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
    assert prepare_packing(model, byte_tokenizer) == []
    assert packs(model)
    for order in (SEQUENCES, random.Random(0).sample(SEQUENCES, len(SEQUENCES))):
        places = [SEQUENCES.index(s) for s in order]
        own = torch.split(weights, [len(s.target_ids) for s in SEQUENCES])
        scores = target_scores(model, pack(order, model.device), 0.7)
        loss = (torch.cat([own[i] for i in places]) * scores.logprobs_N).sum()
        ours = torch.autograd.grad(loss, parameters, allow_unused=True)
        assert gap([loss], [expected]) <= 1e-5
        both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        assert len(both) == sum(b is not None for b in theirs)
        assert gap(*zip(*both, strict=True)) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "qwen3_moe", "deepseek_v3"])
def test_half_precision_is_near(family: str, tiny_model: MakeModel, byte_tokenizer: Any) -> None:
    """Norms of queries leave float32 behind under autocast, projections bfloat16; attention takes both."""
    model = tiny_model(family).cuda()
    prepare_packing(model, byte_tokenizer)
    exact = target_logprobs(model, pack(SEQUENCES, model.device))
    with torch.autocast("cuda", torch.bfloat16):
        rounded = target_logprobs(model, pack(SEQUENCES, model.device))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.15


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rules", [LogitRules(), LogitRules(softcap=3.0, temperature=1.5)], ids=str)
def test_scores_of_a_head(kind: torch.dtype, rules: LogitRules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_logprobs, "GPU_TILE", 1 << 16)  # several tiles, and a ragged one
    given = [torch.randn(shape, device="cuda").to(kind) for shape in ((137, 64), (5003, 64))]
    targets = torch.randint(5003, (137,), device="cuda")
    weights = torch.rand(2, 137, device="cuda")
    hidden, weight = (t.clone().requires_grad_() for t in given)
    got = head_scores(hidden, weight, None, targets, rules)
    ours = torch.autograd.grad((weights[0] * got.logprobs_N + weights[1] * got.entropy_N).sum(), (hidden, weight))
    exact = [t.double().requires_grad_() for t in given]
    logprobs, entropy = token_logprobs_and_entropy(rules(exact[0] @ exact[1].T), targets)
    theirs = torch.autograd.grad((weights[0] * logprobs + weights[1] * entropy).sum(), exact)
    limit = 1e-5 if kind == torch.float32 else 2e-2
    for one, other in ((got.logprobs_N, logprobs), (got.entropy_N, entropy), *zip(ours, theirs, strict=True)):
        assert gap([one], [other]) < limit


def test_a_whole_vocabulary_needs_the_memory_of_a_tile() -> None:
    """150k tokens of vocabulary and 4096 of text: whole logits would be 2.4 GB, several times over."""
    hidden, weight = (torch.randn(n, 64, device="cuda").requires_grad_() for n in (4096, 150_000))
    targets = torch.randint(150_000, (4096,), device="cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    head_scores(hidden, weight, None, targets, LogitRules()).logprobs_N.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 512 * 2**20


def test_elementwise_functions() -> None:
    x, weight, gate, up = (
        torch.randn(shape, device="cuda", requires_grad=True) for shape in ((9, 5, 65), 65, (9, 65), (9, 65))
    )
    exact = [t.detach().double().requires_grad_() for t in (x, weight, gate, up)]
    upstream = torch.randn(9, 5, 65, device="cuda"), torch.randn(9, 65, device="cuda")
    ours = (rms_norm(x, weight, 1e-6), gated_silu(gate, up))
    theirs = (nn.functional.rms_norm(exact[0], (65,), exact[1], 1e-6), nn.functional.silu(exact[2]) * exact[3])
    assert gap(ours, theirs) < 1e-6
    by_ours = torch.autograd.grad(ours, (x, weight, gate, up), upstream)
    by_theirs = torch.autograd.grad(theirs, exact, tuple(u.double() for u in upstream))
    assert gap(by_ours, by_theirs) < 1e-6


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="needs FP8 on a CUDA device"
)
@pytest.mark.parametrize("shape", [(1, 64, 32), (77, 130, 300), (512, 256, 384)])
def test_a_linear_layer_in_fp8_is_its_imitation(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only sums differ: an FP8 unit keeps 14 bits of them, and what is quantised of a sum goes with it."""
    tokens, inputs, outputs = shape
    given = [
        torch.randn(s, device="cuda", requires_grad=True) for s in ((tokens, inputs), (outputs, inputs), (outputs,))
    ]
    upstream = torch.randn(tokens, outputs, device="cuda")
    out = fp8_linear.fp8_linear(*given)
    ours = (out, *torch.autograd.grad(out, given, upstream))
    monkeypatch.setattr(fp8_linear, "_blocks_of", lambda _: fp8_blocks)
    out = fp8_linear.fp8_linear(*given)
    theirs = (out, *torch.autograd.grad(out, given, upstream))
    plain = nn.functional.linear(*given)
    for one, other in zip(ours, theirs, strict=True):
        assert gap([one], [other]) < 1e-3
    assert 1e-3 < gap([ours[0]], [plain]) < 0.1


# --- steps ------------------------------------------------------------------------------------------------------------


def trajectories() -> list[Trajectory]:
    draw = random.Random(0)
    return [
        Trajectory(s, *[tuple(draw.uniform(-5, -1) for _ in s.target_ids)] * 2, draw.uniform(-1, 1), 1 / TOKENS)
        for s in SEQUENCES
    ]


def step(family: str, make: MakeModel, tokenizer: Any, device: str, budget: int = 10_000, **values: Any) -> Any:
    """The figures, gradient and weights of one update."""
    basis = {"kind": "grpo", "lr": 0.1, "steps": 4, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}]}
    smooth = {"adam_epsilon": 1.0, "max_grad_norm": 1e6, "kl": {"beta": 0.1}, "entropy": {"bonus": 0.05}}
    stage = GrpoStage.model_validate(basis | smooth | values)
    model = make(family).to(device)
    prepare_packing(model, tokenizer)
    reference = make_reference(Policy(model, tokenizer, ""))
    AcceleratorState._reset_state(reset_partial_state=True)
    learner = Learner(model, stage, 4, Accelerator(cpu=device == "cpu"))
    assert learner.accelerator.device.type == device
    batches = micro_batches(trajectories(), budget, learner.accelerator.device)
    balance = balance_of(learner, [batch.tokens for batch in batches])
    objective = PolicyGradient(make_loss(stage.loss), 1.0, stage.kl, reference, 0.05, balance=balance)
    figures = train_step(learner, batches, objective, 0).figures()
    return figures, flat(p.grad for p in model.parameters()), flat(model.state_dict().values())


BALANCE = {"bias_update_rate": 0.01, "sequence_balance_loss": 0.5, "auxiliary_loss": 0.3}


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe", "deepseek_v3"])
def test_a_step_is_that_of_a_cpu_however_it_is_split(family: str, tiny_model: MakeModel, byte_tokenizer: Any) -> None:
    values = {"experts": BALANCE} if family == "deepseek_v3" else {}
    expected = step(family, tiny_model, byte_tokenizer, "cpu", **values)
    for budget in (60, 10_000):
        got = step(family, tiny_model, byte_tokenizer, "cuda", budget, **values)
        assert gap([got[1]], [expected[1]]) < 1e-5
        assert gap([got[2]], [expected[2]]) < 1e-6
        for name in ("loss", "grad_norm", "kl", "entropy", "sampler/mismatch_mean"):
            assert got[0][name] == pytest.approx(expected[0][name], rel=1e-4, abs=1e-6), name


HOW: list[dict[str, Any]] = [
    {},
    {"precision": "bf16"},
    {"loss": {"kind": "gspo"}},
    {"correction": {"kind": "sequence_truncate"}},
    {"experts": {"sequence_balance_loss": 0.5}},
]


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_step_gives_the_same_bits_every_time(
    family: str, how: dict[str, Any], tiny_model: MakeModel, byte_tokenizer: Any
) -> None:
    if "experts" in how and family == "llama":
        pytest.skip("no experts")
    first, second = (step(family, tiny_model, byte_tokenizer, "cuda", 60, **how) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])


@pytest.mark.parametrize("activations", ["recompute", "offload"])
@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_recomputed_and_offloaded_activations(
    family: str, activations: str, tiny_model: MakeModel, byte_tokenizer: Any
) -> None:
    expected = step(family, tiny_model, byte_tokenizer, "cuda")
    got = step(family, tiny_model, byte_tokenizer, "cuda", activations=activations)
    assert gap([got[1]], [expected[1]]) < 1e-6


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.5), ("fp8_block", 1.0)])
@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_a_step_in_less_precision(
    family: str, precision: str, limit: float, tiny_model: MakeModel, byte_tokenizer: Any
) -> None:
    """Of a model with weights ten times larger than usual; gradients that have nothing in common are 1.4 apart."""
    expected = step(family, tiny_model, byte_tokenizer, "cuda")
    got = step(family, tiny_model, byte_tokenizer, "cuda", precision=precision)
    assert 1e-4 < gap([got[1]], [expected[1]]) < limit
    assert got[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.2)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_moments_in_8_bits(tiny_model: MakeModel, byte_tokenizer: Any) -> None:
    expected = step("llama", tiny_model, byte_tokenizer, "cuda")
    got = step("llama", tiny_model, byte_tokenizer, "cuda", optimizer="adamw_8bit")
    assert gap([got[2]], [expected[2]]) < 1e-3


def test_random_numbers_of_the_gpu_go_on_where_they_were() -> None:
    state = rng_state()
    first = torch.rand(3, device="cuda"), torch.rand(3)
    restore_rng(json.loads(json.dumps(state)))
    assert all(torch.equal(a, b) for a, b in zip(first, (torch.rand(3, device="cuda"), torch.rand(3)), strict=True))


# --- sampling ---------------------------------------------------------------------------------------------------------

REQUESTS = [SampleRequest(prompt, tuple(range(4))) for prompt in ((72, 105), (1, 2, 3, 4, 5, 6, 7), (50,))]


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "deepseek_v3"])
def test_the_samplers_probabilities_are_the_learners(
    family: str, drafts: bool, tiny_model: MakeModel, byte_tokenizer: Any
) -> None:
    if drafts and family == "gemma2":
        pytest.skip("sliding windows take back no drafts")
    model = tiny_model(family)
    if drafts:
        add_predictor(model, 0)
    model.cuda()
    prepare_packing(model, byte_tokenizer)
    settings = SpeculativeSettings() if drafts else None
    engine = TransformersEngine(model, byte_tokenizer, 64, "fp32", speculative=settings)
    groups = engine.generate(REQUESTS, Sampling(1.0, 24))
    sequences = [TokenSequence(r.prompt_ids, c.token_ids) for r, g in zip(REQUESTS, groups, strict=True) for c in g]
    with torch.no_grad():
        own = target_logprobs(model, pack(sequences, model.device)).cpu()
    torch.testing.assert_close(
        torch.tensor([x for g in groups for c in g for x in c.sampler_logprobs]), own, atol=1e-4, rtol=0
    )
    again = engine.generate(REQUESTS, Sampling(1.0, 24))
    assert again == groups


def test_the_reference_mask_holds_in_double_precision() -> None:
    layout = Layout.of_groups(pack(SEQUENCES, torch.device("cuda")).groups, torch.device("cuda"))
    query = torch.randn(1, 2, layout.tokens, 8, device="cuda", dtype=torch.float64)
    from grpo.kernels.packed_attention import packed_attention
    from grpo.kernels.plain_attention import Rules

    out, _ = packed_attention(nn.Module(), query, query, query, None, packing=layout, scaling=0.3)
    assert torch.equal(out, masked_attention(query, query, query, layout, Rules(0.3)))


# --- a whole run ------------------------------------------------------------------------------------------------------

STAGES: list[dict[str, Any]] = [
    {"kind": "sft", "steps": 3, "examples_per_step": 8, "lr": 3e-3, "checkpoint_every": 2, "precision": "bf16"},
    {
        "kind": "grpo", "steps": 6, "prompts_per_step": 4, "completions_per_prompt": 4, "minibatches_per_step": 2,
        "lr": 1e-3, "checkpoint_every": 3, "rollout": {"max_new_tokens": 24}, "kl": {"refresh_reference_every": 4},
        "evaluation": {"every": 4, "problems": 4},
        "experts": {"bias_update_rate": 1e-3, "routing_replay": "sampler"},
    },
    {"kind": "evaluate", "limit": 4, "samples": 2, "k": [1, 2], "max_new_tokens": 24},
]  # fmt: skip
REWARDS = [{"name": "accuracy"}, {"name": "format", "weight": 0.5}]


def command(recipe: Path) -> list[str]:
    return [sys.executable, "-m", "grpo.cli", str(recipe)]


def run(recipe: Path) -> tuple[bytes, list[dict[str, Any]], list[str]]:
    """The model's bytes, the figures that may not change, and the samples."""
    done = subprocess.run(command(recipe), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = recipe.parent / "runs" / recipe.stem / "02-grpo"
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    changing = ("time", "memory/", "tokens/rollout_per_s", "tokens/learn_per_s")
    figures = [{name: value for name, value in row.items() if not name.startswith(changing)} for row in rows]
    return (
        (folder / "model" / "model.safetensors").read_bytes(),
        figures,
        (folder / "samples.jsonl").read_text().splitlines(),
    )


@pytest.mark.slow
def test_a_run_uses_the_gpu_and_a_killed_one_ends_as_an_uninterrupted_one(write_recipe: Callable[..., Path]) -> None:
    expected = run(write_recipe("uninterrupted", stages=STAGES, rewards=REWARDS))
    recipe = write_recipe("killed", stages=STAGES, rewards=REWARDS)
    folder = recipe.parent / "runs" / "killed" / "02-grpo"
    process = subprocess.Popen(command(recipe), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "rollouts" / "step-000005.jsonl.gz").exists():
        time.sleep(0.0005)
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    model, figures, samples = run(recipe)
    assert figures == expected[1]
    assert samples == expected[2]
    assert model == expected[0]
    said = json.loads((recipe.parent / "runs" / "killed" / "environment.json").read_text())
    assert said["hardware"]["gpus"] == [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    peak = [
        row["memory/peak_mb"]
        for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "memory/peak_mb" in row
    ]
    assert 0 < max(peak) < 2000  # of the GPU, not of the process
