// The explorer as an anywidget: requests go to the kernel as custom messages, and answers come back the same way.
import { Explorer } from "./explorer.js";

class KernelBackend {
  constructor(model) {
    Object.assign(this, { model, pending: new Map(), count: 0, live: true, onNews: () => {} });
    model.on("msg:custom", ({ id, answer, error }) => {
      const waiting = this.pending.get(id);
      this.pending.delete(id);
      if (error === undefined) waiting?.resolve(answer);
      else waiting?.reject(new Error(error));
    });
  }

  ask(request) {
    return new Promise((resolve, reject) => {
      const id = `${Math.random().toString(36).slice(2)}${++this.count}`; // several views of one widget hear every answer
      this.pending.set(id, { resolve, reject });
      this.model.send({ id, request });
    });
  }
}

function render({ model, el }) {
  // Jupyter would take the keys of what has the focus for its cells, unless that says so itself.
  el.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
  new Explorer(el.appendChild(document.createElement("div")), new KernelBackend(model), { given: model.get("state"), parts: model.get("parts") }).start();
}

export default { render };
