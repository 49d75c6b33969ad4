"use strict";
// Text of models, lightly rendered: paragraphs, lists, code, emphasis, formulas, tags. Made of elements and text nodes alone.

const LONGEST_FORMULA = 60; // lines
const FENCE = /^\s*(```|~~~)/;
const ITEM = /^\s*(?:[-*+]|\d{1,3}[.)])\s+/;

function rendered(text) {
  const lines = text.split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length; ) at = block(lines, at, blocks);
  return el("div.rendered", {}, blocks);
}

/** Add the block that begins at a line, and say where the next one does. */
function block(lines, at, blocks) {
  const line = lines[at];
  if (!line.trim()) return at + 1;
  const fence = line.match(FENCE);
  if (fence) return codeBlock(lines, at, fence[1], blocks);
  const heading = line.match(/^#{1,6}\s+(.*)$/);
  if (heading) return blocks.push(el("h5", {}, inline(heading[1]))), at + 1;
  const display = displayed(lines, at, blocks);
  if (display) return display;
  if (ITEM.test(line)) return list(lines, at, blocks);
  const end = endOf(lines, at, (next) => !next.trim() || FENCE.test(next) || ITEM.test(next) || /^#{1,6}\s/.test(next) || /^\s*(\\\[|\$\$)/.test(next));
  const content = lines.slice(at, end).join("\n");
  blocks.push(line.startsWith(">") ? el("blockquote", {}, inline(content.replace(/^> ?/gm, ""))) : el("p", {}, inline(content)));
  return end;
}

function endOf(lines, at, stops) {
  let end = at + 1;
  while (end < lines.length && !stops(lines[end])) end++;
  return end;
}

function codeBlock(lines, at, fence, blocks) {
  const end = endOf(lines, at, (line) => line.trim().startsWith(fence));
  blocks.push(el("pre", {}, el("code", {}, lines.slice(at + 1, end).join("\n"))));
  return end + 1;
}

/** A formula on lines of its own; 0 where there is none. */
function displayed(lines, at, blocks) {
  const opening = lines[at].match(/^\s*(\\\[|\$\$)/);
  if (!opening) return 0;
  const closing = opening[1] === "$$" ? "$$" : "\\]";
  const rest = lines.slice(at, at + LONGEST_FORMULA).join("\n").replace(/^\s*(\\\[|\$\$)/, "");
  const end = rest.indexOf(closing);
  const shown = end < 0 ? null : formula(rest.slice(0, end), true);
  const after = end < 0 ? "" : rest.slice(end + closing.length).split("\n")[0];
  if (!shown || after.trim()) return 0;
  blocks.push(el("span.formula", {}, shown));
  return at + rest.slice(0, end).split("\n").length;
}

function list(lines, at, blocks) {
  const end = endOf(lines, at, (line) => !ITEM.test(line));
  const tag = /^\s*\d/.test(lines[at]) ? "ol" : "ul";
  const start = tag === "ol" ? { start: parseInt(lines[at], 10) } : {};
  blocks.push(el(tag, start, lines.slice(at, end).map((line) => el("li", {}, inline(line.replace(ITEM, ""))))));
  return end;
}

const INLINE = [
  [/`([^`\n]+)`/, (m) => el("code", {}, m[1])],
  [/\\\(([\s\S]{1,2000}?)\\\)|\\\[([\s\S]{1,2000}?)\\\]/, (m) => formula(m[1] ?? m[2], false)],
  [/\$\$([^$]+)\$\$|\$([^$\n]*[^$\s\\])\$(?!\d)/, (m) => formula(m[1] ?? m[2], false)],
  [/\\boxed\{(?:[^{}]|\{[^{}]*\})*\}/, (m) => formula(m[0], false)],
  [/<\/?[a-zA-Z_|][\w|-]{0,30}>/, (m) => el("span.tag", {}, m[0])],
  [/\*\*(\S(?:[^*\n]*\S)?)\*\*/, (m) => el("strong", {}, inline(m[1]))],
  [/(?<![\w*])\*(\S(?:[^*\n]*\S)?)\*(?![\w*])/, (m) => el("em", {}, inline(m[1]))],
];
const ANY = new RegExp(INLINE.map(([pattern]) => `(?:${pattern.source})`).join("|"), "g");

/** Text with what is marked in it as elements; a mark that cannot be read stays as it was written. */
function inline(text) {
  const found = [];
  let from = 0;
  for (const { 0: marked, index } of text.matchAll(ANY)) {
    found.push(text.slice(from, index), element(marked) ?? marked);
    from = index + marked.length;
  }
  return [...found, text.slice(from)];
}

function element(marked) {
  for (const [pattern, make] of INLINE) {
    const match = marked.match(pattern);
    if (match && match[0] === marked) return make(match);
  }
  return null;
}
