"""Cuts an answer into tokens, one pass from left to right."""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

from grpo.rewards.answers.names import FUNCTIONS
from grpo.rewards.answers.spelling import one_spelling
from grpo.rewards.answers.tree import Unreadable

MAX_CHARS = 2000
MAX_TOKENS = 600
_MAX_NESTING = 12

Kind = Literal["num", "name", "word", "op", "command"]


class Token(NamedTuple):
    """A piece of an answer. `spaced`: white space stands before it. `value`: of a number, exactly."""

    kind: Kind
    text: str
    spaced: bool = False
    value: Fraction | None = None


_GAP = r"(?:\s|~|\\[ ,;:!])*"
_DIGITS_OR_BRACED = r"(?:\{\s*(\d{1,9})\s*\}|(\d))"
_TOKEN = re.compile(
    rf"""
    (?P<space>(?:\s|~|\\(?:left|right)\s*\.(?!\d)|\\[ ,;:!>]|\\(?:quad|qquad|displaystyle
        |textstyle|limits|nolimits|left|right|[bB]igg?[lrm]?|hfill|hline|allowbreak|nonumber|notag|strut|rm|bf|it)(?![a-zA-Z])|\\[()\[\]]|\$)+)
  | (?P<mixed>(?<![\d.^_/])\d{{1,9}}{_GAP}\\[dtc]?frac\s*{_DIGITS_OR_BRACED}\s*{_DIGITS_OR_BRACED}(?!\d)
        |(?<![\d.^_/])\d{{1,9}}(?:\s|\\[ ,;])+\(?(?!0)\d{{1,9}}\s*/\s*\d{{1,9}}\)?(?![\d.]))
  | (?P<repeating>\d*\.\d*\\(?:overline|bar|dot|dots)\s*(?:\{{\d+\}}|\d)(?:\s*\\dot\s*\{{?\d\}}?)?
        |\d+\.\d*\(\d+\)|\d*\.\d{{0,30}}?(?P<period>\d{{1,6}}?)(?P=period){{2,30}}(?:\.\.\.|\s?\\[cl]?dots))
  | (?P<number>(?:\d{{1,3}}(?:(?:GROUP)\d{{3}})+(?![\d])|\d+)(?:\.\d+|\.(?![\d.]))?(?:[eE][+-]?\d{{1,4}}(?![\w.]))?
        |\.\d+(?:[eE][+-]?\d{{1,4}}(?![\w.]))?)
  | (?P<row>\\\\(?:\[[^\]]{{0,20}}\])?|\\newline(?![a-zA-Z])|\\cr(?![a-zA-Z]))
  | (?P<styled>\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|textsf|texttt|operatorname\*?|mathbf|mathit
        |mathsf|boldsymbol|bm|mathcal|mathfrak|mathscr|pmb|emph|hbox|underline|ensuremath|boxed|fbox)\s*\{{)
  | (?P<command>\\[a-zA-Z]+\*?)
  | (?P<escape>\\.)
  | (?P<letters>[A-Za-z]+)
  | (?P<word>[^\W\d_]+)
  | (?P<op>\+\s?/\s?-|\*\*|<=|>=|!=|==|=>|->|:=|<>|\.\.\.|!!|=<|'+|[^\s])
    """.replace("GROUP", r",|\{,\}|\\,|\\!|\\ |,\\!\s*|,\\ |\s|'"),
    re.VERBOSE | re.DOTALL,
)
_INTERVAL = re.compile(
    r"[(\[][^()\[\]]{0,60}\]|([\[\]])([^\[\](),;]{1,60}[,;][^\[\](),;]{0,60}[^\s\[\](),;]\s?)(?<!sqrt)(?<!\\)([\[\]])"
)
"""Brackets as usual, which stay as they are, or an interval of which one looks outward."""
_MONEY = re.compile(r"(Rs|INR|USD|EUR)\b\.?(?=[\s~{}]{0,3}\d)")
_MONEY_SIGNS = {"Rs": "₹", "INR": "₹", "USD": "\\$", "EUR": "€"}
_TEXT_STYLES = ("text", "mbox", "mathrm", "operatorname", "hbox", "emph")
_ESCAPES = {"%": "%", "$": "\\$", "{": "\\{", "}": "\\}", "|": "|", "_": "_", "&": "and", "#": "#", "-": ""}
_SPELLINGS = {
    "**": "^", "<=": "\\le", "=<": "\\le", ">=": "\\ge", "!=": "\\ne", "<>": "\\ne", "==": "=", "=>": "\\to",
    "->": "\\to", ":=": "=", "...": "\\ldots", "+/-": "\\pm", "+ / -": "\\pm",
}  # fmt: skip


def tokens(text: str, grouping: bool = True) -> list[Token]:
    """The tokens of an answer. `grouping`: a comma before three digits groups them, as in 1,000, outside of brackets.

    Raises:
        Unreadable: the text is too long or nested too deeply.
    """
    text = one_spelling(text).strip()
    if len(text) > MAX_CHARS:
        raise Unreadable(f"more than {MAX_CHARS} characters")
    text = _currency(_outward_brackets(text))
    found: list[Token] = []
    _scan(text, found, grouping, 0)
    return found


def _scan(text: str, found: list[Token], grouping: bool, nesting: int, in_text: bool = False) -> None:
    if nesting > _MAX_NESTING:
        raise Unreadable("nested too deeply")
    position, spaced, depth = 0, in_text, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None, "the last alternative takes any character"
        kind, piece = match.lastgroup, match[0]
        if kind == "period":
            kind = "repeating"
        position = match.end()
        if kind == "space":
            spaced = True
            continue
        if kind == "number" and not (grouping and depth == 0) and "," in piece and "{,}" not in piece:
            piece = piece.partition(",")[0]
            position = match.start() + len(piece)
        if kind == "styled":
            end = _closing(text, position)
            style = piece.strip(" {\\*").rstrip("*")
            plain = style.startswith(_TEXT_STYLES)
            _scan(text[position:end], found, grouping and depth == 0, nesting + 1, plain)
            position = end + 1
        else:
            token = _token(str(kind), piece, spaced, in_text)
            depth += (token.text in ("(", "[", "{", "\\{")) - (token.text in (")", "]", "}", "\\}"))
            if token.text or token.kind != "op":
                found.append(token)
        spaced = False
        if len(found) > MAX_TOKENS:
            raise Unreadable(f"more than {MAX_TOKENS} tokens")


def _token(kind: str, piece: str, spaced: bool, in_text: bool) -> Token:
    if kind in ("number", "mixed", "repeating"):
        return Token("num", piece, spaced, _VALUES[kind](piece))
    if kind == "row":
        return Token("command", "\\\\", spaced)
    if kind == "escape":
        return Token("op", _ESCAPES.get(piece[1], piece), spaced)
    if kind == "letters":
        return Token("word" if in_text and piece not in FUNCTIONS else "name", piece, spaced)
    if kind == "word":
        return Token("word", piece, spaced)
    return Token("command" if kind == "command" else "op", _SPELLINGS.get(piece, piece), spaced)


def _closing(text: str, start: int) -> int:
    """Where the brace that was opened before `start` closes."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth == 0:
            return match.start()
    raise Unreadable("a brace that never closes")


def _outward_brackets(text: str) -> str:
    """[0, 1[ with the brackets of [0, 1)."""
    return _INTERVAL.sub(_turned, text) if "[" in text or "]" in text else text


def _turned(found: re.Match[str]) -> str:
    return found[1].replace("]", "(") + found[2] + found[3].replace("[", ")") if found[1] else found[0]


def _currency(text: str) -> str:
    """A lone dollar sign before a number is money; a pair encloses mathematics. Rs. 500 and USD 500 get a sign."""
    text = _MONEY.sub(lambda found: _MONEY_SIGNS[found[1]], text)
    if text.count("$") - text.count("\\$") == 1 and "\\$" not in text:
        return re.sub(r"\$(?=\s*[\d.])", r"\\$", text)
    return text


def _number(piece: str) -> Fraction:
    mantissa, _, exponent = re.sub(r"[^\d.eE+-]", "", piece).lower().partition("e")
    return _decimal(mantissa) * Fraction(10) ** int(exponent or "0")


def _decimal(digits: str) -> Fraction:
    """Faster than Fraction's own reading of text."""
    whole, _, part = digits.partition(".")
    return Fraction(int((whole + part) or "0"), 10 ** len(part)) if part else Fraction(int(whole or "0"))


def _mixed(piece: str) -> Fraction:
    whole, *parts = re.findall(r"\d+", piece)
    if len(parts) == 1:  # \frac12
        parts = list(parts[0])
    top, bottom = map(int, parts)
    if bottom == 0:
        raise Unreadable("a fraction over 0")
    return int(whole) + Fraction(top, bottom)


def _repeating(piece: str) -> Fraction:
    whole, _, rest = piece.partition(".")
    if match := re.fullmatch(r"(\d*)(?:\(|\\\w+\s*\{?)(\d+)[)}]?(?:\s*\\dot\s*\{?(\d)\}?)?", rest):
        fixed, period = match[1], match[2] + (match[3] or "")
    else:
        digits = re.match(r"\d*", rest)
        match = re.match(r"(\d*?)(\d{1,6}?)\2{2,}$", digits[0] if digits else "")
        if match is None:
            raise Unreadable("no digits repeat")
        fixed, period = match[1], match[2]
    start = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))


_VALUES = {"number": _number, "mixed": _mixed, "repeating": _repeating}
