// The explorer's engine in the page: answers the requests of `explorer_contract.py` with the model and an SAE in memory.
//
// Why no runtime: onnxruntime-web is 3.7 MB (compressed) of WebAssembly before the first weight, needs the model and each SAE in
// a format of its own, and has no intervention at a layer. The files here are 30 KB, read the weights as they are shipped, run
// wherever modules do, and compute a sentence in a fraction of a second: the model has 2 million parameters.
import { add, cosine, divergence, dot, largest, logSoftmax, product } from "./linalg.js";
import { Fitted, geometry, parts, scalars } from "./decompose.js";
import { Model } from "./model.js";
import { Sae } from "./sae.js";
import { readSafetensors } from "./safetensors.js";
import { Tokenizer } from "./tokenizer.js";

const KEPT = 3; // SAEs, and texts under an SAE, that stay in memory

/** The results of the last few calls, so that an hour of use does not fill the memory. */
class Recent {
  constructor(size = KEPT) {
    this.size = size;
    this.entries = new Map();
  }

  async get(key, make) {
    const kept = this.entries.get(key) ?? make();
    this.entries.delete(key);
    this.entries.set(key, kept);
    if (this.entries.size > this.size) this.entries.delete(this.entries.keys().next().value);
    try {
      return await kept;
    } catch (error) {
      this.entries.delete(key); // the next call tries again
      throw error;
    }
  }
}

export class Engine {
  /** `files(name)` gives a file of the data folder as an ArrayBuffer. */
  constructor(files) {
    this.files = files;
    this.once = new Recent(Infinity);
    this.saes = new Recent();
    this.splits = new Recent();
    this.pools = new Recent();
  }

  async answer(request) {
    const kinds = { describe: "describe", context: "context", decompose: "decompose", look: "look", intervene: "intervene" };
    if (!kinds[request.kind]) throw new Error(`there is no request ${request.kind}; there are ${Object.keys(kinds).join(", ")}`);
    return this[kinds[request.kind]](request);
  }

  // --- files -------------------------------------------------------------------------------------------------

  json(name) {
    return this.once.get(name, async () => JSON.parse(new TextDecoder().decode(await this.files(name))));
  }

  manifest() {
    return this.json("manifest.json");
  }

  async model() {
    const { model, tokenizer } = await this.manifest();
    const built = async () => {
      const [weights, words] = await Promise.all([this.files(model.file), this.json(tokenizer.file)]);
      return { model: new Model(model.config, readSafetensors(weights)), tokenizer: new Tokenizer(words) };
    };
    return this.once.get("model", built);
  }

  async entry(id) {
    const { saes } = await this.manifest(), found = saes.find((sae) => sae.about.id === id);
    if (!found) throw new Error(`there is no SAE ${id}; there are ${saes.map((sae) => sae.about.id).join(", ")}`);
    return found;
  }

  async sae(id) {
    const entry = await this.entry(id);
    return this.saes.get(id, async () => {
      const files = [this.files(entry.weights.file), this.files(entry.fitted.file)];
      const [weights, fitted] = (await Promise.all(files)).map(readSafetensors);
      return { sae: new Sae(entry.config, weights), fitted: new Fitted(fitted), layer: entry.about.layer };
    });
  }

  async contexts() {
    const { corpus } = await this.manifest();
    return this.once.get("contexts", async () => readSafetensors(await this.files(corpus.file)).contexts);
  }

  // --- answers -----------------------------------------------------------------------------------------------

  async describe() {
    const manifest = await this.manifest();
    return { ...manifest.about, saes: manifest.saes.map((sae) => sae.about) };
  }

  async context({ index }) {
    const { shape: [count, length], data } = await this.contexts(), { about } = await this.manifest();
    if (!(index >= 0 && index < count)) throw new Error(`context = ${index}: it must be from 0 to ${count - 1}`);
    const { tokenizer } = await this.model();
    return { text: tokenizer.decode([...data.subarray(index * length + 1, index * length + Math.floor(about.max_tokens / 2))]) };
  }

  /** Every vector of a text under an SAE; the last few stay in memory. */
  async split(text, id) {
    const [{ model, tokenizer }, chosen, { about, max_characters: most }] =
      await Promise.all([this.model(), this.sae(id), this.manifest()]);
    return this.splits.get(`${id}\n${text}`, async () => {
      const letters = [...text.slice(0, 2 * most + 2)], short = letters.slice(0, most).join("");
      const { ids, truncated } = tokenizer.encode(short, about.max_tokens);
      const residuals = model.residuals(ids);
      const found = parts(residuals[chosen.layer], chosen.sae, chosen.fitted);
      const logits = model.logits(residuals[residuals.length - 1]);
      return { ...chosen, ...found, id, ids, logits, model, tokenizer, truncated: truncated || letters.length > most };
    });
  }

  async decompose({ text, sae }) {
    const split = await this.split(text, sae), { ids, tokenizer } = split;
    const answer = { tokens: ids.map((id) => tokenizer.decode([id])), truncated: split.truncated };
    Object.assign(answer, scalars(split, split.fitted, ids));
    answer.loss = losses(split.logits, ids);
    answer.loss_spliced = losses(this.after(split, split.vectors.sae), ids);
    return answer;
  }

  /** Logits with `vectors` in the place of x at every token but BOS. */
  after({ model, layer, vectors: { x } }, vectors) {
    const put = vectors.slice();
    put.set(x.subarray(0, model.d));
    return model.logits(model.rest(put, layer));
  }

  async look({ text, sae, position }) {
    const split = await this.split(text, sae), { limits } = await this.manifest();
    check(split, position);
    const answer = geometry(split.vectors, position, split.model.d), d = split.model.d;
    const error = split.vectors.error.subarray(position * d, (position + 1) * d);
    answer.latents = [];
    for (const code of split.codes[position].slice(0, limits.latents)) {
      answer.latents.push(await this.latent(split, code, error, limits));
    }
    return { ...answer, ...(await this.neighbours(split, position, limits)) };
  }

  async latent(split, { latent, value }, error, limits) {
    const { strongest } = await this.entry(split.id), direction = split.sae.direction(latent);
    const table = await this.pools.get(strongest.file, async () => readSafetensors(await this.files(strongest.file)));
    const width = table.value.shape[1], contexts = [];
    for (let at = latent * width; at < (latent + 1) * width; at++) {
      if (!(table.value.data[at] > 0)) continue;
      const place = await this.excerpt(split.tokenizer, table.context.data[at], table.position.data[at], limits);
      contexts.push({ ...place, value: table.value.data[at] });
    }
    const gain = split.model.weight("norm"), raised = direction.map((part, i) => part * (1 + gain[i]));
    const weights = product(raised, split.model.weight("embed_tokens"), split.model.d);
    const writes = largest(weights, limits.writes).map((id) => ({ token: split.tokenizer.decode([id]), weight: weights[id] }));
    return { latent, value, cosine: cosine(direction, error), contexts, writes };
  }

  async excerpt(tokenizer, context, position, { before, after }) {
    const { shape: [, length], data } = await this.contexts(), at = context * length;
    const text = (from, to) => tokenizer.decode([...data.subarray(at + Math.max(0, from), at + Math.min(length, to))]);
    return {
      before: text(position - before, position), token: text(position, position + 1),
      after: text(position + 1, position + 1 + after),
    };
  }

  /** The nearest tokens by nonlinear error: in this text, neither BOS nor the token itself, and in the book's. */
  async neighbours(split, position, limits) {
    const d = split.model.d, own = split.vectors.nonlinear, here = own.subarray(position * d, (position + 1) * d);
    const near = rowCosines(own, here, d).map((value, t) => (t === 0 || t === position ? -Infinity : value));
    const { about, pool } = await this.entry(split.id);
    const errors = await this.pools.get(`pool ${about.id}`, async () => {
      const tensors = readSafetensors(await this.files(pool.file));
      return { ...tensors, nonlinear: parts(tensors.x.data, split.sae, split.fitted).vectors.nonlinear };
    });
    const far = rowCosines(errors.nonlinear, here, d), there = [];
    for (const i of largest(far, limits.neighbours)) {
      const place = await this.excerpt(split.tokenizer, errors.context.data[i], errors.position.data[i], limits);
      there.push({ ...place, cosine: far[i] });
    }
    const kept = largest(near, limits.neighbours).filter((t) => near[t] > -2);
    return { here: kept.map((t) => ({ position: t, cosine: near[t] })), there };
  }

  async intervene(given) {
    const request = { everywhere: true, linear: 0, nonlinear: 0, latents: {}, ...given };
    const split = await this.split(request.text, request.sae), { limits } = await this.manifest(), t = request.position;
    check(split, t);
    const size = split.tokenizer.vocabulary.size, row = (logits, at) => logSoftmax(logits.subarray(at * size, (at + 1) * size));
    const plain = split.logits, changed = this.after(split, spliced(split, request));
    const kls = split.ids.map((_, at) => divergence(row(plain, at), row(changed, at)));
    const moved = kls.slice(request.everywhere ? 1 : t);
    const answer = { kl: kls[t], mean_kl: moved.length ? moved.reduce((sum, kl) => sum + kl, 0) / moved.length : 0 };
    const [before, after] = [row(plain, t), row(changed, t)];
    for (const [name, order] of [["before", before], ["after", after]]) {
      answer[name] = largest(order, limits.next).map((id) => ({
        token: split.tokenizer.decode([id]), before: Math.exp(before[id]), after: Math.exp(after[id]),
      }));
      answer[`loss_${name}`] = t + 1 < split.ids.length ? -order[split.ids[t + 1]] : null;
    }
    return answer;
  }
}

/** What takes the place of x: Sae(x) + a·linear + b·nonlinear + Σ (factor − 1)·latent. */
function spliced({ vectors, codes, sae }, { position, everywhere, linear, nonlinear, latents }) {
  const put = add(add(vectors.sae, vectors.linear, linear), vectors.nonlinear, nonlinear), d = sae.d;
  for (const [name, factor] of Object.entries(latents)) {
    if (!/^\d+$/.test(name) || Number(name) >= sae.width) throw new Error(`latent ${name}: there are latents 0 to ${sae.width - 1}`);
    const direction = sae.direction(Number(name));
    codes.forEach((code, t) => {
      const found = code.find(({ latent }) => latent === Number(name));
      if (found) for (let i = 0; i < d; i++) put[t * d + i] += (factor - 1) * found.value * direction[i];
    });
  }
  if (everywhere) return put;
  const alone = vectors.x.slice();
  alone.set(put.subarray(position * d, (position + 1) * d), position * d);
  return alone;
}

/** −ln p of each next token. */
function losses(logits, ids) {
  const size = logits.length / ids.length;
  return ids.slice(1).map((next, t) => -logSoftmax(logits.subarray(t * size, (t + 1) * size))[next]);
}

function rowCosines(rows, vector, d) {
  const length = Math.sqrt(dot(vector, vector, d));
  return Array.from({ length: rows.length / d }, (_, t) => {
    const size = length * Math.sqrt(dot(rows, rows, d, t * d, t * d));
    return size > 0 ? dot(rows, vector, d, t * d) / size : 0;
  });
}

function check({ ids }, position) {
  if (!(position >= 0 && position < ids.length)) {
    throw new Error(`position = ${position}: this text has tokens 0 (BOS) to ${ids.length - 1}`);
  }
}
