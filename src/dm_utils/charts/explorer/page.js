// Starts every explorer of a page without a kernel; `data-files` names the folder of its data.
import { PageBackend } from "./backend.js";
import { Explorer } from "./explorer.js";

for (const node of document.querySelectorAll(".dm-explorer:not(.dmx)")) {
  const backend = new PageBackend(new URL(node.dataset.files, document.baseURI).href);
  const parts = (node.dataset.parts ?? "").split(" ").filter(Boolean), given = JSON.parse(node.dataset.state ?? "{}");
  node.explorer = new Explorer(node, backend, { useAddress: !parts.length, given, parts, leads: node.dataset.leads });
  node.explorer.start();
}
