"""The remote scorer, against a server of this process."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import load_reward
from grpo.rewards.score import Scoring, score
from grpo.types import Completion, Group, Problem


class Judge(BaseHTTPRequestHandler):
    """Answers lengths, after as many failures as the server is told to give."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        failures = self.server.failures  # type: ignore[attr-defined]
        code = failures.pop() if failures else 200
        rewards = [None if text == "?" else len(text) for text in body["completions"]]
        answer = json.dumps({"rewards": rewards if code != 299 else []}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as running:
        running.bodies, running.failures = [], []  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def scoring(port: int, *texts: str, **options: Any) -> Scoring:
    options = {"url": f"http://127.0.0.1:{port}/", "wait": 0.01, **options}
    reward = load_reward(RewardSettings(name="remote", label="judge", options=options))
    completions = tuple(Completion(text, (1,), (0.0,), "stop", 0) for text in texts)
    return score([Group(Problem("p", "how long?", {"answer": "4"}), (1,), completions)], [reward])


def test_prompts_completions_and_columns_go_out_and_numbers_come_back(server: Any) -> None:
    scored = scoring(server.server_port, "a", "?", "abc", batch_size=2, parallel=1)
    assert [one.parts["judge"] for one in scored.groups[0].scores] == [1.0, None, 3.0]
    assert [body["completions"] for body in server.bodies] == [["a", "?"], ["abc"]]
    assert server.bodies[1]["prompts"] == ["how long?"]
    assert server.bodies[1]["answer"] == ["4"]


def test_what_may_pass_is_tried_again(server: Any) -> None:
    server.failures += [503, 429]
    assert scoring(server.server_port, "abc").failures == []
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("failures", "tries", "message"),
    [
        ([503] * 5, 4, "answered 503 .*4 tries"),
        ([400], 1, "answered 400 .*1 tries"),
        ([299], 1, "expected .*1 numbers"),
    ],
)
def test_what_does_not_pass_is_an_error_of_those_completions(
    server: Any, failures: list[int], tries: int, message: str
) -> None:
    server.failures += failures
    (failure,) = scoring(server.server_port, "abc").failures
    assert failure.status == "error"
    assert re.search(message, failure.message)
    assert len(server.bodies) == tries


def test_a_server_that_is_not_there_is_an_error() -> None:
    (failure,) = scoring(1, "abc", retries=1).failures
    assert failure.status == "error"
    assert "127.0.0.1:1" in failure.message
