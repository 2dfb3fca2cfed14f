"use strict";
// Charts: Vega-Lite from the page's data, as wide as there is room, in the colours of the mode.

const charts = data("charts");
const NARROW = 460;

function configuration(width) {
  const config = structuredClone(charts.themes[isDark() ? "dark" : "light"]);
  config.legend.columns = Math.max(1, Math.floor(width / 170));
  if (width < NARROW) {
    config.axis.labelLimit = 125;
    config.axisTop.labelAngle = -90;
    config.legend.labelLimit = 150;
    config.legend.gradientLength = 120;
  }
  return config;
}

function draw(place, spec, { renderer = "svg", describe = chartTooltip, onClick } = {}) {
  const width = place.clientWidth;
  if (!width) return;
  place.drawnAt = width;
  if (charts.missing) {
    place.textContent = `Not drawn: ${charts.missing}`;
    return;
  }
  const tooltip = (_handler, event, item, value) => {
    if (value === null || value === undefined || value === "") hideTooltip();
    else showTooltip(describe(value, item), event.clientX, event.clientY);
  };
  const options = { actions: false, config: configuration(width), renderer, tooltip };
  // All that it waits for is at hand: a chart is there before the page goes on to be printed.
  vegaEmbed(place, spec, options).then(({ view, finalize }) => {
    if (place.finalize) place.finalize();
    place.finalize = finalize;
    // The place itself says what is drawn; single marks would be read out one by one.
    const drawing = place.querySelector("svg");
    if (drawing) drawing.setAttribute("aria-hidden", "true");
    if (onClick) view.addEventListener("click", onClick);
  });
}

function chartTooltip(value) {
  return typeof value === "object" ? facts(Object.entries(value)) : document.createTextNode(value);
}

function drawCharts() {
  for (const place of document.querySelectorAll("[data-chart]")) {
    draw(place, charts.specs[place.dataset.chart]);
  }
}

let waiting;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const places = [...document.querySelectorAll(".chart")];
    if (places.some((place) => place.clientWidth && place.clientWidth !== place.drawnAt)) redraw();
  }, 150);
});
addEventListener("scroll", hideTooltip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTooltip(); });
// What is folded has no width until it is opened.
document.addEventListener("toggle", (event) => { if (event.target.open) redraw(); }, true);

redrawers.push(drawCharts);
drawCharts();
