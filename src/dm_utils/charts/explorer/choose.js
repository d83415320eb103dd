// Choose an SAE by layer, architecture, width and L0; what is not there at once moves to the nearest that is.
import { chooser, make } from "./dom.js";

const FIELDS = [
  ["layer", "Layer", (sae) => `${sae.component === "resid" ? "" : `${sae.component} `}${sae.layer}`],
  ["architecture", "Architecture", (sae) => ({ topk: "TopK", jumprelu: "JumpReLU" })[sae.architecture] ?? sae.architecture],
  ["d_sae", "Width", (sae) => sae.d_sae.toLocaleString("en")],
  ["l0", "L0", (sae) => String(Number(sae.l0.toPrecision(3)))],
];

const key = (sae, field) => (field === "layer" ? `${sae.component} ${sae.layer}` : String(sae[field]));

/** The SAE with `field` at `value` that shares most with the one chosen before; fields named earlier count for more. */
export function nearest(saes, before, field, value) {
  const near = (sae) => {
    const same = FIELDS.map(([name]) => Number(key(sae, name) === key(before, name)));
    const off = Math.abs(Math.log(sae.d_sae / before.d_sae)) + Math.abs(Math.log((sae.l0 || 1) / (before.l0 || 1)));
    return 8 * same[0] + 4 * same[1] - off;
  };
  const found = saes.filter((sae) => key(sae, field) === value);
  return found.reduce((best, sae) => (near(sae) > near(best) ? sae : best));
}

export class SaeChooser {
  /** `optional`: one may choose none. */
  constructor(title, saes, onChoose, optional = false) {
    Object.assign(this, { title, saes, onChoose, optional });
    this.node = make("fieldset", { className: "dmx-sae" });
  }

  follow(id) {
    if (id === this.id) return;
    this.id = id;
    const chosen = this.saes.find((sae) => sae.id === id), held = document.activeElement?.dataset?.field;
    const lists = chosen ? FIELDS.map(([field, label, say]) => this.list(field, label, say, chosen)) : [];
    if (this.optional) lists.unshift(this.switch(chosen));
    this.node.replaceChildren(make("legend", {}, this.title), ...lists);
    if (held && this.node.dataset.active) this.node.querySelector(`[data-field="${held}"]`)?.focus();
  }

  /** Values of a field among the SAEs that agree with the chosen one in the fields before it. */
  list(field, label, say, chosen) {
    const at = FIELDS.findIndex(([name]) => name === field);
    const open = this.saes.filter((sae) => FIELDS.slice(0, at).every(([name]) => key(sae, name) === key(chosen, name)));
    const options = new Map(open.map((sae) => [key(sae, field), say(sae)]));
    const node = chooser(label, [...options], key(chosen, field), (value) => {
      this.node.dataset.active = "true";
      this.onChoose(nearest(open, chosen, field, value).id);
    });
    node.querySelector("select").dataset.field = field;
    return node;
  }

  switch(chosen) {
    const box = make("input", { type: "checkbox", checked: Boolean(chosen) });
    box.dataset.field = "pin";
    box.addEventListener("change", () => {
      this.node.dataset.active = "true";
      this.onChoose(box.checked ? this.widest() : "");
    });
    return make("label", { className: "dmx-row" }, box, "a second SAE");
  }

  /** What to show beside the first before the reader chooses: the widest SAE of the default's kind. */
  widest() {
    const { id } = this.saes.reduce((best, sae) => (sae.d_sae > best.d_sae || (sae.d_sae === best.d_sae && sae.l0 === 16) ? sae : best));
    return id;
  }
}
