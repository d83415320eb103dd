// Draws every embedded chart of the page; bundled with Vega by the extension, so `vegaEmbed` is in scope.
const NARROW = 560; // px: below this, charts side by side are stacked

function fit(spec, width) {
  if (width < NARROW && spec.config?.legend) spec.config.legend.columns = 2;
  const views = spec.hconcat || spec.concat || spec.vconcat;
  if (!views) return spec;
  if (width < NARROW && spec.hconcat) {
    spec.vconcat = spec.hconcat;
    delete spec.hconcat;
  }
  if (width < NARROW && spec.concat) spec.columns = 1;
  const room = width - 90; // axis and title beside the plot
  for (const view of views) {
    if (typeof view.width === "number" && view.width > room) view.width = Math.max(200, room);
    fit(view, width);
  }
  return spec;
}

async function draw(figure) {
  const source = figure.querySelector("script[type='application/json']");
  const target = figure.querySelector(".dm-chart-view");
  const spec = fit(JSON.parse(source.textContent), target.clientWidth);
  const actions = { export: true, source: false, compiled: false, editor: false };
  const result = await vegaEmbed(target, spec, { mode: "vega-lite", renderer: "svg", actions });
  figure.dataset.drawn = "true";
  figure.vegaView = result.view;
  if (spec.width === "container") follow(target, result.view);
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

function drawAll() {
  for (const figure of document.querySelectorAll(".dm-chart:not([data-drawn])")) {
    draw(figure).catch((error) => {
      figure.querySelector(".dm-chart-view").textContent = `This chart could not be drawn: ${error.message}`;
      console.error(error);
    });
  }
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", drawAll);
else drawAll();
