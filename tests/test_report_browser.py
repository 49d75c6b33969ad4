"""The report in headless Chromium: what a reader clicks, and what a hostile completion cannot do."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright import sync_api as playwright

from grpo.plugins import load_object
from grpo.report.command import write_report
from grpo.report.page import page
from grpo.report.run import read_run
from grpo.report.samples import pack_samples
from grpo.report.story import Examined, story

write_run = load_object(f"{Path(__file__).parents[1] / 'benchmarks' / 'report.py'}:write_run")

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\n"
    "# <b>bold</b> & **strong** \\(\\frac{1}{2}\\) $$x^2$$ `</code>` [link](javascript:alert(1)) \u2028 \ud800 "
    "\\boxed{7}"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, or no test; on CI, where there has to be one, a failure."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("no Chromium on this machine: apt-get install chromium")
    if found is None:
        pytest.skip("no Chromium on this machine: the report's clicks are not tested")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


def open_page(browser: Any, file: Path, scheme: str = "light") -> Any:
    """The page once everything is there, in a laptop's window. An error of a script is an error of the test."""
    tab = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    tab.wrong = []
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.on("console", lambda said: tab.wrong.append(said.text) if said.type == "error" else None)
    tab.on("request", lambda request: None if request.url.startswith("file:") else tab.wrong.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_selector("html[data-samples=ready]")
    assert tab.wrong == []
    return tab


@dataclass(frozen=True)
class Found:
    name: str = HOSTILE
    stage: str = HOSTILE
    first_step: int = 1
    last_step: int = 2
    evidence: str = HOSTILE
    change: str = HOSTILE


def report_of(folders: list[Path], out: Path) -> Path:
    write_report([read_run(folder) for folder in folders], out)
    return out


@pytest.fixture(scope="module")
def short(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A run of 3 steps of 10 groups of 10."""
    folder = tmp_path_factory.mktemp("short")
    tab = open_page(browser, report_of([write_run(folder / "short", 300, 12)], folder / "report.html"))
    yield tab
    assert tab.wrong == []
    tab.close()


@pytest.fixture(autouse=True)
def cleared(request: pytest.FixtureRequest) -> None:
    """No filter is left from the test before."""
    if "short" in request.fixturenames:
        request.getfixturevalue("short").get_by_role("button", name="Clear").click()


def count(tab: Any) -> str:
    return str(tab.locator("#sample-count").inner_text())


def choose(tab: Any, name: str, value: str) -> None:
    tab.select_option(f".filters select[name={name}]", value)


def search(tab: Any, name: str, text: str, expected: str) -> None:
    tab.fill(f".filters input[name={name}]", text)
    playwright.expect(tab.locator("#sample-count")).to_have_text(expected)


# --- what is on it ----------------------------------------------------------------------------------------------------


def test_it_tells_the_story_and_needs_no_sideways_scrolling(short: Any) -> None:
    headings = short.locator("h2").all_inner_texts()
    assert headings == ["Findings", "Evaluation", "Stages", "01-grpo", "Completions", "Recipe", "Environment"]
    assert "Not examined, since this version cannot read the recipe: short" in short.locator("#findings").inner_text()
    assert short.locator("h1").inner_text() == "short"
    assert "0.200 → 0.800" in short.locator(".tile").first.inner_text()
    assert short.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_run_of_no_steps_is_not_called_sound(browser: Any, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "doctor_runs" / "quickstart" / "recipe.yaml", tmp_path)
    tab = browser.new_page()
    tab.goto(report_of([tmp_path], tmp_path / "report.html").as_uri())
    said = tab.locator("#findings").inner_text()
    assert "No stage of training has come to five steps, too few to find anything in." in said
    assert "Nothing was found wrong" not in said
    tab.close()


def test_every_link_leads_somewhere(short: Any) -> None:
    targets = short.evaluate("[...document.querySelectorAll('a')].map((link) => link.getAttribute('href'))")
    assert len(targets) > 6
    assert all(short.locator(target).count() == 1 for target in targets)


def test_every_chart_is_drawn_and_in_words(short: Any) -> None:
    charts = short.locator(".chart").count()
    assert charts == short.locator(".chart canvas").count() > 8
    assert "Reward" in short.locator(".chart h4").first.inner_text()
    assert "at step 3" in short.locator(".chart .hidden").first.inner_text()
    assert short.locator(".heat canvas[role=img]").count() == 2


def test_a_chart_tells_the_values_under_the_cursor(short: Any) -> None:
    accuracy = short.locator(".chart", has_text="Held-out accuracy").first
    assert "0.800 [0.700, 0.900]" in accuracy.locator(".legend").inner_text()
    accuracy.scroll_into_view_if_needed()
    accuracy.locator(".u-over").hover(position={"x": 2, "y": 20})
    assert "0.200 [0.100, 0.300]" in accuracy.locator(".legend").inner_text()
    assert "step 0" in accuracy.locator(".legend").inner_text()


def test_more_figures_are_drawn_when_asked_for(tmp_path: Path, browser: Any) -> None:
    run = write_run(tmp_path / "r", 100, 3)
    with (run / "01-grpo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "time": 1.8e9 + 2, "sampler/chi2": 0.25}) + "\n")
    tab = open_page(browser, report_of([run], tmp_path / "r.html"))
    more = tab.locator("details.others")
    assert more.locator("canvas").count() == 0
    more.locator("summary").click()
    playwright.expect(more.locator("h4")).to_have_text("sampler/chi2")
    playwright.expect(more.locator("canvas")).to_have_count(1)
    tab.close()


def test_themes_draw_the_charts_again(short: Any) -> None:
    button = short.locator("#theme")
    colours = []
    for name in ("light", "dark", "auto"):
        button.click()
        assert button.inner_text() == f"Theme: {name}"
        colours.append(short.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] == colours[2] != colours[1]
    assert short.locator(".chart").count() == short.locator(".chart canvas").count()


def test_on_paper_charts_are_as_wide_as_half_a_sheet(short: Any) -> None:
    def width() -> int:
        return int(short.evaluate("document.querySelector('.chart .uplot').clientWidth"))

    on_screen = width()
    short.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert width() == 312
    assert short.evaluate("document.documentElement.dataset.theme") == "light"
    short.evaluate("dispatchEvent(new Event('afterprint'))")
    assert width() == on_screen > 400


# --- completions ------------------------------------------------------------------------------------------------------


def test_filters_count_what_is_like_them(short: Any) -> None:
    assert count(short) == "300 of 300"
    choose(short, "tag", "cut at the limit")
    assert count(short) == "30 of 300"
    search(short, "firstStep", "2", "20 of 300")
    search(short, "lastStep", "2", "10 of 300")
    search(short, "problem", "2+4=", "1 of 300")
    short.get_by_role("button", name="Clear").click()
    assert count(short) == "300 of 300"
    choose(short, "tag", "tokens with probabilities")
    assert count(short) == "30 of 300"  # the first group of every step
    short.get_by_role("button", name="Clear").click()
    choose(short, "reward", "accuracy")
    search(short, "least", "1", f"{right(short)} of 300")
    search(short, "text", "no completion has this", "0 of 300")
    assert short.locator(".list .empty").is_visible()


def test_what_a_reward_says_nothing_of_is_in_no_range_of_it(short: Any) -> None:
    """In JavaScript null >= 0 and null <= 0."""
    ask = "(value, least, most) => matches({group: {}, tags: [], rewards: {a: value}}, {reward: 'a', least, most})"
    asked = [(None, 0, None), (None, None, 0), (None, None, None), (0, 0, None), (0, None, 0), (1, None, 0)]
    found = [short.evaluate(f"([value, least, most]) => ({ask})(value, least, most)", list(each)) for each in asked]
    assert found == [False, False, True, True, True, False]


def right(tab: Any) -> int:
    """How many are right, by the page's own data."""
    script = "unpackSamples(document.getElementById('samples-data').textContent)"
    return int(tab.evaluate(f"{script}.then((all) => all.filter((one) => one.rewards.accuracy === 1).length)"))


def test_a_search_is_marked_in_the_text(short: Any) -> None:
    text = short.evaluate("document.querySelector('.completion .raw').textContent")
    answer = text[text.index("<answer>") :]
    short.fill(".filters input[name=text]", answer)
    playwright.expect(short.locator(".completion.chosen mark")).to_have_text(answer)


def test_a_group_lies_side_by_side(short: Any) -> None:
    choose(short, "tag", "cut at the limit")
    assert short.locator(".completion").count() == 10
    chosen = short.locator(".completion.chosen")
    assert chosen.count() == 1
    assert "cut at the limit" in chosen.inner_text()
    assert "step 1" in short.locator(".detail h3").inner_text()
    first, second = (short.locator(".completion").nth(place).bounding_box() for place in (0, 1))
    assert first["y"] == second["y"]
    assert {text.split("\n")[2] for text in short.locator(".completion").all_inner_texts()} == {"−0.50", "+0.50"}


def test_the_list_goes_by_keys(short: Any) -> None:
    chosen = short.locator(".item[aria-selected=true]")
    short.locator(".list").focus()
    for key, place in (("Home", "1"), ("ArrowDown", "2"), ("End", "300"), ("ArrowUp", "299"), ("Home", "1")):
        short.keyboard.press(key)
        assert chosen.get_attribute("aria-posinset") == place
        assert short.locator(".list").get_attribute("aria-activedescendant") == chosen.get_attribute("id")


def test_an_order_begins_with_the_highest(short: Any) -> None:
    short.select_option("select[name=order]", "highest reward")
    assert "1.20" in short.locator(".item").first.inner_text()
    short.select_option("select[name=order]", "lowest reward")
    assert "0.20" in short.locator(".item").first.inner_text()
    short.select_option("select[name=order]", "as they were written")


def test_all_of_a_problem(short: Any) -> None:
    short.get_by_role("button", name="All of this problem").click()
    assert count(short) == "10 of 300"


def test_tokens_are_shaded_by_their_probability(short: Any) -> None:
    short.get_by_label("Token probabilities").check()
    card = short.locator(".completion.chosen")
    assert card.locator(".token").count() == 14  # the tag, 12 words and the rest
    assert re.fullmatch(r"<think>.*</think><answer>\d+</answer>", card.locator(".raw").text_content())
    assert "nats" in card.locator(".token").first.get_attribute("title")
    search(short, "problem", "1+3=", "10 of 300")  # a group that was written without log-probabilities
    assert short.get_by_label("Token probabilities").is_disabled()
    assert short.locator(".completion .token").count() == 0
    short.get_by_label("As it is").check()


def write_completions(folder: Path, *texts: str) -> Path:
    """A run of one step and of one completion a problem, whose ids are a benchmark's."""
    (folder / "01-grpo").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": folder.name, "stages": [{"kind": "grpo"}]}))
    samples = [{"step": 1, "problem_id": f"MATH-500:{n}", "completion": text} for n, text in enumerate(texts)]
    rows = [json.dumps({"prompt": "1+1=", "rewards": {}, "total": 0.0, **sample}) + "\n" for sample in samples]
    (folder / "01-grpo" / "samples.jsonl").write_text("".join(rows))
    return folder


def test_ids_are_found_in_capitals_and_without(browser: Any, tmp_path: Path) -> None:
    tab = open_page(browser, report_of([write_completions(tmp_path / "r", "2", "3")], tmp_path / "r.html"))
    search(tab, "problem", "MATH-500:1", "1 of 2")
    search(tab, "problem", "math-500:", "2 of 2")
    tab.get_by_role("button", name="All of this problem").click()
    assert count(tab) == "1 of 2"
    tab.close()


def test_latex_that_is_unknown_stays_whatever_javascript_calls_by_its_name(browser: Any, tmp_path: Path) -> None:
    run = write_completions(tmp_path / "r", r"\(\constructor + \toString \times 2\)")
    tab = open_page(browser, report_of([run], tmp_path / "r.html"))
    tab.get_by_label("Rendered").check()
    assert tab.locator(".completion math").text_content() == r"\constructor+\toString×2"
    tab.close()


# --- hostile text -----------------------------------------------------------------------------------------------------


def write_hostile(folder: Path) -> Path:
    """A run in which everything that a model or a file may say is hostile."""
    recipe = {"name": HOSTILE[:60], "stages": [{"kind": "grpo", "name": "a"}], HOSTILE[:20]: HOSTILE[:80]}
    (folder / "01-a").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    sample = {
        **{"step": 1, "problem_id": HOSTILE, "prompt": HOSTILE, "completion": HOSTILE, "finish": HOSTILE},
        **{"rewards": {HOSTILE: 1.0}, "status": {"x": HOSTILE}, "notes": {"x": HOSTILE}, "total": 1.0},
        **{"token_logprobs": [-1.0, None], "token_lengths": [3, 5]},
    }
    (folder / "01-a" / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    (folder / "01-a" / "metrics.jsonl").write_text(json.dumps({"step": 1, f"reward/{HOSTILE[:40]}": 1.0}) + "\n")
    return folder


@pytest.mark.parametrize("mode", ["As it is", "Rendered", "Token probabilities"])
def test_hostile_text_stays_text(mode: str, browser: Any, tmp_path: Path) -> None:
    run = read_run(write_hostile(tmp_path / "hostile"))
    file = tmp_path / "hostile.html"
    file.write_bytes(page(story([Examined(run, [Found()])]), pack_samples([run])).encode())
    tab = open_page(browser, file)
    assert tab.locator("section").first.locator(".finding h3").text_content() == HOSTILE
    tab.get_by_label(mode).check()
    body = tab.locator(".completion .body")
    assert tab.title().startswith("hostile")
    assert tab.locator("img, iframe, object, b b, main script, a[href^=javascript]").count() == 0
    assert "<img src=x onerror=" in body.text_content()
    if mode == "Rendered":
        assert body.locator("strong").inner_text() == "strong"
        assert body.locator("mfrac, msup, .boxed").count() == 3
    else:
        assert body.text_content() == HOSTILE
    assert tab.wrong == []
    tab.close()


# --- size -------------------------------------------------------------------------------------------------------------


def test_ten_thousand_completions_have_few_rows(browser: Any, tmp_path: Path) -> None:
    file = report_of([write_run(tmp_path / "long", 10_000, 8)], tmp_path / "long.html")
    assert file.stat().st_size < 30 * 2**20
    tab = open_page(browser, file)
    assert count(tab) == "10,000 of 10,000"
    tab.locator(".list").focus()
    tab.keyboard.press("End")
    assert tab.locator(".item[aria-selected=true]").get_attribute("aria-posinset") == "10000"
    assert tab.locator(".item").count() < 60
    search(tab, "lastStep", "7", "700 of 10,000")
    tab.close()


def test_compared_runs_show_what_differs(browser: Any, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"a-{seed}", 100, 3, seed=seed) for seed in (1, 2)]
    runs.append(write_run(tmp_path / "b", 100, 3, lr=1e-4))
    tab = open_page(browser, report_of(runs, tmp_path / "all.html"), "dark")
    assert tab.locator("h1").inner_text() == "a (2 seeds) · b"
    differing = tab.locator("#recipe tr.differs td:first-child").all_text_contents()
    assert set(differing) == {"name", "seed", "stages[0].lr"}
    choose(tab, "run", "2")
    assert count(tab) == "100 of 300"
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.close()
