"use strict";

// One button opens and folds all code of a notebook's page.
const button = document.getElementById("show-code");
if (button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    document.querySelectorAll("details.code, details.parameters").forEach((cell) => { cell.open = open; });
    button.setAttribute("aria-pressed", open);
    button.textContent = open ? "Hide all code" : "Show all code";
  });
}

// A table sorts by the buttons in its headers, and shows the rows that hold every word of the filter above it.
const alphabet = new Intl.Collator("en", { numeric: true });
const keyOf = (cell) => cell.dataset.key ?? cell.textContent.trim();

function sort(table, header) {
  const column = header.cellIndex;
  const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const entries = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  const numbers = entries.every(({ key }) => key === "" || Number.isFinite(Number(key)));
  const compare = numbers ? (one, other) => one - other : alphabet.compare;
  entries.sort((one, other) => {
    const missing = (one.key === "") - (other.key === "");
    return missing || direction * compare(one.key, other.key);
  });
  table.tBodies[0].append(...entries.map(({ row }) => row));
  table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
}

function filter(table, words, status) {
  const rows = [...table.tBodies[0].rows];
  rows.forEach((row) => {
    const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  });
  const shown = rows.filter((row) => !row.hidden).length;
  status.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
}

// A preset shows some columns of a table. Headings above several columns span those that are shown.
function choose(table, preset) {
  const [groups, heads] = table.tHead.rows.length > 1 ? table.tHead.rows : [null, table.tHead.rows[0]];
  const shown = [...heads.cells].map((head) => preset === "all" || (head.dataset.presets ?? "").split(" ").includes(preset));
  [heads, ...table.tBodies[0].rows].forEach((row) => [...row.cells].forEach((cell, at) => { cell.hidden = !shown[at]; }));
  let first = 0;
  [...(groups?.cells ?? [])].forEach((cell) => {
    cell.dataset.span ??= cell.colSpan;
    const count = shown.slice(first, first + Number(cell.dataset.span)).filter(Boolean).length;
    first += Number(cell.dataset.span);
    cell.hidden = !count;
    cell.colSpan = count || 1;
  });
}

// Any table can be copied as CSV, with the rows and columns that are shown.
function copy(table) {
  const rows = [...table.rows].filter((row) => !row.hidden && row.querySelector("[scope=col], td"));
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const read = (cell) => {
    const seen = cell.cloneNode(true);
    seen.querySelectorAll(".unseen").forEach((part) => part.remove());
    return seen.textContent.trim();
  };
  const csv = rows.filter((row) => !row.querySelector("[scope=colgroup]")).map((row) => [...row.cells]
    .filter((cell) => !cell.hidden).map((cell) => quote(read(cell))).join(",")).join("\n");
  const field = document.createElement("textarea");
  field.value = csv;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

document.querySelectorAll(".table > table").forEach((table) => {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy as CSV";
  button.addEventListener("click", () => {
    copy(table);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy as CSV"; }, 2000);
  });
  table.parentElement.after(button);
});

document.querySelectorAll("table[data-sortable]").forEach((table) => {
  [...table.tHead.rows].at(-1).querySelectorAll("th").forEach((header) => {
    const sorter = document.createElement("button");
    sorter.type = "button";
    sorter.append(...header.childNodes);
    sorter.addEventListener("click", () => sort(table, header));
    header.append(sorter);
  });
  const tools = table.parentElement.previousElementSibling;
  const [field, status] = [tools.querySelector("input"), tools.querySelector("[role=status]")];
  tools.hidden = table.tBodies[0].rows.length < 2;
  const columns = tools.querySelector("select");
  if (columns) {
    columns.addEventListener("change", () => choose(table, columns.value));
    if (table.parentElement.scrollWidth > table.parentElement.clientWidth) columns.value = columns.options[0].value;
    choose(table, columns.value);
  }
  field.addEventListener("input", () => {
    filter(table, field.value.toLowerCase().split(/\s+/).filter(Boolean), status);
  });
});

// On the page of all reports, two reports that are ticked are compared, stage by stage, from data in the page.
const digits = (value, count) => value.toFixed(count).replace("-", "−");

function make(name, text = "", attributes = {}) {
  const element = Object.assign(document.createElement(name), attributes);
  element.textContent = text;
  return element;
}

function compareStages([one, other]) {
  const heads = ["Stage", ...[one, other].map(({ name, title }) => `${name}: ${title}`), "Gain",
    ...[one, other].map(({ name }) => `${name}: gzip (kB)`), "Size ÷ first"];
  const table = make("table", "", { className: "results" });
  table.append(make("caption", `${other.name} against ${one.name}: int8 files on test, ± two standard errors; ≈: within noise`));
  const line = table.createTHead().insertRow();
  heads.forEach((head, at) => line.append(make("th", head, { scope: "col", className: at ? "number" : "" })));
  const body = table.createTBody();
  Object.keys({ ...one.stages, ...other.stages }).forEach((stage) => {
    const row = body.insertRow();
    const [first, second] = [one, other].map(({ stages }) => stages[stage] ?? [null, null, null]);
    const both = (at) => first[at] !== null && second[at] !== null;
    const show = ([score, noise]) => (score === null ? "–" : digits(score, one.digits) + (noise === null ? "" : ` ± ${digits(noise, one.digits)}`));
    const gain = both(0) ? (second[0] - first[0]) * (one.lower ? -1 : 1) : null;
    const isNoise = both(1) && Math.abs(gain) <= Math.hypot(first[1], second[1]);
    row.append(make("th", stage, { scope: "row" }));
    [show(first), show(second), gain === null ? "–" : digits(gain, one.digits) + (isNoise ? " ≈" : ""),
      ...[first, second].map(([, , size]) => (size === null ? "–" : digits(size, 2))),
      both(2) ? digits(second[2] / first[2], 3) : "–"].forEach((text) => row.append(make("td", text, { className: "number" })));
  });
  return table;
}

const boxes = [...document.querySelectorAll("[data-report]")];
if (boxes.length) document.getElementById("compare-reports").hidden = false;
boxes.forEach((box) => box.addEventListener("change", () => {
  const ticked = boxes.filter(({ checked }) => checked);
  boxes.forEach((other) => { other.disabled = ticked.length > 1 && !other.checked; });
  const [place, pair] = [document.getElementById("compared"), ticked.map(({ value, dataset }) => ({ name: value, ...JSON.parse(dataset.report) }))];
  place.replaceChildren();
  if (pair.length < 2) return;
  const scroll = make("div", "", { className: "table", tabIndex: 0, role: "region", ariaLabel: "Comparison of two reports" });
  scroll.append(pair[0].title === pair[1].title ? compareStages(pair) : make("p", "The two reports have different scores."));
  const page = pair[0].pages[pair[1].name] ?? pair[1].pages[pair[0].name];
  const more = make("p", page ? "" : "Settings, curves and densities: ", { className: "note" });
  more.append(page ? make("a", "Settings, curves and densities of the two", { href: `compare/${encodeURIComponent(page)}` })
    : make("code", `make compare A="${pair[0].name}" B="${pair[1].name}"`));
  place.append(scroll, more);
}));
