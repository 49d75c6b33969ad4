import pytest

from grpo.types import one_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (ValueError("one\n  two\tthree"), "one two three"),
        (ValueError("x" * 1000), "x" * 300),
        (KeyError(), "KeyError"),  # str() of it is empty
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_what_an_exception_says_is_one_line_of_a_sentence(said: object, line: str) -> None:
    assert one_line(said) == line
