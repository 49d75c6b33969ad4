"use strict";
// Light or dark: as the system has it, until the reader says otherwise. Pictures are drawn again when it changes.

const REDRAWN = [];
const THEMES = ["auto", "light", "dark"];
let chosenTheme = THEMES[0];

function onTheme(draw) {
  REDRAWN.push(draw);
}

function themeChanged() {
  REDRAWN.forEach((draw) => draw());
}

/** The colour behind a variable of the style sheet, as canvases want it. */
function colour(name) {
  const probe = document.getElementById("probe") || document.body.appendChild(el("i.hidden", { id: "probe", "aria-hidden": "true" }));
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function lineColour(number) {
  return colour(`c${number % 8}`);
}

const PHASES = ["rollout", "reward", "learn", "sync", "evaluate"];

/** The variable of a phase's colour, the same wherever time is told. */
function phaseShade(phase) {
  return PHASES.includes(phase) ? `c${PHASES.indexOf(phase)}` : "strong-line";
}

/** A colour, so that what is behind it can be seen. */
function faint(colourText, opacity) {
  const [r, g, b] = colourText.match(/[\d.]+/g);
  return `rgba(${r}, ${g}, ${b}, ${opacity})`;
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeChanged();
}

function themeButton() {
  const button = el("button", { type: "button", id: "theme", title: "Light or dark" }, "Theme: auto");
  button.addEventListener("click", () => {
    chosenTheme = THEMES[(THEMES.indexOf(chosenTheme) + 1) % THEMES.length];
    button.textContent = `Theme: ${chosenTheme}`;
    setTheme(chosenTheme);
  });
  return button;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);
