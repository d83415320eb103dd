// A table of claims with their verdicts: filter by verdict, profile and words. Text reaches the page as text nodes only.
const COLUMNS = [["place", "Where"], ["claim", "The paper's claim"], ["paper", "Paper"], ["profile", "Profile"], ["value", "Here"], ["verdict", "Verdict"]];

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function chooser(label, options) {
  const box = element("label", `${label} `);
  const list = element("select");
  for (const option of ["all", ...options]) list.append(new Option(option, option));
  box.append(list);
  return [box, list];
}

function row(claim, folder) {
  const line = element("tr");
  for (const [key, title] of COLUMNS) {
    const cell = element("td", key === "claim" ? "" : claim[key]);
    cell.dataset.head = title;
    if (key === "value" && claim.training) cell.append(element("small", claim.training, "dm-test"));
    if (key === "verdict") {
      cell.className = `dm-verdict dm-${claim.verdict.split(" ")[0]}`;
      if (claim.of > 1) cell.append(element("small", ` ${claim.agree} of ${claim.of}`));
      if (claim.size) cell.append(element("small", claim.size));
    }
    if (key === "claim") {
      const link = element("a", claim.claim);
      link.href = folder.replace("*", claim.chapter);
      cell.append(link, element("small", `Test: ${claim.test}`, "dm-test"));
    }
    line.append(cell);
  }
  return line;
}

function render({ model, el }) {
  const claims = model.get("claims"), verdicts = model.get("verdicts"), folder = model.get("folder");
  const profiles = [...new Set(claims.map((claim) => claim.profile))];
  const [verdictBox, verdict] = chooser("Verdict", verdicts);
  const [profileBox, profile] = chooser("Profile", profiles);
  const words = element("input");
  Object.assign(words, { type: "search", placeholder: "words, e.g. width" });
  words.setAttribute("aria-label", "Show claims that hold these words");
  const count = element("output", "", "dm-count");
  const controls = element("div", "", "dm-board-controls");
  controls.append(verdictBox, ...(profiles.length > 1 ? [profileBox] : []), words, count);
  const table = element("table"), head = element("tr"), body = element("tbody");
  for (const [, title] of COLUMNS) head.append(element("th", title));
  const top = element("thead");
  top.append(head);
  table.append(top, body);
  const frame = element("div", "", "dm-table");
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Claims of the paper and their verdicts");
  frame.append(table);

  function draw() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = claims.filter((claim) => [verdict.value, "all"].includes(verdict.value === "all" ? "all" : claim.verdict)
      && (profile.value === "all" || claim.profile === profile.value)
      && wanted.every((word) => `${claim.place} ${claim.claim} ${claim.test} ${claim.size || ""}`.toLowerCase().includes(word)));
    body.replaceChildren(...kept.map((claim) => row(claim, folder)));
    count.textContent = `${kept.length} of ${claims.length}`;
  }
  for (const control of [verdict, profile, words]) control.addEventListener("input", draw);
  el.classList.add("dm-board");
  // Jupyter would take the keys of what has the focus for its cells, unless that says so itself.
  el.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
  el.append(controls, frame);
  draw();
}

export default { render };
