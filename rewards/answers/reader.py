"""Reads an answer into a tree, by recursive descent over its tokens. It only reads: nothing is evaluated."""

from collections.abc import Callable
from functools import lru_cache

from grpo.rewards.answers import names
from grpo.rewards.answers.tokens import Token, tokens
from grpo.rewards.answers.tree import Node, TooLarge, Unreadable, is_number, num
from grpo.rewards.answers.units import is_unit
from grpo.rewards.answers.words import number_in_words

MAX_DEPTH = 40
_END = Token("op", "")
_OPENING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "\\lbrace": "\\rbrace", "\\lbrack": "\\rbrack"}
_CLOSING = frozenset({")", "]", "}", "\\}", "\\rangle", "\\rbrace", "\\rbrack", "\\rfloor", "\\rceil", "\\end"})
_SEPARATORS = frozenset({",", ";", "\\\\"})
_BARS = frozenset({"|", "\\|", "\\lvert", "\\rvert", "\\vert", "\\mid", "\\Vert", "\\lVert", "\\rVert"})
_IN_UNITS = frozenset({"/", "^", "-", "{", "}", ".", "'", "\\cdot", "*", ",", '"'})
_TIMES = frozenset({"*", "\\cdot", "\\times", "\\ast"})
_OVER = frozenset({"/", "\\div", "\\over"})


@lru_cache(maxsize=4096)
def read(text: str, grouping: bool = True) -> Node:
    """The tree of an answer. `grouping`: a comma before three digits groups them, as in 1,000, outside of brackets.

    Raises:
        Unreadable: it is no mathematics that is known here.
    """
    reader = _Reader(tokens(text, grouping))
    try:
        node = reader.statement()
    except (ZeroDivisionError, OverflowError, TooLarge) as error:
        raise Unreadable(str(error)) from None
    if not reader.done():
        raise Unreadable(f"cannot read on at {reader.now.text!r}")
    return node


class _Reader:
    """Where reading stands: the token at hand, and what is open around it."""

    def __init__(self, stream: list[Token]) -> None:
        self.stream = stream
        self.index = 0
        self.depth = 0
        self.bars = False

    # --- tokens -------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Token:
        return self.stream[self.index] if self.index < len(self.stream) else _END

    def ahead(self, count: int = 1) -> Token:
        return self.stream[self.index + count] if self.index + count < len(self.stream) else _END

    def before(self) -> Token:
        return self.stream[self.index - 1] if self.index else _END

    def done(self) -> bool:
        return self.index >= len(self.stream)

    def take(self) -> Token:
        token = self.now
        self.index += 1
        return token

    def at(self, *texts: str) -> bool:
        return self.now.text in texts and not self.done()

    def skip(self, text: str) -> bool:
        if self.at(text):
            self.index += 1
            return True
        return False

    def expect(self, *texts: str) -> Token:
        if not self.at(*texts):
            raise Unreadable(f"expected {' or '.join(texts)}, got {self.now.text!r}")
        return self.take()

    def inside(self, read: Callable[[], Node]) -> Node:
        """Read what is between brackets: bars outside do not close there."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        bars, self.bars = self.bars, False
        node = read()
        self.bars = bars
        self.depth -= 1
        return node

    # --- lists, relations ---------------------------------------------------------------------------------------------

    def statement(self) -> Node:
        """What a whole answer, or the content of brackets, says: one item, or a list of them."""
        start = self.index
        found = self.items()
        if not found:
            raise Unreadable("nothing there")
        alternatives = any(token.text.casefold() == "or" for token in self.stream[start : self.index])
        return found[0] if len(found) == 1 else Node("list", tuple(found), "or" if alternatives else None)

    def items(self) -> list[Node]:
        found: list[Node] = []
        while not self.done() and self.now.text not in _CLOSING and not (self.bars and self.at(":", *_BARS)):
            if self.separator():
                continue
            if self.now.text == "." and self.index == len(self.stream) - 1:
                self.take()
                break
            found.append(self.item())
            if not (self.done() or self.now.text in _CLOSING or self.is_separator() or self.at(".") or self.bars):
                raise Unreadable(f"cannot read on at {self.now.text!r}")
        return found

    def is_separator(self) -> bool:
        return self.now.text in _SEPARATORS or self.now.text.casefold() in names.JOINING

    def separator(self) -> bool:
        if self.is_separator() and not self.done():
            self.take()
            return True
        return False

    def item(self) -> Node:
        self.lead()
        number = self.spelled_number()
        node = self.tail(number) if number else self.relation()
        if self.now.text.casefold() in names.CONDITIONS and self.now.text:
            node = Node("cond", (node,), self.rest())
        return node

    def lead(self) -> None:
        """Pass words that only introduce: "the area is", "approximately", "Area =", "Answer:"."""
        start = self.index
        while self.is_word_here() and self.now.text.casefold() not in names.DENIALS:
            hedge = self.take().text.casefold() in names.HEDGES
            if self.at("=", ":", "\\approx") or self.before().text.casefold() in names.SAYING:
                self.skip("=") or self.skip(":") or self.skip("\\approx")
                start = self.index
            elif hedge and self.index == start + 1:
                start = self.index
        self.index = start

    def is_word_here(self, count: int = 0) -> bool:
        token = self.ahead(count)
        article = token.text in ("a", "an") and token.spaced and count == 0 and self.is_word_here(1)
        return token.kind == "word" or (token.kind == "name" and (names.is_word(token.text) or article))

    def spelled_number(self) -> Node | None:
        """Five, or twenty-five."""
        start = self.index
        words: list[str] = []
        while self.is_word_here() or (words and self.at("-") and self.ahead().kind in ("name", "word")):
            words.append(self.take().text.casefold())
            value = number_in_words(words)
            if value is None and words[-1] not in ("-", "and"):
                words.pop()
                self.index -= 1
                break
        value = number_in_words(words) if words else None
        if value is None:
            self.index = start
            return None
        return num(value)

    def rest(self) -> str:
        """What is left of an item, as text."""
        found = []
        while not self.done() and self.now.text not in _CLOSING:
            found.append(self.take().text)
        return " ".join(found)

    def relation(self) -> Node:
        sides, signs = [self.union()], []
        while (sign := self.sign()) is not None:
            signs.append(sign)
            if sign == "=" and (self.done() or self.is_separator()):
                raise Unreadable("an equation without a right side")
            sides.append(self.union())
        return self.tail(Node("rel", tuple(sides), tuple(signs)) if signs else sides[0])

    def sign(self) -> str | None:
        text = self.now.text
        if text in names.RELATIONS:
            self.take()
            return names.RELATIONS[text]
        if text in names.SAYING and self.ahead().kind != "op":
            self.take()
            return "="
        if text == "in" and self.before().kind == "name" and self.ahead().text in ("(", "[", "{", "\\{"):
            self.take()
            return "in"
        return None

    def union(self) -> Node:
        node = self.ratio()
        while True:
            text = self.now.text
            joins = text in ("U", "union", "∪") and self.ahead().text in ("(", "[", "{", "\\{")
            if text in names.SETS or joins:
                self.take()
                node = Node(names.SETS.get(text, "cup"), (node, self.ratio()))
            else:
                return node

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.at(":") and not self.bars:
            self.take()
            parts.append(self.sum())
        return Node("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    # --- arithmetic ---------------------------------------------------------------------------------------------------

    def sum(self) -> Node:
        node = self.signed()
        while True:
            if self.skip("+"):
                node = Node("+", (node, self.product()))
            elif self.skip("-"):
                node = Node("+", (node, Node("neg", (self.product(),))))
            elif self.at("\\pm", "\\mp"):
                sign = "+" if self.take().text == "\\pm" else "-"
                node = Node("pm", (node, self.product()), sign)
            else:
                return node

    def signed(self) -> Node:
        if self.at("\\pm", "\\mp"):
            sign = "+" if self.take().text == "\\pm" else "-"
            return Node("pm", (num(0), self.product()), sign)
        return self.product()

    def product(self) -> Node:
        node = self.unary()
        while True:
            if self.at(*_TIMES) or self.is_times_sign():
                self.take()
                node = Node("*", (node, self.unary()))
            elif self.at(*_OVER) and not self.is_unit_ahead():
                self.take()
                node = Node("/", (node, self.unary()))
            elif self.is_factor():
                node = Node("*", (node, self.power()))
            else:
                return node

    def is_times_sign(self) -> bool:
        """3 x 10^8."""
        return self.at("x", "X") and self.before().kind == "num" and self.ahead().text == "10"

    def is_unit_ahead(self) -> bool:
        """5/hour, which is no division."""
        token = self.ahead()
        return token.kind == "word" or (token.kind == "name" and names.is_word(token.text))

    def is_factor(self) -> bool:
        """Whether the token continues a product without a sign."""
        token = self.now
        if self.done() or self.is_separator() or token.kind == "word":
            return token.kind == "word" and token.text in ("i", "e", "π") and not self.done()
        if token.kind == "num":
            if self.before().kind in ("num", "name"):
                raise Unreadable("a number right after a number or a name")
            return True
        if token.kind == "name":
            return not self.is_unit() and not self.is_word_here() and token.text not in ("U", "union")
        if token.text in _BARS:
            return not self.bars and token.text not in ("\\mid", "\\rvert", "\\rVert")
        if token.kind == "op":
            return token.text in ("(", "{", "[") and not (token.text == "[" and self.before().kind == "num")
        return self.is_value_command(token.text)

    @staticmethod
    def is_value_command(command: str) -> bool:
        known = names.RELATIONS.keys() | names.SETS.keys() | _TIMES | _OVER | _CLOSING | _BARS | _SEPARATORS
        return command not in known and command not in (
            "\\pm", "\\mp", "\\ldots", "\\dots", "\\cdots", "\\circ", "\\pmod", "\\bmod", "\\mod", "\\$", "\\%",
            "\\forall",
        )  # fmt: skip

    def is_unit(self) -> bool:
        """Whether a unit begins here and goes on to the end of the item: 5 cm, 3 m/s."""
        token = self.now
        if self.before().text == "^" or (len(token.text) == 1 and not token.spaced):
            return False
        if not is_unit(token.text):
            return False
        follows = self.ahead()
        return (
            follows is _END
            or follows.text in ("^", "/", ".", ")", "\\}", "}")
            or follows.text in _SEPARATORS
            or follows.text in names.JOINING
            or follows.text in names.RELATIONS
            or follows.kind == "word"
            or (follows.kind == "name" and (names.is_word(follows.text) or is_unit(follows.text)))
            or follows.text in ("a", "an")
            or (follows.text in _TIMES and is_unit(self.ahead(2).text))
        )

    def unary(self) -> Node:
        signs = 0
        while self.at("-", "+"):
            signs += self.take().text == "-"
        node = self.power()
        return Node("neg", (node,)) if signs % 2 else node

    def power(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        base = self.postfix(self.primary())
        if self.skip("^"):
            exponent = self.exponent()
            base = self.postfix(Node("^", (base, exponent)))
        self.depth -= 1
        return base

    def exponent(self) -> Node:
        if self.at("{"):
            return self.braced()
        negative = self.skip("-")
        self.skip("+")
        node = self.power()
        return Node("neg", (node,)) if negative else node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.at("!", "!!"):
                node = Node(self.take().text, (node,))
            elif self.at("%", "\\%"):
                self.take()
                node = Node("%", (node,))
            elif self.at("'") or (self.at("''") and node.op == "sym"):
                if node.op != "sym":
                    raise Unreadable("a prime after what is no name")
                node = Node("sym", (), node.value + self.take().text)
            elif self.at("^") and self.is_degree():
                node = Node("degree", (node,))
            elif self.at("\\degree"):
                self.take()
                node = Node("degree", (node,))
            elif self.at("^") and self.ahead().text in ("'", "\\prime") and node.op == "sym":
                self.index += 2
                node = Node("sym", (), node.value + "'")
            elif self.at("_"):
                node = self.subscripted(node)
            else:
                return node

    def is_degree(self) -> bool:
        """Take `^\\circ` or `^{\\circ}` when it is there."""
        if self.ahead().text == "\\circ":
            self.index += 2
            return True
        if [self.ahead(n).text for n in (1, 2, 3)] == ["{", "\\circ", "}"]:
            self.index += 4
            return True
        return False

    def subscripted(self, node: Node) -> Node:
        raw = self.before()
        self.expect("_")
        label = self.label()
        if node.op == "sym":
            return Node("sym", (), f"{node.value}_{label}")
        if node.op == "num" and raw.kind == "num":
            return Node("based", (), (raw.text, label.strip("()")))
        raise Unreadable("a subscript of what is neither a name nor a number")

    def label(self) -> str:
        """The text of a subscript or of a decorated name."""
        if not self.skip("{"):
            return self.take().text
        found: list[str] = []
        depth = 1
        while not self.done():
            token = self.take()
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return "".join(found)
            found.append(token.text)
        raise Unreadable("a brace that never closes")

    # --- what stands by itself ----------------------------------------------------------------------------------------

    def primary(self) -> Node:
        token = self.now
        if self.done():
            raise Unreadable("it ends too early")
        if token.kind == "num":
            self.take()
            assert token.value is not None, "every number token has a value"
            return num(token.value)
        if token.kind in ("name", "word"):
            return self.named()
        if token.text == "{":
            return self.braced()
        if token.text in _OPENING:
            return self.bracketed()
        if token.text in _BARS:
            return self.between_bars()
        if token.text in names.CURRENCIES:
            self.take()
            return Node("quantity", (self.unary(),), names.CURRENCIES[token.text])
        if token.text == "-":
            return self.unary()
        if token.kind == "command":
            return self.command()
        raise Unreadable(f"cannot read {token.text!r}")

    def named(self) -> Node:
        token = self.take()
        text = token.text
        if text in names.CONSTRUCTORS and self.at("(", "."):
            return self.constructed(text)
        if text in names.FUNCTIONS:
            return self.function(names.FUNCTIONS[text])
        if text == "pi" or text == "π":
            return Node("sym", (), "pi")
        if text in names.INFINITIES:
            return Node("infinity")
        if text == "C" and [self.ahead(n).text for n in (0, 2, 4)] == ["(", ",", ")"]:
            return self.function("binom")  # C(10, 3)
        if text in names.PLAIN_GREEK or len(text) == 1:
            return self.letter(text)
        if token.kind == "word" or names.is_word(text):
            if split := _function_and_letter(text):
                self.stream[self.index - 1 : self.index] = [Token("name", part) for part in split]
                self.index -= 1
                return self.named()
            raise Unreadable(f"the word {text!r}")
        self.stream[self.index - 1 : self.index] = [Token("name", letter) for letter in text]
        return Node("sym", (), text[0])

    def constructed(self, name: str) -> Node:
        """Eq(x, 5), Matrix([[1, 2], [3, 4]]), Interval.open(0, 1)."""
        variant = ""
        if self.skip("."):
            variant = self.take().text
        self.expect("(")
        args = self.inside(self.statement_as_list).args
        self.expect(")")
        if name == "Eq" and len(args) == 2:
            return Node("rel", args, ("=",))
        if name == "Interval" and len(args) >= 2:
            low = "(" if variant in ("open", "Lopen") else "["
            return Node("seq", args[:2], low + (")" if variant in ("open", "Ropen") else "]"))
        if name == "Union" and args:
            node = args[0]
            for other in args[1:]:
                node = Node("cup", (node, other))
            return node
        if name == "Matrix" and len(args) == 1:
            rows = args[0].args if args[0].op in ("seq", "list") else ()
            if not rows or args[0].op != "seq" or rows[0].op != "seq":
                rows = tuple(Node("row", (cell,)) for cell in rows)
            return Node("matrix", tuple(Node("row", row.args) for row in rows))
        if name in ("FiniteSet", "Tuple"):
            return Node("set", args) if name == "FiniteSet" else Node("seq", args, "()")
        raise Unreadable(f"{name} of {len(args)}")

    @staticmethod
    def letter(text: str) -> Node:
        return Node("sym", (), text)

    def braced(self) -> Node:
        self.expect("{")
        if self.skip("}"):
            return Node("set")
        node = self.inside(self.statement)
        self.expect("}")
        return node

    def bracketed(self) -> Node:
        opening = self.take().text
        if self.skip(_OPENING[opening]):
            return Node("set") if opening in ("\\{", "\\lbrace") else Node("seq", (), "()")
        if opening in ("\\{", "\\lbrace"):
            return self.inside(self.set_content)
        if opening == "(" and self.at("mod", "\\mod", "\\bmod"):
            raise Unreadable("a modulus without a number")
        node = self.inside(self.statement)
        closing = self.expect(")", "]", "\\rangle", "\\rbrack").text
        if node.op != "list":
            if (opening, closing) in (("(", ")"), ("[", "]")):
                return node if opening == "(" else Node("seq", (node,), "[]") if node.op == "seq" else node
            raise Unreadable("brackets that do not match")
        shape = {"\\langle": "(", "\\lbrack": "["}.get(opening, opening) + {"\\rangle": ")", "\\rbrack": "]"}.get(
            closing, closing
        )
        return Node("seq", node.args, shape)

    def set_content(self) -> Node:
        self.bars = True
        first = self.items()
        self.bars = False
        if self.at("|", "\\mid", ":", "\\vert"):
            self.take()
            conditions = self.items()
            self.expect("\\}", "\\rbrace", "}")
            return Node("builder", (*first, *conditions), len(first))
        self.expect("\\}", "\\rbrace")
        return Node("set", tuple(first))

    def between_bars(self) -> Node:
        self.take()
        self.depth += 1
        bars, self.bars = self.bars, True
        node = self.sum()
        self.bars = bars
        self.depth -= 1
        if self.now.text not in _BARS:
            raise Unreadable("a bar that never closes")
        self.take()
        return Node("call", (node,), "abs")

    def command(self) -> Node:
        text = self.take().text
        name = text[1:]
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return Node("/", (self.argument(), self.argument()))
        if name == "sqrt":
            degree = self.optional()
            inner = self.argument(whole=True)
            return Node("call", (inner, degree), "root") if degree else Node("call", (inner,), "sqrt")
        if name in ("surd", "cuberoot", "fourthroot"):
            order = {"surd": 2, "cuberoot": 3, "fourthroot": 4}[name]
            inner = self.primary()
            return Node("call", (inner,), "sqrt") if order == 2 else Node("call", (inner, num(order)), "root")
        if name in ("binom", "dbinom", "tbinom"):
            return Node("call", (self.argument(), self.argument()), "binom")
        if name in names.FUNCTIONS:
            return self.function(names.FUNCTIONS[name])
        if name in ("lfloor", "lceil"):
            node = self.inside(self.sum)
            self.expect("\\rfloor" if name == "lfloor" else "\\rceil")
            return Node("call", (node,), name[1:] if name == "lceil" else "floor")
        if name == "pi":
            return Node("sym", (), "pi")
        if name in ("infty", "infin"):
            return Node("infinity")
        if name in ("emptyset", "varnothing"):
            return Node("set")
        if name in names.GREEK:
            return Node("sym", (), names.ALIASES.get(name, name))
        if name in ("mathbb", "Bbb"):
            return self.number_set(self.label())
        if name in ("R", "Reals", "reals"):
            return Node("reals")
        if text in names.DECORATIONS:
            return Node("sym", (), f"{name}({self.label()})")
        if text in names.PREFIX_NAMES:
            return Node("sym", (), f"{name} {self.run_of_letters()}")
        if name == "begin":
            return self.environment()
        if name in ("tag", "label", "hspace", "vspace", "phantom", "color"):
            self.label()
            return self.primary()
        raise Unreadable(f"the command {text}")

    def run_of_letters(self) -> str:
        if self.at("{"):
            return self.label()
        return self.take().text if self.now.kind in ("name", "word") else ""

    @staticmethod
    def number_set(name: str) -> Node:
        return Node("reals") if name == "R" else Node("sym", (), f"set {name}")

    def argument(self, whole: bool = False) -> Node:
        """A command's argument: a group, or a single digit, letter or command. `whole`: all digits of a number."""
        if self.at("{"):
            self.take()
            node = self.inside(self.statement)
            self.expect("}")
            return node
        token = self.now
        if token.kind == "num" and token.text.isdigit() and len(token.text) > 1 and not whole:
            digit, others = token.text[0], token.text[1:]
            self.stream[self.index] = Token("num", others, False, num(int(others)).value)
            return num(int(digit))
        if token.kind == "name" and len(token.text) > 1 and token.text not in names.FUNCTIONS and token.text != "pi":
            self.stream[self.index] = Token("name", token.text[1:])
            return self.letter(token.text[0])
        return self.primary()

    def optional(self) -> Node | None:
        if not self.skip("["):
            return None
        node = self.inside(self.sum)
        self.expect("]")
        return node

    def function(self, name: str) -> Node:
        exponent = base = None
        for _ in range(2):
            if self.at("^"):
                self.take()
                exponent = self.exponent()
            elif self.at("_"):
                self.take()
                base = self.braced() if self.at("{") else self.argument(whole=True)
        inverse = exponent == Node("neg", (num(1),)) and name in names.INVERSES
        called = names.INVERSES[name] if inverse else name
        node = self.applied(called, base)
        return node if exponent is None or inverse else Node("^", (node, exponent))

    def applied(self, name: str, base: Node | None) -> Node:
        if self.at("(", "["):
            opening = self.take().text
            arguments = tuple(self.inside(self.statement_as_list).args)
            self.expect(")" if opening == "(" else "]")
        elif self.at("{"):
            group = self.braced()
            arguments = group.args if group.op == "list" else (group,)
            if name == "binom" and self.at("{"):
                arguments = (*arguments, self.braced())
        else:
            arguments = (self.implied(),)
        return Node("call", (*arguments, base) if base else arguments, name)

    def statement_as_list(self) -> Node:
        found = self.items()
        if not found:
            raise Unreadable("a function of nothing")
        return Node("list", tuple(found))

    def implied(self) -> Node:
        """The argument of a function without brackets: the product up to a sign or the next function."""
        if self.at("-"):
            return self.unary()
        node = self.power()
        while self.is_factor() and not self.is_function() and not self.at("("):
            node = Node("*", (node, self.power()))
        if self.at("/") and self.before().kind == "num" and self.ahead().kind == "num" and is_number(node):
            self.take()  # sin 1/2
            node = Node("/", (node, self.power()))
        return node

    def is_function(self) -> bool:
        return self.now.text.removeprefix("\\") in names.FUNCTIONS

    def environment(self) -> Node:
        name = self.label().strip("*")
        if name == "array" and self.at("{"):
            self.label()
        if name not in (
            "pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "vmatrix", "Vmatrix", "array", "cases", "aligned",
            "align", "gathered", "split",
        ):  # fmt: skip
            raise Unreadable(f"the environment {name}")
        rows = self.inside(self.matrix_rows).args
        self.expect("\\end")
        self.label()
        if name in ("cases", "aligned", "align", "gathered", "split"):
            cells = [cell for row in rows for cell in row.args]
            return Node("list", tuple(cells)) if len(cells) > 1 else cells[0]
        return Node("vertical" if name in ("vmatrix", "Vmatrix") else "matrix", rows)

    def matrix_rows(self) -> Node:
        rows: list[list[Node]] = [[]]
        while not self.at("\\end"):
            if self.done():
                raise Unreadable("an environment that never ends")
            if self.skip("\\\\"):
                rows.append([])
            elif not (self.skip("&") or self.skip(",") or self.skip(".")):
                rows[-1].append(self.relation())
        return Node("rows", tuple(Node("row", tuple(row)) for row in rows if row))

    # --- after an expression ------------------------------------------------------------------------------------------

    def tail(self, node: Node) -> Node:
        """A scale, percent, degrees or a unit after an expression."""
        while not self.done():
            word = self.now.text.casefold()
            if word in names.SCALES and (self.is_word_here()):
                self.take()
                node = Node("*", (node, num(names.SCALES[word])))
            elif word in ("percent", "pct") or (word == "per" and self.ahead().text == "cent"):
                self.index += 2 if word == "per" else 1
                node = Node("%", (node,))
            elif word in ("degrees", "degree", "deg") and self.ahead().text.casefold() not in ("c", "celsius", "f"):
                self.take()
                node = Node("degree", (node,))
            elif word in ("radians", "radian", "rad") and self.is_last():
                self.take()
            elif (unit := self.unit()) is not None:
                return _with_unit(node, unit)
            else:
                return node
        return node

    def is_last(self) -> bool:
        return self.ahead() is _END or self.ahead().text in _SEPARATORS

    def unit(self) -> str | None:
        """The words of a unit up to the end of the item."""
        if self.at("\\pmod", "\\bmod", "\\mod", "mod"):
            command = self.take().text
            return "mod " + (self.label() if command == "\\pmod" or self.at("{") else self.take().text)
        if self.at("(") and self.ahead().text in ("mod", "\\mod", "\\bmod") and self.ahead(2).kind == "num":
            self.index += 2
            modulus = self.take().text
            self.expect(")")
            return f"mod {modulus}"
        if self.now.text in names.CURRENCIES:
            return names.CURRENCIES[self.take().text]
        if not self.starts_unit():
            return None
        found: list[str] = []
        while not self.done() and not (self.is_separator() and self.ahead() is not _END) and not self.ends_unit():
            if self.now.kind in ("op", "command") and self.now.text not in _IN_UNITS:
                raise Unreadable(f"{self.now.text!r} in a unit")
            found.append(self.take().text)
        if any(word.casefold() in names.DENIALS | names.VALUE_WORDS for word in found):
            raise Unreadable("words that deny, or that reckon")
        if any(len(word) == 1 and word.isalpha() and word != "a" and not is_unit(word) for word in found):
            raise Unreadable("a name in a unit")
        return " ".join(found)

    def starts_unit(self) -> bool:
        token = self.now
        if token.text.casefold() in names.CONDITIONS or token.text.casefold() in names.JOINING:
            return False
        return (
            self.is_word_here()
            or (token.kind == "name" and is_unit(token.text))
            or (token.text in ("/", "-") and self.is_unit_ahead())
        )

    def ends_unit(self) -> bool:
        text = self.now.text
        return (
            (text in _CLOSING and text != "}")
            or text in names.RELATIONS
            or text.casefold() in names.CONDITIONS - {"for", "as", "with"}
            or (text == "." and self.ahead() is _END)
            or (self.now.kind == "num" and self.before().text not in ("^", "{"))
        )


def _with_unit(node: Node, unit: str) -> Node:
    if node.op == "degree" and unit in ("C", "F", "Celsius", "Fahrenheit"):
        return Node("quantity", node.args, unit)
    if node.op == "rel" and node.value[-1] in ("=", "~"):
        return Node("rel", (*node.args[:-1], Node("quantity", node.args[-1:], unit)), node.value)
    return Node("quantity", (node,), unit)


def _function_and_letter(run: str) -> tuple[str, str] | None:
    """Sinx is sin x."""
    return (run[:-1], run[-1]) if run[:-1] in names.FUNCTIONS and len(run) > 3 else None
