from itertools import combinations

import pytest

from grpo.decontamination import evaluation_index, overlap
from grpo.duplicates import KeptTexts, Text, bands, jaccard, shingles
from grpo.rejection_settings import DuplicateSettings

LINE = "take the first number then add the second number and write the sum down at the very end"


# --- near-duplicates --------------------------------------------------------------------------------------------------


def test_shingles_and_similarity_by_hand() -> None:
    assert shingles("a b c d", 3) == {"a b c", "b c d"}
    assert shingles("A b", 3) == {"ab"}
    assert jaccard(shingles("a b c d", 3), shingles("a b c e", 3)) == pytest.approx(1 / 3)


def test_one_changed_word_is_a_near_duplicate_and_half_of_them_are_not() -> None:
    kept = KeptTexts(DuplicateSettings(similarity=0.5, words=3))
    first = Text("p/0", "p", "3+4=", LINE)
    kept.add(first)
    # 17 words, 15 runs of 3; the last word changed leaves 14 of 16 in common
    assert kept.twin(Text("p/1", "p", "3+4=", LINE.replace("end", "bottom"))) == first
    assert kept.twin(Text("p/2", "p", "3+4=", " ".join(LINE.split()[:8] + ["and"] * 9))) is None


def test_problems_may_share_a_short_answer_but_not_a_problem_asked_twice() -> None:
    kept = KeptTexts(DuplicateSettings())
    question = "A farmer has nine sheep and buys three more from his neighbour, how many has he now?"
    kept.add(Text("p/0", "p", question, "12"))
    assert kept.twin(Text("q/0", "q", "What are six and six together when you add them up?", "12")) is None
    assert kept.twin(Text("p/1", "p", question, "12")) is not None
    assert kept.twin(Text("r/0", "r", question.replace("sheep", "Sheep"), "12")) is not None


def test_every_pair_that_is_similar_enough_is_found() -> None:
    """Against comparing all pairs, on texts of 60 words of which up to 12 are replaced."""
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(words[: 60 - k] + [f"x{k}y{i}" for i in range(k)]) for k in range(0, 13, 2)]
    for one, other in combinations(texts, 2):
        kept = KeptTexts(DuplicateSettings(similarity=0.8))
        kept.add(Text("a", "p", "q", one))
        similar = jaccard(shingles(one, 5), shingles(other, 5)) >= 0.8
        assert (kept.twin(Text("b", "p", "q", other)) is not None) == similar


def test_there_are_enough_bands_to_miss_few_pairs() -> None:
    """(1 - 0.8^4)^32 = 5e-8. At 0.5 32 bands of 4 miss 13 %, and 64 of 2 1e-8; at 0.2 those 7 %, and 128 of 1 4e-13."""
    assert [bands(similarity) for similarity in (1.0, 0.8, 0.5, 0.2)] == [32, 32, 64, 128]
    for similarity in (0.8, 0.67, 0.66, 0.33, 0.32, 0.06):
        assert (1 - similarity ** (128 // bands(similarity))) ** bands(similarity) <= 1e-3


# --- evaluation sets --------------------------------------------------------------------------------------------------

BENCHMARK = "A train leaves at nine and arrives at noon, how many hours does it take?"


def test_ten_words_in_a_row_overlap_and_nine_do_not() -> None:
    index = evaluation_index([BENCHMARK], n=10, common=10)
    assert overlap(index, "train leaves at nine and arrives at noon how many") == (
        "train leaves at nine and arrives at noon how many"
    )
    assert overlap(index, "train leaves at nine and arrives at noon how") is None
    assert overlap(index, "Another question", f"<think>{BENCHMARK.upper()}</think>") is not None


def test_a_short_problem_is_compared_whole() -> None:
    index = evaluation_index(["3 + 4 ="], n=10, common=10)
    assert overlap(index, "3+4=") == "3+4="
    assert overlap(index, "3-4=") is None
    assert overlap(index, "13+4=", "3+4=") is None  # a completion may come across a small sum


def test_the_wording_that_problems_of_a_set_share_is_no_overlap() -> None:
    asked = "State the final answer to the following arithmetic problem as a number: {}"
    index = evaluation_index([asked.format(i) for i in range(3)], n=10, common=2)
    assert overlap(index, asked.format(7)) is None
    assert overlap(evaluation_index([asked.format(1)], n=10, common=2), asked.format(7)) is not None


def test_a_problem_of_shared_wording_alone_is_still_found_whole() -> None:
    """Signs are no words, so the ten words are all that such problems have."""
    asked = "Is this sequence of brackets balanced? Answer with yes or no: {}"
    index = evaluation_index([asked.format(brackets) for brackets in ("()", "(()", "())")], n=10, common=2)
    assert overlap(index, asked.format("(()")) == asked.format("(()")
    assert overlap(index, asked.format("(())")) is None
