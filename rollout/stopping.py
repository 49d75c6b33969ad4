"""When a completion ends: EOS tokens, which a table finds, and stop strings, which are looked for in decoded text.

Axes: R rows of a wave, B rows that are looked at, T tokens so far, V vocabulary.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from grpo.types import UserError

TOKENS_PER_CHARACTER = 4
"""A character of UTF-8 has at most 4 bytes, so a byte-level tokenizer spends at most 4 tokens on it."""


def find_eos_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every id that ends a text according to the model's generation config, its config or the tokenizer, sorted."""
    sources = (getattr(model, "generation_config", None), getattr(model, "config", None), tokenizer)
    return tuple(sorted({id for source in sources for id in _ids(getattr(source, "eos_token_id", None))}))


def _ids(value: int | Iterable[int] | None) -> Iterable[int]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else value


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of tokens as it is: special tokens such as <think> stay, and no space is tidied away."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


class Stopping:
    """Where completions end: at an EOS id, or where a stop string is complete.

    Text is decoded only where the newest token can complete a stop string.

    Raises:
        UserError: a stop string is empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int], stop: Sequence[str]):
        if "" in stop:
            raise UserError("rollout.stop expected texts of at least one character, got '': remove it")
        self._tokenizer = tokenizer
        self._eos_ids = torch.tensor(eos_ids, dtype=torch.long)
        self._stop = tuple(stop)
        self._window = TOKENS_PER_CHARACTER * (max(map(len, stop), default=0) + 2)
        self._may_complete_V = self._find_last_tokens() if stop else torch.zeros(1, dtype=torch.bool)

    def _find_last_tokens(self) -> Tensor:
        """Whether a token's text may hold the last character of a stop string, shape (V,).

        Alone, bytes of a character beyond ASCII decode to U+FFFD, and some tokenizers drop white space: tokens that
        this hides may hold it, too.
        """
        last = {text[-1] for text in self._stop}
        if any(character.isspace() for character in last):
            return torch.ones(len(self._tokenizer), dtype=torch.bool)
        if not all(character.isascii() for character in last):
            last.add("\ufffd")
        return torch.tensor([not last.isdisjoint(decode(self._tokenizer, [id])) for id in range(len(self._tokenizer))])

    def first_end(self, token_ids: Sequence[int]) -> int | None:
        """How many of the tokens there are up to the first end, that token included; None where there is none."""
        tokens_1T = torch.tensor(token_ids, dtype=torch.long)[None]
        last_T = tokens_1T[0].clamp(max=len(self._may_complete_V) - 1)
        may_end_T = torch.isin(tokens_1T[0], self._eos_ids) | self._may_complete_V[last_T]
        for place in may_end_T.nonzero()[:, 0].tolist():
            if self.reached(tokens_1T[:, : place + 1], torch.zeros(1, dtype=torch.long)).item():
                return int(place) + 1
        return None

    def reached(self, tokens_RT: Tensor, row_B: Tensor, length_B: Tensor | None = None) -> Tensor:
        """Which of the rows `row_B` of `tokens_RT` end with their newest token, shape (B,). All lies on the CPU.

        Rows have `length_B` tokens, all of them T where none is given.
        """
        length_B = torch.full_like(row_B, tokens_RT.shape[1]) if length_B is None else length_B
        newest_B = tokens_RT[row_B, length_B - 1]
        ended_B = torch.isin(newest_B, self._eos_ids)
        # A model's vocabulary can be larger than its tokenizer's; ids beyond have no text.
        candidate_B = self._may_complete_V[newest_B.clamp(max=len(self._may_complete_V) - 1)] & ~ended_B
        for place in candidate_B.nonzero()[:, 0].tolist():
            length = int(length_B[place])
            text = decode(self._tokenizer, tokens_RT[row_B[place], max(0, length - self._window) : length].tolist())
            ended_B[place] = any(stop in text for stop in self._stop)
        return ended_B
