import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from grpo.data import ProblemSet, check_enough, distinct, draw, left_out, load_problems, split
from grpo.problem_settings import ProblemSettings
from grpo.sources import problem_id
from grpo.types import Problem, UserError


def problem(prompt: str, **columns: Any) -> Problem:
    return Problem(problem_id(prompt, columns), prompt, columns)


PROBLEMS = [problem(f"{number}+1=", answer=str(number + 1)) for number in range(1000)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """One token a character of 0-9, + and =."""
    core = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("0123456789+=?")}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?")


def settings(folder: Path, rows: list[dict[str, Any]], **options: Any) -> ProblemSettings:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ProblemSettings.model_validate({"path": str(path), "template": {"kind": "plain"}, **options})


# --- the split --------------------------------------------------------------------------------------------------------


def test_a_problem_is_in_one_part_and_its_share_is_held_out() -> None:
    train, held_out = split(PROBLEMS, 0.2)
    assert sorted([*train, *held_out], key=lambda each: each.id) == sorted(PROBLEMS, key=lambda each: each.id)
    assert len(held_out) == pytest.approx(200, abs=50)  # 4 standard errors of sqrt(1000 * 0.2 * 0.8) = 12.6


def test_neither_order_nor_other_problems_nor_columns_move_a_problem() -> None:
    held_out = {each.prompt for each in split(PROBLEMS, 0.2)[1]}
    assert {each.prompt for each in split(PROBLEMS[::-1], 0.2)[1]} == held_out
    assert {each.prompt for each in split(PROBLEMS[:500], 0.2)[1]} == held_out & {
        each.prompt for each in PROBLEMS[:500]
    }
    other_columns = [problem(each.prompt, answer="?", level=3) for each in PROBLEMS]
    train, still_held_out = split([*PROBLEMS, *other_columns], 0.2)
    assert {each.prompt for each in still_held_out} == held_out
    assert not held_out & {each.prompt for each in train}


def test_a_larger_share_holds_out_the_same_problems_and_more() -> None:
    few, more = ({each.id for each in split(PROBLEMS, share)[1]} for share in (0.1, 0.3))
    assert few < more
    assert split(PROBLEMS, 0.0) == (tuple(PROBLEMS), ())


# --- the order --------------------------------------------------------------------------------------------------------


def test_every_epoch_is_another_permutation_of_all_problems() -> None:
    epochs = [draw(PROBLEMS[:50], seed=0, start=50 * epoch, count=50) for epoch in range(4)]
    for epoch in epochs:
        assert Counter(each.id for each in epoch) == Counter(each.id for each in PROBLEMS[:50])
    assert len({tuple(each.id for each in epoch) for epoch in epochs}) == 4


def test_steps_of_any_size_cut_one_sequence() -> None:
    whole = draw(PROBLEMS[:10], seed=3, start=0, count=42)
    for size in (1, 3, 7, 14, 21):
        steps = [draw(PROBLEMS[:10], seed=3, start=start, count=size) for start in range(0, 42, size)]
        assert [each for step in steps for each in step] == whole


def test_the_seed_decides_the_order() -> None:
    assert draw(PROBLEMS, 1, 0, 100) == draw(PROBLEMS, 1, 0, 100)
    assert draw(PROBLEMS, 1, 0, 100) != draw(PROBLEMS, 2, 0, 100)


def test_the_order_is_the_same_for_ever() -> None:
    drawn = draw([problem(letter) for letter in "abcdef"], seed=0, start=0, count=12)
    assert "".join(each.prompt for each in drawn) == "ecafbdbdeafc"


def test_data_smaller_than_a_step_wraps_only_when_asked() -> None:
    strict, wrapping = (ProblemSettings(path="x.csv", too_few=mode) for mode in ("error", "wrap"))
    check_enough(PROBLEMS[:4], 4, strict)
    check_enough(PROBLEMS[:3], 4, wrapping)
    assert Counter(Counter(each.id for each in draw(PROBLEMS[:3], 0, 0, 7)).values()) == {2: 2, 3: 1}
    with pytest.raises(UserError, match=r"at least 4 to train on, one step's, got 3: .* too_few: wrap"):
        check_enough(PROBLEMS[:3], 4, strict)
    with pytest.raises(UserError, match="got none: lower held_out or add data"):
        check_enough([], 4, wrapping)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_repeated_rows_are_dropped_once_and_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}, {"answer": "2", "prompt": "1+1="}]
    loaded = load_problems(settings(tmp_path, rows, held_out=0), tokenizer, seed=0)
    assert [each.prompt for each in loaded.train] == ["1+1=", "2+2="]
    assert loaded.duplicates == 1


def test_several_demonstrations_of_a_problem_all_stay_under_their_own_ids() -> None:
    first, second = (problem("1+1=", answer="2", completion=text) for text in ("two", "2"))
    assert first.id == second.id
    kept = distinct([first, second, first, second])
    assert [each.columns["completion"] for each in kept] == ["two", "2"]
    assert [each.id for each in kept] == [first.id, f"{first.id}-2"]


def test_prompt_ids_are_known_for_both_parts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"prompt": f"{number}="} for number in range(100)]
    loaded = load_problems(settings(tmp_path, rows, held_out=0.3), tokenizer, seed=0)
    assert loaded.train
    assert loaded.held_out
    digits = {each.prompt: loaded.prompt_ids[each.id] for each in (*loaded.train, *loaded.held_out)}
    assert digits["42="] == (4, 2, 11)
    assert len(digits) == len(loaded.prompt_ids) == 100


def test_long_prompts_are_dropped_and_counted_or_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"prompt": "1" * length} for length in range(1, 7)]
    kept = load_problems(settings(tmp_path, rows, max_prompt_tokens=4, held_out=0), tokenizer, seed=0)
    assert [len(each.prompt) for each in kept.train] == [1, 2, 3, 4]
    assert kept.dropped_long == 2
    assert len(kept.prompt_ids) == 4
    strict = settings(tmp_path, rows, max_prompt_tokens=4, long_prompts="error")
    with pytest.raises(
        UserError, match="'11111': expected a prompt of at most 4 tokens, got 5: raise max_prompt_tokens"
    ):
        load_problems(strict, tokenizer, seed=0)
    with pytest.raises(UserError, match="at most 1 tokens, got 1 longer ones"):
        load_problems(settings(tmp_path, [{"prompt": "11"}], max_prompt_tokens=1), tokenizer, seed=0)


def test_what_is_left_out_is_said() -> None:
    settings = ProblemSettings(path="p", max_prompt_tokens=7)
    assert left_out(ProblemSet((), (), {}, 0, 0), settings) == []
    assert left_out(ProblemSet((), (), {}, dropped_long=3, duplicates=2, held_out_elsewhere=1), settings) == [
        "3 problems longer than 7 tokens are left out",
        "2 problems that stand in the data twice are taken once",
        "1 problems that another source holds out are not trained on",
    ]


def test_a_prompt_without_tokens_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "empty.jinja").write_text("{% if false %}{{ prompt }}{% endif %}")
    template = {"kind": "jinja", "file": str(tmp_path / "empty.jinja")}
    with pytest.raises(UserError, match="becomes a prompt without tokens"):
        load_problems(settings(tmp_path, [{"prompt": "1"}], template=template), tokenizer, seed=0)
