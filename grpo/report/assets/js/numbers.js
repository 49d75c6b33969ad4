"use strict";
// Numbers as a person reads them.

const NOTHING = "–";

/** Three or four digits that count: 0.953, 12.4, 1,204, 3.1e-7. */
function tidy(value) {
  if (value == null || !Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001) return value.toExponential(1).replace("e-", "e−").replace(/^-/, "−");
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return minus(value.toLocaleString("en-US", { minimumFractionDigits: Number.isInteger(value) ? 0 : digits, maximumFractionDigits: digits }));
}

/** A number of an axis: as short as it can be. */
function brief(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001) return minus(value.toExponential(1).replace(".0e", "e").replace("e-", "e−"));
  if (size >= 1e6) return `${minus(parseFloat((value / 1e6).toPrecision(3)))}M`;
  if (size >= 1e4) return `${minus(parseFloat((value / 1e3).toPrecision(3)))}k`;
  return minus(parseFloat(value.toPrecision(4)).toLocaleString("en-US", { maximumFractionDigits: 6 }));
}

function fixed(value, digits = 3) {
  return value == null ? NOTHING : minus(value.toFixed(digits));
}

function signed(value, digits = 2) {
  return value == null ? NOTHING : `${value > 0 ? "+" : ""}${minus(value.toFixed(digits))}`;
}

function whole(value) {
  return value == null ? NOTHING : Math.round(value).toLocaleString("en-US");
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

/** 0.42 s, 12.3 s, 2 min 35 s, 1 h 05 min. */
function seconds(value) {
  if (value == null) return NOTHING;
  if (value < 60) return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} s`;
  const all = Math.round(value);
  if (all < 3600) return `${Math.floor(all / 60)} min ${String(all % 60).padStart(2, "0")} s`;
  return `${Math.floor(all / 3600)} h ${String(Math.floor((all % 3600) / 60)).padStart(2, "0")} min`;
}

function when(stamp) {
  return new Date(stamp * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

function minus(text) {
  return String(text).replace(/^-/, "−");
}

function plural(count, one, many = `${one}s`) {
  return `${whole(count)} ${count === 1 ? one : many}`;
}
