// The explorer's front end: the same in the static page, where a worker answers, and in Jupyter, where a kernel does.
import { button, chooser, make, number, percent, word } from "./dom.js";
import { InterventionPanel } from "./intervene.js";
import { TokenPanel } from "./panel.js";
import { asCsv, asPapermill, asPython, fromHash, saeName, toHash } from "./state.js";
import { SaeChooser } from "./choose.js";
import { SHADES, striking, TokenStrip, totals } from "./tokens.js";

export const PARTS_OF_PAGE = ["text", "sae", "tokens", "look", "intervene", "take"];
const PAUSE = 250; // ms without a key before a text is computed

export class Explorer {
  /**
   * `backend.ask(request)` answers as `explorer_contract.py` says. `useAddress`: keep the state in the page's address.
   * `given`: the part of the first state that the notebook chose. `parts`: which of PARTS_OF_PAGE to show; none means all.
   * `leads`: the address of the whole explorer, where a click on a token leads.
   */
  constructor(node, backend, { useAddress = false, given = {}, parts = [], leads = "" } = {}) {
    Object.assign(this, { node, backend, useAddress, given, leads, turns: {}, answers: [], parts: new Set(parts.length ? parts : PARTS_OF_PAGE) });
    backend.onNews = (news) => this.news(news);
  }

  async start() {
    try {
      this.about = await this.backend.ask({ kind: "describe" });
      this.state = fromHash(this.useAddress ? location.hash : "", this.about, this.given);
      this.build();
      await this.compute();
    } catch (error) {
      this.fail(error);
    }
    return this;
  }

  build() {
    this.message = make("p", { className: "dmx-message", "aria-live": "polite" });
    this.status = make("p", { className: "dmx-status", role: "status" });
    this.bar = make("progress", { max: 1, value: 0, hidden: true, "aria-label": "Download of the model and the SAE" });
    this.strip = new TokenStrip((position) => this.change({ position }), this.leads ? (position) => this.lead(position) : null);
    this.strip.node.setAttribute("aria-live", "off");
    this.panels = [0, 1].map(() => new TokenPanel((latent, factor) => this.scale(latent, factor), (position) => this.change({ position })));
    this.intervention = new InterventionPanel((part) => this.change(part));
    this.side = make("div", { className: "dmx-grid" });
    this.node.classList.add("dmx");
    const text = this.entry(), choices = this.choices(), take = this.takeAlong(), { node: tokens, key } = this.strip;
    const sections = [["text", text], ["sae", choices], ["", this.status], ["", this.bar], ["tokens", tokens], ["tokens", key], ["", this.side], ["take", take]];
    if (this.leads) sections.splice(5, 0, ["tokens", this.strip.said]);
    this.node.replaceChildren(this.message, ...sections.filter(([part]) => !part || this.parts.has(part)).map(([, node]) => node));
    if (!this.backend.live && this.about.size && !this.leads) this.status.textContent = this.invitation();
  }

  /** Go to the whole explorer, with this text and this token in its address. */
  lead(position) {
    location.href = this.leads + toHash({ ...this.state, position }, this.about, { text: null, sae: null });
  }

  invitation() {
    const size = (this.about.size + this.sae(this.state.sae).size) / 1e6;
    return `Computed when the book was built. Change anything, and the model and its SAE (${number(size)} MB, once) compute in this page.`;
  }

  sae(id) {
    return this.about.saes.find((sae) => sae.id === id);
  }

  // --- what the reader chooses -----------------------------------------------------------------------------

  entry() {
    this.text = make("textarea", { rows: 3, value: this.state.text, spellcheck: false, dir: "auto" });
    this.text.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.change({ text: this.text.value, position: null }), PAUSE);
    });
    const examples = Object.entries(this.about.examples).map(([name]) => [name, name]);
    const pick = chooser("Example", [["", "choose…"], ...examples], "", (name) => name && this.setText(this.about.examples[name]));
    const context = make("input", { type: "number", min: 1, max: this.about.n_contexts, value: 1, "aria-label": "Number of the context" });
    const fetchContext = () => this.fromBook(Number(context.value) - 1);
    return make("div", {}, make("label", { className: "dmx-text" }, make("span", {}, "Your text"), this.text), make("div", { className: "dmx-row" }, pick,
      make("span", { className: "dmx-field" }, make("span", {}, `Context of the book's text, 1 to ${this.about.n_contexts}`), make("span", {}, context, " ", button("Read it", fetchContext)))));
  }

  setText(text) {
    this.text.value = text;
    this.change({ text, position: null });
  }

  async fromBook(index) {
    await this.attempt("context", { kind: "context", index }, ({ text }) => this.setText(text));
  }

  choices() {
    this.first = new SaeChooser("SAE", this.about.saes, (sae) => this.change({ sae, latents: {} }));
    this.second = new SaeChooser("Beside it", this.about.saes, (pin) => this.change({ pin }), true);
    this.first.follow(this.state.sae);
    this.second.follow(this.state.pin);
    const shades = Object.entries(SHADES).map(([name, { label }]) => [name, label]);
    const shade = chooser("Shade by", shades, this.state.shade in SHADES ? this.state.shade : "none", (name) => this.change({ shade: name }));
    return make("div", { className: "dmx-choices" }, this.first.node, this.second.node, shade);
  }

  scale(latent, factor) {
    const latents = { ...this.state.latents, [latent]: factor };
    if (factor === 1) delete latents[latent];
    this.change({ latents });
  }

  /** Take on a part of a state and compute what depends on it. */
  change(part) {
    const before = this.state;
    this.state = { ...before, ...part };
    this.first.follow(this.state.sae);
    this.second.follow(this.state.pin);
    if (["text", "sae", "pin"].some((name) => before[name] !== this.state[name])) return this.compute();
    this.remember();
    if (before.shade !== this.state.shade) this.drawStrip();
    if (before.position !== this.state.position) return this.look();
    this.drawPanels();
    return this.intervene();
  }

  remember() {
    if (this.useAddress) history.replaceState(null, "", toHash(this.state, this.about, this.given) || location.pathname + location.search);
  }

  // --- what is computed ------------------------------------------------------------------------------------

  /** Ask, and use the answer unless a later question of the same kind was asked meanwhile. */
  async attempt(kind, requests, use) {
    const turn = (this.turns[kind] = (this.turns[kind] ?? 0) + 1);
    try {
      const wanted = Array.isArray(requests) ? requests : [requests];
      if (await this.slow(wanted)) this.node.setAttribute("aria-busy", "true");
      const answers = await Promise.all(wanted.map((request) => this.backend.ask(request)));
      if (turn === this.turns[kind]) await use(...answers);
    } catch (error) {
      if (turn === this.turns[kind]) this.fail(error);
    } finally {
      if (turn === this.turns[kind]) this.node.removeAttribute("aria-busy");
    }
  }

  async slow(requests) {
    if (!this.backend.needsEngine) return true;
    const needed = await Promise.all(requests.map((request) => this.backend.needsEngine(request)));
    if (needed.some(Boolean) && !this.backend.live) this.status.textContent = "Starting the engine in this page…";
    return needed.some(Boolean);
  }

  get ids() {
    return [this.state.sae, this.state.pin].filter(Boolean);
  }

  compute() {
    const { text } = this.state;
    this.notice = "";
    return this.attempt("decompose", this.ids.map((sae) => ({ kind: "decompose", text, sae })), (...answers) => {
      this.answers = answers;
      const last = answers[0].tokens.length - 1;
      if (this.state.position === null || this.state.position > last) this.state.position = striking(answers[0]);
      this.remember();
      this.drawStrip();
      this.sum();
      return this.look();
    });
  }

  look() {
    const { text, position } = this.state;
    this.strip.choose(position, false);
    const requests = this.ids.map((sae) => ({ kind: "look", text, sae, position }));
    const seen = this.parts.has("look") && this.attempt("look", requests, (...views) => {
      this.views = views;
      this.drawPanels();
    });
    if (!seen) this.drawPanels();
    return Promise.all([seen, this.intervene()]);
  }

  async intervene() {
    if (!this.parts.has("intervene")) return this.drawPanels();
    const { text, sae, position, everywhere, linear, nonlinear, latents } = this.state;
    this.intervention.follow(this.state);
    this.wanted = { kind: "intervene", text, sae, position, everywhere, linear, nonlinear, latents };
    if (this.running) return this.running; // one at a time: a slider moves faster than a model runs
    this.running = (async () => {
      for (let request = null; request !== this.wanted;) {
        request = this.wanted;
        await this.attempt("intervene", request, (outcome) => {
          const token = this.answers[0]?.tokens[request.position];
          if (token !== undefined) this.intervention.show(outcome, token, request);
        });
      }
    })();
    await this.running;
    this.running = null;
    return null;
  }

  // --- what is drawn ---------------------------------------------------------------------------------------

  drawStrip() {
    if (this.answers.length) this.strip.show(this.answers, this.state.position, this.state.shade, this.about.skip);
  }

  drawPanels() {
    const shown = this.ids.slice(0, Math.min(this.views?.length ?? 0, this.answers.length));
    shown.forEach((id, i) => {
      if (this.answers[i].tokens.length <= this.state.position) return;
      this.panels[i].show(saeName(this.sae(id), true), this.views[i], this.answers[i], this.state.position, i ? {} : this.state.latents);
    });
    this.side.classList.toggle("dmx-pair", shown.length > 1);
    const wanted = [...shown.map((_, i) => this.panels[i].node), ...(this.parts.has("intervene") ? [this.intervention.node] : [])];
    if (wanted.some((node, i) => this.side.children[i] !== node) || this.side.children.length > wanted.length) this.side.replaceChildren(...wanted);
  }

  /** The sentence that says what is seen. */
  sum() {
    const [answer] = this.answers, count = answer.tokens.length - 1;
    if (!count) {
      this.message.textContent = "Type a text: each of its tokens becomes a bar of what this SAE explains, and of the two parts of what it does not.";
      return;
    }
    const say = (one, id) => {
      const { explained, linear, nonlinear, lost } = totals(one), dark = make("strong", {}, percent(nonlinear));
      const parts = [make("em", {}, saeName(this.sae(id), true)), ` explains ${percent(explained)} of the variance; an affine map of x has ${percent(linear)} more; `,
        dark, " stays nonlinear: dark matter."];
      if (lost !== null && !this.leads) parts.push(` With Sae(x) in its place the loss rises by ${number(lost)} nats.`);
      return parts;
    };
    const [first, second] = this.answers.map((one, i) => say(one, this.ids[i])), plural = count === 1 ? "this token" : `these ${count} tokens`;
    this.message.replaceChildren(`On ${plural} the SAE `, ...first, ...(second ? [make("br"), "Beside it, the SAE ", ...second] : []));
    if (answer.truncated) this.message.append(` Only the first ${count} tokens of the text are used.`);
    if (count && answer.tokens.length <= this.about.skip * 2 && !this.leads) this.message.append(this.early());
  }

  early() {
    return make("small", {}, ` (The map was fitted at positions from ${this.about.skip} on; the bars of earlier tokens are paler.)`);
  }

  news({ text = "", bytes, notice }) {
    if (!this.status) return;
    if (notice) this.notice = notice;
    const first = this.about.size + this.sae(this.state.sae).size;
    if (bytes) this.bar.value = Math.min(1, bytes / first);
    this.bar.hidden = !(bytes && bytes < first);
    this.status.textContent = [this.notice, text].filter(Boolean).join(" ");
  }

  fail(error) {
    const shown = this.status ?? this.node.appendChild(make("p", { role: "status" }));
    shown.textContent = `This could not be computed: ${error.message}`;
  }

  // --- to take along ---------------------------------------------------------------------------------------

  takeAlong() {
    const said = make("span", { role: "status" }), copied = async (text, what) => {
      shown.textContent = text;
      shown.hidden = false;
      await navigator.clipboard?.writeText(text).then(() => { said.textContent = `${what} copied.`; }, () => { said.textContent = `${what}: copy it from here.`; });
    };
    const shown = make("pre", { className: "dmx-code", hidden: true, tabIndex: 0, "aria-label": "What is copied" });
    const save = () => {
      const link = make("a", { href: URL.createObjectURL(new Blob([asCsv(this.answers[0])], { type: "text/csv" })), download: "tokens.csv" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    };
    const buttons = [button("Copy as Python", () => copied(asPython(this.state, this.about), "Python")),
      button("Copy the papermill command", () => copied(asPapermill(this.state, this.about), "The command")), button("Download the tokens (CSV)", save)];
    if (this.useAddress) buttons.unshift(button("Copy the link", () => copied(location.href, "The link")));
    return make("div", { className: "dmx-take" }, make("div", { className: "dmx-row" }, ...buttons, said), shown);
  }
}
