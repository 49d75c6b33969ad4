from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from grpo.rollout.stopping import Stopping, find_eos_ids
from grpo.types import UserError


def end(tokenizer: PreTrainedTokenizerFast, stop: str, token_ids: list[int]) -> int | None:
    """The number of tokens after which a completion ends."""
    stopping = Stopping(tokenizer, (), (stop,))
    tokens_RT = torch.tensor([token_ids])
    ends = (n for n in range(1, len(token_ids) + 1) if stopping.reached(tokens_RT[:, :n], torch.tensor([0])))
    return next(ends, None)


@pytest.mark.parametrize("stop", ["\n\n", "END", "ö", "→ 7", "</answer>", "</answer>\n", " "])
def test_a_stop_string_ends_at_the_token_that_completes_it(byte_tokenizer: PreTrainedTokenizerFast, stop: str) -> None:
    before, after = byte_tokenizer.encode("E\nN ö"[: 2 if stop in " ö" else 5]), byte_tokenizer.encode("more")
    stop_ids = byte_tokenizer.encode(stop)
    assert end(byte_tokenizer, stop, before + stop_ids + after) == len(before) + len(stop_ids)


def test_a_part_of_a_stop_string_ends_nothing(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert end(byte_tokenizer, "STOP", byte_tokenizer.encode("STO PSTOSTO P")) is None


def test_a_stop_string_far_behind_a_long_text_is_seen(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = byte_tokenizer.encode("ü" * 500)
    assert end(byte_tokenizer, "üx", [*text, *byte_tokenizer.encode("xyz")]) == 1001


def test_only_the_named_rows_are_looked_at(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    a, b = byte_tokenizer.encode("ab")
    stopping = Stopping(byte_tokenizer, (a,), ("bb",))
    tokens_RT = torch.tensor([[b, a], [b, b], [a, b], [a, 263]])
    assert stopping.reached(tokens_RT, torch.tensor([3, 2, 1, 0])).tolist() == [False, False, True, True]


def test_an_empty_stop_string_is_refused(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"rollout\.stop expected texts of at least one character"):
        Stopping(byte_tokenizer, (), ("END", ""))


def test_eos_ids_are_the_union_of_every_source(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=[9, 3]), config=SimpleNamespace(eos_token_id=5)
    )
    assert find_eos_ids(model, byte_tokenizer) == (3, 5, 9, 256)
    assert find_eos_ids(SimpleNamespace(), SimpleNamespace(eos_token_id=None)) == ()
