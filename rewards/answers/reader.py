"""Reads an answer into a tree, by recursive descent over its tokens. It only reads: nothing is evaluated."""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial

from grpo.rewards.answers import names
from grpo.rewards.answers.cursor import END
from grpo.rewards.answers.expressions import BARS, CLOSING, SEPARATORS, ExpressionReader
from grpo.rewards.answers.meaning import is_name, is_rounding
from grpo.rewards.answers.tokens import tokens
from grpo.rewards.answers.tree import Node, TooLarge, Unreadable, num
from grpo.rewards.answers.units import exchange, is_unit
from grpo.rewards.answers.words import number_in_words

IN_UNITS = frozenset({"/", "^", "-", "{", "}", ".", "'", "\\cdot", "*", ",", '"'})


@lru_cache(maxsize=4096)
def read(text: str, grouping: bool = True) -> Node:
    """The tree of an answer. `grouping`: a comma before three digits groups them, as in 1,000, outside of brackets.

    Raises:
        Unreadable: it is no mathematics that is known here.
    """
    reader = _AnswerReader(tokens(text, grouping))
    try:
        node = reader.statement()
    except (ZeroDivisionError, OverflowError, TooLarge) as error:
        raise Unreadable(str(error)) from None
    if not reader.done():
        raise Unreadable(f"cannot read on at {reader.now.text!r}")
    return node


class _AnswerReader(ExpressionReader):
    """The half of a grammar whose rules are about lists, relations and units."""

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
        while not self.done() and self.now.text not in CLOSING and not (self.bars and self.at(":", *BARS)):
            if self.separator():
                continue
            if self.now.text == "." and self.index == len(self.stream) - 1:
                self.take()
                break
            found.append(self.item())
            if not (self.done() or self.now.text in CLOSING or self.is_separator() or self.at(".") or self.bars):
                raise Unreadable(f"cannot read on at {self.now.text!r}")
        return found

    def separator(self) -> bool:
        if self.is_separator() and not self.done():
            self.take()
            return True
        return False

    def item(self) -> Node:
        self.lead()
        negative = self.is_word_here() and self.now.text.casefold() in ("negative", "minus")
        if negative:
            self.take()
        number = self.spelled_number()
        node = self.tail(number) if number else self.relation()
        if negative:
            node = _inside(node, lambda value: Node("neg", (value,)))
        node = self.restated(_point(node))
        if self.now.text.casefold() in names.CONDITIONS and self.now.text:
            node = Node("cond", (node,), self.rest())
        return node

    def restated(self, node: Node) -> Node:
        """A value and the same again in brackets, 1/2 (or 0.5), as an equation: what differs contradicts it."""
        if not self.is_restatement():
            return node
        self.take()
        self.skip("or")
        rounded = self.at("\\approx") or self.now.text.casefold() in names.HEDGES
        again = self.inside(self.item)
        self.expect(")")
        sides, signs = (node.args, node.value) if node.op == "rel" else ((node,), ())
        pair = sides[-1], again
        if any(one.op == "rel" or is_name(one) for one in pair) or (rounded and not is_rounding(*pair)):
            raise Unreadable("brackets that say something else")
        return Node("rel", (*sides, again), (*signs, "~" if rounded else "="))

    def lead(self) -> None:
        """Pass words that only introduce: "the area is", "approximately", "Area =", "Answer:"."""
        self.skip("=") or self.skip("\\approx") or self.skip("\\sim")
        start = self.index
        while self.is_word_here() and self.now.text.casefold() not in names.DENIALS:
            hedge = self.take().text.casefold() in names.HEDGES
            if self.at("=", ":", "\\approx") or self.before().text.casefold() in names.SAYING:
                self.skip("=") or self.skip(":") or self.skip("\\approx")
                start = self.index
            elif hedge and self.index == start + 1:
                self.skip(".")  # approx. 5
                start = self.index
        self.index = start

    def spelled_number(self) -> Node | None:
        """Five, twenty-five, or two-thirds."""
        start = self.index
        words: list[str] = []
        while self.is_word_here() or (words and self.at("-") and self.ahead().kind in ("name", "word")):
            words.append(self.take().text.casefold())
            value = number_in_words(words)
            if value is None and words[-1] not in ("-", "and"):
                words.pop()
                self.index -= 1
                break
        hyphen = words[-1:] == ["-"]
        value = number_in_words(words[:-1] if hyphen else words)
        if value is not None and (part := names.part(self.now.text.casefold(), value)) is not None:
            self.take()
            return num(Fraction(value, part))
        if value is None or hyphen:
            self.index = start
            return None
        return num(value)

    def rest(self) -> str:
        """What is left of an item, as text. Raises Unreadable where it holds another case."""
        found: list[str] = []
        while not self.done() and (self.now.text not in CLOSING or found.count("{") > found.count("}")):
            if {",", ";"} & set(found) and self.now.text.casefold() in (*names.CONDITIONS, "otherwise"):
                raise Unreadable("several cases")
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
        if text == "&" and self.ahead().text in names.RELATIONS:
            self.take()  # the lines of a system are aligned there
            text = self.now.text
        if text in names.RELATIONS:
            self.take()
            self.skip("&")
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

    def tail(self, node: Node) -> Node:
        """A scale, percent, degrees or a unit after an expression."""
        while not self.done():
            word = self.now.text.casefold()
            if word in names.SCALES and (self.is_word_here()):
                self.take()
                scale = num(names.SCALES[word])
                node = _inside(node, partial(_times, scale))
            elif word in ("percent", "pct") or (word == "per" and self.ahead().text == "cent"):
                self.index += 2 if word == "per" else 1
                node = Node("%", (node,))
            elif word in ("degrees", "degree", "deg") and self.ahead().text.casefold() not in ("c", "celsius", "f"):
                self.take()
                node = Node("degree", (node,))
            elif word in ("radians", "radian", "rad") and self.is_last():
                self.take()
            elif (unit := self.unit()) is not None:
                return self.compound(_with_unit(node, unit))
            else:
                return node
        return node

    def compound(self, node: Node) -> Node:
        """2 hours and 30 minutes: a smaller unit of the same kind adds to the quantity."""
        start = self.index
        self.skip("and")
        if node.op == "quantity" and self.now.kind == "num":
            value = self.power()
            smaller = self.unit()
            rate = exchange(node.value, smaller) if smaller else None
            if rate is not None and rate < 1:
                return Node("quantity", (Node("+", (node.args[0], Node("*", (value, num(rate))))),), node.value)
        self.index = start
        return node

    def is_last(self) -> bool:
        return self.ahead() is END or self.ahead().text in SEPARATORS

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
        while not self.done() and not (self.is_separator() and self.ahead() is not END) and not self.ends_unit():
            if self.now.kind in ("op", "command") and self.now.text not in IN_UNITS:
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
            (text in CLOSING and text != "}")
            or text in names.RELATIONS
            or text.casefold() in names.CONDITIONS - {"for", "as", "with"}
            or self.is_restatement()
            or (text == "." and self.ahead() is END)
            or (self.now.kind == "num" and self.before().text not in ("^", "{"))
        )


def _point(node: Node) -> Node:
    """P(1, 2), a point with its name, as the equation P = (1, 2)."""
    if node.op != "*" or node.args[0].op != "sym" or node.args[1].op != "seq" or node.args[1].value != "()":
        return node
    name = str(node.args[0].value)
    capital = name[0].isupper() and not name[1:2].isalpha()
    return Node("rel", node.args, ("=",)) if capital and node.args[1].args else node


def _times(factor: Node, value: Node) -> Node:
    return Node("*", (value, factor))


def _inside(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node changed, of a quantity its number: minus 3 cm, $1.2 million."""
    return Node("quantity", (change(node.args[0]),), node.value) if node.op == "quantity" else change(node)


def _with_unit(node: Node, unit: str) -> Node:
    if node.op == "degree" and unit in ("C", "F", "Celsius", "Fahrenheit"):
        return Node("quantity", node.args, unit)
    if node.op == "rel" and node.value[-1] in ("=", "~"):
        return Node("rel", (*node.args[:-1], Node("quantity", node.args[-1:], unit)), node.value)
    return Node("quantity", (node,), unit)
