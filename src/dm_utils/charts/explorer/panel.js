// What is behind one token under one SAE: its vectors, its latents, what was predicted for it, and its nearest tokens.
import { button, cosineText, make, number, visible, word } from "./dom.js";
import { vectorPicture } from "./vectors.js";

const SHOWN = 5; // latents that need no click

export class TokenPanel {
  /** `onFactor(latent, factor)` scales a latent; `onChoose(position)` goes to another token of the text. */
  constructor(onFactor, onChoose) {
    this.node = make("section", { className: "dmx-panel" });
    this.onFactor = onFactor;
    this.onChoose = onChoose;
  }

  show(title, view, answer, position, factors) {
    const open = new Set([...this.node.querySelectorAll("details[open]")].map((item) => item.dataset.latent));
    this.node.replaceChildren(
      make("h4", {}, "Token ", String(position), " ", word(answer.tokens[position]), make("small", {}, ` ${title}`)),
      vectorPicture(view), this.prediction(answer, position), make("h5", {}, "Its strongest latents"),
      ...this.latents(view.latents, factors, open),
      make("h5", {}, "Its nearest tokens by nonlinear error"), this.neighbours(view, answer),
    );
  }

  prediction(answer, t) {
    const found = answer.error_norm2[t], wins = Math.abs(answer.probe[t] - found) < Math.abs(answer.lookup[t] - found);
    return make("p", {}, `Its squared error norm is ${number(found)}. The probe on x (Eq. 10) said ${number(answer.probe[t])}, the mean of this `
      + `token's errors ${number(answer.lookup[t])}: ${wins ? "the probe is nearer" : "the look-up is nearer"}.`);
  }

  latents(found, factors, open) {
    if (!found.length) return [make("p", {}, "No latent is active here.")];
    const items = found.map((latent) => this.latent(latent, factors, open)), rest = items.slice(SHOWN);
    if (!rest.length) return items;
    const more = make("details", { className: "dmx-more", "data-latent": "more" }, make("summary", {}, `${rest.length} more`), ...rest);
    more.open = open.has("more");
    return [...items.slice(0, SHOWN), more];
  }

  latent({ latent, value, cosine, contexts, writes }, factors, open) {
    const factor = factors[latent] ?? 1, name = `latent ${latent}`;
    const summary = make("summary", {}, make("b", {}, `#${latent}`), ` ${number(value)} long, cosine to the error ${cosineText(cosine)}`,
      make("span", { className: "dmx-writes" }, writes.length ? " writes for " : "", ...writes.flatMap(({ token }) => [word(token, "dmx-word dmx-chip"), " "])));
    const off = button(factor === 0 ? "Switch on" : "Switch off", () => this.onFactor(latent, factor === 0 ? 1 : 0));
    const scale = make("input", { type: "range", min: 0, max: 3, step: 0.1, value: factor, "aria-label": `Scale of ${name}` });
    const shown = make("output", {}, `× ${number(factor)}`);
    scale.addEventListener("input", () => { shown.textContent = `× ${number(Number(scale.value))}`; });
    scale.addEventListener("change", () => this.onFactor(latent, Number(scale.value)));
    const list = contexts.map(({ before, token, after, value: strength }) => make("li", {},
      make("span", { className: "dmx-number" }, number(strength)), " ", excerpt(before, token, after)));
    const body = list.length ? make("ul", { className: "dmx-excerpts" }, ...list) : make("p", {}, "It is active nowhere in the book's text.");
    const item = make("details", { className: "dmx-latent", "data-latent": String(latent) }, summary,
      make("div", { className: "dmx-row" }, make("label", {}, "Scale ", scale), shown, off), make("p", {}, "Strongest in the book's text:"), body);
    item.open = open.has(String(latent));
    if (factor !== 1) item.classList.add("dmx-changed");
    return item;
  }

  neighbours({ here, there }, { tokens }) {
    const inText = here.map(({ position, cosine }) => make("li", {}, make("span", { className: "dmx-number" }, cosineText(cosine)), " ",
      button(visible(tokens[position]), () => this.onChoose(position), { className: "dmx-link", title: `token ${position}` }), ` at ${position}`));
    const inBook = there.map(({ before, token, after, cosine }) => make("li", {},
      make("span", { className: "dmx-number" }, cosineText(cosine)), " ", excerpt(before, token, after)));
    return make("div", { className: "dmx-columns" },
      make("div", {}, make("p", {}, "In this text (cosine)"), make("ul", { className: "dmx-excerpts" }, ...inText)),
      make("div", {}, make("p", {}, "In the book's text (cosine)"), make("ul", { className: "dmx-excerpts" }, ...inBook)));
  }
}

/** A token in the text around it. */
function excerpt(before, token, after) {
  const flat = (text) => visible(text).replaceAll("⏎", " ⏎ ");
  return make("span", { className: "dmx-excerpt" }, make("bdi", {}, flat(before)), make("mark", {}, word(token)), make("bdi", {}, flat(after)));
}
