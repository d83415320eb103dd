// A Gemma 2 language model: the residual stream at every layer, and the later layers again from any of them.
import { dot, product } from "./linalg.js";

/** x · (1 + weight) / rms(x), row by row. */
export function rmsNorm(x, weight, epsilon) {
  const n = weight.length, out = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += n) {
    const scale = 1 / Math.sqrt(dot(x, x, n, at, at) / n + epsilon);
    for (let i = 0; i < n; i++) out[at + i] = x[at + i] * scale * (1 + weight[i]);
  }
  return out;
}

function gelu(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

export class Model {
  constructor(config, tensors) {
    this.config = config;
    this.tensors = tensors;
    this.d = config.hidden_size;
    const half = config.head_dim / 2, theta = config.rope_parameters.rope_theta;
    this.frequencies = Float64Array.from({ length: half }, (_, i) => theta ** (-i / half));
  }

  weight(name) {
    const found = this.tensors[`model.${name}.weight`];
    if (!found) throw new Error(`the model's file lacks ${name}`);
    return found.data;
  }

  /** The residual stream after each layer, one Float32Array [token, d] per layer. */
  residuals(ids) {
    const table = this.weight("embed_tokens"), x = new Float32Array(ids.length * this.d);
    const scale = Math.fround(Math.sqrt(this.d));
    ids.forEach((id, t) => {
      for (let i = 0; i < this.d; i++) x[t * this.d + i] = table[id * this.d + i] * scale;
    });
    const found = [];
    for (let layer = 0; layer < this.config.num_hidden_layers; layer++) {
      found.push(this.layer(found[layer - 1] ?? x, layer));
    }
    return found;
  }

  /** The last layer's residual stream when `x` stands after `layer`. */
  rest(x, layer) {
    for (let next = layer + 1; next < this.config.num_hidden_layers; next++) x = this.layer(x, next);
    return x;
  }

  /** Logits [token, vocabulary] of a last residual stream, soft cap included. */
  logits(x) {
    const hidden = rmsNorm(x, this.weight("norm"), this.config.rms_norm_eps);
    const logits = product(hidden, this.weight("embed_tokens"), this.d), cap = this.config.final_logit_softcapping;
    if (cap) for (let i = 0; i < logits.length; i++) logits[i] = cap * Math.tanh(logits[i] / cap);
    return logits;
  }

  layer(x, index) {
    const name = (part) => this.weight(`layers.${index}.${part}`), epsilon = this.config.rms_norm_eps;
    const norm = (value, part) => rmsNorm(value, name(part), epsilon);
    const read = norm(this.attention(norm(x, "input_layernorm"), index), "post_attention_layernorm");
    const middle = x.map((value, i) => value + read[i]);
    const into = norm(middle, "pre_feedforward_layernorm");
    const gate = product(into, name("mlp.gate_proj"), this.d), up = product(into, name("mlp.up_proj"), this.d);
    for (let i = 0; i < up.length; i++) up[i] *= gelu(gate[i]);
    const written = norm(product(up, name("mlp.down_proj"), this.config.intermediate_size), "post_feedforward_layernorm");
    for (let i = 0; i < middle.length; i++) middle[i] += written[i];
    return middle;
  }

  attention(x, index) {
    const { head_dim: size, num_attention_heads: heads, num_key_value_heads: shared } = this.config;
    const part = (name) => product(x, this.weight(`layers.${index}.self_attn.${name}_proj`), this.d);
    const q = this.rotate(part("q"), heads), k = this.rotate(part("k"), shared), v = part("v");
    const window = this.config.layer_types[index] === "sliding_attention" ? this.config.sliding_window : Infinity;
    const tokens = x.length / this.d, out = new Float32Array(tokens * heads * size);
    for (let head = 0; head < heads; head++) {
      const from = Math.floor((head * shared) / heads); // grouped queries: several heads read the same keys
      for (let t = 0; t < tokens; t++) {
        this.attend(q, k, v, out, { t, head, heads, from, shared, first: Math.max(0, t - window + 1) });
      }
    }
    return product(out, this.weight(`layers.${index}.self_attn.o_proj`), heads * size);
  }

  attend(q, k, v, out, { t, head, heads, from, shared, first }) {
    const { head_dim: size, query_pre_attn_scalar: scalar, attn_logit_softcapping: cap } = this.config;
    const query = (t * heads + head) * size, weights = new Float64Array(t + 1 - first);
    let top = -Infinity, sum = 0;
    for (let s = first; s <= t; s++) {
      const score = dot(q, k, size, query, (s * shared + from) * size) / Math.sqrt(scalar);
      weights[s - first] = cap ? cap * Math.tanh(score / cap) : score;
      top = Math.max(top, weights[s - first]);
    }
    for (let i = 0; i < weights.length; i++) sum += weights[i] = Math.exp(weights[i] - top);
    for (let s = first; s <= t; s++) {
      const share = weights[s - first] / sum, value = (s * shared + from) * size;
      for (let i = 0; i < size; i++) out[query + i] += share * v[value + i];
    }
  }

  /** Rotary position embedding: the halves of each head turn by position × frequency. */
  rotate(x, heads) {
    const size = this.config.head_dim, half = size / 2;
    for (let row = 0; row < x.length / size; row++) {
      const position = Math.floor(row / heads);
      for (let i = 0; i < half; i++) {
        const angle = position * this.frequencies[i], at = row * size + i;
        const cos = Math.cos(angle), sin = Math.sin(angle), a = x[at], b = x[at + half];
        x[at] = a * cos - b * sin;
        x[at + half] = b * cos + a * sin;
      }
    }
    return x;
  }
}
