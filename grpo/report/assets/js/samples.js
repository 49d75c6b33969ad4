"use strict";
// The browser of completions: filters above, a list on the left, the group of the chosen one on the right.

const WAIT = 120; // milliseconds after the last letter of a search

class SampleBrowser {
  constructor(samples, runs) {
    this.samples = samples;
    this.filter = { reward: "total" };
    this.order = Object.keys(ORDERS)[0];
    this.view = { runs, mode: "raw", needle: "", onMode: (mode) => this.setMode(mode), onProblem: (problem) => this.setProblem(problem) };
    this.detail = el("div.card.detail", { "aria-live": "off" });
    this.count = el("span", { id: "sample-count", role: "status" });
    this.list = new SampleList((sample) => this.show(sample));
    this.element = el("div", {}, this.filters(), el("div.browser", {},
      el("div.card.list-card", {}, el("div.list-head", {}, this.count, this.orders()), this.list.element), this.detail));
    this.apply();
  }

  filters() {
    const stages = [...new Set(this.samples.map((one) => one.group.stage))];
    const models = [...new Set(this.samples.map((one) => one.group.model).filter(Boolean))];
    const rewards = ["total", ...new Set(this.samples.flatMap((one) => Object.keys(one.rewards || {})))];
    this.problem = this.search("problem", "id or words of the prompt");
    return el("form.filters", { "aria-label": "Filter completions", onsubmit: (event) => event.preventDefault() },
      this.view.runs.length > 1 ? this.choice("Run", "run", this.view.runs.map((run, number) => [number, run.label]), "all runs") : null,
      this.choice("Stage", "stage", stages.map((name) => [name, name]), "all stages"),
      models.length > 1 ? this.choice("Model", "model", models.map((name) => [name, name]), "all models") : null,
      el("label", {}, "Steps", el("span.pair", {}, this.number("firstStep", "from", "First step"), this.number("lastStep", "to", "Last step"))),
      this.choice("What became of it", "tag", this.tags(), "anything"),
      el("label", {}, "Reward", el("span.pair", {}, this.rewardChoice(rewards), this.number("least", "least", "Least reward"), this.number("most", "most", "Most reward"))),
      el("label", {}, "Problem", this.problem), el("label", {}, "Text of the completion", this.search("text", "search")),
      el("button", { type: "reset", onclick: () => this.reset() }, "Clear"));
  }

  tags() {
    const counts = new Map();
    for (const sample of this.samples) for (const tag of sample.tags) counts.set(tag, (counts.get(tag) || 0) + 1);
    return [...counts].sort().map(([tag, count]) => [tag, `${tag} (${whole(count)})`]);
  }

  choice(label, key, options, everything) {
    const select = el("select", { name: key }, el("option", { value: "" }, everything), options.map(([value, name]) => el("option", { value }, name)));
    select.addEventListener("change", () => this.set(key, select.value === "" ? null : key === "run" ? Number(select.value) : select.value));
    return el("label", {}, label, select);
  }

  rewardChoice(names) {
    const select = el("select", { name: "reward", "aria-label": "Reward" }, names.map((name) => el("option", { value: name }, name)));
    select.addEventListener("change", () => this.set("reward", select.value));
    return select;
  }

  number(key, placeholder, label) {
    const input = el("input", { type: "number", name: key, placeholder, step: "any", "aria-label": label });
    input.addEventListener("input", () => this.soon(key, input.value === "" ? null : Number(input.value)));
    return input;
  }

  search(key, placeholder) {
    const input = el("input", { type: "search", name: key, placeholder });
    input.addEventListener("input", () => this.soon(key, input.value.toLowerCase()));
    return input;
  }

  orders() {
    const select = el("select", { name: "order", "aria-label": "Order" }, Object.keys(ORDERS).map((name) => el("option", {}, name)));
    select.addEventListener("change", () => { this.order = select.value; this.apply(); });
    return select;
  }

  soon(key, value) {
    clearTimeout(this.timer);
    this.filter[key] = value;
    this.timer = setTimeout(() => this.apply(), WAIT);
  }

  set(key, value) {
    this.filter[key] = value;
    this.apply();
  }

  reset() {
    this.filter = { reward: "total" };
    this.apply();
  }

  apply() {
    clearTimeout(this.timer);
    this.view.needle = this.filter.text || "";
    const found = chosenSamples(this.samples, this.filter, this.order);
    this.count.textContent = `${whole(found.length)} of ${whole(this.samples.length)}`;
    this.list.show(found, this.chosen);
  }

  show(sample) {
    this.chosen = sample;
    replaceChildren(this.detail, sample ? groupView(sample, this.view) : el("p.empty", {}, "Nothing to show."));
  }

  setMode(mode) {
    this.view.mode = mode;
    this.show(this.chosen);
    this.detail.querySelector(`input[value="${mode}"]`)?.focus();
  }

  setProblem(problem) {
    this.problem.value = problem;
    this.set("problem", problem.toLowerCase());
  }
}

function samplesPart(story) {
  const { count, total } = story.samples;
  if (!total) return null;
  const few = count < total ? `; groups evenly spread over the ${whole(total)} that were written, each whole: the rest is in samples.jsonl` : "";
  const place = el("div", {}, el("p.soft", {}, "Unpacking…"));
  unpackSamples(document.getElementById("samples-data").textContent)
    .then((samples) => {
      replaceChildren(place, new SampleBrowser(samples, story.runs).element);
      performance.mark("samples-ready");
      document.documentElement.dataset.samples = "ready";
    })
    .catch((error) => replaceChildren(place, el("p.notice", {}, `The completions cannot be unpacked by this browser: ${error.message}`)));
  return part("samples", "Completions", el("span.soft", {}, `${whole(count)}${few}`), place);
}
