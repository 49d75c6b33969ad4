"use strict";
// A little LaTeX as MathML elements. What it does not know stays as it was written.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const SYMBOLS = {
  times: "×", cdot: "·", div: "÷", pm: "±", mp: "∓", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠", approx: "≈", equiv: "≡",
  infty: "∞", pi: "π", alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", theta: "θ", lambda: "λ", mu: "μ", sigma: "σ", phi: "φ",
  omega: "ω", Delta: "Δ", Sigma: "Σ", Omega: "Ω", sum: "∑", prod: "∏", int: "∫", to: "→", rightarrow: "→", Rightarrow: "⇒", implies: "⇒",
  in: "∈", cup: "∪", cap: "∩", subset: "⊂", ldots: "…", cdots: "⋯", dots: "…", angle: "∠", circ: "∘", degree: "°", quad: "\u2003", ",": "\u2009",
  ";": "\u2005", "!": "", " ": " ", "%": "%", $: "$", "{": "{", "}": "}", "#": "#", "&": "&", _: "_", left: "", right: "", displaystyle: "",
};
const FUNCTIONS = new Set(["sin", "cos", "tan", "log", "ln", "exp", "min", "max", "gcd", "lim", "mod", "det"]);
const AS_TEXT = new Set(["text", "mathrm", "textbf", "mathbf", "operatorname"]);
const DEEPEST = 40;

/** A formula as a `math` element, or null where it cannot be read. */
function formula(source, display) {
  try {
    const reader = { tokens: source.match(/\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\s+|[\s\S]/g) || [], at: 0, depth: 0 };
    const root = math("math", row(reader, null));
    if (display) root.setAttribute("display", "block");
    return root;
  } catch {
    return null;
  }
}

function math(tag, ...children) {
  const element = document.createElementNS(MATHML, tag);
  element.append(...children.flat());
  return element;
}

/** Everything up to a closing token. */
function row(reader, closing) {
  if (++reader.depth > DEEPEST) throw new Error("too deep");
  const found = [];
  for (;;) {
    const token = reader.tokens[reader.at];
    if (token === undefined && closing) throw new Error(`no ${closing}`);
    if (token === undefined || token === closing) break;
    if (/^\s+$/.test(token)) reader.at++;
    else found.push(scripted(reader));
  }
  reader.at++;
  reader.depth--;
  return math("mrow", found);
}

/** An atom with what stands above and below it. */
function scripted(reader) {
  const base = atom(reader), scripts = {};
  while (["^", "_"].includes(reader.tokens[reader.at])) {
    const where = reader.tokens[reader.at++];
    if (scripts[where]) throw new Error(`two ${where}`);
    scripts[where] = atom(reader);
  }
  if (scripts._ && scripts["^"]) return math("msubsup", base, scripts._, scripts["^"]);
  if (scripts._) return math("msub", base, scripts._);
  return scripts["^"] ? math("msup", base, scripts["^"]) : base;
}

function atom(reader) {
  const token = reader.tokens[reader.at++];
  if (token === undefined || token === "}") throw new Error("nothing there");
  if (token === "{") return row(reader, "}");
  if (/^\s+$/.test(token)) return atom(reader);
  if (token[0] === "\\") return command(token.slice(1), reader);
  if (/^\d/.test(token)) return math("mn", token);
  return math(/^\p{L}$/u.test(token) ? "mi" : "mo", token);
}

function command(name, reader) {
  if (["frac", "dfrac", "tfrac"].includes(name)) return math("mfrac", atom(reader), atom(reader));
  if (name === "sqrt") return root(reader);
  if (name === "boxed" || name === "fbox") return boxed(atom(reader));
  if (AS_TEXT.has(name)) return math("mtext", plainArgument(reader));
  if (FUNCTIONS.has(name)) return math("mi", name);
  if (Object.hasOwn(SYMBOLS, name)) return math("mo", SYMBOLS[name]);
  return math("mtext", `\\${name}`);
}

function root(reader) {
  if (reader.tokens[reader.at] !== "[") return math("msqrt", atom(reader));
  reader.at++;
  const degree = row(reader, "]");
  return math("mroot", atom(reader), degree);
}

function boxed(content) {
  const box = math("mrow", content);
  box.setAttribute("class", "boxed");
  return box;
}

/** The text between braces as it is. */
function plainArgument(reader) {
  if (reader.tokens[reader.at] !== "{") return reader.tokens[reader.at++] || "";
  let text = "";
  for (reader.at++; reader.at < reader.tokens.length; reader.at++) {
    if (reader.tokens[reader.at] === "}") break;
    text += reader.tokens[reader.at];
  }
  reader.at++;
  return text;
}
