// The Web Worker: fetches files, with word of how far it has come, and answers one request after another.
import { Engine } from "./engine.js";

/** Fetch a file of the data folder. Its name holds a digest of its content, so the browser's cache may keep it for ever. */
async function fetchFile(folder, name) {
  const response = await fetch(new URL(name, folder), { cache: name === "manifest.json" ? "no-cache" : "force-cache" });
  if (!response.ok) throw new Error(`${name} could not be fetched (${response.status}); reload the page to try again`);
  const pieces = [], reader = response.body.getReader();
  let size = 0;
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    size += piece.value.length;
    self.postMessage({ fetched: { name, bytes: piece.value.length } });
  }
  const whole = new Uint8Array(size);
  pieces.reduce((at, piece) => (whole.set(piece, at), at + piece.length), 0);
  return whole.buffer;
}

let engine = null, last = Promise.resolve();

self.addEventListener("message", ({ data: { id, folder, request } }) => {
  engine ??= new Engine((name) => fetchFile(folder, name));
  last = last.then(async () => {
    try {
      self.postMessage({ id, answer: await engine.answer(request) });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
});
