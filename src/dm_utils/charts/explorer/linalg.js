// Products, norms and soft maximum over plain typed arrays; sums run in double precision, as JavaScript's numbers do.

/** y[t, o] = Σ_i x[t, i] w[o, i] for x [rows, n] and w [m, n]; eight sums at a time, so that each number read serves several. */
export function product(x, w, n) {
  const rows = x.length / n, m = w.length / n, y = new Float32Array(rows * m);
  const evenRows = rows - (rows % 4), even = m - (m % 2);
  for (let t = 0; t < evenRows; t += 4) for (let o = 0; o < even; o += 2) tile(x, w, n, m, t, o, y);
  for (let t = 0; t < rows; t++) {
    for (let o = t < evenRows ? even : 0; o < m; o++) y[t * m + o] = dot(x, w, n, t * n, o * n);
  }
  return y;
}

function tile(x, w, n, m, t, o, y) {
  const a = t * n, b = a + n, c = b + n, d = c + n, u = o * n, v = u + n, at = t * m + o;
  let a0 = 0, b0 = 0, c0 = 0, d0 = 0, a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  for (let i = 0; i < n; i++) {
    const first = w[u + i], second = w[v + i], p = x[a + i], q = x[b + i], r = x[c + i], s = x[d + i];
    a0 += p * first;
    b0 += q * first;
    c0 += r * first;
    d0 += s * first;
    a1 += p * second;
    b1 += q * second;
    c1 += r * second;
    d1 += s * second;
  }
  [y[at], y[at + m], y[at + 2 * m], y[at + 3 * m]] = [a0, b0, c0, d0];
  [y[at + 1], y[at + m + 1], y[at + 2 * m + 1], y[at + 3 * m + 1]] = [a1, b1, c1, d1];
}

export function dot(x, y, n, xAt = 0, yAt = 0) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += x[xAt + i] * y[yAt + i];
  return sum;
}

/** Squared norm of each row. */
export function norms2(x, n) {
  return Array.from({ length: x.length / n }, (_, t) => dot(x, x, n, t * n, t * n));
}

/** Cosine of two vectors; 0 where one of them is zero. */
export function cosine(x, y) {
  const size = Math.sqrt(dot(x, x, x.length) * dot(y, y, y.length));
  return size > 0 ? dot(x, y, x.length) / size : 0;
}

export function add(x, y, factor = 1) {
  const out = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = x[i] + factor * y[i];
  return out;
}

export function transpose(x, rows, columns) {
  const out = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = x[r * columns + c];
  return out;
}

/** log p of one row of logits. */
export function logSoftmax(logits) {
  let top = -Infinity, sum = 0;
  for (const value of logits) if (value > top) top = value;
  for (const value of logits) sum += Math.exp(value - top);
  const shift = top + Math.log(sum);
  return Float64Array.from(logits, (value) => value - shift);
}

/** KL(p ‖ q) in nats from log-probabilities. */
export function divergence(logP, logQ) {
  let sum = 0;
  for (let i = 0; i < logP.length; i++) sum += Math.exp(logP[i]) * (logP[i] - logQ[i]);
  return sum;
}

/** Indices of the k largest values, largest first; the earlier index wins a tie. */
export function largest(values, k) {
  const kept = []; // few, so insertion beats a heap
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (kept.length === k && !(value > values[kept[k - 1]])) continue;
    let at = kept.length;
    while (at > 0 && values[kept[at - 1]] < value) at--;
    kept.splice(at, 0, i);
    if (kept.length > k) kept.pop();
  }
  return kept;
}
