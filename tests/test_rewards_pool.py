import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from grpo.rewards import pool
from grpo.rewards.accuracy import accuracy
from grpo.rewards.pool import WorkerError, run_all
from grpo.rewards.symbolic import equivalent

GOLD = "1"
RIGHT = r"\boxed{\sin^2 x + \cos^2 x}"
ENDLESS = r"\sum_{n=1}^{10^{12}} \frac{1}{n}"


def test_results_errors_and_timeouts_come_back_in_order() -> None:
    results = run_all(equivalent, [("x+1", "1+x"), (r"\frac{", r"\frac{1"), (GOLD, ENDLESS), ("x", "y")], seconds=2.0)
    assert results[0] is True
    assert isinstance(results[1], WorkerError)
    assert isinstance(results[2], TimeoutError)
    assert results[3] is False
    assert run_all(equivalent, [], seconds=1.0) == []


def test_a_call_that_holds_the_interpreter_is_killed_on_time() -> None:
    run_all(abs, [(1,)], seconds=5.0)
    start = time.perf_counter()
    (result,) = run_all(pow, [(9, 9**10)], seconds=1.0)  # one instruction that runs for hours
    assert isinstance(result, TimeoutError)
    assert time.perf_counter() - start < 4


def test_a_call_that_takes_too_much_memory_costs_its_worker_and_is_a_timeout() -> None:
    before = run_all(os.getpid, [()] * 20, seconds=5.0)
    first, second = run_all(bytes, [(8 * 2**30,), (1,)], seconds=5.0)
    assert isinstance(first, TimeoutError)
    assert "memory" in str(first)
    assert second == b"\0"
    assert set(run_all(os.getpid, [()] * 20, seconds=5.0)) - set(before)


def test_a_call_may_be_given_another_limit_of_memory() -> None:
    assert len(run_all(bytes, [(2**20,)], seconds=5.0, max_bytes=4 * 2**30)[0]) == 2**20


def test_what_cannot_be_sent_to_a_worker_is_an_error() -> None:
    (result,) = run_all(len, [(threading.Lock(),)], seconds=5.0)
    assert isinstance(result, WorkerError)


def test_hostile_answers_are_judged_within_the_limit_and_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    command = f"__import__('os').system('touch {mark}')"
    answers = [
        f"\\boxed{{{command}}}",
        f"<answer>{command}</answer>",
        f"The answer is {command}",
        "\\boxed{9**9**9**9}",
        "\\boxed{" * 10_000 + "}" * 10_000,
        "\\boxed{" + "{" * 10_000 + "2" + "}" * 10_000 + "}",
        "\\boxed{" + "(" * 10_000 + ")" * 10_000 + "}",
        "\\boxed{" + "9" * 100_000 + "}",
        "\\boxed{2^{2^{2^{100}}}}",
        "\\boxed{\x00\ud800}",
        RIGHT,
    ]
    start = time.perf_counter()
    verdicts = accuracy(answers, answer=[GOLD] * len(answers), seconds=3.0)
    assert time.perf_counter() - start < 30
    assert verdicts[-1] == 1.0
    assert [v for v in verdicts[:-1] if v != 0.0 and not isinstance(v, Exception)] == []
    assert not mark.exists()


@pytest.mark.parametrize("busy", [True, False])
def test_a_killed_worker_costs_at_most_its_own_call(busy: bool) -> None:
    run_all(abs, [(1,)], seconds=5.0)
    before = pool.worker_pids()
    results: list[object] = []
    calls = [(20.0,)] if busy else []
    thread = threading.Thread(target=lambda: results.extend(run_all(time.sleep, calls, seconds=30.0)))
    thread.start()
    time.sleep(1.0)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    thread.join()
    assert [type(result) for result in results] == [WorkerError] * len(calls)
    assert accuracy([RIGHT], answer=[GOLD]) == [1.0]
    assert not set(before) & set(pool.worker_pids())


def test_many_threads_get_their_own_answers() -> None:
    answers = {n: rf"\boxed{{{n}+\sin^2 x+\cos^2 x}}" for n in range(6)}
    found: dict[int, object] = {}

    def judge(n: int) -> None:
        found[n] = accuracy([answers[n], answers[0]], answer=[str(n + 1)] * 2)

    threads = [threading.Thread(target=judge, args=(n,)) for n in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [1.0, float(n == 0)] for n in answers}


def test_a_script_without_a_main_guard_runs_once_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from grpo.rewards import pool\n"
        "from grpo.rewards.accuracy import accuracy\n"
        "print('started', flush=True)\n"
        f"print(accuracy([{RIGHT!r}], answer=[{GOLD!r}]), *pool.worker_pids())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    first, second = done.stdout.splitlines()
    assert (first, second.split()[0]) == ("started", "[1.0]")
    assert done.stderr == ""
    assert [pid for pid in second.split()[1:] if Path(f"/proc/{pid}").exists()] == []


def test_workers_do_not_load_torch() -> None:
    (loaded,) = run_all(eval, [("'torch' in __import__('sys').modules",)], seconds=5.0)
    assert loaded is False
