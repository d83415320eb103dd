// Reads a safetensors file: 8 bytes of header length, a JSON header, then the numbers. float16 becomes float32.

let halves = null; // every float16 value, made once: 65,536 look-ups are faster than the arithmetic

function halfTable() {
  if (halves) return halves;
  halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
    halves[bits] = bits & 32768 ? -size : size;
  }
  return halves;
}

function widen(bits) {
  const table = halfTable(), out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]];
  return out;
}

const KINDS = {
  F16: (bytes) => widen(new Uint16Array(bytes)),
  F32: (bytes) => new Float32Array(bytes),
  U16: (bytes) => new Uint16Array(bytes),
};

/** Tensors of a file by name: {name: {shape, data}}. Throws where the file is cut short or holds another kind of number. */
export function readSafetensors(buffer) {
  if (buffer.byteLength < 8) throw new Error("not a safetensors file: it is shorter than its header");
  const length = Number(new DataView(buffer).getBigUint64(0, true)), start = 8 + length;
  if (start > buffer.byteLength) throw new Error("not a safetensors file: its header is longer than the file");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (!KINDS[dtype]) throw new Error(`${name} is ${dtype}; this reader knows ${Object.keys(KINDS).join(", ")}`);
    if (start + to > buffer.byteLength) throw new Error(`${name} lies beyond the end of the file: it was cut short`);
    tensors[name] = { shape, data: KINDS[dtype](buffer.slice(start + from, start + to)) };
  }
  return tensors;
}
