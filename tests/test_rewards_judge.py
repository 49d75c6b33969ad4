"""The judge behind an OpenAI-compatible endpoint, against a server of this process."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from grpo.reward_settings import RewardSettings
from grpo.rewards.judge import neighbours, verdict
from grpo.rewards.registry import load_reward
from grpo.rewards.score import Scoring, score
from grpo.types import Completion, Group, Problem, UserError

Decide = Callable[[str, str], str]


class Handler(BaseHTTPRequestHandler):
    """Reads the two answers out of the question and says what the server's `decide` makes of them."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append((self.path, self.headers.get("Authorization"), body))
        question = body["messages"][0]["content"]
        found = re.search(r"answer A\]\n(.*)\n\[End.*answer B\]\n(.*)\n\[End", question, re.DOTALL)
        said = server.decide(*found.groups()) if found else server.decide(question, "")
        code = server.failures.pop() if server.failures else 200
        answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def longer(a: str, b: str) -> str:
    better = "[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"
    return f"<think>[[A]] or [[B]]?</think>The longer one.\n{better}"


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.failures, running.decide = [], [], longer  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def judged(port: int, *groups: tuple[str, ...], columns: dict[str, Any] | None = None, **options: Any) -> Scoring:
    given = {"url": f"http://127.0.0.1:{port}/v1", "model": "m", "wait": 0.01, "seconds": 5, **options}
    reward = load_reward(RewardSettings(name="judge", options=given))
    made = [
        Group(
            Problem(f"p{number}", f"question {number}", columns or {}),
            (1,),
            tuple(Completion(text, (1,), (0.0,), "stop", 0) for text in texts),
        )
        for number, texts in enumerate(groups)
    ]
    return score(made, [reward])


def values(scoring: Scoring) -> list[list[float | None]]:
    return [[one.parts["judge"] for one in group.scores] for group in scoring.groups]


def test_every_completion_is_compared_with_its_neighbours_in_both_orders(server: Any) -> None:
    """Around the circle a bb ccc dd: bb wins one and loses one, dd too; nothing is compared across groups."""
    scoring = judged(server.server_port, ("a", "bb", "ccc", "dd"), ("e", "ff"))
    assert values(scoring) == [[0.0, 0.5, 1.0, 0.5], [0.0, 1.0]]
    assert len(server.asked) == 2 * 4 + 2
    assert scoring.groups[0].scores[0].notes["judge"] == "2 of 2 the same in both orders"


def test_all_against_all(server: Any) -> None:
    scoring = judged(server.server_port, ("a", "bb", "ccc", "dd"), opponents=3)
    assert values(scoring) == [[0.0, 0.5, 1.0, 0.5]]
    assert values(scoring)[0][1] == (1 + 0 + 0.5) / 3  # beats a, loses to ccc, ties with dd


def test_a_judge_that_prefers_a_place_prefers_nobody(server: Any) -> None:
    server.decide = lambda a, b: "[[A]]"
    scoring = judged(server.server_port, ("a", "bb", "ccc"))
    assert values(scoring) == [[0.5, 0.5, 0.5]]
    assert scoring.groups[0].scores[0].notes["judge"] == "0 of 2 the same in both orders"


def test_a_reference_answer_is_what_all_are_compared_with(server: Any) -> None:
    scoring = judged(server.server_port, ("a", "bb", "ccc"), columns={"ideal": "xx"}, against="ideal")
    assert values(scoring) == [[0.0, 0.5, 1.0]]
    assert len(server.asked) == 6
    missing = judged(server.server_port, ("a",), against="ideal")
    assert "reference answer in column 'ideal'" in missing.failures[0].message


def test_the_summary_is_judged_unless_the_response_is_asked_for(server: Any) -> None:
    texts = ("<think>long thought</think>a", "<think></think>bb")
    assert values(judged(server.server_port, texts)) == [[0.0, 1.0]]
    assert values(judged(server.server_port, texts, part="response")) == [[1.0, 0.0]]


def test_what_needs_no_judge_is_not_asked(server: Any) -> None:
    """Equal texts tie, an empty one loses, a single completion has no opponent."""
    groups = (("same", "<think>x</think>same"), ("<think>never ends", "x"), ("alone",))
    scoring = judged(server.server_port, *groups)
    assert values(scoring) == [[0.5, 0.5], [0.0, 1.0], [None]]
    assert server.asked == []
    assert scoring.groups[2].scores[0].status["judge"] == "not_applicable"


def test_a_failure_is_a_status_of_the_completions_it_touches(server: Any) -> None:
    server.decide = lambda a, b: "I like ccc" if "ccc" in (a, b) else longer(a, b)
    scoring = judged(server.server_port, ("a", "bb", "ccc", "dd", "e"))
    assert [one.status["judge"] for one in scoring.groups[0].scores] == ["ok", "error", "error", "error", "ok"]
    assert [one.total for one in scoring.groups[0].scores][1:4] == [None] * 3
    assert "expected one verdict of [[A]], [[B]] and [[C]] from the judge, got none in 'I like ccc'" in (
        scoring.failures[0].message
    )


def test_what_may_pass_is_tried_again_and_the_rest_is_said(server: Any) -> None:
    server.failures += [503, 429]
    assert values(judged(server.server_port, ("a", "bb"), parallel=1)) == [[0.0, 1.0]]
    server.failures += [400, 400]
    failure = judged(server.server_port, ("a", "bb")).failures[0]
    assert (failure.status, "answered 400" in failure.message) == ("error", True)


def test_a_judge_that_is_not_there_or_too_slow(server: Any) -> None:
    assert judged(1, ("a", "bb"), retries=0).failures[0].status == "error"
    server.decide = lambda a, b: threading.Event().wait(0.5) or longer(a, b)
    slow = judged(server.server_port, ("a", "bb"), retries=0, seconds=0.1).failures
    assert [failure.status for failure in slow] == ["timeout", "timeout"]


def test_the_request_is_that_of_the_chat_completions_api(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    template = tmp_path / "own.jinja"
    template.write_text("{{ prompt }}|{{ a }}|{{ b }}")
    server.decide = lambda question, _: "[[A]]" if question.split("|")[1] == "bb" else "[[B]]"
    options = {"template": str(template), "key_env": "JUDGE_KEY", "body": {"seed": 7}, "temperature": 0.5}
    assert values(judged(server.server_port, ("a", "bb"), **options)) == [[0.0, 1.0]]
    path, key, body = server.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer sesame")
    assert {name: body[name] for name in ("model", "temperature", "max_tokens", "seed")} == {
        "model": "m", "temperature": 0.5, "max_tokens": 1024, "seed": 7,
    }  # fmt: skip
    assert sorted(asked[2]["messages"][0]["content"] for asked in server.asked) == [
        "question 0|a|bb",
        "question 0|bb|a",
    ]


def test_verdicts_are_read_strictly() -> None:
    assert verdict("B is terse.\n[[A]] ... so [[A]]") == "A"
    for answer in ("[[A]] or [[B]]", "A", "[[D]]", "[A]", "", "<think>[[A]]", "[[a]]"):
        with pytest.raises(ValueError, match="expected one verdict"):
            verdict(answer)
    with pytest.raises(ValueError, match="as text"):
        verdict(None)


def test_neighbours_go_around_the_circle() -> None:
    assert neighbours([3, 4, 5], 1) == [(3, 4), (4, 5), (5, 3)]
    assert len(neighbours(list(range(6)), 5)) == 15
    assert len(neighbours(list(range(6)), 3)) == 15
    assert neighbours([7], 4) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:80"}, "expected a url of http or https"),
        ({"key_env": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY"),
        ({"template": "nowhere.jinja"}, "nowhere.jinja: cannot be used"),
        ({"opponents": 0}, "options.opponents"),
        ({"oponents": 1}, "did you mean opponents"),
    ],
)
def test_mistakes_are_found_before_anyone_is_asked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_reward(RewardSettings(name="judge", options={"url": "http://h/v1", "model": "m", **options}))


def test_a_template_must_show_what_is_judged(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ prompt }} {{ a }}")
    options = {"url": "http://h/v1", "model": "m", "template": str(tmp_path / "t.jinja")}
    with pytest.raises(UserError, match="got none of b"):
        load_reward(RewardSettings(name="judge", options=options))
