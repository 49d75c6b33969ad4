"""How a completion reads: its words, its reasoning and its summary, and what makes reasoning hard to read."""

import re
from collections.abc import Sequence

from grpo.rejection_settings import LayoutSettings, ReadableSettings, Reason
from grpo.rewards.language import Language, language, language_of

_WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, kana and Han, in which every letter counts as a word."""
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|[^\W_{_WITHOUT_SPACES}]+")
ONE_A_SCRIPT: tuple[Language, ...] = ("en", "ru", "ar", "zh", "ja", "ko", "el", "he", "hi", "th")
"""A language for every script. Han alone is Chinese; with kana it is Japanese."""

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case.

    >>> words("So x_1 = 3.5, 数学")
    ['so', 'x', '1', '3', '5', '数', '学']
    """
    return _WORD.findall(text.casefold())


def runs(text: str, n: int) -> list[str]:
    """Every run of `n` words; a text of fewer words has none.

    >>> runs("a b c", 2)
    ['a b', 'b c']
    """
    found = words(text)
    return [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]


def parts(text: str, layout: LayoutSettings) -> tuple[str, str] | None:
    """Reasoning and summary without white space around them, or None where a text does not have both, each once.

    >>> parts("<think>1 and 2</think>It is 3.", LayoutSettings())
    ('1 and 2', 'It is 3.')
    """
    before, _, summary = text.partition(layout.end)
    reasoning = before.strip().removeprefix(layout.begin).strip()
    stray = layout.end in summary or (layout.begin != "" and layout.begin in reasoning + summary)
    return None if stray or not reasoning or not summary.strip() else (reasoning, summary.strip())


def written(text: str, layout: LayoutSettings | None) -> str:
    """The text as it is written down: in the layout's words, or as it is."""
    found = parts(text, layout) if layout is not None else None
    if layout is None or layout.write is None or found is None:
        return text.strip()
    opening, *between = re.split(r"\{(reasoning|summary)\}", layout.write)
    named = dict(zip(("reasoning", "summary"), found, strict=True))
    pairs: Sequence[tuple[str, str]] = list(zip(between[::2], between[1::2], strict=True))
    return opening + "".join(named[name] + after for name, after in pairs)


def hard_to_read(reasoning: str, prompt: str, settings: ReadableSettings) -> Reason | None:
    """Why reasoning is not readable, or None where it is. Reasoning without words has no language to be wrong in."""
    if settings.language is not None and language_share(reasoning, prompt, settings) < settings.language_share:
        return "mixed_language"
    if settings.paragraph_words is not None:
        longest = max(len(words(paragraph)) for paragraph in _BLANK_LINE.split(reasoning))
        if longest > settings.paragraph_words:
            return "long_paragraph"
    return "code_block" if not settings.code_blocks and _FENCE.search(reasoning) else None


def language_share(reasoning: str, prompt: str, settings: ReadableSettings) -> float:
    """The share of words in the language asked for: a code's, the prompt's or, where that cannot be told, its own.

    Where languages are not told apart, the words of one script count as being in one.
    """
    target = settings.language
    if target == "prompt":
        target = (language_of(prompt) or language_of(reasoning)) if settings.identify else None
    identify = settings.identify and target is not None
    code = target or _by_script(prompt) or _by_script(reasoning)
    share = language(f"<think>{reasoning}</think>", target=code, identify=identify) if code else None  # type: ignore[arg-type]
    return 1.0 if share is None else share


def _by_script(text: str) -> str | None:
    """The language of `ONE_A_SCRIPT` whose scripts most words are of, or None where there is no word."""
    shares = {code: language(text, target=code, identify=False) for code in ONE_A_SCRIPT}
    known = {code: share for code, share in shares.items() if share}
    return max(known, key=lambda code: known[code]) if known else None
