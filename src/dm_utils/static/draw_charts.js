// Draws charts in the book and in Jupyter; bundled with Vega, so `vegaEmbed` is in scope.
const NARROW = 560; // px: below this, charts side by side are stacked
const LETTER = 7; // px: mean width of a letter of axis and legend text

// Long titles are broken into lines that fit beside or under the plot.
function wrap(title, room) {
  if (typeof title !== "string" || title.length * LETTER <= room) return title;
  const lines = [""];
  for (const word of title.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length * LETTER > room && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

function rows(view, spec) {
  return view.data?.values || spec.datasets?.[view.data?.name] || spec.datasets?.[spec.data?.name] || spec.data?.values || [];
}

// A legend above the plot has as many columns as its longest entry leaves room for.
function fitLegend(channel, values, width) {
  if (!channel?.field || channel.type !== "nominal" && channel.type !== "ordinal" || channel.legend === null) return;
  const orient = channel.legend?.orient || "top";
  if (orient !== "top" && orient !== "bottom") return;
  const entries = channel.scale?.domain || [...new Set(values.map((row) => row[channel.field]))];
  if (!Array.isArray(entries) || !entries.length) return;
  const widest = Math.max(...entries.map((entry) => String(entry).length)) * LETTER + 34;
  const columns = Math.max(1, Math.floor(width / widest));
  if (columns < entries.length) channel.legend = { ...channel.legend, columns: Math.min(channel.legend?.columns || columns, columns) };
}

function fitView(view, spec, width) {
  const inner = typeof view.width === "number" ? Math.min(view.width, width) : width - 70;
  const height = typeof view.height === "number" ? view.height : 300;
  for (const [name, channel] of Object.entries(view.encoding || {})) {
    const room = name === "x" ? inner : name === "y" ? Math.max(height, 150) : 0;
    if (room && channel.title) channel.title = wrap(channel.title, room);
    if (room && channel.axis?.title) channel.axis.title = wrap(channel.axis.title, room);
    fitLegend(channel, rows(view, spec), width);
  }
  for (const layer of view.layer || []) fitView({ width: view.width, height: view.height, ...layer }, spec, width);
}

function fit(spec, width) {
  const narrow = width < NARROW;
  const room = width - 90; // axis and title beside the plot
  const visit = (view) => {
    if (narrow && view.hconcat) {
      view.vconcat = view.hconcat;
      delete view.hconcat;
    }
    if (narrow && view.concat) view.columns = 1;
    const views = view.hconcat || view.concat || view.vconcat;
    if (!views) return fitView(view, spec, width);
    for (const part of views) {
      if (typeof part.width === "number" && part.width > room) part.width = Math.max(200, room);
      visit(part);
    }
  };
  visit(spec);
  return spec;
}

// Jupyter renders outputs before it shows them; a chart as wide as its page waits until there is a width.
function shown(target) {
  if (target.clientWidth) return Promise.resolve();
  return new Promise((resolve) => {
    new ResizeObserver((_, observer) => {
      if (!target.clientWidth) return;
      observer.disconnect();
      resolve();
    }).observe(target);
  });
}

// Vega listens to the window only; a side bar that opens or a print layout changes the page's width without it.
function follow(target, view) {
  let drawn = target.clientWidth;
  new ResizeObserver(() => requestAnimationFrame(() => {
    if (target.clientWidth === drawn || !target.clientWidth) return;
    drawn = target.clientWidth;
    view.width(drawn).runAsync();
  })).observe(target);
}

async function draw(figure) {
  const source = figure.querySelector("script[type='application/json']");
  const target = figure.querySelector(".dm-chart-view");
  await shown(target);
  const spec = fit(JSON.parse(source.textContent), target.clientWidth);
  const actions = { export: true, source: false, compiled: false, editor: false };
  const result = await vegaEmbed(target, spec, { mode: "vega-lite", renderer: "svg", actions });
  figure.dataset.drawn = "true";
  figure.vegaView = result.view;
  if (spec.width === "container") follow(target, result.view);
}

function start(figure) {
  if (!figure || figure.dataset.started) return;
  figure.dataset.started = "true";
  draw(figure).catch((error) => {
    figure.querySelector(".dm-chart-view").textContent = `This chart could not be drawn: ${error.message}`;
    console.error(error);
  });
}

// In Jupyter every chart announces itself, before or after this bundle is there; in the book all of them wait in the page.
const waiting = window.dmCharts || [];
window.dmCharts = { push: start };
waiting.forEach(start);
const startAll = () => document.querySelectorAll(".dm-chart").forEach(start);
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
else startAll();
