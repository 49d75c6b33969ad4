"use strict";
// The list of completions. Only the rows that are seen exist, so that ten thousand are as fast as ten.

const ROW = 52;
const BEYOND = 6;

class SampleList {
  constructor(onChoose) {
    this.samples = [];
    this.chosen = -1;
    this.onChoose = onChoose;
    this.space = el("div.space");
    this.element = el("div.list", { role: "listbox", tabindex: "0", "aria-label": "Completions", onscroll: () => this.draw(), onkeydown: (event) => this.key(event) }, this.space);
    this.empty = el("p.empty", { hidden: true }, "No completion is like that.");
    this.element.append(this.empty);
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  show(samples, kept) {
    this.samples = samples;
    this.space.style.height = `${samples.length * ROW}px`;
    this.empty.hidden = samples.length > 0;
    this.choose(Math.max(0, samples.indexOf(kept)));
  }

  choose(place) {
    this.chosen = this.samples.length ? Math.min(Math.max(0, place), this.samples.length - 1) : -1;
    this.scrollToChosen();
    this.draw();
    this.onChoose(this.samples[this.chosen] || null);
  }

  scrollToChosen() {
    const top = this.chosen * ROW, { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.element.scrollTop = top + ROW - clientHeight;
  }

  draw() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - BEYOND);
    const last = Math.min(this.samples.length, Math.ceil((scrollTop + clientHeight) / ROW) + BEYOND);
    const rows = [];
    for (let place = first; place < last; place++) rows.push(this.row(place));
    this.space.replaceChildren(...rows);
    if (this.chosen >= 0) this.element.setAttribute("aria-activedescendant", `sample-${this.chosen}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  row(place) {
    const sample = this.samples[place], { group } = sample;
    const where = [group.model || group.stage, group.model || group.step == null ? null : `step ${group.step}`].filter(Boolean).join(" · ");
    const row = el("div.item", {
      role: "option", id: `sample-${place}`, "aria-selected": String(place === this.chosen), "aria-setsize": this.samples.length, "aria-posinset": place + 1,
      onclick: () => this.choose(place),
    },
      el("div.first", {}, el("span", {}, where), el("span", {}, el("b", {}, sample.total === undefined ? sample.reason || NOTHING : fixed(sample.total, 2)), sample.advantage == null ? null : ` adv ${signed(sample.advantage)}`)),
      el("div.second", {}, oneLine(sample.completion)));
    return styled(row, { top: `${place * ROW}px` });
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.choose(this.chosen + moves[event.key]);
  }
}

function oneLine(text) {
  return text.slice(0, 160).replace(/\s+/g, " ").trim() || "(empty)";
}
