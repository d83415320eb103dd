// The token strip: every token is a text node, coloured above by one SAE's error and below by another's.

const number = (value) => (Math.abs(value) >= 1000 || Math.abs(value) < 0.001 ? value.toExponential(2) : value.toPrecision(3));
const visible = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍");

function make(tag, className, parent) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (parent) parent.append(node);
  return node;
}

function floats(view) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
  return new Float32Array(bytes.buffer);
}

function render({ model, el }) {
  const tokens = model.get("tokens"), starts = model.get("starts"), names = model.get("names");
  const quantities = model.get("quantities"), values = floats(model.get("values"));
  const at = (sae, index) => values[(sae * quantities.length + model.get("quantity")) * tokens.length + index];

  const root = make("div", "dm-strip", el);
  // Jupyter would take the keys of what has the focus for its cells, unless that says so itself.
  root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
  const controls = make("div", "dm-strip-controls", root);
  const strip = make("div", "dm-strip-tokens", root);
  const key = make("div", "dm-strip-key", root);
  const detail = make("div", "dm-strip-detail", root);
  strip.tabIndex = 0;
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", "Tokens of the context. Arrow keys move from token to token.");
  detail.setAttribute("aria-live", "polite");

  function choose(title, trait, options) {
    const label = make("label", "", controls);
    label.append(title);
    const select = make("select", "", label);
    options.forEach((text, index) => {
      const option = make("option", "", select);
      option.textContent = text;
      option.value = index;
    });
    select.value = model.get(trait);
    select.addEventListener("change", () => { model.set(trait, Number(select.value)); model.save_changes(); });
    model.on(`change:${trait}`, () => { select.value = model.get(trait); draw(); });
  }

  const contexts = starts.slice(1).map((_, index) => `${index + 1}`);
  let low = 0, high = 1;
  const shade = (sae, index) => Math.max(0, Math.min(1, (at(sae, index) - low) / (high - low || 1)));
  const paint = (node, sae, index) => node.style.setProperty("--depth", `${(6 + 84 * shade(sae, index)).toFixed(1)}%`);

  function draw() {
    const begin = starts[model.get("context")], end = starts[model.get("context") + 1];
    const pair = [model.get("first"), model.get("second")];
    const seen = pair.flatMap((sae) => Array.from({ length: end - begin }, (_, i) => at(sae, begin + i))).sort((a, b) => a - b);
    low = seen[0];
    high = seen[Math.floor(0.98 * (seen.length - 1))]; // the top 2 % share the darkest colour
    strip.replaceChildren();
    for (let index = begin; index < end; index++) {
      const box = make("span", "dm-strip-token", strip);
      const word = make("span", "", box), bar = make("i", "", box);
      word.textContent = visible(tokens[index]);
      paint(word, pair[0], index);
      paint(bar, pair[1], index);
      box.addEventListener("pointerenter", () => focus(index - begin, false));
      if (tokens[index].includes("\n")) make("br", "", strip);
    }
    key.replaceChildren();
    pair.forEach((sae, row) => {
      const ramp = make("span", "dm-strip-ramp", key);
      ramp.style.setProperty("--hue", `var(--${row ? "second" : "first"})`);
      make("span", "", key).textContent = `${row ? "bar below" : "behind the text"}: ${names[sae]}`;
    });
    make("span", "", key).textContent = `${quantities[model.get("quantity")]} from ${number(low)} to ${number(high)} and above`;
    focus(Math.min(model.get("focus"), end - begin - 1), false);
  }

  function focus(place, scroll) {
    const begin = starts[model.get("context")], boxes = strip.querySelectorAll(".dm-strip-token");
    const index = begin + place;
    strip.querySelector("[aria-current]")?.removeAttribute("aria-current");
    boxes[place].setAttribute("aria-current", "true");
    if (scroll) boxes[place].scrollIntoView({ block: "nearest" });
    const numbers = [model.get("first"), model.get("second")].map((sae) => {
      const parts = quantities.map((name, q) => `${name} ${number(values[(sae * quantities.length + q) * tokens.length + index])}`);
      return `${names[sae]}: ${parts.join(", ")}`;
    });
    detail.replaceChildren();
    make("div", "", detail).textContent = `token ${place + 1}: “${visible(tokens[index])}”`;
    numbers.forEach((line) => { make("div", "", detail).textContent = line; });
    model.set("focus", place);
  }

  strip.addEventListener("keydown", (event) => {
    const last = starts[model.get("context") + 1] - starts[model.get("context")] - 1;
    const moves = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10, Home: -last, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    focus(Math.max(0, Math.min(last, model.get("focus") + moves[event.key])), true);
    model.save_changes();
  });
  choose("Context", "context", contexts);
  choose("SAE behind the text", "first", names);
  choose("SAE below", "second", names);
  choose("Show", "quantity", quantities);
  draw();
}

export default { render };
