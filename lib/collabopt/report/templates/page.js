"use strict";

// One button opens and folds all code of a notebook's page.
const button = document.getElementById("show-code");
if (button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    document.querySelectorAll("details.code").forEach((cell) => { cell.open = open; });
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
  field.addEventListener("input", () => {
    filter(table, field.value.toLowerCase().split(/\s+/).filter(Boolean), status);
  });
});
