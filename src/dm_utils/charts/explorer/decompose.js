// The split of an SAE's error: x = Sae(x) + linear + nonlinear, the linear part by the fitted affine map (Eqs. 4, 14, 15).
import { add, cosine, dot, norms2, product, transpose } from "./linalg.js";

export const VECTORS = ["x", "sae", "error", "linear", "nonlinear"];

/** What was fitted once on the book's own tokens: the error map, the probe of Eq. 10, the mean of each token's errors. */
export class Fitted {
  constructor(tensors) {
    const d = tensors.mean.shape[0];
    this.mean = tensors.mean.data;
    this.map = transpose(tensors.coef.data, d, d); // [target, d]
    this.intercept = tensors.intercept.data;
    this.probe = tensors.probe.data;
    this.probeIntercept = tensors.probe_intercept.data[0];
    this.lookup = tensors.lookup.data; // [vocabulary]
  }

  linear(x) {
    const d = this.mean.length, out = product(x, this.map, d);
    for (let i = 0; i < out.length; i++) out[i] += this.intercept[i % d];
    return out;
  }

  /** The squared error norm that the probe predicts for each token, from x alone. */
  predicted(x) {
    const d = this.mean.length;
    return Array.from({ length: x.length / d }, (_, t) => dot(x, this.probe, d, t * d) + this.probeIntercept);
  }
}

/** Every vector of some tokens, [token, d] each, and the codes of the SAE. */
export function parts(x, sae, fitted) {
  const codes = sae.encode(x), out = sae.decode(codes), error = add(x, out, -1), linear = fitted.linear(x);
  return { codes, vectors: { x, sae: out, error, linear, nonlinear: add(error, linear, -1) } };
}

/** The scalars of every token. `variance` is ‖x − mean‖²: against it, squared norms are shares of the variance. */
export function scalars({ codes, vectors }, fitted, ids) {
  const d = fitted.mean.length, found = {};
  for (const name of VECTORS) found[`${name}_norm2`] = norms2(vectors[name], d);
  found.variance = norms2(vectors.x.map((value, i) => value - fitted.mean[i % d]), d);
  found.l0 = codes.map((code) => code.length);
  found.probe = fitted.predicted(vectors.x);
  found.lookup = Array.from(ids, (id) => fitted.lookup[id]);
  return found;
}

/** Norms of the five vectors of one token and the cosines between them, in the order of VECTORS. */
export function geometry(vectors, position, d) {
  const rows = VECTORS.map((name) => vectors[name].subarray(position * d, (position + 1) * d));
  return {
    norms: rows.map((row) => Math.sqrt(dot(row, row, d))),
    cosines: rows.map((row) => rows.map((other) => cosine(row, other))),
  };
}
