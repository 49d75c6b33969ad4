"""One spelling for what looks alike: Unicode becomes ASCII and LaTeX commands, full-width letters become plain ones."""

import re
import unicodedata

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᶜᵈᵉᵏᵐᵗ", "0123456789+-=()nixyabcdekmt", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢₓₐₖₘ", "0123456789+-=()nixakm", strict=True))
_SUPERSCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")

_COMMANDS = {
    "√": r"\surd ", "∛": r"\cuberoot ", "∜": r"\fourthroot ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "•": r"\cdot ", "∗": "*", "÷": r"\div ", "−": "-", "–": "-", "‐": "-", "‑": "-", "‒": "-",
    "﹣": "-", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "≅": r"\cong ", "≡": r"\equiv ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ",
    "∖": r"\setminus ", "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "±": r"\pm ", "∓": r"\mp ",
    "∅": r"\emptyset ", "⌀": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "…": r"\ldots ", "⋯": r"\ldots ", "′": "'", "’": "'", "‘": "'",
    "“": '"', "”": '"', "∠": r"\angle ", "△": r"\triangle ", "⁄": "/", "∕": "/", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ",
    "〉": r"\rangle ", "→": r"\to ", "⇒": r"\to ", "∣": "|", "│": "|", "⎮": "|", "∥": "|", "¬": r"\neg ",
    "∧": r"\wedge ", "∨": r"\vee ", "∑": r"\sum ", "∫": r"\int ", "∂": r"\partial ", "∘": r"\circ ",
    "⊂": r"\subset ", "⊆": r"\subseteq ", "∀": r"\forall ", "∃": r"\exists ", "ℓ": "l", "，": ",", "、": ", ",
    "；": "; ", "。": ".", "：": ":", "【": "[", "】": "]", "ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta ",
    "∆": r"\Delta ", "µ": "μ", "Ω": r"\Omega ", "￥": "¥", "∶": ":", "㎡": "m^{2}", "㎝": "cm", "㎞": "km",
    "㎏": "kg", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}",
    "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅐": r"\frac{1}{7}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}",
    "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "⅑": r"\frac{1}{9}", "⅒": r"\frac{1}{10}", "↉": "0",
}  # fmt: skip

_GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
_GREEK_LETTERS = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", _GREEK, strict=True)) | {"ς": "sigma"}
_CAPITALS = {c.upper(): rf"\{n.capitalize()} " for c, n in _GREEK_LETTERS.items() if c != "ς"}
_TABLE = str.maketrans(_COMMANDS | {c: rf"\{n} " for c, n in _GREEK_LETTERS.items()} | _CAPITALS)

_GREEK_PROSE = re.compile(r"[\u0370-\u03ff]{3,}")


def one_spelling(text: str) -> str:
    r"""The text in ASCII where it can be.

    >>> one_spelling("x² ≤ 3½")
    'x^{2} \\le  3\\frac{1}{2}'
    """
    if text.isascii():
        return text
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + "".join(map(_SUPERSCRIPTS.__getitem__, run[0])) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + "".join(map(_SUBSCRIPTS.__getitem__, run[0])) + "}", text)
    text = _overlined(text)
    if not _GREEK_PROSE.search(text):
        text = text.translate(_TABLE)
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text.translate(_TABLE) if unicodedata.category(c) not in ("Cf", "Mn"))


def _overlined(text: str) -> str:
    """0.3 with a combining line above the 3 repeats it."""
    if "\u0305" not in text and "\u0304" not in text and "\u0307" not in text:
        return text
    return re.sub(r"((?:\d[\u0305\u0304\u0307])+)", lambda m: rf"\overline{{{re.sub(r'[^0-9]', '', m[1])}}}", text)
