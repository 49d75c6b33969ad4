"use strict";
// The completions of one group side by side, with what each earned.

const MODES = { raw: "As it is", rendered: "Rendered", shaded: "Token probabilities" };

function hasLogprobs(group) {
  return group.samples.some((sample) => sample.token_logprobs && sample.token_lengths);
}

function groupView(sample, view) {
  const { group } = sample;
  return [groupHead(group, view), el("div.prompt", { tabindex: "0", "aria-label": "Prompt" }, raw(group.text, "")), modes(group, view),
    el("div.completions", {}, group.samples.map((one) => completionCard(one, one === sample, view)))];
}

function groupHead(group, view) {
  const totals = group.samples.map((one) => one.total).filter((total) => total != null);
  const mean = totals.reduce((sum, total) => sum + total, 0) / totals.length;
  const facts = [view.runs.length > 1 ? view.runs[group.run].label : null, group.stage, group.step == null || group.model ? null : `step ${group.step}`, group.model, group.template, group.source].filter(Boolean);
  return el("div.group-head", {}, el("h3", {}, facts.join(" · ")), el("span.soft.mono", {}, group.problem),
    totals.length ? el("span.soft", {}, `${plural(group.samples.length, "completion")}, mean reward ${fixed(mean)}`) : el("span.soft", {}, plural(group.samples.length, "completion")),
    group.flat ? el("span.badge.warn", {}, "no signal") : null,
    el("span.buttons", {}, el("button", { type: "button", onclick: () => view.onProblem(group.problem) }, "All of this problem")));
}

function modes(group, view) {
  const able = hasLogprobs(group);
  return el("fieldset.modes", {}, el("legend.hidden", {}, "How completions are shown"),
    Object.entries(MODES).map(([mode, name]) => el("label", { title: mode === "shaded" && !able ? "This group was written without them: see token_logprobs in the recipe" : null },
      el("input", { type: "radio", name: "mode", value: mode, checked: modeOf(group, view) === mode, disabled: mode === "shaded" && !able, onchange: () => view.onMode(mode) }), name)),
    modeOf(group, view) === "shaded" ? shadeLegend() : null);
}

/** The mode that was asked for, or the text as it is where the group does not have what it needs. */
function modeOf(group, view) {
  return view.mode === "shaded" && !hasLogprobs(group) ? "raw" : view.mode;
}

function completionCard(sample, chosen, view) {
  return el(chosen ? "article.completion.chosen" : "article.completion", {}, cardHead(sample),
    el("div.body", { tabindex: "0", "aria-label": "Completion" }, body(sample, view)));
}

function body(sample, view) {
  const mode = modeOf(sample.group, view);
  if (mode === "rendered") return rendered(sample.completion);
  return mode === "shaded" && sample.token_logprobs && sample.token_lengths ? shaded(sample) : raw(sample.completion, view.needle);
}

function cardHead(sample) {
  const total = sample.total === undefined ? (sample.reason ? null : el("span", {}, "could not be scored")) : el("span", {}, "reward ", el("b", {}, fixed(sample.total)));
  const verdict = sample.right == null ? null : el(sample.right ? "span.badge.good" : "span.badge.bad", {}, sample.right ? "right" : "wrong");
  const reason = sample.reason ? el(sample.reason === "kept" ? "span.badge.good" : "span.badge.warn", {}, sample.reason) : null;
  return el("header", {}, el("div.totals", {}, total, verdict, reason, sample.advantage == null ? null : advantage(sample)),
    el("div.chips", {}, rewardChips(sample), factChips(sample)));
}

/** An advantage as a bar to either side of zero, as long as it is beside the group's largest. */
function advantage({ advantage: value, group }) {
  const largest = Math.max(...group.samples.map((one) => Math.abs(one.advantage ?? 0)), 1e-9);
  const width = (50 * Math.abs(value)) / largest;
  const bar = styled(el(value < 0 ? "i.below" : "i"), value < 0 ? { right: "50%", width: `${width}%` } : { left: "50%", width: `${width}%` });
  return el("span.advantage", {}, "advantage ", el("b", {}, signed(value)), el("span.track", { "aria-hidden": "true" }, bar));
}

function rewardChips({ rewards, status, notes }) {
  const names = [...new Set([...Object.keys(rewards || {}), ...Object.keys(status || {})])];
  return names.map((name) => {
    const failed = status?.[name];
    if (failed) return el(failed === "not_applicable" ? "span.chip" : "span.chip.bad", { title: notes?.[name] }, `${name} ${failed.replace("_", " ")}`);
    const value = rewards[name];
    return el(value >= 1 ? "span.chip.good" : value <= 0 ? "span.chip.bad" : "span.chip", { title: notes?.[name] }, `${name} `, el("b", {}, fixed(value, 2)));
  });
}

function factChips({ tokens, finish, mask_reason: masked, weight_version: version, greedy, found, notes, detail }) {
  return [
    tokens == null ? null : el("span.chip", {}, plural(tokens, "token")),
    finish === "length" ? el("span.chip.warn", {}, "cut at the limit") : null,
    masked ? el("span.chip.warn", {}, `not trained on: ${masked}`) : null,
    greedy == null ? null : el("span.chip", {}, greedy ? "greedy" : "sampled"),
    found == null ? null : el("span.chip", {}, `answer found: ${found}`),
    detail ? el("span.chip", {}, String(detail)) : null,
    version == null || greedy != null ? null : el("span.chip", { title: "The update whose weights sampled it" }, `weights ${version}`),
    Object.entries(notes || {}).map(([name, note]) => el("span.chip", {}, `${name}: ${note}`)),
  ];
}
