// Draws charts in the book and in Jupyter; bundled with Vega, so `vegaEmbed` is in scope.
const NARROW = 560; // px: below this, charts side by side are stacked
const LETTER = 7; // px: mean width of a letter of axis and legend text
const LINE = 15; // px: height of a line of it

const GAP = 40; // px: ticks and padding beside a plot
const CELL = 84; // px: an interval inside a cell of a heat map
const LEAST = 125; // px: width of a panel beside names

// Break a text into lines that fit.
function wrap(text, room) {
  if (typeof text !== "string" || text.length * LETTER <= room) return text;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length * LETTER > room && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

const isNamed = (channel) => channel?.field && (channel.type === "nominal" || channel.type === "ordinal");
const widest = (names) => Math.max(0, ...names.map((name) => String(name).length)) * LETTER;

// The names that a channel shows, from its scale, its order or its data.
function namesOf(channel, view, spec) {
  if (Array.isArray(channel.scale?.domain)) return channel.scale.domain;
  if (Array.isArray(channel.sort)) return channel.sort;
  const data = [view.data, spec.data].find(Boolean);
  const rows = data?.values || spec.datasets?.[data?.name] || [];
  return [...new Set(rows.map((row) => row[channel.field]).filter((name) => name !== undefined))];
}

// Break the names on an axis or in a legend into lines.
function wrapLabels(guide, names, room) {
  if (widest(names) <= room || guide.labelExpr) return guide;
  const lines = Object.fromEntries(names.map((name) => [name, wrap(String(name), room)]));
  return { ...guide, labelExpr: `(${JSON.stringify(lines)})[datum.label] || datum.label`, labelLimit: room + GAP };
}

// A legend above or below the plot has as many columns as its longest entry leaves room for.
function fitLegend(channel, names, width) {
  const orient = channel.legend?.orient || "top";
  if (channel.legend === null || orient !== "top" && orient !== "bottom") return;
  const columns = Math.max(1, Math.floor(width / (widest(names) + GAP)));
  const legend = { ...channel.legend, columns: Math.min(channel.legend?.columns || names.length, columns) };
  channel.legend = wrapLabels(legend, names, width - 2 * GAP);
}

// Rows are as tall as the most lines that one of their names needs.
function growRows(spec, names, room) {
  const lines = Math.max(...names.map((name) => [wrap(String(name), room)].flat().length));
  const step = lines > 1 ? LINE * lines + 2 : 0;
  if (typeof spec.height === "number") spec.height = Math.max(spec.height, names.length * step);
  else if (spec.height?.step) spec.height.step = Math.max(spec.height.step, step);
}

// Titles, names and notes of one plot that is `width` wide with its axes.
function fitView(view, spec, width) {
  const { x, y } = view.encoding || {};
  let beside = 2 * GAP;
  if (isNamed(y) && y.axis !== null) {
    const names = namesOf(y, view, spec), room = Math.max(width * 0.42, 120);
    if (view.mark?.type !== "text") y.axis = wrapLabels(y.axis || {}, names, room);
    growRows(spec, names, room);
    beside = GAP + Math.min(widest(names), room);
  }
  for (const [channel, room] of [[x, width - beside], [y, typeof view.height === "number" ? view.height : 300]]) {
    if (channel?.title) channel.title = wrap(channel.title, room);
    if (channel?.axis?.title) channel.axis.title = wrap(channel.axis.title, room);
  }
  for (const name of ["color", "fill", "stroke", "shape", "strokeDash"]) {
    const channel = view.encoding?.[name];
    if (!isNamed(channel)) continue;
    const names = namesOf(channel, view, spec);
    // Vega-Lite joins the legends of two channels only if both say the same domain.
    if (Array.isArray(channel.sort)) channel.scale = { domain: names, ...channel.scale };
    fitLegend(channel, names, width);
  }
  for (const layer of view.layer || []) fitView({ data: view.data, height: view.height, ...layer }, spec, width);
}

// A plot whose cells or tokens would run into each other keeps the width that they need, and scrolls.
function leastWidth(view, spec) {
  const texts = (view.layer || [view]).find((layer) => layer.mark?.type === "text" && isNamed(layer.encoding?.x));
  return texts ? namesOf(texts.encoding.x, { data: view.data, ...texts }, spec).length * CELL + 3 * GAP : 0;
}

// A plot of fixed width shrinks to the page; what is placed by pixels from its right edge moves along.
function shrink(view, room) {
  if (typeof view.width !== "number" || view.width <= room) return;
  const least = view.width > 600 ? 440 : 200, width = Math.max(least, room);
  for (const layer of view.layer || []) {
    const place = layer.encoding?.x;
    if (place?.value > view.width / 2) place.value -= view.width - width;
  }
  view.width = width;
}

const layers = (view) => [view, ...(view.layer || []).flatMap(layers)];

// Panels of one facet stand under each other, as wide as the names beside them leave.
function stackPanels(view, spec, width) {
  const inner = view.spec, y = layers(inner).map((layer) => layer.encoding?.y).find(isNamed);
  fitView(inner, spec, width);
  const names = y ? Math.min(widest(namesOf(y, inner, spec)), width * 0.42) : GAP;
  const { row } = view.facet, heads = row ? widest(namesOf(row, view, spec)) : 0;
  if (!row) view.columns = 1;
  inner.width = Math.max(LEAST, Math.min(inner.width, width - names - heads - 1.3 * GAP));
  for (const { color } of layers(inner).map((layer) => layer.encoding || {})) {
    if (isNamed(color)) fitLegend(color, namesOf(color, inner, spec), inner.width); // which starts where the panels do
  }
}

function stack(spec) {
  const legend = { direction: "vertical", anchor: "start" };
  spec.config = { ...spec.config, legend: { ...spec.config?.legend, layout: { top: legend, bottom: legend } } };
  const title = spec.title?.text?.expr;
  if (title) spec.title.text.expr = `split(${title}, ', ')`;
  for (const { mark } of spec.layer || []) if (mark?.type === "text" && mark.fontSize > 10) mark.fontSize = 10;
}

// Make a chart fit a page that is `width` wide.
function fit(spec, width) {
  const narrow = width < NARROW;
  if (narrow) stack(spec);
  const visit = (view) => {
    if (narrow && view.hconcat) {
      view.vconcat = view.hconcat;
      delete view.hconcat;
    }
    if (narrow && view.concat) view.columns = 1;
    if (narrow && view.facet) return stackPanels(view, spec, width);
    const views = view.hconcat || view.concat || view.vconcat;
    if (!views) return fitView(view, spec, width);
    for (const part of views) {
      shrink(part, width - 90); // axis and title beside the plot
      visit(part);
    }
  };
  visit(spec);
  if (spec.width === "container" && leastWidth(spec, spec) > width) spec.width = leastWidth(spec, spec) - 2 * GAP;
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

// A slider over places says what stands at each, where the chart's data tell.
function nameSliders(target, sliders) {
  for (const [name, texts] of Object.entries(sliders || {})) {
    const slider = target.querySelector(`.vega-bind input[name="${name}"]`), said = slider.nextElementSibling;
    const say = () => {
      said.textContent = texts[slider.value];
      slider.setAttribute("aria-valuetext", texts[slider.value]);
    };
    for (const event of ["input", "change"]) slider.addEventListener(event, say);
    say();
  }
}

async function draw(figure) {
  const source = figure.querySelector("script[type='application/json']");
  const target = figure.querySelector(".dm-chart-view");
  await shown(target);
  const spec = fit(JSON.parse(source.textContent), target.clientWidth);
  const actions = { export: true, source: false, compiled: false, editor: false };
  const result = await vegaEmbed(target, spec, { mode: "vega-lite", renderer: "svg", actions });
  nameSliders(target, spec.usermeta?.sliders);
  figure.dataset.drawn = "true";
  figure.vegaView = result.view;
  if (spec.width === "container") follow(target, result.view);
}

function start(figure) {
  if (figure.dataset.started) return;
  figure.dataset.started = "true";
  // Jupyter would take a slider's keys for its cells, unless the slider says so itself.
  figure.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
  draw(figure).catch((error) => {
    figure.querySelector(".dm-chart-view").textContent = `This chart could not be drawn: ${error.message}`;
    console.error(error);
  });
}

// In a notebook every output with a chart calls, before or after this bundle is there; in the book all of them wait in the page.
// The call says nothing of who calls: VS Code runs the scripts of an output outside the element that they stand in.
const startAll = () => document.querySelectorAll(".dm-chart").forEach(start);
window.dmCharts = startAll;
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
else startAll();
