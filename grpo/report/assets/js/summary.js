"use strict";
// The top of the page: what was run, how it ended, what is wrong with it, and the figures to remember.

function header(story) {
  const only = story.runs.length === 1 ? story.runs[0] : null;
  return el("header.top", {}, el("h1", {}, story.groups.map((group) => group.label).join(" · ")),
    only ? runState(only) : el("p.state", {}, `${plural(story.runs.length, "run")} of ${plural(story.groups.length, "recipe")}`),
    story.runs.flatMap((run) => run.notices.map((notice) => el("p.notice", {}, only ? notice : `${run.label}: ${notice}`))));
}

function runState(run) {
  return el("p.state", {}, stateBadge(run), run.seed == null ? null : `seed ${run.seed}`,
    run.ended == null ? null : ` · ${run.complete ? "ended" : "last heard of"} ${when(run.ended)}`, run.seconds ? ` · ${seconds(run.seconds)}` : null);
}

function stateBadge(run) {
  if (run.complete) return el("span.badge.good", {}, "complete");
  const current = run.stages.find((stage) => stage.state !== "complete");
  const begun = run.stages.some((stage) => stage.state !== "not begun");
  return el("span.badge.warn", {}, begun ? `in ${current.name}` : "nothing written yet");
}

function tiles(story) {
  if (story.runs.length > 1) return null;
  const [run] = story.runs;
  const shown = [...run.accuracies.map(accuracyTile), ...run.rewards.map(rewardTile), sampledTile(story), timeTile(run)].filter(Boolean);
  return shown.length ? el("div.tiles", {}, shown) : null;
}

function tile(label, value, note) {
  return el("div.tile", {}, el("div.label", {}, label), el("div.value", {}, value), el("div.note", {}, note));
}

function change(first, last) {
  return [el("span.from", {}, fixed(first), " → "), fixed(last)];
}

function accuracyTile({ stage, first, last, names, rows }) {
  const range = last.low == null ? "" : `[${fixed(last.low)}, ${fixed(last.high)}] · `;
  return tile(`Held-out accuracy, ${stage}`, rows > 1 ? change(first.value, last.value) : fixed(last.value), range + (rows > 1 ? names.join(" → ") : names[1]));
}

function rewardTile({ stage, steps, first, last }) {
  return tile(`Reward, ${stage}`, change(first, last), steps > 1 ? `mean of the first and last ${steps} steps` : "first and last step");
}

function sampledTile({ samples }) {
  if (!samples.total) return null;
  return tile("Completions", whole(samples.total), samples.count < samples.total ? `${whole(samples.count)} of them below` : "all of them below");
}

function timeTile(run) {
  const stages = run.stages.filter((stage) => stage.seconds);
  return stages.length ? tile("Time", seconds(run.seconds), `${plural(stages.length, "stage")}, from the first step to the last`) : null;
}

// --- the doctor ---------------------------------------------------------------------------------------------------

function findings(story) {
  const examined = story.findings.filter((one) => one.findings);
  const others = story.findings.filter((one) => !one.findings).map((one) => one.run);
  const short = examined.filter((one) => !one.enough && !one.findings.length).map((one) => one.run);
  const found = examined.flatMap(({ run, findings: all }) => all.map((one) => finding(one, story.runs.length > 1 ? run : null)));
  return part("findings", "Findings", el("span.soft", {}, found.length ? plural(found.length, "finding") : ""),
    found.length ? found : examined.length === short.length ? null : el("p.fine", {}, `Nothing was found wrong with ${nothingWrong(story, examined, short)}.`),
    short.length ? el("p.notice", {}, `No stage of training has come to five steps, too few to find anything in${story.runs.length > 1 ? `: ${short.join(", ")}` : ""}.`) : null,
    others.length ? el("p.notice", {}, `Not examined, since this version cannot read the recipe: ${others.join(", ")}.`) : null);
}

function nothingWrong(story, examined, short) {
  const sound = examined.map((one) => one.run).filter((run) => !short.includes(run));
  return story.runs.length === 1 ? "this run" : sound.length === story.runs.length ? "these runs" : sound.join(", ");
}

function finding({ name, stage, key, lasts, first_step, last_step, evidence, change: line }, run) {
  const steps = first_step === last_step ? `step ${first_step}` : `steps ${first_step} to ${last_step}`;
  const where = key ? el("a", { href: `#${stageId(key)}` }, stage) : stage;
  return el(lasts ? "div.finding" : "div.finding.over", {}, el("h3", {}, name), el("span.where", {}, run ? `${run} · ` : null, where, ` · ${steps}${lasts ? "" : ", over since"}`),
    el("p", {}, evidence), line ? el("p.change", {}, "Change: ", el("code", {}, line)) : null);
}

// --- the stages, and runs side by side ----------------------------------------------------------------------------

function plan(story) {
  const several = story.runs.length > 1;
  const rows = story.runs.flatMap((run) => run.stages.map((stage) => el("tr", {},
    several ? el("td.name", {}, run.label) : null,
    el("td.name", {}, stage.state === "not begun" ? stage.name : el("a", { href: `#${stageId(stage.key)}` }, stage.name)), el("td", {}, stage.kind),
    el("td", {}, progressBadge(stage)), el("td.num", {}, stage.planned ? `${whole(stage.steps)} of ${whole(stage.planned)}` : whole(stage.steps)),
    el("td.num", {}, stage.seconds ? seconds(stage.seconds) : NOTHING))));
  const head = [several ? "run" : null, "stage", "kind", "state"].filter(Boolean).map((name) => el("th", { scope: "col" }, name));
  return el("div.card.scroll", {}, el("table", {},
    el("thead", {}, el("tr", {}, head, ["steps", "time"].map((name) => el("th.num", { scope: "col" }, name)))), el("tbody", {}, rows)));
}

function progressBadge({ state }) {
  return el(state === "complete" ? "span.badge.good" : state === "unfinished" ? "span.badge.warn" : "span.badge", {}, state);
}

function comparison(story) {
  if (story.runs.length < 2) return null;
  const group = (number) => story.groups.find((one) => one.runs.includes(number)).label;
  const keys = (name) => [...new Set(story.runs.flatMap((run) => run[name].map((one) => one.key)))];
  const [evaluations, stages] = [keys("accuracies"), keys("rewards")];
  const rows = story.runs.map((run, number) => el("tr", {}, el("td.name", {}, run.label), el("td", {}, group(number)), el("td.num", {}, String(run.seed ?? NOTHING)),
    el("td", {}, stateBadge(run)), evaluations.map((key) => accuracyCell(run.accuracies.find((one) => one.key === key))),
    stages.map((stage) => rewardCell(run.rewards.find((one) => one.key === stage))), el("td.num", {}, seconds(run.seconds))));
  const head = ["run", "recipe"].map((name) => el("th", {}, name)).concat(el("th.num", {}, "seed"), el("th", {}, "state"),
    [...evaluations.map((key) => `accuracy, ${key}`), ...stages.map((stage) => `reward, ${stage}`), "time"].map((name) => el("th.num", {}, name)));
  return part("runs", "Runs", null, el("div.card.scroll", {}, el("table", {},
    el("caption", {}, "Accuracy on held-out problems of the first and the last model, that with its 95 % interval; reward of the first and the last five steps."),
    el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))), el("details.others", {}, el("summary", {}, "Stages of every run"), plan(story)));
}

function accuracyCell(accuracy) {
  if (!accuracy) return el("td.num.soft", {}, NOTHING);
  const { first, last, rows } = accuracy;
  return el("td.num", {}, rows > 1 ? change(first.value, last.value) : fixed(last.value), interval(last, fixed));
}

function rewardCell(reward) {
  return el("td.num", {}, reward ? change(reward.first, reward.last) : NOTHING);
}
