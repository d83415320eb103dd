// The strip: every token with a bar of what is explained, linear and nonlinear, shaded by a quantity of the reader's choice.
import { make, number, percent, word } from "./dom.js";

export const PARTS = ["explained", "linear", "nonlinear"];

/** Shares of one token's variance. The affine map can make a single token worse; then its share is below 0 and drawn as none. */
export function shares(answer, t) {
  const whole = answer.variance[t] || 1, error = answer.error_norm2[t] / whole, nonlinear = answer.nonlinear_norm2[t] / whole;
  return { explained: 1 - error, linear: error - nonlinear, nonlinear };
}

/** The same over a range of tokens: Σ over them, as FVU has it. */
export function totals(answer, from = 1) {
  const sum = (values) => values.slice(from).reduce((total, value) => total + value, 0);
  const whole = sum(answer.variance) || 1, error = sum(answer.error_norm2) / whole, nonlinear = sum(answer.nonlinear_norm2) / whole;
  const lost = answer.loss.slice(from).map((loss, i) => answer.loss_spliced[i + from] - loss);
  const mean = lost.length ? lost.reduce((total, value) => total + value, 0) / lost.length : null;
  return { explained: 1 - error, linear: error - nonlinear, nonlinear, lost: mean };
}

/** The token to look at first: the one whose nonlinear share is largest, neither BOS nor the last. */
export function striking(answer) {
  const last = answer.tokens.length - 1;
  let best = Math.min(1, last);
  for (let t = 2; t < last; t++) if (shares(answer, t).nonlinear > shares(answer, best).nonlinear) best = t;
  return best;
}

export const SHADES = {
  none: { label: "nothing", of: () => null },
  error: { label: "error norm ‖e‖²", of: (a, t) => a.error_norm2[t] },
  linear: { label: "linear share of x", of: (a, t) => shares(a, t).linear },
  nonlinear: { label: "nonlinear share of x", of: (a, t) => shares(a, t).nonlinear },
  lookup: { label: "beats token look-up?", of: (a, t) => Number(Math.abs(a.probe[t] - a.error_norm2[t]) < Math.abs(a.lookup[t] - a.error_norm2[t])) },
  loss: { label: "loss increase when spliced", of: (a, t) => (t < a.loss.length ? a.loss_spliced[t] - a.loss[t] : null) },
};

export class TokenStrip {
  /** `onChoose(position)`: the reader walks to a token, or clicks on it. With `onOpen(position)` walking and pointing only read a token
   * out below the strip, and a click or Enter opens it. */
  constructor(onChoose, onOpen = null) {
    this.boxes = [];
    this.said = make("p", { className: "dmx-said", "aria-live": "polite" });
    this.node = make("div", { className: "dmx-tokens", tabIndex: 0, role: "listbox" });
    this.node.setAttribute("aria-label", "Tokens of the text. Arrow keys move from token to token." + (onOpen ? " Enter opens one in the explorer." : ""));
    this.key = make("div", { className: "dmx-key" });
    this.node.addEventListener("keydown", (event) => this.walk(event, onChoose));
    Object.assign(this, { onChoose, onOpen });
    this.prefix = `dmx${Math.random().toString(36).slice(2, 8)}`;
  }

  /** Draw the tokens of one answer, or of two under two SAEs: then each token has two bars. */
  show(answers, position, shade, skip) {
    const [first] = answers, quantity = SHADES[shade] ?? SHADES.none;
    const values = first.tokens.map((_, t) => (t ? quantity.of(first, t) : null));
    const known = values.filter((value) => value !== null).sort((a, b) => a - b);
    const low = Math.min(known[0] ?? 0, 0), high = known[Math.floor(0.95 * (known.length - 1))] ?? 1; // the top 5 % share the darkest
    this.boxes = first.tokens.map((token, t) => this.box(answers, token, t, skip));
    this.boxes.forEach((box, t) => {
      const depth = values[t] === null ? 0 : Math.max(0, Math.min(1, (values[t] - low) / (high - low || 1)));
      box.lastChild.style.setProperty("--dmx-depth", depth ? `${(6 + 50 * depth).toFixed(1)}%` : "0%");
    });
    this.node.replaceChildren(...this.boxes.flatMap((box, t) => (first.tokens[t].includes("\n") ? [box, make("br")] : [box])));
    this.legend(quantity, low, high, answers.length > 1, first.tokens.length > 1 && skip > 1);
    this.choose(position, false);
  }

  box(answers, token, t, skip) {
    const bars = make("span", { className: "dmx-bars" });
    const said = [];
    for (const answer of t ? answers : []) {
      const share = shares(answer, t), bar = make("span", { className: "dmx-bar" });
      for (const part of PARTS) {
        bar.append(make("i", { className: `dmx-${part}`, style: { flexGrow: String(Math.max(0, share[part])) } }));
      }
      bars.append(bar);
      said.push(`${percent(share.explained)} explained, ${percent(share.linear)} linear, ${percent(share.nonlinear)} nonlinear`);
    }
    const text = word(token), early = t && t < skip ? " dmx-early" : "";
    const box = make("span", { className: `dmx-token${early}`, id: `${this.prefix}-${t}`, role: "option" }, bars, text);
    box.setAttribute("aria-label", `token ${t}: ${text.textContent}${said.length ? `; ${said.join("; ")}` : ""}`);
    box.title = `token ${t}: “${text.textContent}” ${t ? said.join(" | ") : "begins every text"}`;
    box.addEventListener("click", () => (this.onOpen ?? this.onChoose)(t));
    if (this.onOpen) box.addEventListener("pointerenter", () => this.choose(t, false));
    return box;
  }

  legend(quantity, low, high, two, early) {
    const swatch = (part, text) => make("span", {}, make("i", { className: `dmx-swatch dmx-${part}` }), ` ${text}`);
    const parts = [swatch("explained", "explained by the SAE"), swatch("linear", "linear error"), swatch("nonlinear", "nonlinear error")];
    if (this.onOpen && early) parts.push(make("span", {}, "paler: before the positions that the linear error was fitted at"));
    if (two) parts.push(make("span", {}, "left bar: first SAE; right bar: second"));
    if (quantity === SHADES.lookup) parts.push(make("span", {}, "shaded: the probe on x is nearer to ‖e‖² than the token's mean is"));
    else if (quantity !== SHADES.none) {
      const ramp = make("i", { className: "dmx-ramp" });
      parts.push(make("span", {}, `${quantity.label}: ${number(low)} `, ramp, ` ${number(high)} and above`));
    }
    this.key.replaceChildren(...parts);
  }

  choose(position, scroll) {
    const box = this.boxes[position];
    for (const other of this.boxes) other.setAttribute("aria-selected", String(other === box));
    if (box) this.node.setAttribute("aria-activedescendant", box.id);
    if (scroll) box?.scrollIntoView({ block: "nearest" });
    this.said.textContent = box?.title ?? "";
    this.position = position;
  }

  walk(event, onChoose) {
    if (event.key === "Enter" && this.onOpen) return void this.onOpen(this.position);
    const last = this.boxes.length - 1;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -last, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(last, this.position + moves[event.key]));
    this.choose(next, true);
    onChoose(next);
  }
}
