// Starts every explorer of a page without a kernel; `data-files` names the folder of its data.
import { PageBackend } from "./backend.js";
import { Explorer } from "./explorer.js";

for (const node of document.querySelectorAll(".dm-explorer:not(.dmx)")) {
  const backend = new PageBackend(new URL(node.dataset.files, document.baseURI).href);
  node.explorer = new Explorer(node, backend, { useAddress: true, given: JSON.parse(node.dataset.state ?? "{}") });
  node.explorer.start();
}
