"""R1's language consistency: the share of words of the chain of thought that are in the target language.

Nature 2025 (2501.12948), eq. 7: Num(Words_target) / Num(Words); the paper leaves the segmentation open. Here a word is
a run of letters of one script, and in scripts without spaces (Han, kana, Thai, ...) every letter is a word. A word is
in the target language when its script is one of that language's. Where other languages share the script, lingua names
the language of each sentence: its words count as that language's when lingua is sure of another one than the target.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

MIN_WORDS = 4
"""Shorter sentences do not tell their language."""

MAX_CHARS = 1000
"""What lingua looks at of a text: its time grows with the length, its sureness no longer does."""

SURE = 0.6
"""The confidence from which lingua's word is taken."""

Language = Literal[
    "en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "sv", "zh", "ja", "ko", "ru", "uk", "el", "ar",
    "fa", "he", "hi", "th",
]  # fmt: skip

_SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "sv"), ("LATIN",)),
    **dict.fromkeys(("ru", "uk"), ("CYRILLIC",)),
    **dict.fromkeys(("ar", "fa"), ("ARABIC",)),
    "zh": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
}
_WITHOUT_SPACES = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"})

_SENTENCE = re.compile(r"[.!?;:\n]+")
_NOT_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)"  # code
    r"|`[^`\n]{1,500}`"
    r"|\$\$[^$]{1,500}\$\$|\$[^$\n]{1,200}\$"  # LaTeX
    r"|\\\(.{0,500}?\\\)|\\\[.{0,500}?\\\]"
    r"|\\begin\{(\w{1,20}\*?)\}.{0,500}?\\end\{\1\}"
    r"|\\[a-zA-Z]+(?:\{[^{}\n]{0,200}\}){0,3}"
    r"|\w{2,10}://\S+|www\.\S+"
    r"|</?[a-zA-Z][^<>\n]{0,100}>",
    re.DOTALL,
)


def language(
    completion: str,
    prompt: str = "",
    *,
    target: Language | Literal["prompt"] = "en",
    column: str | None = None,
    identify: bool = True,
    **columns: Any,
) -> float | None:
    """The share of target-language words in the text between `<think>` tags, or in all of it when there are none.

    The target is the value of `column` (a code such as "en") where that is given, or else `target`; "prompt" is the
    language that the prompt is written in. LaTeX, code, URLs, tags and numbers are not words. None when there is no
    word at all, or the prompt's language cannot be told. `identify=False` goes by scripts alone.

    >>> language("<think>we add 二 and two</think> 四")
    0.8
    """
    wanted = columns.get(column) if column is not None else language_of(prompt) if target == "prompt" else target
    if wanted is None:
        return None
    if wanted not in _SCRIPTS:
        raise ValueError(f"expected a language of {', '.join(_SCRIPTS)}, got {wanted!r}")
    text = _NOT_LANGUAGE.sub(" ", chain_of_thought(completion))
    scripts = word_scripts(text)
    if not scripts:
        return None
    foreign = foreign_words(text, wanted) if identify and _shares_its_script(wanted) else 0
    return (sum(script in _SCRIPTS[wanted] for script in scripts) - foreign) / len(scripts)


def language_of(text: str) -> str | None:
    """The language that most words of a text are in; None when there is no word, or it cannot be told."""
    text = _NOT_LANGUAGE.sub(" ", text)
    scripts = word_scripts(text)
    if not scripts:
        return None
    counts = {code: sum(script in own for script in scripts) for code, own in _SCRIPTS.items()}
    most = max(counts.values())
    likely = [code for code, count in counts.items() if count == most and most]
    if "HIRAGANA" not in scripts and "KATAKANA" not in scripts and "zh" in likely:
        return "zh"
    return likely[0] if len(likely) == 1 else _named(text, likely) if likely else None


def foreign_words(text: str, target: str) -> int:
    """How many words of the target's script stand in sentences of another language.

    Sentences that are too short, or of which lingua is not sure, are looked at together; in doubt they are right.
    """
    shared = [code for code, scripts in _SCRIPTS.items() if scripts == _SCRIPTS[target]]
    found, open_words, open_sentences = 0, 0, []
    for sentence in _SENTENCE.split(text):
        words = sum(script in _SCRIPTS[target] for script in word_scripts(sentence))
        named = _named(sentence, shared) if words >= MIN_WORDS else None
        if named is None:
            open_words += words
            open_sentences.append(sentence)
        elif named != target:
            found += words
    together = _named(" ".join(open_sentences), shared) if open_words >= MIN_WORDS else None
    return found + open_words * (together not in (None, target))


def _shares_its_script(code: str) -> bool:
    return sum(scripts == _SCRIPTS[code] for scripts in _SCRIPTS.values()) > 1


def _named(text: str, codes: Sequence[str]) -> str | None:
    """The language that lingua names, or None where it is not sure."""
    best = _detector(tuple(codes)).compute_language_confidence_values(text[:MAX_CHARS])[0]
    if best.value < SURE:
        return None
    return str(best.language.iso_code_639_1.name).lower()


@cache
def _detector(codes: tuple[str, ...]) -> Any:
    """Loading it takes seconds, so it is made when it is first needed."""
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    known = [IsoCode639_1.from_str(code.upper()) for code in codes]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*known).build()


def chain_of_thought(text: str) -> str:
    """What stands between the first `<think>` and the last `</think>`; without `<think>`, what is before `</think>`.

    A thought that never ends goes to the end of the text; a text without tags is all thought.
    """
    thought = text.partition("<think>")[2] if "<think>" in text else text
    return thought.rpartition("</think>")[0] if "</think>" in thought else thought


def word_scripts(text: str) -> list[str]:
    """The script of every word, by Unicode's names of its letters: LATIN, CYRILLIC, CJK, ...

    A Greek letter by itself is a sign, as the letters made for mathematics are.

    >>> word_scripts("it's 数学 x2, π")
    ['LATIN', 'CJK', 'CJK', 'LATIN']
    """
    words: list[str] = []
    current = ""
    alone = False
    for char in [*text, " "]:
        script = _script(char)
        if script == _MARK or (current and char in "'’"):
            continue  # a mark or an apostrophe belongs to the word it stands in
        begins = script != current or script in _WITHOUT_SPACES
        if begins and current == "GREEK" and alone:
            words.pop()
        if script and begins:
            words.append(script)
        current, alone = script, begins
    return words


_MARK = "a mark"
_SIGNS = {"MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "MICRO", "OHM", "KELVIN", "ANGSTROM", "PLANCK"}
"""First words of the names of letters that are written in formulas alone."""


@cache
def _script(char: str) -> str:
    """The first word of a letter's name; FULLWIDTH LATIN and HALFWIDTH KATAKANA carry it second. Of no letter, none."""
    if not char.isalpha():
        return _MARK if unicodedata.category(char)[0] == "M" else ""
    first, _, rest = unicodedata.name(char, "UNKNOWN").partition(" ")
    if first in _SIGNS:
        return ""
    return rest.partition(" ")[0] if first in ("FULLWIDTH", "HALFWIDTH") else first
