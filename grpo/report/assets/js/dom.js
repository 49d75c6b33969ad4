"use strict";
// The one way in which this page makes elements. Text is always a text node, so that nothing a model wrote is markup.

/** An element `tag.class`, with attributes, listeners (`onclick`) and children: elements, texts, or nothing. */
function el(tag, attributes, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** The element, with a style of its own set by script: attributes of style are not allowed by the page's policy. */
function styled(element, styles) {
  Object.assign(element.style, styles);
  return element;
}

function replaceChildren(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child != null && child !== false));
}

/** A section of the page with its heading. */
function part(id, title, beside, ...children) {
  return el("section.part", { id, "aria-labelledby": `${id}-title` },
    el("header", {}, el("h2", { id: `${id}-title` }, title), beside), ...children);
}
