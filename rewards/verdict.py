"""What a reward may say beside a number."""


class Noted(float):
    """A number with a note on how it came about, kept in the score: accuracy notes the rule that found the answer."""

    note: str

    def __new__(cls, value: float, note: str) -> "Noted":
        """A float that carries a note."""
        made = super().__new__(cls, value)
        made.note = note
        return made
