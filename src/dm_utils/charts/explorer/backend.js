// Who answers in a page without a kernel: first what was recorded when the book was built, then a Web Worker.

const PATIENCE = 30_000; // ms without a sign of life from a worker that owes an answer

/** The same text for equal requests, whatever the order of their fields. */
function keyOf(value) {
  const sorted = (part) => (part && typeof part === "object" && !Array.isArray(part)
    ? Object.fromEntries(Object.keys(part).sort().map((name) => [name, sorted(part[name])])) : part);
  return JSON.stringify(sorted(value));
}

export class PageBackend {
  /** `folder`: the address of the data; `onNews({text, bytes, notice})`: what to tell the reader; `bytes` fetched so far. */
  constructor(folder, onNews = () => {}) {
    Object.assign(this, { folder, onNews, patience: PATIENCE, pending: new Map(), count: 0, restarts: 0, failures: 0, live: false });
  }

  async recorded() {
    this.answers ??= fetch(new URL("recorded.json", this.folder), { cache: "no-cache" })
      .then((response) => (response.ok ? response.json() : []))
      .then((pairs) => new Map(pairs.map(([request, answer]) => [keyOf(request), answer])));
    return this.answers;
  }

  /** Whether a request needs the engine, and so, the first time, a download. */
  async needsEngine(request) {
    return !(await this.recorded()).has(keyOf(request));
  }

  async ask(request) {
    const known = (await this.recorded()).get(keyOf(request));
    if (known) return structuredClone(known);
    if (!this.worker) this.start();
    return new Promise((resolve, reject) => {
      const id = ++this.count;
      this.pending.set(id, { request, resolve, reject });
      this.worker.postMessage({ id, folder: this.folder, request });
      this.watch();
    });
  }

  start() {
    this.fetched = 0;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.hear(data));
    this.worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.restart(event.message || "it stopped");
    });
  }

  hear({ id, answer, error, fetched }) {
    this.watch();
    if (fetched) {
      this.fetched += fetched.bytes;
      this.onNews({ text: `Fetching the model and the SAE: ${(this.fetched / 1e6).toFixed(1)} MB`, bytes: this.fetched });
      return;
    }
    const waiting = this.pending.get(id);
    this.pending.delete(id);
    this.failures = 0;
    this.live = true;
    if (!this.pending.size) this.onNews({ text: "" });
    if (error === undefined) waiting?.resolve(answer);
    else waiting?.reject(new Error(error));
  }

  watch() {
    clearTimeout(this.timer);
    if (this.pending.size) this.timer = setTimeout(() => this.restart("it gave no sign of life"), this.patience);
  }

  /** A worker that died is replaced and asked again, twice; then every question is refused. */
  restart(reason) {
    this.worker?.terminate();
    this.worker = null;
    this.restarts += 1;
    const owed = [...this.pending.values()];
    this.pending.clear();
    if (++this.failures > 2) {
      for (const { reject } of owed) reject(new Error(`The engine stopped three times (${reason}). Reload the page, or choose a shorter text.`));
      this.failures = 0;
      return;
    }
    this.onNews({ notice: `The engine stopped (${reason}) and was started again.` });
    for (const { request, resolve, reject } of owed) this.ask(request).then(resolve, reject);
  }
}
