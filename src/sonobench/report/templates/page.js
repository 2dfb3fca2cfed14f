"use strict";
// Light and dark, what is chosen, and tables that sort and filter. All text goes through
// textContent: labels and ids are the user's and are never markup.

const data = (id) => JSON.parse(document.getElementById(id).textContent);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// What is to be drawn again when colours or choices change.
const redrawers = [];
const redraw = () => redrawers.forEach((draw) => draw());

const systemDark = matchMedia("(prefers-color-scheme: dark)");
const printing = matchMedia("print");
let onPaper = printing.matches;
function isDark() {
  if (onPaper) return false;
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function setUpTheme() {
  const button = document.getElementById("theme");
  const show = () => {
    button.textContent = isDark() ? "Light mode" : "Dark mode";
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
    redraw();
  });
  systemDark.addEventListener("change", () => { show(); redraw(); });
  const paper = (on) => () => {
    if (onPaper !== on) { onPaper = on; redraw(); }
  };
  addEventListener("beforeprint", paper(true));
  addEventListener("afterprint", paper(false));
  printing.addEventListener("change", (event) => paper(event.matches)());
  show();
}

function setUpChoices() {
  for (const select of document.querySelectorAll("select[data-chooses]")) {
    select.addEventListener("change", () => choose(select.dataset.chooses, select.value));
  }
}

// One choice of a model or encoder holds for the whole page, where it is to be had.
function choose(kind, value) {
  for (const select of document.querySelectorAll("select[data-chooses]")) {
    const offered = [...select.options].some((option) => option.value === value);
    if (select.dataset.chooses !== kind || !offered) continue;
    select.value = value;
    const section = select.closest("section");
    for (const part of section.querySelectorAll("[data-choice]")) {
      if (part.dataset.of === kind) part.hidden = part.dataset.choice !== value;
    }
  }
  redraw();
}

// The number that a cell begins with, or its interval; its text where there is none; nothing for a
// dash.
function sortKey(cell) {
  const text = cell.textContent.trim();
  if (!text || text === "–") return null;
  const number = parseFloat(text.replace("−", "-").replace(/(\d),(?=\d{3})/g, "$1").replace(/^(< |\[)/, ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b));
}

function setUpSorting(table) {
  const rows = [...table.tHead.rows];
  // The first heading may span both rows of headings; those of groups are no columns.
  const heads = rows.length > 1 ? [rows[0].cells[0], ...rows[1].cells] : [...rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", { type: "button", class: "sort" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      const numeric = typeof sortKey(table.tBodies[0].rows[0].cells[column]) === "number";
      const first = numeric ? "descending" : "ascending";
      const order = head.hasAttribute("aria-sort") ? (down ? "ascending" : "descending") : first;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      sortRows(table, column, order === "ascending" ? 1 : -1);
    });
  });
}

function sortRows(table, column, direction) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const absent = row.classList.contains("absent");
    return { row, key: absent && column > 0 ? null : sortKey(row.cells[column]) };
  });
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return direction * compareKeys(a.key, b.key);
  });
  body.append(...keyed.map(({ row }) => row));
}

function setUpFilter(id) {
  const search = document.querySelector(`[data-filters="${id}"]`);
  const controls = document.querySelector(`[data-controls="${id}"]`);
  const count = document.querySelector(`[data-counts="${id}"]`);
  const rows = [...document.getElementById(id).tBodies[0].rows];
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const kept = words.every((word) => text.includes(word));
      row.hidden = !kept || (controls && !controls.checked && row.classList.contains("control"));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : "";
  };
  search.addEventListener("input", apply);
  if (controls) controls.addEventListener("change", apply);
}

// Shown beside the pointer, or below what has the focus.
function showTooltip(content, x, y) {
  const box = document.getElementById("tooltip");
  box.replaceChildren(content);
  box.hidden = false;
  const left = Math.min(x + 14, innerWidth - box.offsetWidth - 8);
  const above = y + 18 + box.offsetHeight > innerHeight;
  box.style.left = `${Math.max(8, left)}px`;
  box.style.top = `${above ? Math.max(8, y - box.offsetHeight - 10) : y + 18}px`;
}

function hideTooltip() {
  document.getElementById("tooltip").hidden = true;
}

function facts(pairs) {
  const list = element("dl");
  for (const [name, value] of pairs) {
    list.append(element("dt", {}, String(name)), element("dd", {}, String(value)));
  }
  return list;
}

setUpTheme();
setUpChoices();
document.querySelectorAll("table.sortable").forEach(setUpSorting);
document.querySelectorAll("[data-filters]").forEach((search) => setUpFilter(search.dataset.filters));
