"""A place in the tokens of an answer."""

from collections.abc import Callable

from grpo.rewards.answers.tokens import Token
from grpo.rewards.answers.tree import Node, Unreadable

MAX_DEPTH = 40
END = Token("op", "")


class Cursor:
    """Where reading stands: the token at hand, and what is open around it."""

    def __init__(self, stream: list[Token]) -> None:
        self.stream = stream
        self.index = 0
        self.depth = 0
        self.bars = False

    @property
    def now(self) -> Token:
        """The token at hand."""
        return self.stream[self.index] if self.index < len(self.stream) else END

    def ahead(self, count: int = 1) -> Token:
        """The token that many places on."""
        return self.stream[self.index + count] if self.index + count < len(self.stream) else END

    def before(self) -> Token:
        """The token that was read last."""
        return self.stream[self.index - 1] if self.index else END

    def done(self) -> bool:
        """Whether nothing is left."""
        return self.index >= len(self.stream)

    def take(self) -> Token:
        """The token at hand; reading goes on after it."""
        token = self.now
        self.index += 1
        return token

    def at(self, *texts: str) -> bool:
        """Whether the token at hand is one of these."""
        return self.now.text in texts and not self.done()

    def skip(self, text: str) -> bool:
        """Take the token at hand if it is this one."""
        if self.at(text):
            self.index += 1
            return True
        return False

    def expect(self, *texts: str) -> Token:
        """Take the token at hand, which must be one of these."""
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
