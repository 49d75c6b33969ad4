"""Units of measurement: which words are units, and how much of one is another."""

import re
from dataclasses import dataclass
from fractions import Fraction

_TABLE: dict[str, tuple[str, str, str]] = {
    "length": ("m", "1", "m meter metre"),
    "mm": ("m", "1/1000", "mm millimeter millimetre"),
    "cm": ("m", "1/100", "cm centimeter centimetre"),
    "dm": ("m", "1/10", "dm decimeter decimetre"),
    "km": ("m", "1000", "km kilometer kilometre"),
    "in": ("m", "127/5000", "inch inches"),
    "ft": ("m", "381/1250", "ft foot feet"),
    "yd": ("m", "1143/1250", "yd yard"),
    "mi": ("m", "201168/125", "mi mile"),
    "s": ("s", "1", "s sec second"),
    "ms": ("s", "1/1000", "ms millisecond"),
    "min": ("s", "60", "min minute mins"),
    "h": ("s", "3600", "h hr hour"),
    "day": ("s", "86400", "day"),
    "week": ("s", "604800", "week"),
    "month": ("month", "1", "month"),
    "year": ("month", "12", "yr year"),
    "g": ("g", "1", "g gram gramme"),
    "kg": ("g", "1000", "kg kilogram kilo"),
    "mg": ("g", "1/1000", "mg milligram"),
    "t": ("g", "1000000", "tonne"),
    "oz": ("oz", "1", "oz ounce"),
    "lb": ("oz", "16", "lb lbs pound"),
    "ton": ("oz", "32000", "ton"),
    "l": ("l", "1", "l L liter litre"),
    "ml": ("l", "1/1000", "ml mL milliliter millilitre"),
    "gal": ("gal", "1", "gal gallon"),
    "quart": ("gal", "1/4", "quart"),
    "pint": ("gal", "1/8", "pint"),
    "cup": ("gal", "1/16", "cup"),
    "dollar": ("dollar", "1", "dollar usd USD buck"),
    "cent": ("dollar", "1/100", "cent"),
    "euro": ("euro", "1", "euro EUR"),
    "sterling": ("sterling", "1", "GBP"),
    "yen": ("yen", "1", "yen yuan"),
    "rupee": ("rupee", "1", "rupee INR"),
    "N": ("N", "1", "N newton"),
    "J": ("J", "1", "J joule"),
    "kJ": ("J", "1000", "kJ kilojoule"),
    "W": ("W", "1", "W watt"),
    "kW": ("W", "1000", "kW kilowatt"),
    "V": ("V", "1", "V volt"),
    "A": ("A", "1", "ampere amp"),
    "Hz": ("Hz", "1", "Hz hertz"),
    "Pa": ("Pa", "1", "Pa pascal"),
    "K": ("K", "1", "K kelvin"),
    "C": ("C", "1", "C Celsius celsius"),
    "F": ("F", "1", "F Fahrenheit fahrenheit"),
    "mol": ("mol", "1", "mol mole"),
    "eV": ("eV", "1", "eV"),
    "unit": ("unit", "1", "unit"),
    "acre": ("acre", "1", "acre"),
    "hectare": ("hectare", "1", "ha hectare"),
    "byte": ("byte", "1", "byte"),
    "KB": ("byte", "1000", "KB kB kilobyte"),
    "MB": ("byte", "1000000", "MB megabyte"),
    "GB": ("byte", "1000000000", "GB gigabyte"),
    "TB": ("byte", "1000000000000", "TB terabyte"),
    "BC": ("BC", "1", "BC BCE"),
    "AD": ("AD", "1", "AD CE"),
}
_UNITS: dict[str, tuple[str, Fraction]] = {
    word: (dimension, Fraction(factor))
    for dimension, factor, known in _TABLE.values()
    for word in known.split()
}  # fmt: skip
_UNITS |= {f"{word}s": entry for word, entry in _UNITS.items() if len(word) > 2 and not word.endswith("s")}
_SPEEDS = {"mph": "mi / h", "kph": "km / h", "kmh": "km / h", "sqft": "ft ^ 2", "sq": "square"}
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
_FILLERS = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "in",
        "total",
        "more",
        "each",
        "and",
        "for",
        "altogether",
        "left",
        "long",
        "years",
        "old",
        "worth",
        "apart",
        "all",
        "per",
        "on",
        "at",
        "to",
    ]
)


@dataclass(frozen=True)
class Unit:
    """What a unit measures: powers of dimensions and a factor; or, of an unknown one, its words."""

    dimensions: tuple[tuple[str, int], ...]
    factor: Fraction
    words: frozenset[str] = frozenset()


def is_unit(text: str) -> bool:
    """Whether the text is the name of a unit."""
    return text in _UNITS or text in _SPEEDS or text in ("square", "cubic", "sq")


def unit(text: str) -> Unit:
    """What the words of a unit mean.

    >>> unit("km / h").factor
    Fraction(5, 18)
    """
    pieces = re.findall(r"[^\W\d_]+|\d+|[/^-]", " ".join(_SPEEDS.get(word, word) for word in text.split()))
    dimensions: dict[str, int] = {}
    factor, sign, power, last = Fraction(1), 1, 1, ""
    for piece, before in zip(pieces, ["", *pieces], strict=False):
        if piece in ("/", "per"):
            sign = -1
        elif piece.isdecimal() or piece in ("squared", "cubed"):
            count = int(piece) if piece.isdecimal() else _POWERS[piece]
            if not last or not 1 <= count <= 4:
                return _unknown(pieces)
            dimension, one = _UNITS[last]
            extra = -(count - 1) if "-" in before or sign < 0 else count - 1
            dimensions[dimension] = dimensions.get(dimension, 0) + extra
            factor *= one**extra
        elif piece in _POWERS:
            power = _POWERS[piece]
        elif (known := piece if piece in _UNITS else piece.lower()) in _UNITS:
            dimension, one = _UNITS[known]
            dimensions[dimension] = dimensions.get(dimension, 0) + sign * power
            factor *= one ** (sign * power)
            power, last = 1, known
        elif piece not in ("^", "-") and piece not in _FILLERS:
            return _unknown(pieces)
    if not dimensions:
        return _unknown(pieces)
    return Unit(tuple(sorted((name, count) for name, count in dimensions.items() if count)), factor)


def exchange(gold: str, answer: str) -> Fraction | None:
    """How many of the gold's unit one of the answer's is, or None when they measure different things.

    >>> exchange("m", "cm"), exchange("m", "s"), exchange("apples", "red apples")
    (Fraction(1, 100), None, Fraction(1, 1))
    """
    if gold == answer:
        return Fraction(1)
    if gold.startswith("mod ") or answer.startswith("mod "):
        return None
    first, second = unit(gold), unit(answer)
    if first.words or second.words:
        alike = first.words <= second.words or second.words <= first.words
        return Fraction(1) if first.words and second.words and alike else None
    if "unit" in (first.dimensions or (("", 0),))[0][0] or "unit" in (second.dimensions or (("", 0),))[0][0]:
        return Fraction(1) if _power(first) == _power(second) else None
    return second.factor / first.factor if first.dimensions == second.dimensions else None


def _power(one: Unit) -> int:
    return sum(count for _, count in one.dimensions)


def _unknown(pieces: list[str]) -> Unit:
    words = (piece.lower() for piece in pieces if piece.isalpha() and piece not in _FILLERS)
    return Unit((), Fraction(1), frozenset(_singular(word) for word in words) or frozenset({""}))


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
