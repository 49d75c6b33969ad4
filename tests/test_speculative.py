import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn

from grpo.cli import train
from grpo.engine_settings import RolloutSettings
from grpo.mtp import add_predictor, predicting_decoder, predictor_input, predictor_of
from grpo.mtp_settings import SpeculativeSettings
from grpo.rollout.collect import rollout_figures
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.rejection import accepted, corrected
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.types import Completion, Drafts, Group, Problem, UserError

PROMPTS = [(72, 105), (1, 2, 3, 4, 5, 6, 7, 8, 9), (50,), (11, 12, 13, 14), (72, 105)]
REQUESTS = [SampleRequest(prompt, tuple(range(10 * i, 10 * i + 4))) for i, prompt in enumerate(PROMPTS)]
ALWAYS = SpeculativeSettings(min_acceptance=0.0)
PROBLEM = Problem("p", "", {})
VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]


@pytest.fixture
def model_of(tiny_model):
    def make(family: str, seed: int = 0, **config):
        model = tiny_model(family, seed, **config)
        add_predictor(model, seed=1)
        return model

    return make


@pytest.fixture
def engine_of(byte_tokenizer):
    def make(model, max_concurrent=64, speculative=ALWAYS, precision="fp32", **options):
        return TransformersEngine(model, byte_tokenizer, max_concurrent, precision, speculative=speculative, **options)

    return make


def plain_logits(model: nn.Module, prompt: tuple[int, ...], completion: Completion) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion.token_ids]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 : -1].float()


def tokens(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in groups]


def pairs(groups):
    return [(prompt, completion) for prompt, group in zip(PROMPTS, groups, strict=True) for completion in group]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("family", ["deepseek_v3", "llama", "qwen3_moe"])
def test_logprobs_are_the_policys_own(model_of, engine_of, family, temperature) -> None:
    model = model_of(family)
    groups = engine_of(model, eos_ids=range(0, 264, 16)).generate(REQUESTS, Sampling(temperature, 16))
    for prompt, completion in pairs(groups):
        logprobs = torch.log_softmax(plain_logits(model, prompt, completion) / temperature, -1)
        chosen = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), chosen, atol=1e-4, rtol=0)
    assert len({len(completion.token_ids) for _, completion in pairs(groups)}) > 3


@pytest.mark.parametrize("family", ["deepseek_v3", "llama"])
def test_greedy_text_is_that_of_plain_decoding(model_of, engine_of, family) -> None:
    model = model_of(family)
    greedy = Sampling(0.0, 24)
    plain = engine_of(model, speculative=None).generate(REQUESTS, greedy)
    for settings in (ALWAYS, SpeculativeSettings(min_acceptance=0.9, patience=2)):
        assert tokens(engine_of(model, speculative=settings).generate(REQUESTS, greedy)) == tokens(plain)


@pytest.mark.parametrize("settings", [ALWAYS, SpeculativeSettings(min_acceptance=0.3, patience=4)])
def test_a_completion_depends_on_its_seed_and_not_on_its_neighbours(model_of, engine_of, settings) -> None:
    model, sampling = model_of("deepseek_v3", initializer_range=0.1), Sampling(1.0, 10, top_p=0.9)
    requests = [SampleRequest(request.prompt_ids, request.seeds[:2]) for request in REQUESTS]
    together = tokens(engine_of(model, speculative=settings).generate(requests, sampling))
    assert tokens(engine_of(model, 3, settings).generate(requests, sampling)) == together
    assert tokens(engine_of(model, speculative=settings).generate(requests[::-1], sampling)) == together[::-1]
    alone = [SampleRequest(request.prompt_ids, (seed,)) for request in requests[:3] for seed in request.seeds]
    apart = tokens(engine_of(model, 1, settings).generate(alone, sampling))
    assert [group[0] for group in apart] == list(chain(*together[:3]))


def test_a_shorter_limit_gives_the_beginning(model_of, engine_of) -> None:
    engine = engine_of(model_of("llama"))
    long, short = (tokens(engine.generate(REQUESTS, Sampling(1.0, limit))) for limit in (12, 5))
    assert [[ids[:5] for ids in group] for group in long] == short


def exact_probabilities(model, prompt: tuple[int, ...], length: int, sampling: Sampling) -> torch.Tensor:
    """The probability of every sequence of `length` tokens, by plain forward passes."""
    vocabulary = model.config.vocab_size
    sequences = torch.cartesian_prod(*[torch.arange(vocabulary)] * length)
    ids = torch.cat([torch.tensor([prompt]).expand(len(sequences), -1), sequences], 1)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1].double()
    probabilities = (logits / sampling.temperature).softmax(-1)
    ordered, order = probabilities.sort(-1, descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < sampling.top_p)
    nucleus = torch.zeros_like(probabilities).scatter(-1, order, kept / kept.sum(-1, keepdim=True))
    return nucleus.gather(-1, sequences[..., None])[..., 0].prod(-1)


@pytest.mark.parametrize(
    ("sampling", "settings"),
    [
        (Sampling(1.0, 4), ALWAYS),
        (Sampling(0.7, 4, top_p=0.8), ALWAYS),
        (Sampling(1.0, 4), SpeculativeSettings(min_acceptance=0.5, patience=1)),
    ],
    ids=["plain", "nucleus", "falling back"],
)
def test_completions_follow_the_policys_distribution(model_of, engine_of, sampling, settings) -> None:
    """Chi-square over all sequences of 4 tokens; drafts are kept and rejected alike."""
    model = model_of("deepseek_v3", vocab_size=5, eos_token_id=None)
    request, draws = SampleRequest((1, 2, 3), tuple(range(4000))), 4000
    [group] = engine_of(model, 2000, settings, eos_ids=()).generate([request], sampling)
    expected = draws * exact_probabilities(model, request.prompt_ids, 4, sampling)
    place = torch.tensor([completion.token_ids for completion in group]) @ 5 ** torch.arange(3, -1, -1)
    counts = torch.bincount(place, minlength=len(expected)).double()
    assert counts[expected == 0].sum() == 0
    common = expected >= 5  # the law needs some five expected draws a cell: the others are one cell
    seen = torch.cat([counts[common], counts[~common].sum()[None]])
    due = torch.cat([expected[common], expected[~common].sum()[None]])
    seen, due = seen[due > 0], due[due > 0]
    degrees = len(due) - 1
    statistic = ((seen - due) ** 2 / due).sum().item()
    # The 99.9 % quantile by Wilson and Hilferty's approximation.
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    drafted, kept = (sum(getattr(c.drafts, name) for c in group) for name in ("drafted", "accepted"))
    assert 0.1 < kept / drafted < 0.9


@pytest.fixture
def spelling_model(model_of):
    """A policy that always says the next token of a cycle, and a predictor that knows the cycle too."""

    def make(cycle: list[int]):
        model = model_of("llama", tie_word_embeddings=False)
        width = model.config.hidden_size
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.fill_(1.0) if "norm" in name else weight.zero_()
            for place, id in enumerate(cycle):
                model.model.embed_tokens.weight[id, place] = 1.0
                model.lm_head.weight[cycle[(place + 1) % len(cycle)], place] = 30.0
            predictor_of(model).eh_proj.weight[:, :width] = torch.eye(width)
        return model

    return make


def test_a_perfect_predictor_halves_the_passes(spelling_model, engine_of, byte_tokenizer) -> None:
    cycle = byte_tokenizer.encode("<think>a→b</think>!")
    engine, request = engine_of(spelling_model(cycle)), SampleRequest((cycle[-1],), (0,))
    [[completion]] = engine.generate([request], Sampling(1.0, 9))
    assert completion.token_ids == tuple(cycle[place % len(cycle)] for place in range(9))
    assert completion.drafts == (4, 4, 4)  # one token from the prompt, then two a pass


@pytest.mark.parametrize("stop", ["→b", "a→", "b</think>"])
def test_a_completion_ends_at_its_stop_string_in_either_token_of_a_pass(
    spelling_model, engine_of, byte_tokenizer, stop
) -> None:
    cycle = byte_tokenizer.encode("<think>a→b</think>!")
    request = SampleRequest((cycle[-1],), (0,))
    sampled = [
        engine_of(spelling_model(cycle), speculative=settings).generate([request], Sampling(1.0, 30, stop=(stop,)))
        for settings in (ALWAYS, None)
    ]
    assert tokens(sampled[0]) == tokens(sampled[1])
    assert (sampled[0][0][0].text[-len(stop) :], sampled[0][0][0].finish) == (stop, "stop")


def test_an_eos_ends_a_completion_and_the_limit_cuts_it(model_of, engine_of) -> None:
    groups = engine_of(model_of("llama"), eos_ids=range(0, 264, 4)).generate(REQUESTS, Sampling(1.0, 6))
    for completion in chain(*groups):
        assert all(id % 4 for id in completion.token_ids[:-1])
        assert (completion.finish == "stop") == (completion.token_ids[-1] % 4 == 0)
        assert completion.finish == "stop" or len(completion.token_ids) == 6
    assert {completion.finish for completion in chain(*groups)} == {"stop", "length"}


def test_what_a_broken_predictor_says_changes_no_probability(model_of, engine_of) -> None:
    model = model_of("llama")
    with torch.no_grad():
        predictor_of(model).eh_proj.weight.fill_(torch.nan)
    for prompt, completion in pairs(engine_of(model).generate(REQUESTS, Sampling(1.0, 8))):
        chosen = torch.log_softmax(plain_logits(model, prompt, completion), -1)
        chosen = chosen.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), chosen, atol=1e-4, rtol=0)


def test_a_completion_with_poor_drafts_goes_on_without(model_of, engine_of) -> None:
    settings = SpeculativeSettings(min_acceptance=0.9, patience=3)
    groups = engine_of(model_of("llama"), speculative=settings, eos_ids=()).generate(REQUESTS, Sampling(1.0, 20))
    for completion in chain(*groups):
        passes, drafted, accepted = completion.drafts
        assert passes + accepted in (19, 20)  # the limit may cut off a token that a right draft has given
        assert drafted < passes
    figures = rollout_figures([Group(PROBLEM, (1,), tuple(group)) for group in groups], 1.0)
    assert figures["speculative/fallbacks"] == 1.0


def test_figures_of_drafts() -> None:
    """100 passes of which 85 had their draft right gave 185 tokens, and the prompt one: 1 + p tokens a pass."""
    vector = VECTORS["mtp.speculative_speedup"]
    for p, expected in zip(vector["inputs"]["p"], vector["expected"]["tokens_per_step"], strict=True):
        right = round(100 * p)
        drafts = Drafts(passes=100, drafted=100, accepted=right)
        completion = Completion("", (1,) * (101 + right), (0.0,) * (101 + right), "length", 0, drafts=drafts)
        figures = rollout_figures([Group(PROBLEM, (1,), (completion,))], 1.0)
        assert figures["speculative/acceptance"] == p
        assert figures["speculative/tokens_per_pass"] == pytest.approx(expected)
        assert figures["speculative/fallbacks"] == 0.0


def test_a_policy_that_cannot_draft_is_said(tiny_model, model_of, engine_of) -> None:
    with pytest.raises(UserError, match="no layer of multi-token prediction to draft with"):
        engine_of(tiny_model("llama"))
    with pytest.raises(UserError, match="MistralForCausalLM keeps windows or states"):
        engine_of(model_of("mistral"))


def test_one_word_turns_it_on_and_vllm_is_refused() -> None:
    assert RolloutSettings.model_validate({"speculative": True}).speculative == SpeculativeSettings()
    assert RolloutSettings.model_validate({"speculative": False}).speculative is None
    with pytest.raises(ValueError, match="speculative belongs to engine transformers"):
        RolloutSettings.model_validate({"speculative": True, "engine": "vllm"})


def test_rejection_by_hand() -> None:
    """p = (0.5, 0.5, 0), q = (0.25, 0.25, 0.5): token 2 is never kept, and what p lacks is drawn in its place."""
    target, draft = torch.tensor([[2, 2, 0]] * 4), torch.tensor([[1, 1, 2]] * 4)
    token, uniform = torch.tensor([0, 1, 2, 2]), torch.tensor([0.999, 0.999, 0.0, 0.3], dtype=torch.float64)
    assert accepted(target, draft, token, uniform).tolist() == [True, True, False, False]
    assert corrected(target[2:], draft[2:], torch.tensor([0.49, 0.51], dtype=torch.float64)).tolist() == [0, 1]
    # q = (0.8, 0.2), p = (0.4, 0.6): token 0 is kept half of the time, else it becomes token 1.
    target, draft = torch.tensor([[4, 6]] * 2), torch.tensor([[8, 2]] * 2)
    uniform = torch.tensor([0.49, 0.51], dtype=torch.float64)
    assert accepted(target, draft, torch.tensor([0, 0]), uniform).tolist() == [True, False]
    assert corrected(target, draft, uniform).tolist() == [1, 1]
    assert corrected(target, target, uniform).tolist() == [1, 1]  # nothing lacks: drawn from p itself


@pytest.mark.parametrize("family", ["deepseek_v3", "llama", "qwen2"])
def test_drafts_are_those_of_a_predictor_without_a_cache(model_of, engine_of, family) -> None:
    """What was drafted shows in what was right: exactness would hide a wrong cache, mask or position."""
    model = model_of(family, seed=1, vocab_size=6, eos_token_id=None)
    requests = [SampleRequest(tuple(id % 6 for id in prompt), (0,)) for prompt in PROMPTS]
    groups = engine_of(model, eos_ids=()).generate(requests, Sampling(0.0, 40))
    for request, [completion] in zip(requests, groups, strict=True):
        ids = torch.tensor([request.prompt_ids + completion.token_ids])
        with torch.no_grad():
            hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            given = predictor_input(model, hidden[:, :-1], ids[:, 1:])
            logits = model.get_output_embeddings()(predicting_decoder(model)(inputs_embeds=given, use_cache=False)[0])
        drafts = logits.argmax(-1)[0, len(request.prompt_ids) - 1 :].tolist()  # after the first token, the second, ...
        passes, right, written = 0, 0, 1
        while written < 40:
            kept = drafts[written - 1] == completion.token_ids[written]
            passes, right, written = passes + 1, right + kept, written + 1 + kept
        assert completion.drafts == (passes, passes, right)
    assert 0.1 < sum(c.drafts.accepted for [c] in groups) / sum(c.drafts.drafted for [c] in groups) < 0.9


@pytest.mark.parametrize("model", ["keep", "drop"])
def test_a_recipe_that_drafts_without_a_predictor_is_refused_before_it_runs(write_recipe, capsys, model) -> None:
    recipe = write_recipe()
    command = [str(recipe), f"--set=model.mtp={model}"]
    assert train([*command, "--set=stages.0.mtp={weight: 0.3}"]) == 2
    assert "stages[0].mtp needs a policy with a layer of multi-token prediction" in capsys.readouterr().err
    assert train([*command, "--set=stages.1.rollout.speculative=true"]) == 2
    assert "stages[1].rollout.speculative needs a policy" in capsys.readouterr().err
    assert train([*command, "--set=stages.2.speculative=true"]) == 2
    assert "stages[2].speculative needs a policy" in capsys.readouterr().err


def test_a_run_samples_with_drafts_and_counts_them(write_recipe) -> None:
    common = {"lr": 1e-3, "steps": 2}
    rollout = {"max_new_tokens": 8, "speculative": True}
    stages = [
        {"kind": "grpo", "prompts_per_step": 2, "completions_per_prompt": 4, "rollout": rollout, **common},
        {"kind": "evaluate", "limit": 4, "samples": 2, "k": [1], "max_new_tokens": 8, "speculative": True},
    ]
    rewards = [{"name": "length", "label": "accuracy", "options": {"target": 3, "buffer": 4}}]
    recipe = write_recipe(stages=stages, rewards=rewards)
    assert train([str(recipe), "--set=model.mtp=add"]) == 0
    for stage in ("01-grpo", "02-evaluate"):
        lines = (recipe.parent / "runs" / "tiny" / stage / "metrics.jsonl").read_text().splitlines()
        for row in map(json.loads, lines):
            assert 0 <= row["speculative/acceptance"] <= 1
            assert 1 <= row["speculative/tokens_per_pass"] <= 2
