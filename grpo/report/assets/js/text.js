"use strict";
// The three ways to read a completion: as it is, rendered, or shaded by how likely each token was.

/** The text as it is, what is searched for marked in it. */
function raw(text, needle) {
  return el("pre.raw", {}, needle ? marked(text, needle) : text);
}

function marked(text, needle) {
  const found = [], low = text.toLowerCase();
  if (low.length !== text.length) return [text]; // a letter that is two in lower case would shift the places
  let from = 0;
  for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
    found.push(text.slice(from, at), el("mark", {}, text.slice(at, at + needle.length)));
    from = at + needle.length;
  }
  return [...found, text.slice(from)];
}

/** From certain to surprising: the least log-probability of each shade, in nats. */
const SHADES = [-0.05, -0.35, -1.2, -2.3, -4.6, -Infinity];
const SHADE_NAMES = ["≥ 95 %", "70 %", "30 %", "10 %", "1 %", "< 1 %"];

/** Tokens one by one, shaded by the sampler's log-probability. Lengths are counted in code points. */
function shaded({ completion, token_logprobs: logprobs, token_lengths: lengths }) {
  const characters = Array.from(completion);
  let from = 0;
  const tokens = logprobs.map((logprob, at) => {
    const text = characters.slice(from, (from += lengths[at])).join("");
    const shade = logprob == null ? 5 : SHADES.findIndex((least) => logprob >= least);
    const says = `${JSON.stringify(text)}: ${fixed(logprob)} nats, ${logprob == null ? "not finite" : percent(Math.exp(logprob))}`;
    return el(`span.token.lp${shade}`, { title: says }, text);
  });
  return el("pre.raw", {}, tokens, characters.slice(from).join(""));
}

function shadeLegend() {
  return el("span.lp-legend", {}, "probability of the token", SHADE_NAMES.map((name, shade) => el(`span.lp${shade}`, {}, name)));
}
