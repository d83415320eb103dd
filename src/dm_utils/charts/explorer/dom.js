// Small helpers of the front end. Text reaches the page through text nodes and attributes only, so no token can act as markup.

/** An element with properties and children; a property that starts with "aria-", "data-" or is "role" becomes an attribute. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$|list$|for$)/.test(name)) node.setAttribute(name, value);
    else if (name === "style") Object.assign(node.style, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** An SVG element; children that are text become text nodes. */
export function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A number with three significant digits. */
export function number(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1).replace("-", "−");
  const text = size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

export const percent = (share) => (share !== 0 && Math.abs(share) < 1e-4 ? `${share < 0 ? "> −" : "< "}0.01 %` : `${number(100 * share)} %`);

/** A cosine with two decimals. */
export const cosineText = (value) => value.toFixed(2).replace("-", "−").replace(/^−(0\.00)$/, "$1");

const NAMED = { "\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣" };

/** A token with its invisible characters shown: line ends, controls, and marks that would turn the direction of the text. */
export function visible(token) {
  if (token === "") return "∅";
  if (/^ +$/.test(token)) return token.replaceAll(" ", NAMED[" "]);
  return token.replace(/[\p{Cc}\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu, (mark) => {
    const code = mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return NAMED[mark] ?? `⟨${code}⟩`;
  });
}

/** A token as an element of its own, so that right-to-left text does not reorder its neighbours. */
export const word = (token, className = "dmx-word") => make("bdi", { className }, visible(token));

/** A labelled list of choices: [[value, text], …]. */
export function chooser(label, options, value, onChoose) {
  const list = make("select", {}, ...options.map(([name, text]) => make("option", { value: name }, text)));
  list.value = value;
  list.addEventListener("change", () => onChoose(list.value));
  return make("label", { className: "dmx-field" }, make("span", {}, label), list);
}

export function button(text, onClick, properties = {}) {
  const node = make("button", { type: "button", ...properties }, text);
  node.addEventListener("click", onClick);
  return node;
}
