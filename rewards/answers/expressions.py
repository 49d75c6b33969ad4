"""Reads expressions: sums, products, powers, functions, brackets and matrices."""

from abc import ABC, abstractmethod

from grpo.rewards.answers import names
from grpo.rewards.answers.cursor import END, MAX_DEPTH, Cursor
from grpo.rewards.answers.tokens import Token
from grpo.rewards.answers.tree import Node, Unreadable, is_number, num
from grpo.rewards.answers.units import is_unit

OPENING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "\\lbrace": "\\rbrace", "\\lbrack": "\\rbrack"}
CLOSING = frozenset({")", "]", "}", "\\}", "\\rangle", "\\rbrace", "\\rbrack", "\\rfloor", "\\rceil", "\\end"})
SEPARATORS = frozenset({",", ";", "\\\\"})
BARS = frozenset({"|", "\\|", "\\lvert", "\\rvert", "\\vert", "\\mid", "\\Vert", "\\lVert", "\\rVert"})
TIMES = frozenset({"*", "\\cdot", "\\times", "\\ast"})
OVER = frozenset({"/", "\\div", "\\over"})
NO_VALUES = frozenset(
    {*names.RELATIONS, *names.SETS, *TIMES, *OVER, *CLOSING, *BARS, *SEPARATORS, "\\pm", "\\mp", "\\ldots", "\\dots",
     "\\cdots", "\\circ", "\\pmod", "\\bmod", "\\mod", "\\$", "\\%", "\\forall", "\\choose"}
)  # fmt: skip
"""Commands that do not begin a value."""


class ExpressionReader(Cursor, ABC):
    """The half of a grammar whose rules are about expressions. Brackets hold statements, which are the other half."""

    @abstractmethod
    def statement(self) -> Node:
        """What a whole answer, or the content of brackets, says."""

    @abstractmethod
    def items(self) -> list[Node]:
        """The items of a list."""

    @abstractmethod
    def relation(self) -> Node:
        """An expression, or several with signs such as = and < between them."""

    def is_separator(self) -> bool:
        """Whether a comma, a semicolon, a new line, "and" or "or" is next."""
        text = self.now.text
        return text in SEPARATORS or text.casefold() in names.JOINING

    def is_word_here(self, count: int = 0) -> bool:
        """Whether a word stands here, and not a name: an article counts when a word follows it."""
        token = self.ahead(count)
        article = token.text in ("a", "an") and token.spaced and count == 0 and self.is_word_here(1)
        return token.kind == "word" or (token.kind == "name" and (names.is_word(token.text) or article))

    def sum(self) -> Node:
        """Terms with plus, minus and plus-minus."""
        node = self.signed()
        while True:
            if self.skip("+"):
                node = Node("+", (node, self.product()))
            elif self.skip("-"):
                node = _less(node, self.product())
            elif self.at("\\pm", "\\mp"):
                sign = "+" if self.take().text == "\\pm" else "-"
                node = Node("pm", (node, self.product()), sign)
            elif self.now.text == "\\choose":
                self.take()
                return Node("call", (node, self.sum()), "binom")
            else:
                return node

    def signed(self) -> Node:
        """A term that may begin with a plus-minus."""
        if self.at("\\pm", "\\mp"):
            sign = "+" if self.take().text == "\\pm" else "-"
            return Node("pm", (num(0), self.product()), sign)
        return self.product()

    def product(self) -> Node:
        """Factors with signs or without, and quotients, from left to right."""
        node = self.unary()
        while True:
            if self.now.text in TIMES or self.is_times_sign():
                self.take()
                node = Node("*", (node, self.unary()))
            elif self.now.text in OVER and not self.is_unit_ahead():
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
        if token.text in BARS:
            return not self.bars and token.text not in ("\\mid", "\\rvert", "\\rVert")
        if token.kind == "op":
            bracket = token.text == "{" or (token.text == "(" and not self.is_restatement())
            return bracket or (token.text == "[" and self.before().kind != "num")
        return self.is_value_command(token.text)

    def is_restatement(self) -> bool:
        """Whether a bracket says again what stands before it: (or 0.5), (approximately 3.46), (= 2)."""
        return self.now.text == "(" and self.ahead().text.casefold() in names.RESTATING

    @staticmethod
    def is_value_command(command: str) -> bool:
        """Whether a LaTeX command begins a value, rather than joins, compares or closes."""
        return command not in NO_VALUES

    def is_unit(self) -> bool:
        """Whether a unit begins here and goes on to the end of the item: 5 cm, 3 m/s."""
        token = self.now
        if self.before().text == "^" or (len(token.text) == 1 and not token.spaced):
            return False
        if not is_unit(token.text):
            return False
        follows = self.ahead()
        return (
            follows is END
            or follows.text in ("^", "/", ".", ")", "\\}", "}")
            or follows.text in SEPARATORS
            or follows.text in names.JOINING
            or follows.text in names.RELATIONS
            or follows.kind == "word"
            or (follows.kind == "name" and (names.is_word(follows.text) or is_unit(follows.text)))
            or follows.text in ("a", "an")
            or (follows.text in TIMES and is_unit(self.ahead(2).text))
        )

    def unary(self) -> Node:
        """A factor with its minus signs."""
        signs = 0
        while self.at("-", "+"):
            signs += self.take().text == "-"
        node = self.power()
        return Node("neg", (node,)) if signs % 2 else node

    def power(self) -> Node:
        """A value with its exponent."""
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
        """A braced exponent, or a value with its own exponents: 2^3^2 is 2^9."""
        if self.at("{"):
            return self.braced()
        negative = self.skip("-")
        self.skip("+")
        node = self.power()
        return Node("neg", (node,)) if negative else node

    def postfix(self, node: Node) -> Node:
        """What follows a value and belongs to it: factorials, percent, degrees, primes, subscripts."""
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
        """A name with an index, or a numeral with its base."""
        raw = self.before()
        if raw.text == ")" and self.index > 1 and self.ahead(-2).kind == "num" and self.ahead(-3).text == "(":
            raw = self.ahead(-2)  # (1010)_2
        self.expect("_")
        label = self.label()
        if node.op == "sym":
            return Node("sym", (), f"{node.value}_{label}")
        if node.op == "num" and raw.kind == "num":
            return Node("based", (), (raw.text, label.strip("()")))
        raise Unreadable("a subscript of what is neither a name nor a number")

    def primary(self) -> Node:
        """A number, a name, a bracket, a command."""
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
        if token.text in OPENING:
            return self.bracketed()
        if token.text in BARS:
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
        """A run of letters: a function, a constant, a name, or several."""
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
        """A name of one letter."""
        return Node("sym", (), text)

    def braced(self) -> Node:
        """A LaTeX group; with commas in it, a list."""
        self.expect("{")
        if self.skip("}"):
            return Node("set")
        node = self.inside(self.statement)
        self.expect("}")
        return node

    def bracketed(self) -> Node:
        """What round and square brackets or set braces hold."""
        opening = self.take().text
        if self.skip(OPENING[opening]):
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
        if shape in ("(]", "[)") and len(node.args) != 2:
            raise Unreadable("an interval of other than two ends")
        return Node("seq", node.args, shape)

    def set_content(self) -> Node:
        """The elements of a set, or one and the conditions on it."""
        self.bars = True
        first = self.items()
        self.bars = False
        if self.at("|", "\\mid", ":", "\\vert"):
            self.take()
            conditions = self.items()
            self.expect("\\}", "\\rbrace", "}")
            return Node("builder", (*first, *conditions), len(first))
        if len(first) == 1 and is_system(first[0]) and self.before().text == "}" and not self.at("\\}", "\\rbrace"):
            return first[0]  # \left\{ ... \right.
        self.expect("\\}", "\\rbrace")
        return Node("set", tuple(first))

    def between_bars(self) -> Node:
        """An absolute value."""
        self.take()
        self.depth += 1
        bars, self.bars = self.bars, True
        node = self.sum()
        self.bars = bars
        self.depth -= 1
        if self.now.text not in BARS:
            raise Unreadable("a bar that never closes")
        self.take()
        return Node("call", (node,), "abs")

    def command(self) -> Node:
        """A LaTeX command with its arguments."""
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
        """The letters after a sign such as that of an angle."""
        if self.at("{"):
            return self.label()
        return self.take().text if self.now.kind in ("name", "word") else ""

    @staticmethod
    def number_set(name: str) -> Node:
        """The real numbers, or another set by its name."""
        return Node("reals") if name == "R" else Node("sym", (), f"set {name}")

    def argument(self, whole: bool = False) -> Node:
        """A command's argument: a group, or a single digit, letter or command. `whole`: all digits of a number."""
        if self.at("{"):
            self.take()
            node = self.inside(self.statement)
            self.expect("}")
            return node
        token = self.now
        if token.kind == "num" and token.text.isdecimal() and len(token.text) > 1 and not whole:
            digit, others = token.text[0], token.text[1:]
            self.stream[self.index] = Token("num", others, False, num(int(others)).value)
            return num(int(digit))
        if token.kind == "name" and len(token.text) > 1 and token.text not in names.FUNCTIONS and token.text != "pi":
            self.stream[self.index] = Token("name", token.text[1:])
            return self.letter(token.text[0])
        return self.primary()

    def optional(self) -> Node | None:
        """An argument in square brackets, if there is one."""
        if not self.skip("["):
            return None
        node = self.inside(self.sum)
        self.expect("]")
        return node

    def function(self, name: str) -> Node:
        """A function with its exponent and base: sin^2 x, log_2 8."""
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
        """A function with its arguments, in brackets or without."""
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
        """The arguments of a function."""
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
        """Whether a function is next."""
        return self.now.text.removeprefix("\\") in names.FUNCTIONS

    def environment(self) -> Node:
        """A matrix, or the lines of a system."""
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
        cells = [cell for row in rows for cell in row.args]
        if name in ("cases", "aligned", "align", "gathered", "split") or is_system(Node("list", tuple(cells))):
            if name == "cases" and len(rows) > 1 and all(len(row.args) == 2 for row in rows):
                return Node("list", rows)  # each value with its condition
            return Node("list", tuple(cells)) if len(cells) > 1 else cells[0]
        return Node("vertical" if name in ("vmatrix", "Vmatrix") else "matrix", rows)

    def matrix_rows(self) -> Node:
        """The rows of a matrix, up to its end."""
        rows: list[list[Node]] = [[]]
        while not self.at("\\end"):
            if self.done():
                raise Unreadable("an environment that never ends")
            if self.skip("\\\\"):
                rows.append([])
            elif not any(map(self.skip, ("&", ",", ".", "if", "for", "when"))):
                rows[-1].append(self.relation())
        return Node("rows", tuple(Node("row", tuple(row)) for row in rows if row))


def is_system(node: Node) -> bool:
    """Whether it is a list of equations, or of inequalities."""
    return node.op == "list" and bool(node.args) and all(item.op == "rel" for item in node.args)


def _less(node: Node, other: Node) -> Node:
    """A difference; of sets what is left of the one without the other."""
    if other.op == "set":
        return Node("without", (node, other))
    return Node("+", (node, Node("neg", (other,))))


def _function_and_letter(run: str) -> tuple[str, str] | None:
    """Sinx is sin x."""
    return (run[:-1], run[-1]) if run[:-1] in names.FUNCTIONS and len(run) > 3 else None
