"use strict";
// The embedding map: one point an image, coloured as chosen, its picture beside the pointer.

const map = data("map-data");
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];

function mapSpec() {
  const places = map.places[document.getElementById("map-encoder").value];
  const colour = map.colours[document.getElementById("map-colour").value];
  const values = map.id.map((_id, i) => ({
    i, x: places[2 * i], y: places[2 * i + 1], of: colour.values[colour.of[i]],
  }));
  const domain = colour.values;
  const range = domain.map((_name, k) => SYMBOLS[k % SYMBOLS.length]);
  const blank = { labels: false, ticks: false };
  return {
    data: { values },
    width: "container",
    height: 460,
    mark: { type: "point", filled: true, size: 30, opacity: 0.7, tooltip: { content: "data" } },
    encoding: {
      x: { field: "x", type: "quantitative", title: "first principal component", axis: blank },
      y: { field: "y", type: "quantitative", title: "second principal component", axis: blank },
      color: { field: "of", type: "nominal", scale: { domain }, legend: { title: null, symbolOpacity: 1 } },
      shape: { field: "of", type: "nominal", scale: { domain, range }, legend: { title: null } },
    },
  };
}

function describePoint(_value, item) {
  const point = item.datum;
  const content = element("div");
  if (map.case[point.i] >= 0) content.append(picture(map.case[point.i], 96));
  const colours = Object.entries(map.colours).map(([name, colour]) => [
    { label: "class", dataset: "cohort", site: "centre" }[name] || name,
    colour.values[colour.of[point.i]],
  ]);
  content.append(facts([["image", map.id[point.i]], ...colours]));
  return content;
}

function drawMap() {
  const onClick = (_event, item) => {
    if (item && item.datum && map.case[item.datum.i] >= 0) showCase(map.case[item.datum.i]);
  };
  const place = document.getElementById("map-chart");
  draw(place, mapSpec(), { renderer: "canvas", describe: describePoint, onClick });
}

if (map.id) {
  document.getElementById("map-colour").addEventListener("change", drawMap);
  redrawers.push(drawMap);
  drawMap();
}
