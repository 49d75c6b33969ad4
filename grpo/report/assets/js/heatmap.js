"use strict";
// The load of experts as pictures: a row an expert, a column a step, the colour its share of an even load.

/** From starved over even to overloaded: stops of the load's multiple and its colour. */
const LOADS = [[0, [23, 37, 84]], [0.5, [65, 105, 190]], [1, [236, 238, 240]], [2, [236, 140, 70]], [4, [150, 20, 30]]];

function loadColour(multiple) {
  const above = LOADS.findIndex(([stop]) => stop >= multiple);
  if (above <= 0) return LOADS[above === 0 ? 0 : LOADS.length - 1][1];
  const [[from, a], [to, b]] = [LOADS[above - 1], LOADS[above]];
  const share = (multiple - from) / (to - from);
  return a.map((value, at) => Math.round(value + share * (b[at] - value)));
}

function heatmap(load, named) {
  const pictures = load.routers.map((encoded, router) => routerPicture(load, router, Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))));
  return el("div.card.heat", {},
    el("h4", {}, `Load of ${plural(load.experts, "expert")}`, named ? `, ${load.run}` : ""),
    el("p.about.soft", {}, "A row an expert, a column ", load.steps_per_column === 1 ? "a step" : `${load.steps_per_column} steps`, ". ", colourScale()),
    el("div.grid", {}, pictures));
}

function routerPicture(load, router, bytes) {
  const columns = load.first_steps.length;
  const says = el("span", {}, "");
  const canvas = el("canvas", { width: columns, height: load.experts, role: "img", "aria-label": `Load of the experts of router ${router} over ${columns} columns of steps` });
  styled(canvas, { height: `${Math.max(48, Math.min(220, load.experts * 12))}px` });
  paint(canvas, columns, load.experts, (x, y) => bytes[y * columns + x] / load.even);
  canvas.addEventListener("mousemove", (event) => {
    const x = Math.min(columns - 1, Math.floor((event.offsetX / canvas.clientWidth) * columns));
    const y = Math.min(load.experts - 1, Math.floor((event.offsetY / canvas.clientHeight) * load.experts));
    says.textContent = `step ${load.first_steps[x]}, expert ${y}: ${(bytes[y * columns + x] / load.even).toFixed(2)} × even`;
  });
  canvas.addEventListener("mouseleave", () => { says.textContent = ""; });
  return el("figure", {}, el("figcaption", {}, el("span", {}, `router ${router}`), says), canvas,
    el("div.ends", {}, el("span", {}, `step ${load.first_steps[0]}`), el("span", {}, `step ${load.first_steps[columns - 1]}`)));
}

function paint(canvas, width, height, multiple) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) image.data.set([...loadColour(multiple(x, y)), 255], 4 * (y * width + x));
  context.putImageData(image, 0, 0);
}

function colourScale() {
  const canvas = el("canvas", { width: 100, height: 1, "aria-hidden": "true" });
  paint(canvas, 100, 1, (x) => (4 * x) / 99);
  return el("span.scale", {}, "no token", canvas, "4 × even or more");
}
