"use strict";
// A stage: its charts, where its time went, its experts, its tables.

const KINDS = { sft: "supervised fine-tuning", grpo: "reinforcement learning", rejection: "rejection sampling", reward_model: "reward model", evaluate: "evaluation" };

function stageId(key) {
  return `stage-${key.replace(/[^\w-]/g, "_")}`;
}

function stagePart(stage, story) {
  const several = story.groups.length > 1;
  const content = [
    stage.ends.map((end) => el("p.notice", {}, end)),
    stage.table && stage.table.lines.length ? el("div.card", {}, evaluationTable(stage.table)) : null,
    stage.reasons.map((one) => reasonsTable(one, several)),
    stage.phases.map((one) => phaseBar(one, several)),
    chartGrid("div.charts", stage.charts.filter((chart) => chart.main), stage),
    chartGrid("div.charts.small", stage.charts.filter((chart) => !chart.main), stage),
    stage.load.map((load) => heatmap(load, story.runs.length > 1)),
    others(stage),
  ].flat().filter(Boolean);
  return part(stageId(stage.key), stage.name, el("span.soft", {}, KINDS[stage.kind] || stage.kind),
    content.length ? content : el("p.soft", {}, "Nothing has been written by this stage yet."));
}

function chartGrid(place, charts, stage) {
  return charts.length ? el(place, {}, charts.map((chart) => chartFigure(chart, stage.key))) : null;
}

function phaseBar({ run, phases }, named) {
  const total = phases.reduce((sum, one) => sum + one.seconds, 0);
  const parts = phases.map(({ phase, seconds: spent }) => ({ phase, spent, shade: `var(--${phaseShade(phase)})` }));
  return el("div.card.phases", {}, el("h4", {}, "Where the time went", named ? `, ${run}` : "", el("span.soft", {}, ` · ${seconds(total)}`)),
    el("div.bar", { "aria-hidden": "true" }, parts.map(({ spent, shade }) => styled(el("span"), { width: `${(100 * spent) / total}%`, background: shade }))),
    el("div.legend", {}, parts.map(({ phase, spent, shade }) => el("span.key", {}, styled(el("i.swatch"), { background: shade, height: "8px" }), phase, el("b", {}, percent(spent / total)), seconds(spent)))));
}

/** Charts that few look for are drawn when they are asked for. */
function others(stage) {
  if (!stage.others.length) return null;
  const place = el("div.charts.small");
  const details = el("details.others", {}, el("summary", {}, `${plural(stage.others.length, "more figure")}`), place);
  details.addEventListener("toggle", () => {
    if (details.open && !place.childElementCount) place.append(...stage.others.map((chart) => chartFigure(chart, stage.key)));
  });
  return details;
}
