// Makes a page's widgets live. An anywidget is one module and its data: it needs no manager. For any other widget the Jupyter widget
// manager (3.5 MB) is fetched when the reader comes near one.
const NEAR = "600px";
const folder = document.currentScript.src.replace(/[^/]*$/, "");

// The model that an anywidget's module sees, with no kernel behind it.
class Model {
  constructor({ state, buffers }) {
    this.state = state;
    this.listeners = {};
    for (const { path, data } of buffers) {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      path.slice(0, -1).reduce((part, key) => part[key], state)[path.at(-1)] = new DataView(bytes.buffer);
    }
  }
  get(name) { return this.state[name]; }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.emit(`change:${name}`, value);
    this.emit("change");
  }
  emit(event, ...values) { for (const listener of this.listeners[event] || []) listener(...values); }
  on(event, listener) { (this.listeners[event] ??= []).push(listener); }
  off(event, listener) {
    if (!event) this.listeners = {};
    else this.listeners[event] = listener ? (this.listeners[event] || []).filter((one) => one !== listener) : [];
  }
  save_changes() {}
  send() {}
}

const modules = {};
function load(source) {
  return modules[source] ??= import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
}

async function live(el) {
  const data = JSON.parse(el.querySelector("script").textContent);
  const { _esm, _css, ...state } = data.state;
  if (_css) {
    const style = document.createElement("style");
    style.textContent = _css;
    document.head.append(style);
  }
  const model = new Model({ state, buffers: data.buffers });
  const found = (await load(_esm)).default;
  const widget = typeof found === "function" ? await found() : found;
  await widget.initialize?.({ model });
  el.replaceChildren();
  await widget.render?.({ model, el });
}

function fetchScript(name) {
  return new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: folder + name, onload: resolve, onerror: reject });
    document.head.append(script);
  });
}

async function manage() {
  window.MathJax ??= { Hub: { Queue() {} } }; // the manager asks MathJax 2 to typeset its labels, which have no mathematics
  window.require = { baseUrl: folder.replace(/\/$/, "") };
  await fetchScript("require.js");
  await fetchScript("embed-amd.js");
}

function report(el, error) {
  el.append(`This widget could not be shown: ${error.message || "a script is missing"}`);
  console.error(error);
}

for (const el of document.querySelectorAll(".dm-widget")) live(el).catch((error) => report(el, error));

const managed = [...document.querySelectorAll("script[type='application/vnd.jupyter.widget-view+json']")].map((view) => view.parentElement);
const observer = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  observer.disconnect();
  manage().catch((error) => managed.forEach((el) => report(el, error)));
}, { rootMargin: NEAR });
managed.forEach((el) => observer.observe(el));
