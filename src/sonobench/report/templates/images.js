"use strict";
// Images: those behind a confusion, those worth a look, and what every model said of one.

const cases = data("cases");
const pictures = data("thumbnails");
// So many behind a cell are shown at first.
const SHOWN = 24;

function picture(index, size) {
  if (!pictures[index]) return element("span", { class: "no-picture" }, "no picture");
  return element("img", {
    src: `data:image/webp;base64,${pictures[index]}`,
    alt: `Ultrasound image labelled ${cases.classes[cases.label[index]]}`,
    width: size,
    height: size,
  });
}

// An id without its cohort, which stands elsewhere.
const shortId = (index) => cases.id[index].slice(cases.datasets[cases.dataset[index]].length + 1);

function caseButton(index, ...lines) {
  const texts = [shortId(index), ...lines].map((line) => element("span", {}, line));
  const button = element("button", { type: "button", class: "case" }, picture(index, 96), ...texts);
  button.addEventListener("click", () => showCase(index));
  return button;
}

// What a model says of a tested image: class, its probability in percent, and votes by class.
function opinion(index, model) {
  const of = cases.opinion[index];
  if (!of) return null;
  const count = cases.classes.length;
  const percent = of.percent.slice(model * count, (model + 1) * count);
  const votes = of.votes.slice(model * count, (model + 1) * count);
  return { predicted: of.predicted[model], percent, votes, trained: votes.reduce((a, b) => a + b, 0) };
}

const modelIndex = (title) => cases.models.findIndex((model) => model.title === title);

function labelled(index) {
  return `is ${cases.classes[cases.label[index]]}`;
}

function fill(place, indices, describe) {
  if (indices.length) place.replaceChildren(...indices.map((i) => caseButton(i, ...describe(i))));
  else place.replaceChildren(element("p", { class: "muted" }, "There are none."));
}

function setUpLists() {
  for (const place of document.querySelectorAll("[data-list]")) {
    fill(place, cases[place.dataset.list], (index) => [labelled(index), spread(index)]);
  }
  const select = document.getElementById("confident-model");
  if (!select) return;
  const show = () => {
    const model = modelIndex(select.value);
    fill(document.getElementById("confident"), cases.confident[select.value], (index) => {
      const said = opinion(index, model);
      const name = cases.classes[said.predicted];
      return [labelled(index), `said ${name}, ${said.percent[said.predicted]} %`];
    });
  };
  select.addEventListener("change", show);
  show();
}

// Which classes the models that are no controls say, most often first.
function spread(index) {
  const counts = new Map();
  cases.models.forEach((model, m) => {
    if (model.control) return;
    const name = cases.classes[opinion(index, m).predicted];
    counts.set(name, (counts.get(name) || 0) + 1);
  });
  const said = [...counts].sort((a, b) => b[1] - a[1]).map(([name, n]) => `${n} × ${name}`);
  return `said ${said.join(", ")}`;
}

function setUpConfusions() {
  for (const button of document.querySelectorAll(".matrix button")) {
    button.addEventListener("click", () => showBehind(button));
  }
}

function showBehind(button) {
  const { model, dataset, predicted } = button.dataset;
  const [m, d] = [modelIndex(model), cases.datasets.indexOf(dataset)];
  const [t, p] = [cases.classes.indexOf(button.dataset.true), cases.classes.indexOf(predicted)];
  const total = Number(button.dataset.images);
  const found = Object.keys(cases.opinion)
    .map(Number)
    .filter((i) => cases.label[i] === t && cases.dataset[i] === d && opinion(i, m).votes[p] > 0)
    .sort((a, b) => opinion(b, m).votes[p] - opinion(a, m).votes[p]);
  const box = button.closest(".matrix-box");
  for (const other of box.querySelectorAll("[aria-pressed]")) other.removeAttribute("aria-pressed");
  button.setAttribute("aria-pressed", "true");
  const heading = t === p ? `${model}: ${predicted}, recognised` : `${model}: ${button.dataset.true}, taken for ${predicted}`;
  const shown = found.length < total ? `${found.length} of ${total}` : `${total}`;
  const list = element("div", { class: "pictures" });
  const more = (count) => {
    list.append(...found.slice(list.children.length, list.children.length + count).map((index) => {
      const said = opinion(index, m);
      return caseButton(index, `${said.votes[p]} of ${said.trained} models`);
    }));
    button_.hidden = list.children.length >= found.length;
  };
  const button_ = element("button", { type: "button", class: "plain" }, "Show more");
  button_.addEventListener("click", () => more(SHOWN));
  more(SHOWN);
  box.querySelector(".behind").replaceChildren(
    element("h4", {}, heading),
    element("p", { class: "muted" }, `${shown} images, those first that most trained models say it of.`),
    list,
    button_,
  );
}

function setUpExamples() {
  const place = document.getElementById("examples");
  cases.datasets.forEach((dataset, d) => {
    const of = cases.examples.filter((index) => cases.dataset[index] === d);
    if (!of.length) return;
    place.append(element("h3", {}, dataset));
    cases.classes.forEach((name, k) => {
      const list = element("div", { class: "pictures" });
      list.append(...of.filter((index) => cases.label[index] === k).map((i) => caseButton(i)));
      if (list.children.length) place.append(element("h4", {}, name), list);
    });
  });
}

function showCase(index) {
  const dialog = document.getElementById("case");
  const close = element("button", { type: "button", class: "plain" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const title = element("h3", { id: "case-title" }, cases.id[index]);
  const known = [
    ["class", cases.classes[cases.label[index]]],
    ["cohort", cases.datasets[cases.dataset[index]]],
    ["patient", cases.patient[index]],
    ["centre", cases.site[index]],
    ["device", cases.device[index]],
  ].filter(([, value]) => value);
  dialog.replaceChildren(
    element("div", { class: "dialog-top" }, title, close),
    element("div", { class: "of-case" }, picture(index, 192), facts(known)),
    cases.opinion[index] ? opinionsTable(index) : element("p", {}, "A training image: nothing is predicted for it."),
    ...neighbours(index),
  );
  if (!dialog.open) dialog.showModal();
}

function opinionsTable(index) {
  const heads = ["Model", "Says", "Probability", "Of the true class", "Trained models"];
  const head = element("tr", {}, ...heads.map((name) => element("th", { scope: "col" }, name)));
  const rows = cases.models.map((model, m) => {
    const said = opinion(index, m);
    const right = said.predicted === cases.label[index];
    return element(
      "tr",
      model.control ? { class: "control" } : {},
      element("th", { scope: "row" }, model.title),
      element("td", right ? {} : { class: "doubtful" }, `${right ? "✓" : "✗"} ${cases.classes[said.predicted]}`),
      element("td", {}, `${said.percent[said.predicted]} %`),
      element("td", {}, `${said.percent[cases.label[index]]} %`),
      element("td", {}, `${said.votes[cases.label[index]]} of ${said.trained} right`),
    );
  });
  const caption = element("caption", {}, "Probabilities are means over the trained models.");
  const table = element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", role: "region", "aria-label": "What every model said", tabindex: "0" }, table);
}

function neighbours(index) {
  const encoders = Object.keys(cases.near).filter((encoder) => cases.near[encoder][index]);
  if (!encoders.length) return [];
  const options = encoders.map((encoder) => element("option", {}, encoder));
  const select = element("select", {}, ...options);
  const list = element("div", { class: "pictures" });
  const show = () => {
    const pairs = cases.near[select.value][index];
    const shown = [];
    for (let at = 0; at < pairs.length; at += 2) {
      const similarity = `similarity ${(pairs[at + 1] / 100).toFixed(2)}`;
      shown.push(caseButton(pairs[at], cases.classes[cases.label[pairs[at]]], similarity));
    }
    list.replaceChildren(...shown);
  };
  select.addEventListener("change", show);
  show();
  const label = element("label", {}, "Encoder ", select);
  return [element("h4", {}, "Nearest training images"), element("p", { class: "controls" }, label), list];
}

document.getElementById("case").addEventListener("click", (event) => {
  if (event.target.id === "case") event.target.close();
});
setUpLists();
setUpConfusions();
setUpExamples();
