from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from grpo.problem_settings import TemplateSettings
from grpo.templates import encode_example, leading_special_ids, make_template
from grpo.types import Problem, UserError

SPECIAL = ["<s>", "</s>", "<|user|>", "<|system|>", "<|assistant|>", "<think>"]
BOS, EOS = 0, 1
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SUM = Problem("id", "1+1=", {"answer": "2", "hint": "count"})


def tokenizer(
    adds: str = "", chat: str | None = None, bos: str | None = "<s>", eos: str | None = "</s>"
) -> PreTrainedTokenizerBase:
    """Bytes and a few special tokens. `adds` is what it sets around a text by itself, such as `<s> $A`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *letters])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    if adds:
        core.post_processor = processors.TemplateProcessing(adds, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos)
    made.chat_template = chat
    return made


def text(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize(
    ("adds", "leading"),
    [("", ()), ("<s> $A", (BOS,)), ("<s> $A </s>", (BOS,)), ("$A </s>", ())],
)
def test_only_what_a_tokenizer_sets_before_a_text_leads_a_prompt(adds: str, leading: tuple[int, ...]) -> None:
    made = tokenizer(adds)
    assert leading_special_ids(made) == leading
    ids = make_template(TemplateSettings(kind="plain"), made).encode(SUM)
    assert text(made, ids) == "<s>" * len(leading) + "1+1="


def test_the_r1_zero_template_is_the_papers_text() -> None:
    made = tokenizer()
    assert make_template(TemplateSettings(kind="r1_zero"), made).render(Problem("id", "What is {x}?", {})) == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
        "User: What is {x}?. Assistant:"
    )


@pytest.mark.parametrize("adds", ["", "<s> $A", "<s> $A </s>"])
def test_a_chat_template_sets_the_only_bos(adds: str) -> None:
    made = tokenizer(adds, CHAT)
    template = make_template(TemplateSettings(kind="chat", system="Be brief."), made)
    ids = template.encode(SUM)
    assert text(made, ids) == "<s><|system|>Be brief.<|user|>1+1=<|assistant|>"
    assert ids.count(BOS) == 1
    assert EOS not in ids


def test_a_chat_template_without_bos_gets_none() -> None:
    made = tokenizer("<s> $A", CHAT.removeprefix("{{ bos_token }}"))
    assert BOS not in make_template(TemplateSettings(kind="chat"), made).encode(SUM)


@pytest.mark.parametrize("kind", ["plain", "r1_zero", "chat"])
def test_every_prompt_ends_with_the_prefill(kind: str) -> None:
    made = tokenizer("<s> $A", CHAT)
    template = make_template(TemplateSettings.model_validate({"kind": kind, "prefill": "<think>\n"}), made)
    assert template.prefill == "<think>\n"
    assert text(made, template.encode(SUM)).endswith("<think>\n")


def test_a_chat_template_that_opens_the_prefill_itself_gets_no_second_one() -> None:
    made = tokenizer(chat=CHAT + r"{{ '<think>\n' }}")
    template = make_template(TemplateSettings(kind="chat", prefill="<think>\n"), made)
    assert template.render(SUM) == "<s><|user|>1+1=<|assistant|><think>\n"
    template = make_template(TemplateSettings(kind="chat", prefill="<think>"), made)
    assert template.render(SUM) == "<s><|user|>1+1=<|assistant|><think>"


@pytest.mark.parametrize("adds", ["", "<s> $A"])
@pytest.mark.parametrize("start", ["", "<s>"])
def test_a_jinja_file_uses_columns_and_never_doubles_bos(tmp_path: Path, adds: str, start: str) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text(start + "Q: {{ prompt }} ({{ hint | upper }})\nA:\n")
    made = tokenizer(adds)
    ids = make_template(TemplateSettings(kind="jinja", file=str(path), prefill=" "), made).encode(SUM)
    assert text(made, ids) == ("<s>" if adds or start else "") + "Q: 1+1= (COUNT)\nA: "


def test_a_prompts_braces_are_never_run(tmp_path: Path) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text("{{ prompt }}")
    template = make_template(TemplateSettings(kind="jinja", file=str(path)), tokenizer())
    assert template.render(Problem("id", "{{ 7 * 7 }}", {})) == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ prompt", "line 1 is not valid Jinja"),
        ("{{ hnit }}", "problem id does not render: 'hnit' is undefined: it has prompt, answer, hint"),
        ("{{ prompt.__class__.__mro__ }}", "does not render: .*unsafe"),
        ("{{ answer + 1 }}", "does not render: can only concatenate str"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "does not render: .*[Rr]ange"),
    ],
)
def test_a_jinja_file_that_fails_says_where(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text(source)
    with pytest.raises(UserError, match=said):
        make_template(TemplateSettings(kind="jinja", file=str(path)), tokenizer()).render(SUM)


def test_a_template_that_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file or directory"):
        make_template(TemplateSettings(kind="jinja", file=str(tmp_path / "gone.jinja")), tokenizer())
    with pytest.raises(UserError, match="got one without: use kind r1_zero, plain or jinja"):
        make_template(TemplateSettings(kind="chat"), tokenizer())


def test_a_chat_template_may_refuse_a_system_prompt() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
    template = make_template(TemplateSettings(kind="chat", system="Be brief."), tokenizer(chat=refusing))
    with pytest.raises(UserError, match="refused the messages: no system role"):
        template.render(SUM)


@pytest.mark.parametrize("adds", ["", "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("completion", ["<think>\nadd</think>2", "add</think>2", "add</think>2</s>"])
def test_a_demonstration_follows_the_prompt_as_sampled_and_ends_once(adds: str, completion: str) -> None:
    made = tokenizer(adds)
    template = make_template(TemplateSettings(kind="plain", prefill="<think>\n"), made)
    prompt_ids, completion_ids = encode_example(template, made, SUM, completion)
    assert prompt_ids == template.encode(SUM)
    assert text(made, completion_ids) == "add</think>2</s>"
    assert completion_ids.count(EOS) == 1


def test_an_empty_demonstration_is_an_end() -> None:
    made = tokenizer("<s> $A")
    assert encode_example(make_template(TemplateSettings(kind="plain"), made), made, SUM, "")[1] == (EOS,)


def test_a_tokenizer_without_eos_cannot_end_a_demonstration() -> None:
    made = tokenizer(eos=None)
    with pytest.raises(UserError, match="expected an EOS token, got none"):
        encode_example(make_template(TemplateSettings(kind="plain"), made), made, SUM, "2")


def test_a_completion_loses_what_a_chat_template_opens_itself() -> None:
    made = tokenizer(chat=CHAT + r"{{ '<think>\n' }}")
    template = make_template(TemplateSettings(kind="chat"), made)
    for completion in ("<think>\nadd</think>2", "<think>add</think>2", "add</think>2"):
        assert text(made, encode_example(template, made, SUM, completion)[1]) == "add</think>2</s>"


def test_examples_stand_before_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "2+2=", "completion": "<think>two</think>4"}\n{"prompt": "3+3=", "completion": "6"}\n')
    given = {"examples": str(path), "prefill": "<think>"}
    plain = make_template(TemplateSettings(kind="plain", separator="\n--\n", **given), tokenizer())
    assert plain.render(SUM) == "2+2=<think>two</think>4\n--\n3+3=<think>6\n--\n1+1=<think>"
    chat = make_template(TemplateSettings(kind="chat", examples=str(path)), tokenizer(chat=CHAT))
    assert chat.render(SUM) == (
        "<s><|user|>2+2=<|assistant|><think>two</think>4<|user|>3+3=<|assistant|>6<|user|>1+1=<|assistant|>"
    )


def test_an_example_without_a_completion_is_said(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "2+2="}\n')
    with pytest.raises(UserError, match="'2\\+2=' has no text in a column completion"):
        make_template(TemplateSettings(kind="plain", examples=str(path)), tokenizer())
