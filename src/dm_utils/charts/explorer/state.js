// What the reader has chosen: one flat record, held by the address of the page so that a link reproduces it.

/** An SAE's name in words. */
export function saeName({ architecture, d_sae: width, l0, layer, component }, withLayer = false) {
  const kind = { topk: "TopK", jumprelu: "JumpReLU", standard: "ReLU", gated: "Gated" }[architecture] ?? architecture;
  const site = component === "resid" ? "" : `${component} `;
  return `${kind}, ${width.toLocaleString("en")} latents, L0 ${Number(l0.toPrecision(3))}${withLayer ? `, ${site}layer ${layer}` : ""}`;
}

export function initialState(about, given = {}) {
  return {
    text: Object.values(about.examples)[0], sae: about.default, pin: "", shade: "nonlinear", position: null,
    everywhere: true, linear: 0, nonlinear: 0, latents: {}, ...given,
  };
}

/** The parts of a state that differ from the initial one, as the fragment of an address. */
export function toHash(state, about, given = {}) {
  const first = initialState(about, given), held = new URLSearchParams();
  for (const name of ["text", "sae", "pin", "shade", "position", "everywhere", "linear", "nonlinear"]) {
    if (state[name] !== first[name] && state[name] !== null) held.set(name, String(state[name]));
  }
  for (const [latent, factor] of Object.entries(state.latents)) held.append("latent", `${latent}:${factor}`);
  return held.size ? `#explore&${held}` : "";
}

/** The state that a fragment holds over the initial one; whatever it says that is not there is left out. */
export function fromHash(hash, about, given = {}) {
  const state = initialState(about, given);
  if (!hash.startsWith("#explore&")) return state;
  const held = new URLSearchParams(hash.slice("#explore&".length)), known = (id) => about.saes.some((sae) => sae.id === id);
  if (held.has("text")) state.text = held.get("text");
  if (known(held.get("sae"))) state.sae = held.get("sae");
  if (known(held.get("pin"))) state.pin = held.get("pin");
  if (held.has("shade")) state.shade = held.get("shade");
  if (/^\d{1,4}$/.test(held.get("position") ?? "")) state.position = Number(held.get("position"));
  state.everywhere = held.get("everywhere") !== "false";
  for (const name of ["linear", "nonlinear"]) state[name] = share(held.get(name), state[name]);
  for (const pair of held.getAll("latent")) {
    const [, latent, factor] = /^(\d{1,7}):([\d.]{1,6})$/.exec(pair) ?? [];
    if (latent) state.latents[latent] = share(factor, 1, 3);
  }
  return state;
}

function share(text, otherwise, most = 1) {
  const value = Number(text ?? NaN);
  return Number.isFinite(value) ? Math.min(most, Math.max(0, value)) : otherwise;
}

/** A text as a literal of Python, whatever it holds: JSON's strings are Python's too. */
const literal = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));

/** The lines that compute the same numbers with dm_utils. */
export function asPython(state, about) {
  const { text, sae, position, everywhere, linear, nonlinear, latents } = state;
  const record = (fields) => `{${Object.entries(fields).map(([name, value]) => `"${name}": ${literal(value)}`).join(", ")}}`;
  return [
    "import dm_utils as dm",
    "from dm_utils.engine.explorer import Kernel",
    `kernel, where = Kernel(dm.Study(${literal(about.profile)})), ${record({ text, sae })}`,
    'tokens = kernel.answer({"kind": "decompose", **where})',
    `token = kernel.answer({"kind": "look", "position": ${position}, **where})`,
    `outcome = kernel.answer({"kind": "intervene", **where, **${record({ position, everywhere, linear, nonlinear, latents })}})`,
  ].join("\n");
}

/** The command that runs this page's notebook on the same choice. */
export function asPapermill(state, about) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const raw = [["profile", about.profile], ["text", state.text], ["sae", state.sae]];
  const given = raw.map(([name, value]) => `-r ${name} ${quoted(value)}`).join(" ");
  return `papermill notebooks/explorer.ipynb explorer-out.ipynb ${given} -p position ${state.position}`;
}

/** Every token and its numbers as CSV. */
export function asCsv(answer) {
  const columns = Object.keys(answer).filter((name) => Array.isArray(answer[name]));
  const cell = (value) => (typeof value === "string" ? `"${value.replaceAll('"', '""')}"` : value ?? "");
  const rows = answer.tokens.map((_, t) => [t, ...columns.map((name) => cell(answer[name][t]))].join(","));
  return [["position", ...columns].join(","), ...rows].join("\r\n") + "\r\n";
}
