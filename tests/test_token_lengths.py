"""Characters of a text are told apart by the tokens that they came from."""

from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from grpo.rollout.stopping import decode
from grpo.token_lengths import token_lengths


def pieces(text: str, lengths: Sequence[int]) -> list[str]:
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    return [text[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def reader(tokenizer: PreTrainedTokenizerFast) -> Callable[[Sequence[int]], str]:
    return lambda ids: decode(tokenizer, ids)


@pytest.mark.parametrize("text", ["", "4 and 5", "<think>x</think>", "数学 é 😀!", "\n\n"])
def test_pieces_add_up_to_the_text(text: str, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer.encode(text)
    lengths = token_lengths(ids, text, reader(byte_tokenizer))
    assert len(lengths) == len(ids)
    assert "".join(pieces(text, lengths)) == text


def test_a_special_token_is_one_piece_and_the_last_byte_has_the_character(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = [*byte_tokenizer.encode("<think>é"), byte_tokenizer.eos_token_id]
    assert token_lengths(ids, "<think>é", reader(byte_tokenizer)) == [7, 0, 1, 0]


def test_bytes_that_are_no_text_are_not_waited_for(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    half = byte_tokenizer.encode("é")[0]
    ids = [half] * 40
    text = decode(byte_tokenizer, ids)
    calls: list[int] = []

    def read(tokens: Sequence[int]) -> str:
        calls.append(len(tokens))
        return decode(byte_tokenizer, tokens)

    assert sum(token_lengths(ids, text, read)) == len(text) == 40
    assert max(calls) <= 8  # the last four tokens that were whole, and four that may become so
