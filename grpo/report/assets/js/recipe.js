"use strict";
// The resolved recipe and the environment, side by side where several runs are compared.

function settingsPart(id, title, rows, runs) {
  const several = runs.length > 1;
  const differing = rows.filter((row) => row.differs);
  const table = (shown) => el("div.scroll", {}, el("table.settings", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "key"), runs.map((run) => el("th", { scope: "col" }, several ? run.label : "value")))),
    el("tbody", {}, shown.map((row) => el(row.differs && several ? "tr.differs" : "tr", {}, el("td", {}, row.key), row.values.map((value) => el("td", {}, value ?? NOTHING)))))));
  const beside = several ? el("span.soft", {}, differing.length ? `${plural(differing.length, "key")} ${differing.length === 1 ? "differs" : "differ"}` : "the same in all runs") : null;
  return part(id, title, beside, several && differing.length ? el("div.card", {}, table(differing)) : null,
    el("div.card", {}, el("details", {}, el("summary", {}, `All ${plural(rows.length, "key")}${id === "recipe" ? ", every default spelled out" : ""}`), table(rows))));
}
