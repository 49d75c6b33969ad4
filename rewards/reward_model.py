"""What a model with a scalar head gives: one trained by a stage of kind reward_model, or a published classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from grpo.calibration import sigmoid
from grpo.families import positions
from grpo.preference_settings import Part
from grpo.rewards.verdict import Noted
from grpo.settings import Count, Number
from grpo.summary import judged_text
from grpo.types import Problem, UserError

if TYPE_CHECKING:
    from torch import nn

    from grpo.reward_reading import Read


@dataclass(frozen=True)
class _Judge:
    """The model, loaded, and how it is used."""

    model: "nn.Module"
    read: "Read"
    part: Part
    output: int
    positions: int | None


class RewardModel:
    """The log-odds that a response is good, by a sequence classifier in eval mode; those of pairs are up to a constant.

    `model` is a folder, a hub name or, in a recipe, an earlier stage of kind reward_model. Such a model knows what it
    judges and by which template; others judge `part` by the conversation of their chat template, or, with
    `reads: response`, without the prompt. `output` is the label, or its number, of a classifier with several.
    `scale: probability` gives sigmoid of the log-odds. A response without a summary gets `empty`, or what the model
    gives an empty text. `device`: left out, the learner's.
    """

    def __init__(
        self,
        *,
        model: str,
        part: Part | None = None,
        reads: Literal["conversation", "response"] | None = None,
        output: int | str | None = None,
        scale: Literal["log_odds", "probability"] = "log_odds",
        empty: Number | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        tokens_per_batch: Count = 8192,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.path, self.part, self.reads, self.output = model, part, reads, output
        self.scale, self.empty, self.dtype, self.budget = scale, empty, dtype, tokens_per_batch
        self.device, self.trust = device, trust_remote_code
        self._loaded: _Judge | None = None

    def prepare(self) -> None:
        """Load the model. Raises UserError when it cannot judge."""
        self._loaded = self._loaded or self._load()

    def __call__(
        self, completions: Sequence[str], prompts: Sequence[str], finish: Sequence[str], **columns: Sequence[Any]
    ) -> list[Any]:
        """A number for every completion; an exception for one that the model has no room for."""
        from grpo.scalar_model import scores

        self.prepare()
        judge = self._loaded
        assert judge is not None  # prepared
        rows = {
            i: judge.read(Problem("", prompts[i], {n: c[i] for n, c in columns.items()}), text, finish[i] == "stop")
            for i, text in enumerate(completions)
            if self.empty is None or judged_text(text, judge.part)
        }
        room = judge.positions
        fitting = {i: row for i, row in rows.items() if room is None or len(row) <= room}
        found = dict(zip(fitting, scores(judge.model, list(fitting.values()), self.budget, judge.output), strict=True))

        def value(i: int) -> Any:
            if i not in rows:
                return Noted(self.empty or 0.0, f"no {judge.part}")
            if i not in found:
                return ValueError(f"{len(rows[i])} tokens, more than the {room} positions of {self.path}")
            number = sigmoid(found[i]) if self.scale == "probability" else found[i]
            return number if judged_text(completions[i], judge.part) else Noted(number, f"no {judge.part}")

        return [value(i) for i in range(len(completions))]

    def _load(self) -> _Judge:
        import torch

        from grpo.reward_reading import by_conversation, by_response_alone, by_template, read_card
        from grpo.scalar_model import load_scalar_model

        card = read_card(self.path)
        model, tokenizer = load_scalar_model(self.path, self.dtype, trust_remote_code=self.trust)
        if card is not None and (self.reads or self.part not in (None, card.judges)):
            raise UserError(
                f"reward_model: {self.path} learned to judge the {card.judges} by its own template: leave out part and "
                "reads"
            )
        part: Part = card.judges if card is not None else self.part or "summary"
        if card is not None:
            read = by_template(card.template, tokenizer, part)
        elif self.reads == "response":
            read = by_response_alone(tokenizer, part)
        elif tokenizer.chat_template:
            read = by_conversation(tokenizer, part)
        else:
            raise UserError(
                f"reward_model: {self.path} has no chat template to show it a conversation by: say reads: response if "
                "it judges texts without their prompt"
            )
        model.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        return _Judge(model, read, part, self._chosen(model.config), positions(model.config))

    def _chosen(self, config: Any) -> int:
        """The number of the output that counts."""
        labels = {str(label): int(number) for number, label in (config.id2label or {}).items()}
        if config.num_labels == 1 and self.output is None:
            return 0
        if isinstance(self.output, int) and self.output < config.num_labels:
            return self.output
        if isinstance(self.output, str) and self.output in labels:
            return labels[self.output]
        raise UserError(
            f"reward_model: {self.path} has the outputs {', '.join(labels)}: expected one of them as output, got "
            f"{self.output!r}"
        )
