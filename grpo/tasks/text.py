"""A text in passages, to learn how it goes on: for winning back what a conversion has lost."""

from collections.abc import Iterator
from pathlib import Path

from grpo.types import UserError


def passages(file: str, words: int = 200, opening: int = 5) -> Iterator[dict[str, str]]:
    """Yield a text file cut into pieces of `words` words: the first `opening` are the prompt, the rest is learned.

    Spaces and lines stay as they are in the file. A last piece that is shorter is left out.

    Raises:
        UserError: the file can't be read, holds less than one piece, or a parameter is out of range.
    """
    if not 1 <= opening < words:
        raise UserError(f"passages: opening must be from 1 to below words, got {opening} of {words}")
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"passages: expected a UTF-8 text file, got {file}: {error}") from None
    starts = _word_starts(text)
    if len(starts) < words:
        raise UserError(f"passages: expected at least {words} words, got {len(starts)} in {file}: give more text")
    for first in range(0, len(starts) - words + 1, words):
        begin, cut = starts[first], starts[first + opening]
        end = starts[first + words] if first + words < len(starts) else len(text)
        opened = text[begin:cut].rstrip()
        yield {"prompt": opened, "completion": text[begin + len(opened) : end].rstrip()}


def _word_starts(text: str) -> list[int]:
    """Where each word begins."""
    return [i for i, c in enumerate(text) if not c.isspace() and (i == 0 or text[i - 1].isspace())]
