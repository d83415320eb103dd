// TopK and JumpReLU sparse autoencoders (Eqs. 1, 2, 6, 8). Latents are given as the length of what they write.
import { dot, largest, product, transpose } from "./linalg.js";

export class Sae {
  constructor(config, tensors) {
    this.config = config;
    this.d = config.d_in;
    this.width = config.d_sae;
    this.encoder = transpose(tensors.W_enc.data, this.d, this.width); // [latent, d]
    this.decoder = tensors.W_dec.data; // [latent, d]
    this.shift = tensors.b_dec.data;
    this.bias = tensors.b_enc.data;
    this.threshold = tensors.threshold?.data;
    this.length = Float64Array.from({ length: this.width }, (_, i) => Math.sqrt(dot(this.decoder, this.decoder, this.d, i * this.d, i * this.d)));
  }

  /** For each token the active latents, longest first: [{latent, value}], value = hidden_i · ‖decoder row i‖. */
  encode(x) {
    const tokens = x.length / this.d, found = [];
    for (let start = 0; start < tokens; start += 32) { // few tokens at a time: pre-activations stay small
      const rows = x.subarray(start * this.d, Math.min(tokens, start + 32) * this.d);
      const hidden = product(this.config.apply_b_dec_to_input ? this.centred(rows) : rows, this.encoder, this.d);
      for (let at = 0; at < hidden.length; at += this.width) found.push(this.active(hidden.subarray(at, at + this.width)));
    }
    return found;
  }

  centred(x) {
    return x.map((value, i) => value - this.shift[i % this.d]);
  }

  active(hidden) {
    const { width, length, bias } = this;
    for (let i = 0; i < width; i++) hidden[i] += bias[i];
    if (this.config.architecture === "topk") return this.top(hidden);
    const found = [];
    for (let i = 0; i < width; i++) {
      if (hidden[i] > Math.max(this.threshold[i], 0)) found.push({ latent: i, value: hidden[i] * length[i] });
    }
    return found.sort((a, b) => b.value - a.value || a.latent - b.latent);
  }

  top(hidden) {
    const scaled = this.config.rescale_acts_by_decoder_norm;
    if (scaled) for (let i = 0; i < hidden.length; i++) hidden[i] *= this.length[i];
    const found = largest(hidden, this.config.k).filter((i) => hidden[i] > 0)
      .map((i) => ({ latent: i, value: hidden[i] * (scaled ? 1 : this.length[i]) }));
    return found.sort((a, b) => b.value - a.value || a.latent - b.latent);
  }

  /** What one latent writes per unit of value: its decoder row at length 1. */
  direction(latent) {
    const row = this.decoder.slice(latent * this.d, (latent + 1) * this.d), size = this.length[latent] || 1;
    return row.map((value) => value / size);
  }

  /** Sae(x) [token, d] of some codes. */
  decode(codes) {
    const out = new Float32Array(codes.length * this.d), sum = new Float64Array(this.d);
    codes.forEach((code, t) => {
      sum.set(this.shift);
      for (const { latent, value } of code) {
        const scale = value / (this.length[latent] || 1), row = latent * this.d;
        for (let i = 0; i < this.d; i++) sum[i] += scale * this.decoder[row + i];
      }
      out.set(sum, t * this.d);
    });
    return out;
  }
}
