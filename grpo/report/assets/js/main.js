"use strict";
// The page, from top to bottom.

function build() {
  const story = JSON.parse(document.getElementById("story").textContent);
  const table = (stage) => stage.table && stage.table.lines.length;
  const results = story.stages.filter(table);
  const content = [
    header(story), tiles(story), findings(story), comparison(story), results.length ? resultsPart(results) : null,
    story.runs.length > 1 ? null : part("stages", "Stages", null, plan(story)), story.stages.filter((stage) => !table(stage)).map((stage) => stagePart(stage, story)),
    samplesPart(story), settingsPart("recipe", "Recipe", story.recipe, story.runs), settingsPart("environment", "Environment", story.environment, story.runs), footer(story),
  ].flat().filter(Boolean);
  document.getElementById("content").replaceChildren(...content);
  navigation(content);
  document.documentElement.dataset.report = "ready";
  performance.mark("report-ready");
}

/** What the run came to: its evaluations, before how it came to that. */
function resultsPart(stages) {
  return part("results", "Evaluation", null, stages.map((stage) => el("div.card", { id: stageId(stage.key) }, el("h3", {}, stage.name), evaluationTable(stage.table))));
}

function navigation(content) {
  const parts = content.filter((element) => element.matches("section.part"));
  const links = parts.map((element) => el("li", {}, el("a", { href: `#${element.id}` }, element.querySelector("h2").textContent)));
  replaceChildren(document.getElementById("nav"), el("ul", {}, links, el("li", {}, themeButton())));
}

function footer(story) {
  return el("footer", {}, `Written ${when(story.made)} by grpo-train ${story.version}. Charts are drawn by uPlot (MIT licence, © Leon Sorokin). This page loads nothing and sends nothing.`);
}

build();
