"""Names that mean something in an answer: functions, constants, relations, words that join or qualify."""

FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "lg", "exp", "sqrt", "abs")},
    **{name: name for name in ("sinh", "cosh", "tanh", "coth", "sech", "csch", "floor", "ceil", "max", "min", "gcd")},
    "lcm": "lcm", "cbrt": "cbrt",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin", "acos": "acos", "atan": "atan",
    "arccot": "acot", "acot": "acot", "arctg": "atan", "tg": "tan", "ctg": "cot", "ceiling": "ceil", "binom": "binom",
    "binomial": "binom", "dbinom": "binom", "tbinom": "binom", "factorial": "factorial", "Abs": "abs", "arcsec": "asec",
    "arccsc": "acsc", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "arsinh": "asinh", "arcosh": "acosh",
    "artanh": "atanh", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "root": "root",
}  # fmt: skip

INVERSES = {
    "sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot", "sec": "asec", "csc": "acsc", "sinh": "asinh",
    "cosh": "acosh", "tanh": "atanh",
}  # fmt: skip

GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Pi",
        "Sigma",
        "Upsilon",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
    ]
)
PLAIN_GREEK = frozenset(
    ["alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "rho", "sigma", "tau", "phi", "omega"]
)
ALIASES = {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "ell": "l"}

CONSTRUCTORS = frozenset({"Eq", "Matrix", "FiniteSet", "Interval", "Union", "Tuple"})
"""How sympy writes equations, matrices and sets."""

INFINITIES = frozenset({"inf", "infinity", "infty", "oo", "Infinity", "Inf"})

RELATIONS = {
    "=": "=", "<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=",
    "\\leqq": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=", "\\ne": "!=", "\\neq": "!=",
    "\\in": "in", "\\isin": "in", "\\approx": "~", "\\simeq": "~", "\\cong": "~", "\\equiv": "==", "\\to": "->",
    "\\rightarrow": "->", "\\Rightarrow": "->", "\\implies": "->", "\\mapsto": "->", "\\longrightarrow": "->",
    "\\notin": "notin", "\\sim": "~", "\\iff": "<->", "\\Leftrightarrow": "<->",
}  # fmt: skip

SETS = {
    "\\cup": "cup", "\\bigcup": "cup", "\\cap": "cap", "\\setminus": "without", "\\backslash": "without",
    "\\smallsetminus": "without",
}  # fmt: skip

JOINING = frozenset({"and", "or", "&"})
CONDITIONS = frozenset({"if", "for", "where", "with", "when", "such", "provided", "whenever", "as", "unless", "mod"})
SAYING = frozenset({"is", "are", "equals", "equal", "was", "be"})
HEDGES = frozenset({"approximately", "about", "roughly", "around", "approx", "exactly", "only", "just", "simply"})
RESTATING = HEDGES | {"or", "=", "\\approx"}
DENIALS = frozenset({"not", "isn't", "no", "never", "neither", "nor", "cannot", "without", "except", "than", "but"})

VALUE_WORDS = frozenset(
    [
        "plus",
        "minus",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "divided",
        "multiplied",
        "factorial",
        "point",
        "sqrt",
        "pi",
        "over",
        "by",
        "root",
    ]
)
"""Words that change the value of the number before them, so that they are no unit."""

_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10,
}  # fmt: skip
_SEVERAL_PARTS = {f"{name}s": parts for name, parts in _PARTS.items()} | {"halves": 2}

SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "hundreds": 100, "thousands": 1000, "millions": 10**6, "billions": 10**9, "trillions": 10**12,
}  # fmt: skip

SHORT_WORDS = frozenset(
    [
        "no",
        "on",
        "up",
        "do",
        "go",
        "to",
        "in",
        "it",
        "is",
        "we",
        "us",
        "am",
        "an",
        "as",
        "at",
        "be",
        "by",
        "he",
        "hi",
        "if",
        "me",
        "my",
        "of",
        "or",
        "so",
        "ok",
    ]
)
RUNS_OF_LETTERS = frozenset(
    ["abc", "abcd", "xyz", "xyzw", "pqr", "pqrs", "mno", "ijk", "uvw", "rst", "bca", "cab", "lmn", "efg", "def"]
)

DECORATIONS = frozenset(
    [
        "\\overline",
        "\\bar",
        "\\vec",
        "\\hat",
        "\\widehat",
        "\\tilde",
        "\\widetilde",
        "\\overrightarrow",
        "\\overleftrightarrow",
        "\\dot",
        "\\ddot",
        "\\underline",
        "\\overarc",
        "\\overset",
        "\\wideparen",
    ]
)
PREFIX_NAMES = frozenset(["\\angle", "\\measuredangle", "\\triangle", "\\odot", "\\parallelogram", "\\square"])
CURRENCIES = {"\\$": "dollar", "£": "pound sterling", "€": "euro", "¥": "yen", "₹": "rupee", "₽": "ruble", "¢": "cent"}


def part(word: str, count: int) -> int | None:
    """How many of what a word names make one, when so many of them are counted: two thirds, but twenty-third is none.

    >>> part("half", 1), part("thirds", 2), part("third", 20)
    (2, 3, None)
    """
    return (_PARTS if count == 1 else _SEVERAL_PARTS).get(word)


def is_word(run: str) -> bool:
    """Whether a run of letters is a word, and not a name or a product of one-letter names."""
    if run in CONSTRUCTORS or run in FUNCTIONS or run in INFINITIES or run in PLAIN_GREEK or run == "pi":
        return False
    if len(run) == 2:
        return run in SHORT_WORDS or run.casefold() == "no"  # No, and NO, answer a question
    return len(run) > 2 and run not in RUNS_OF_LETTERS and not (run.isupper() and len(run) <= 4)
