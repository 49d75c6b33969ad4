from functools import partial
from itertools import chain

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from grpo.batch import pack
from grpo.experts.observe import observe, routers_of
from grpo.forward import prepare_packing, target_logprobs
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.types import Completion, TokenSequence, TrainingFailure, UserError

EOS = 256
PROMPTS = [(72, 105), (1, 2, 3, 4, 5, 6, 7, 8, 9), (50,), (11, 12, 13, 14), (72, 105)]
REQUESTS = [SampleRequest(prompt, tuple(range(10 * i, 10 * i + 4))) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture
def engine_of(byte_tokenizer):
    def make(model, max_concurrent=64, precision="fp32", **options):
        return TransformersEngine(model, byte_tokenizer, max_concurrent, precision, **options)

    return make


def plain_logits(model: nn.Module, prompt: tuple[int, ...], completion: Completion) -> torch.Tensor:
    """Logits (T, V) of the completion's tokens from one unpadded forward pass without a cache."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion.token_ids]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 : -1].float()


def pairs(groups: list[list[Completion]]) -> list[tuple[tuple[int, ...], Completion]]:
    return [(prompt, completion) for prompt, group in zip(PROMPTS, groups, strict=True) for completion in group]


def tokens(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in groups]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "deepseek_v3", "gpt2", "qwen3_next"]
)
def test_sampler_logprobs_are_those_of_a_plain_forward(tiny_model, engine_of, family, temperature) -> None:
    model = tiny_model(family)
    groups = engine_of(model, eos_ids=range(0, 264, 16)).generate(REQUESTS, Sampling(temperature, 16))
    for prompt, completion in pairs(groups):
        logprobs = torch.log_softmax(plain_logits(model, prompt, completion) / temperature, -1)
        chosen = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), chosen, atol=1e-4, rtol=0)
    # The law is put to the test: rows of different lengths, that end at different times.
    assert len({len(completion.token_ids) for _, completion in pairs(groups)}) > 3


@pytest.fixture
def rows_read(tiny_model, byte_tokenizer):
    """A model that packs where it can, and the (rows, tokens) of every pass through it."""

    def make(family, **config):
        model, shapes = tiny_model(family, **config), []
        prepare_packing(model, byte_tokenizer)
        model.register_forward_pre_hook(
            lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
        )
        return model, shapes

    return make


def test_what_completions_have_in_common_is_computed_once(rows_read, engine_of) -> None:
    model, shapes = rows_read("llama")
    requests = [SampleRequest((1, 2, 3, 4), tuple(range(40))), SampleRequest((9, 8, 7), tuple(range(40, 80)))]
    groups = engine_of(model, 80, eos_ids=()).generate(requests, Sampling(0.35, 6))
    kept = [{ids[:length] for ids in group} for group in tokens(groups) for length in range(1, 6)]
    different = [len(kept[length]) + len(kept[5 + length]) for length in range(5)]
    assert shapes == [(2, 4), *((rows, 1) for rows in different)]
    assert 2 < different[0] < different[-1] < 80


def test_rows_that_have_ended_idle_for_a_while_at_most(rows_read, engine_of) -> None:
    model, shapes = rows_read("llama")
    requests = [SampleRequest((1, 2, 3, 4), tuple(range(60)))]
    [group] = tokens(engine_of(model, 60, eos_ids=range(0, 264, 12)).generate(requests, Sampling(1.0, 30)))
    for length, (rows, _) in enumerate(shapes[1:], 1):
        different = len({ids[:length] for ids in group if len(ids) > length})
        assert different <= rows < different / 0.75 + 1
    assert len({rows for rows, _ in shapes}) > 5


BEGINNING = tuple(range(3, 40))
WINDOW = {"sliding_window": 8}
DENSE = {"first_k_dense_replace": 2}


@pytest.mark.parametrize(
    "rests", [((77,), (78, 79), (80, 81, 82, 83, 84)), ((77, 78), (79, 80))], ids=["padded", "equal"]
)
@pytest.mark.parametrize(
    ("family", "config", "once"),
    [("llama", {}, True), ("qwen3", {}, True), ("phi3", {}, True), ("gpt2", {}, True), ("deepseek_v3", DENSE, True),
     ("mistral", WINDOW, False), ("gemma2", {}, False), ("mixtral", {}, False), ("diffllama", {}, False)],
)  # fmt: skip
def test_what_prompts_begin_with_is_read_once(rows_read, engine_of, family, config, once, rests) -> None:
    """Not where layers keep windows, where a router's choices are noted, or where a layer attends twice."""
    model, shapes = rows_read(family, **config)
    requests = [SampleRequest((*BEGINNING, *rest), (0, 1, 2)) for rest in rests]
    groups = engine_of(model, eos_ids=range(0, 264, 16)).generate(requests, Sampling(1.0, 12))
    longest = max(map(len, rests))
    whole = (len(rests), len(BEGINNING) + longest)
    assert [(1, len(BEGINNING)), (len(rests), longest)] == shapes[:2] if once else whole in shapes[:2]
    for request, group in zip(requests, groups, strict=True):
        for completion in group:
            logprobs = torch.log_softmax(plain_logits(model, request.prompt_ids, completion), -1)
            chosen = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), chosen, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_a_completion_depends_on_its_seed_and_not_on_its_neighbours(tiny_model, engine_of, family) -> None:
    model = tiny_model(family)
    sampling = Sampling(1.0, 12, top_p=0.9)
    together = tokens(engine_of(model).generate(REQUESTS, sampling))
    assert tokens(engine_of(model, max_concurrent=3).generate(REQUESTS, sampling)) == together
    assert tokens(engine_of(model).generate(REQUESTS[::-1], sampling)) == together[::-1]
    alone = [SampleRequest(request.prompt_ids, (seed,)) for request in REQUESTS for seed in request.seeds]
    assert [group[0] for group in tokens(engine_of(model, 1).generate(alone, sampling))] == list(chain(*together))
    assert len({ids for group in together for ids in group}) == 20


@pytest.mark.parametrize("temperature", [0.02, 1.0])
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_completions_tell_the_experts_of_every_token_but_the_last(tiny_model, engine_of, family, temperature) -> None:
    model = tiny_model(family)
    for router in routers_of(model):
        nn.init.normal_(router.weight)
    shapes = []
    model.register_forward_pre_hook(lambda _, __, given: shapes.append(len(given["input_ids"])), with_kwargs=True)
    groups = engine_of(model, 10, eos_ids=range(0, 264, 16)).generate(REQUESTS, Sampling(temperature, 16))
    # With few beginnings for ten rows, the routes of one row are several completions'.
    assert (2 in shapes[1:4]) == (temperature < 1)
    shapes.clear()
    for prompt, completion in pairs(groups):
        tokens = pack([TokenSequence(prompt, completion.token_ids)], torch.device("cpu"))
        _, routing = observe(model, tokens, None, partial(target_logprobs, model, tokens))
        told = completion.routes.tensor().sort(-1).values
        assert torch.equal(told, routing.experts_LTK.transpose(0, 1).sort(-1).values)
    assert len({len(completion.token_ids) for _, completion in pairs(groups)}) > 3


def test_a_shorter_limit_gives_the_beginning(tiny_model, engine_of) -> None:
    engine = engine_of(tiny_model("llama"))
    long, short = (tokens(engine.generate(REQUESTS, Sampling(1.0, limit))) for limit in (12, 5))
    assert [[ids[:5] for ids in group] for group in long] == short


def test_greedy_is_the_argmax_of_every_step(tiny_model, engine_of) -> None:
    model = tiny_model("qwen3")
    groups = engine_of(model).generate(REQUESTS, Sampling(0.0, 10))
    for prompt, completion in pairs(groups):
        logits = plain_logits(model, prompt, completion)
        assert completion.token_ids == tuple(logits.argmax(-1).tolist())
        likeliest = torch.log_softmax(logits, -1).amax(-1)
        torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), likeliest, atol=1e-4, rtol=0)


def test_first_tokens_follow_the_softmax(tiny_model, engine_of) -> None:
    model = tiny_model("llama", vocab_size=12, eos_token_id=None)
    request = SampleRequest((1, 2, 3), tuple(range(4000)))
    [group] = engine_of(model, 500, eos_ids=()).generate([request], Sampling(2.0, 1))
    expected = 4000 * torch.softmax(plain_logits(model, request.prompt_ids, group[0])[0] / 2.0, -1)
    counts = torch.bincount(torch.tensor([completion.token_ids[0] for completion in group]), minlength=12)
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert expected.min() > 5  # the chi-square law needs some five expected draws a cell
    assert statistic < 31.3  # the 99.9 % quantile of 11 degrees of freedom


def test_an_eos_ends_a_completion_and_belongs_to_it(tiny_model, engine_of) -> None:
    groups = engine_of(tiny_model("llama"), eos_ids=range(0, 264, 4)).generate(REQUESTS, Sampling(1.0, 6))
    completions = [completion for group in groups for completion in group]
    for completion in completions:
        assert all(id % 4 for id in completion.token_ids[:-1])
        if completion.finish == "stop":
            assert completion.token_ids[-1] % 4 == 0
        else:
            assert len(completion.token_ids) == 6
        assert len(completion.sampler_logprobs) == len(completion.token_ids)
    assert {completion.finish for completion in completions} == {"stop", "length"}


def test_eos_ids_come_from_the_model_and_the_tokenizer(tiny_model, engine_of) -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = list(range(128))
    groups = engine_of(model).generate(REQUESTS, Sampling(1.0, 40))
    endings = {completion.token_ids[-1] for group in groups for completion in group if completion.finish == "stop"}
    assert endings <= {*range(128), EOS}
    assert len(endings) > 5


def test_without_eos_everything_ends_by_length(tiny_model, engine_of) -> None:
    groups = engine_of(tiny_model("llama"), eos_ids=()).generate(REQUESTS, Sampling(1.0, 7))
    assert {(len(c.token_ids), c.finish) for group in groups for c in group} == {(7, "length")}


@pytest.fixture
def spelling_model(tiny_model):
    """A policy that always says the next token of a cycle, whatever came before the last token."""

    def make(cycle: list[int], dropout: float = 0.0):
        model = tiny_model("llama", tie_word_embeddings=False, attention_dropout=dropout)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.fill_(1.0) if "norm" in name else weight.zero_()
            for place, id in enumerate(cycle):
                model.model.embed_tokens.weight[id, place] = 1.0
                model.lm_head.weight[cycle[(place + 1) % len(cycle)], place] = 30.0
        return model

    return make


def test_a_stop_string_across_tokens_and_special_tokens_in_the_text(spelling_model, engine_of, byte_tokenizer) -> None:
    cycle = byte_tokenizer.encode("<think>a→b</think>!")
    engine = engine_of(spelling_model(cycle))
    request = SampleRequest((cycle[-1],), (0,))
    [[completion]] = engine.generate([request], Sampling(1.0, 30, stop=("→b",)))
    assert (completion.text, completion.finish) == ("<think>a→b", "stop")
    assert completion.token_ids == tuple(cycle[:6])  # <think>, a, three bytes of →, b
    [[completion]] = engine.generate([request], Sampling(1.0, 9))
    assert (completion.text, completion.finish) == ("<think>a→b</think>!<think>", "length")
    [[completion]] = engine.generate([request], Sampling(1.0, 30, stop=("b</think>", "zzz")))
    assert (completion.text, completion.finish) == ("<think>a→b</think>", "stop")


def test_the_text_ends_before_the_eos(spelling_model, engine_of, byte_tokenizer) -> None:
    cycle = [*byte_tokenizer.encode("<answer> 7.</answer>"), EOS]
    [[completion]] = engine_of(spelling_model(cycle)).generate([SampleRequest((EOS,), (5,))], Sampling(0.5, 30))
    assert completion.text == "<answer> 7.</answer>"
    assert completion.token_ids == tuple(cycle)
    assert completion.finish == "stop"


def test_dropout_is_off_while_sampling_and_every_module_returns_to_its_mode(tiny_model, engine_of) -> None:
    model = tiny_model("llama", attention_dropout=0.5)
    expected = engine_of(model).generate(REQUESTS, Sampling(1.0, 6))
    model.train()
    model.lm_head.eval()
    model.gradient_checkpointing_enable()
    assert engine_of(model).generate(REQUESTS, Sampling(1.0, 6)) == expected
    assert [name for name, module in model.named_modules() if not module.training] == ["lm_head"]


def test_modes_are_restored_when_sampling_fails(tiny_model, engine_of) -> None:
    model = tiny_model("llama").train()
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    engine = engine_of(model)
    engine.load_weights(model, 3)
    with pytest.raises(TrainingFailure, match="weight version 3"):
        engine.generate(REQUESTS, Sampling(1.0, 2))
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_training_goes_on_after_sampling(tiny_model, engine_of) -> None:
    model = tiny_model("deepseek_v3").train()
    engine_of(model).generate(REQUESTS, Sampling(1.0, 3))
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "self_attn" in name)


def test_generation_defaults_and_a_disabled_cache_do_not_leak_in(tiny_model, engine_of) -> None:
    model = tiny_model("llama")
    expected = engine_of(model).generate(REQUESTS, Sampling(1.0, 6))
    model.generation_config.update(top_k=1, top_p=0.1, repetition_penalty=5.0, max_new_tokens=2, do_sample=False)
    model.config.use_cache = False
    assert engine_of(model).generate(REQUESTS, Sampling(1.0, 6)) == expected


def test_an_adapter_is_sampled_with_and_new_weights_without_a_copy(tiny_model, engine_of) -> None:
    base = tiny_model("llama")
    engine = engine_of(base)
    before = engine.generate(REQUESTS, Sampling(1.0, 6))
    policy = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5))
    engine.load_weights(policy, 1)
    assert tokens(engine.generate(REQUESTS, Sampling(1.0, 6))) == tokens(before)  # B = 0: the adapter does nothing
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    groups = engine.generate(REQUESTS, Sampling(1.0, 6))
    assert {completion.weight_version for group in groups for completion in group} == {1}
    assert tokens(groups) != tokens(before)
    policy.eval()
    for prompt, completion in pairs(groups):
        logprobs = torch.log_softmax(plain_logits(policy, prompt, completion), -1)
        chosen = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.sampler_logprobs), chosen, atol=1e-4, rtol=0)


def test_bf16_logprobs_are_those_of_an_autocast_forward(tiny_model, engine_of) -> None:
    model = tiny_model("qwen2", initializer_range=0.1)
    groups = engine_of(model, precision="bf16").generate(REQUESTS, Sampling(1.0, 8))
    error = {True: [], False: []}
    for prompt, completion in pairs(groups):
        for autocast in error:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logprobs = torch.log_softmax(plain_logits(model, prompt, completion), -1)
            chosen = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            error[autocast].append((torch.tensor(completion.sampler_logprobs) - chosen).abs().mean())
    assert sum(error[True]) < 0.5 * sum(error[False])


def test_global_random_numbers_are_left_alone(tiny_model, engine_of) -> None:
    engine = engine_of(tiny_model("llama"))
    state = torch.get_rng_state()
    engine.generate(REQUESTS, Sampling(1.0, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_sample(tiny_model, engine_of) -> None:
    engine = engine_of(tiny_model("llama"))
    assert engine.generate([], Sampling(1.0, 4)) == []
    assert engine.generate([SampleRequest((1,), ()), SampleRequest((2,), (5,))], Sampling(1.0, 4))[0] == []


def test_an_empty_prompt_and_too_little_room_are_refused(tiny_model, engine_of) -> None:
    engine = engine_of(tiny_model("llama"))
    with pytest.raises(UserError, match="a prompt expected at least one token"):
        engine.generate([SampleRequest((), (0,))], Sampling(1.0, 4))
    with pytest.raises(UserError, match="128 positions; a prompt of 2 tokens and max_new_tokens 127 take 129"):
        engine.generate([SampleRequest((1, 2), (0,))], Sampling(1.0, 127))
