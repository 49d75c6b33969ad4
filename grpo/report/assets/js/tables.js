"use strict";
// Tables of figures with their intervals.

function cell(figure, shown) {
  if (!figure) return el("td.num.soft", {}, NOTHING);
  return el("td.num", {}, shown(figure.value), interval(figure, shown));
}

function interval(figure, shown) {
  if (figure.low == null || figure.low === figure.high) return null;
  return [el("span.range", {}, `${shown(figure.low)} – ${shown(figure.high)}`), figure.low >= 0 && figure.high <= 1 ? intervalBar(figure) : null];
}

/** Where between 0 and 1 a figure lies. */
function intervalBar({ value, low, high }) {
  const range = styled(el("i"), { left: `${100 * low}%`, width: `${100 * (high - low)}%` });
  const point = styled(el("b"), { left: `${100 * value}%` });
  return el("span.interval", { "aria-hidden": "true" }, range, point);
}

const COLUMN_NAMES = { "completion/length_mean": "tokens", "completion/truncated": "cut", unscorable: "unscorable" };

function columnName(name) {
  const bare = COLUMN_NAMES[name] || name.replace("reward/", "");
  return bare === "accuracy" && name !== bare ? "accuracy reward" : bare; // greedy accuracy has the short name
}

function columnFormat(name) {
  if (name === "problems" || name === "unscorable") return whole;
  return name === "completion/length_mean" ? (value) => fixed(value, 1) : fixed;
}

function evaluationTable(table) {
  const titles = { run: "run", model: "model", template: "template", source: "problems of" };
  const head = el("tr", {}, table.labels.map((name) => el("th", { scope: "col" }, titles[name])),
    table.columns.map((name) => el("th.num", { scope: "col" }, columnName(name))));
  const rows = table.lines.map((line) => el("tr", {},
    table.labels.map((name) => el("td.name", {}, line[name])),
    table.columns.map((name) => cell(line.cells[name], columnFormat(name)))));
  const about = table.seeds > 1
    ? "Of several seeds the mean, from the lowest to the highest seed; of one run, 95 % intervals."
    : "With 95 % intervals: Wilson's for greedy accuracy, normal over problems for the others.";
  return el("div.scroll", {}, el("table", {}, el("caption", {}, about), el("thead", {}, head), el("tbody", {}, rows)));
}

function reasonsTable({ run, reasons }, named) {
  const total = reasons.reduce((sum, one) => sum + one.count, 0);
  const rows = reasons.map(({ reason, count }) => el("tr", {},
    el("td.name", {}, reason.replace("reward/", "reward below its bound: ")), el("td.num", {}, whole(count)), el("td.num", {}, percent(total ? count / total : 0)),
    el("td", {}, el("span.share", { "aria-hidden": "true" }, styled(el(reason === "kept" ? "i.kept" : "i"), { width: `${total ? (100 * count) / total : 0}%` })))));
  return el("div.card", {}, el("h4", {}, named ? `Candidates of ${run}` : "What became of the candidates"),
    el("table", {}, el("caption", {}, `${plural(total, "candidate")} in all.`),
      el("thead", {}, el("tr", {}, ["reason", "count", "share", ""].map((name, at) => el(at === 1 || at === 2 ? "th.num" : "th", { scope: "col" }, name)))),
      el("tbody", {}, rows)));
}
