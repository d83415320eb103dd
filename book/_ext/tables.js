// A table that does not fit its column takes the margin, then closer cells, then smaller letters. Where there is no margin, each of its rows becomes a card.
const MARGIN = 1200; // px: from this width on, the theme has one
const steps = () => (innerWidth < MARGIN ? ["dm-tight", "dm-cards"] : ["full-width", "dm-tight", "dm-small"]);
const INTERVAL = /^[-−\d.,e]+ \[[-−\d.,e]+, [-−\d.,e]+\]$/;
const tables = [...document.querySelectorAll(".bd-article table:not(.highlighttable)")];

for (const table of tables) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")].map((cell) => cell.textContent.trim());
  for (const row of table.tBodies[0]?.rows || []) {
    [...row.cells].forEach((cell, index) => {
      if (heads[index]) cell.dataset.head = heads[index];
      // An interval that must break does so before its bracket.
      if (INTERVAL.test(cell.textContent)) cell.textContent = cell.textContent.replace(", ", ",\u00a0");
    });
  }
  if (!table.closest(".dm-table")) {
    const frame = Object.assign(document.createElement("div"), { className: "dm-frame" });
    (table.closest(".pst-scrollable-table-container") || table).before(frame);
    frame.append(frame.nextElementSibling);
  }
}

function fit(table) {
  const frame = table.closest(".dm-table, .dm-frame");
  frame.classList.remove("full-width", "dm-tight", "dm-small", "dm-cards");
  for (const step of steps()) {
    if (table.offsetWidth <= frame.clientWidth + 1) break;
    frame.classList.add(step);
  }
}

{
  const article = document.querySelector(".bd-article");
  let room = "";
  const observer = new ResizeObserver(() => {
    if (room === (room = `${innerWidth} ${article.clientWidth}`)) return; // the column follows the window, and sometimes later
    tables.forEach(fit);
  });
  for (const element of [document.documentElement, article]) observer.observe(element);
}
tables.forEach(fit); // before the theme looks for what reaches into the margin, where it folds the page's contents
addEventListener("load", () => tables.forEach(fit)); // and once the style sheets and letters have come
