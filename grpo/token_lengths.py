"""Which characters of a text came from which token."""

from collections.abc import Callable, Sequence

TOKENS_PER_CHARACTER = 4
"""A character of UTF-8 has at most 4 bytes; what is not whole by then will not become so."""
UNFINISHED = "\ufffd"
"""What the bytes of a character decode to until the last of them is there."""


def token_lengths(token_ids: Sequence[int], text: str, render: Callable[[Sequence[int]], str]) -> list[int]:
    """How many characters of `text` each token is, in order; together they are at most the text.

    The bytes of one character may be several tokens: the last of them has it. Tokens beyond the text, such as EOS, have
    none. Of the tokens before, only those since the last whole character are decoded again, since a tokenizer may write
    a token otherwise where a text begins.
    """
    lengths: list[int] = []
    start, end, left = 0, 0, len(text)
    for place in range(1, len(token_ids) + 1):
        before, now = render(token_ids[start:end]), render(token_ids[start:place])
        is_whole = not now.endswith(UNFINISHED) or place - end >= TOKENS_PER_CHARACTER
        new = min(max(0, len(now) - len(before)), left) if is_whole else 0
        if is_whole:
            start, end = end, place
        lengths.append(new)
        left -= new
    return lengths
