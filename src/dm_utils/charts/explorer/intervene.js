// Add back a share of each part of the error and watch the next token's distribution.
import { button, make, number, percent, word } from "./dom.js";

export class InterventionPanel {
  /** `onChange(part of the state)` is called while a slider moves. */
  constructor(onChange) {
    this.onChange = onChange;
    this.sliders = { linear: this.slider("linear", "linear error"), nonlinear: this.slider("nonlinear", "nonlinear error") };
    this.everywhere = make("input", { type: "checkbox" });
    this.everywhere.addEventListener("change", () => onChange({ everywhere: this.everywhere.checked }));
    this.said = make("p", { className: "dmx-said", "aria-live": "polite" });
    this.changed = make("p", { className: "dmx-row" });
    this.table = make("div", {});
    const presets = [["Sae(x)", 0, 0], ["+ linear", 1, 0], ["+ nonlinear", 0, 1], ["x itself", 1, 1]];
    const buttons = presets.map(([text, linear, nonlinear]) => button(text, () => onChange({ linear, nonlinear })));
    this.node = make("section", { className: "dmx-panel" }, make("h4", {}, "Intervene"),
      make("p", {}, "Put Sae(x) in the place of x, add back a share of each part of the error, and let the layers above run again."),
      make("div", { className: "dmx-row" }, ...buttons), ...Object.values(this.sliders).map(({ row }) => row),
      make("label", { className: "dmx-row" }, this.everywhere, "at every token (not at this one only)"), this.changed, this.said, this.table);
  }

  slider(part, name) {
    const input = make("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": `Share of the ${name} that is added back` });
    const shown = make("output", {});
    input.addEventListener("input", () => this.onChange({ [part]: Number(input.value) }));
    const swatch = make("i", { className: `dmx-swatch dmx-${part}` });
    return { input, shown, row: make("label", { className: "dmx-row" }, swatch, make("span", { className: "dmx-name" }, name), input, shown) };
  }

  /** Put the controls where the state says. */
  follow(state) {
    for (const part of ["linear", "nonlinear"]) {
      this.sliders[part].input.value = state[part];
      this.sliders[part].shown.textContent = percent(state[part]);
    }
    this.everywhere.checked = state.everywhere;
    const latents = Object.entries(state.latents);
    const chips = latents.map(([latent, factor]) => button(`#${latent} × ${number(factor)} ✕`, () => {
      const rest = { ...state.latents };
      delete rest[latent];
      this.onChange({ latents: rest });
    }, { title: `leave latent ${latent} as it is` }));
    this.changed.replaceChildren(...(chips.length ? ["Changed latents: ", ...chips] : []));
  }

  show(outcome, token, state) {
    const put = `Sae(x)${state.linear ? ` + ${percent(state.linear)} linear` : ""}${state.nonlinear ? ` + ${percent(state.nonlinear)} nonlinear` : ""}`;
    const where = state.everywhere ? "at every token" : "at this token only";
    this.said.replaceChildren(`With ${put} ${where}, the distribution of what follows `, word(token),
      ` moves by ${number(outcome.kl)} nats (KL), and by ${number(outcome.mean_kl)} on average over the tokens that can move.`);
    if (outcome.loss_before !== null) {
      this.said.append(` The loss on the token that really follows goes from ${number(outcome.loss_before)} to ${number(outcome.loss_after)} nats.`);
    }
    const seen = new Set(outcome.before.map(({ token: text }) => text));
    const rows = [...outcome.before, ...outcome.after.filter(({ token: text }) => !seen.has(text))];
    const most = Math.max(...rows.flatMap(({ before, after }) => [before, after]));
    const bar = (p, part) => make("td", {}, make("i", { className: `dmx-p dmx-${part}`, style: { width: `${(100 * p) / most}%` } }), make("span", {}, percent(p)));
    const head = make("tr", {}, ...["next token", "before", "after"].map((text) => make("th", { scope: "col" }, text)));
    const body = rows.map((row) => make("tr", {}, make("th", { scope: "row" }, word(row.token)), bar(row.before, "error"), bar(row.after, "explained")));
    this.table.replaceChildren(make("table", { className: "dmx-table dmx-next" }, make("caption", {}, "The ten likeliest before, and those that join them after"),
      make("thead", {}, head), make("tbody", {}, ...body)));
  }
}
