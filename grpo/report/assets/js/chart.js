"use strict";
// Charts over steps, drawn by uPlot. Those of a stage share their cursor.

const HEIGHT = 190;
const FEW_POINTS = 25;
const CHARTS = new Set();
const PRINTED = [312, 668]; // widths on a sheet of paper, which cannot be measured before it is laid out
let printing = false;

/** A chart with its caption and legend; it is drawn once it has a width. */
function chartFigure(chart, stage) {
  const plot = el("div.plot", { "aria-hidden": "true" });
  const legend = el("div.legend");
  const figure = el(chart.wide ? "figure.chart.wide" : "figure.chart", {},
    el("figcaption", {}, el("h4", {}, chart.title), el("p.about", {}, chart.about), el("p.hidden", {}, inWords(chart))),
    legend, plot);
  const drawn = { plot, legend, chart, stage, u: null };
  new ResizeObserver(() => resized(drawn)).observe(plot);
  CHARTS.add(drawn);
  return figure;
}

/** What a chart shows, for those who do not see it. */
function inWords(chart) {
  return chart.lines.map((line) => {
    const known = chart.steps.map((step, at) => [step, line.values[at]]).filter(([, value]) => value != null);
    const [first, last] = [known[0], known[known.length - 1]];
    return `${line.label}: ${tidy(first[1])} at step ${first[0]}, ${tidy(last[1])} at step ${last[0]}.`;
  }).join(" ");
}

function resized(drawn) {
  const width = printing ? PRINTED[drawn.chart.wide ? 1 : 0] : Math.floor(drawn.plot.clientWidth);
  if (!width) return;
  if (drawn.u) drawn.u.setSize({ width, height: HEIGHT });
  else plotNow(drawn, width);
}

function plotNow(drawn, width) {
  const { chart } = drawn;
  const colours = chart.lines.map((line, number) => (chart.stacked ? colour(phaseShade(line.label)) : lineColour(number)));
  const lines = chart.stacked ? stackedLines(chart, colours) : bandedLines(chart, colours);
  showLegend(drawn, colours);
  drawn.u = new uPlot({
    width, height: HEIGHT,
    legend: { show: false },
    padding: [10, 14, 0, 0],
    cursor: { sync: { key: drawn.stage }, y: false, points: { size: 6 } },
    scales: { x: { time: false, range: stepRange }, y: valueScale(chart), right: {} },
    axes: axes(chart),
    series: [{}, ...lines.series],
    bands: lines.bands,
    hooks: { setCursor: [(u) => showValues(drawn, u.cursor.idx)], draw: [(u) => drawMarks(u, chart.marks || [])] },
  }, [chart.steps, ...lines.data], drawn.plot);
  showValues(drawn, null);
}

/** Lines with bands behind them; the edges of a band are lines that are not drawn. */
function bandedLines(chart, colours) {
  const series = [], data = [], bands = [];
  chart.lines.forEach((line, number) => {
    const scale = (chart.right || []).includes(line.label) ? "right" : "y";
    const count = line.values.filter((value) => value != null).length;
    data.push(drawable(line.values, chart.log));
    series.push({
      scale, label: line.label, stroke: colours[number], width: 1.8, spanGaps: true, dash: scale === "right" ? [6, 4] : undefined,
      points: { show: count <= FEW_POINTS, size: 5, fill: colours[number] },
    });
    if (!line.low) return;
    const first = data.length + 1;
    for (const edge of [line.high, line.low]) {
      data.push(drawable(edge, chart.log));
      series.push({ scale, stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
    }
    bands.push({ series: [first, first + 1], fill: faint(colours[number], 0.16) });
  });
  return { series, data, bands };
}

/** Values one upon the other: the sums first, so that what comes later lies before them. */
function stackedLines(chart, colours) {
  const series = [], data = [];
  chart.lines.forEach((line, number) => {
    const below = chart.lines.slice(number);
    data.push(chart.steps.map((_, at) => below.reduce((sum, one) => sum + (one.values[at] || 0), 0)));
    series.push({ label: line.label, stroke: colours[number], width: 1, fill: colours[number], points: { show: false } });
  });
  return { series, data, bands: [] };
}

function drawable(values, log) {
  return log ? values.map((value) => (value > 0 ? value : null)) : values;
}

function stepRange(u, low, high) {
  return low === high ? [low - 1, high + 1] : [low, high];
}

function valueScale(chart) {
  if (chart.log) return { distr: 3 };
  return { range: (u, low, high) => (low == null ? [0, 1] : valueRange(chart, low, high)) };
}

/** Shares from 0 to 1 unless they are small; other figures from 0 where that is near. */
function valueRange(chart, low, high) {
  if (chart.unit === "share" && low >= 0 && high <= 1 && high > 0.25) return [-0.02, 1.03];
  const space = (high - low || Math.abs(high) || 1) * 0.08;
  const fromZero = low >= 0 && low < 0.6 * high;
  return [chart.stacked || fromZero || (low === 0 && high === 0) ? 0 : low - space, high + space];
}

function axes(chart) {
  const line = { stroke: colour("soft"), font: "11px system-ui", ticks: { show: false } };
  const grid = { stroke: colour("line"), width: 1 };
  const y = { ...line, grid, size: 52, values: (u, ticks) => ticks.map(brief) };
  const right = { ...y, scale: "right", side: 1, grid: { show: false } };
  const x = { ...line, grid: { show: false }, size: 26, incrs: stepIncrements(), values: (u, ticks) => ticks.map(brief) };
  return [x, y, ...(chart.right ? [right] : [])];
}

/** Steps are whole. */
function stepIncrements() {
  return [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((power) => [power, 2 * power, 5 * power]);
}

/** Upright lines at steps that are to be noticed. */
function drawMarks(u, steps) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = colour("bad");
  ctx.lineWidth = devicePixelRatio;
  for (const step of steps) {
    const x = u.valToPos(step, "x", true);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

// --- the legend, which tells the values under the cursor ----------------------------------------------------------

function showLegend(drawn, colours) {
  const { chart } = drawn;
  drawn.values = chart.lines.map(() => el("b"));
  drawn.at = el("span.at");
  const keys = chart.lines.map((line, number) => {
    const right = (chart.right || []).includes(line.label);
    const swatch = el(right ? "i.swatch.dashed" : "i.swatch");
    styled(swatch, right ? { borderColor: colours[number] } : { background: colours[number] });
    return el("span.key", {}, swatch, right ? `${line.label} (right)` : line.label, drawn.values[number]);
  });
  const marks = (chart.marks || []).length ? el("span.key", {}, styled(el("i.swatch"), { background: colour("bad") }), "parted") : null;
  replaceChildren(drawn.legend, keys, marks, drawn.at);
}

/** The values at an index of the steps; without one, the last of every line. */
function showValues(drawn, index) {
  const { chart } = drawn;
  chart.lines.forEach((line, number) => {
    drawn.values[number].textContent = valueText(line, index ?? lastIndex(line.values), chart.unit);
  });
  drawn.at.textContent = index == null ? "" : `step ${whole(chart.steps[index])}`;
}

function lastIndex(values) {
  for (let at = values.length - 1; at >= 0; at--) if (values[at] != null) return at;
  return 0;
}

function valueText(line, at, unit) {
  const write = unit === "seconds" ? seconds : unit === "share" ? fixed : tidy;
  const value = write(line.values[at]);
  return line.low && line.low[at] != null && line.values[at] != null ? `${value} [${write(line.low[at])}, ${write(line.high[at])}]` : value;
}

function redrawCharts() {
  for (const drawn of CHARTS) {
    if (!drawn.u) continue;
    drawn.u.destroy();
    drawn.u = null;
    resized(drawn);
  }
}
onTheme(redrawCharts);

/** On paper, everything is light and two charts wide. */
function printingNow(now) {
  printing = now;
  setTheme(now ? "light" : chosenTheme);
}
addEventListener("beforeprint", () => printingNow(true));
addEventListener("afterprint", () => printingNow(false));
