"""Measures the accuracy reward beside math-verify on the same cases, each in a process of its own.

    python benchmarks/rewards.py [--json]

Latency is that of one completion, from text to verdict, gold included. math-verify has its default configuration, and a
gold without dollar signs and boxes is set between dollar signs for it. Throughput is 10,000 completions (the cases over
and over) with two worker processes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
NUMERIC = frozenset({"integer", "decimal", "fraction", "percent", "money", "gsm8k"})
LIBRARIES = ("grpo-train", "math-verify")

Judge = Callable[[str, Any], bool]


def main() -> None:
    """Run each library in a process and print what they measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=LIBRARIES, help="measure one library, in this process, as JSON")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only)))
        return
    figures = {library: _in_a_process(library) for library in LIBRARIES}
    print(json.dumps(figures) if options.json else as_text(figures))


def measure(library: str) -> dict[str, Any]:
    """Agreement, latency and throughput of one library."""
    cases = list(labelled()) + list(gsm8k())
    judge = _ours() if library == "grpo-train" else _math_verify()
    for case in cases[:20]:
        judge(case["completion"], case["answer"])  # imports and caches do not count
    timed = [_timed(judge, case) for case in cases]
    numeric = [seconds for case, (_, seconds) in zip(cases, timed, strict=True) if case["stratum"] in NUMERIC]
    right = [verdict == case["expected"] for case, (verdict, _) in zip(cases, timed, strict=True)]
    return {
        "cases": len(cases),
        "agree": sum(right),
        "false_positives": sum(v and not case["expected"] for case, (v, _) in zip(cases, timed, strict=True)),
        "numeric_median_ms": 1000 * _percentile(numeric, 0.5),
        "numeric_p99_ms": 1000 * _percentile(numeric, 0.99),
        "median_ms": 1000 * _percentile([seconds for _, seconds in timed], 0.5),
        "p99_ms": 1000 * _percentile([seconds for _, seconds in timed], 0.99),
        "completions_per_s": throughput(library, (cases * (10_000 // len(cases) + 1))[:10_000]),
    }


def throughput(library: str, cases: Sequence[dict[str, Any]]) -> float:
    """Completions a second with two worker processes, their start included."""
    start = time.perf_counter()
    if library == "grpo-train":
        from grpo.rewards import pool
        from grpo.rewards.accuracy import accuracy

        pool.stop()
        pool.WORKERS = 2
        accuracy([case["completion"] for case in cases], answer=[case["answer"] for case in cases])
    else:
        with ProcessPoolExecutor(2) as workers:
            list(workers.map(_verify_case, cases, chunksize=100))
    return len(cases) / (time.perf_counter() - start)


def labelled() -> Iterator[dict[str, Any]]:
    """The labelled cases of the tests, without those that attack."""
    for line in (TESTS / "reward_cases.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        if case["stratum"] != "hostile":
            yield case


def gsm8k() -> Iterator[dict[str, Any]]:
    """Worked solutions of GSM8K that end in their answer."""
    for line in (TESTS / "gsm8k_sample.jsonl").read_text(encoding="utf-8").splitlines():
        solution, _, answer = json.loads(line)["answer"].partition("####")
        text = f"{solution}\nThe answer is {answer.strip()}."
        yield {"stratum": "gsm8k", "completion": text, "answer": answer.strip(), "expected": True}


def as_text(figures: dict[str, dict[str, Any]]) -> str:
    """A table, a library a column."""
    names = list(figures[LIBRARIES[0]])
    head = f"{'':22}" + "".join(f"{library:>16}" for library in LIBRARIES)
    rows = [f"{name:22}" + "".join(f"{figures[library][name]:16.4g}" for library in LIBRARIES) for name in names]
    return "\n".join([head, *rows])


def _in_a_process(library: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--only", library], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _ours() -> Judge:
    from grpo.rewards.accuracy import accuracy

    return lambda completion, gold: accuracy([completion], answer=[gold])[0] == 1.0


def _math_verify() -> Judge:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def judge(completion: str, gold: Any) -> bool:
        text = str(gold)
        try:
            return bool(verify(parse(text if "$" in text or "boxed" in text else f"${text}$"), parse(completion)))
        except Exception:  # its parser raises on some texts; that counts as no match
            return False

    return judge


def _verify_case(case: dict[str, Any]) -> bool:
    return _math_verify()(case["completion"], case["answer"])


def _timed(judge: Judge, case: dict[str, Any]) -> tuple[bool, float]:
    start = time.perf_counter()
    verdict = judge(case["completion"], case["answer"])
    return verdict, time.perf_counter() - start


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


if __name__ == "__main__":
    main()
