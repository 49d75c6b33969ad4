"""R1's language consistency: the share of words of the chain of thought that are in the target language.

Nature 2025 (2501.12948), eq. 7: Num(Words_target) / Num(Words); the paper leaves the segmentation open. Here a word is
a run of letters of one script, and in scripts without spaces (Han, kana, Thai, ...) every letter is a word. A word is
in the target language when its script is one of that language's, so languages of one script are not told apart.
"""

import re
import unicodedata
from typing import Literal

Language = Literal["en", "de", "fr", "es", "it", "pt", "zh", "ja", "ko", "ru", "uk", "el", "ar", "fa", "he", "hi", "th"]

_SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt"), ("LATIN",)),
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


def language(completion: str, *, target: Language = "en") -> float | None:
    """The share of target-language words in the text between `<think>` tags, or in all of it when there are none.

    LaTeX, code, URLs, tags and numbers are not words. None when there is no word at all.

    >>> language("<think>we add 二 and two</think> 四")
    0.8
    """
    scripts = word_scripts(_NOT_LANGUAGE.sub(" ", chain_of_thought(completion)))
    if not scripts:
        return None
    return sum(script in _SCRIPTS[target] for script in scripts) / len(scripts)


def chain_of_thought(text: str) -> str:
    """What stands between the first `<think>` and the last `</think>`; without `<think>`, what is before `</think>`.

    A thought that never ends goes to the end of the text; a text without tags is all thought.
    """
    thought = text.partition("<think>")[2] if "<think>" in text else text
    return thought.rpartition("</think>")[0] if "</think>" in thought else thought


def word_scripts(text: str) -> list[str]:
    """The script of every word, by Unicode's names of its letters: LATIN, CYRILLIC, CJK, ...

    >>> word_scripts("it's 数学 x2")
    ['LATIN', 'CJK', 'CJK', 'LATIN']
    """
    words = []
    current = ""
    for char in text:
        if unicodedata.category(char)[0] == "M" or (current and char in "'’"):
            continue  # a mark or an apostrophe belongs to the word it stands in
        script = _script(char) if char.isalpha() else ""
        if script and (script != current or script in _WITHOUT_SPACES):
            words.append(script)
        current = script
    return words


def _script(letter: str) -> str:
    """The first word of a letter's name; FULLWIDTH LATIN and HALFWIDTH KATAKANA carry it second."""
    first, _, rest = unicodedata.name(letter, "UNKNOWN").partition(" ")
    return rest.partition(" ")[0] if first in ("FULLWIDTH", "HALFWIDTH") else first
