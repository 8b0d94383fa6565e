"""The script of a gallery's page: it pages, filters, enlarges and listens to keys.

It reads what stands on the page and writes text only; nothing of a table is ever part of it.
"""

from __future__ import annotations

from typing import Final

SCRIPT: Final = r"""
"use strict";
(() => {
const root = document.querySelector(".dreamo-gallery"), bar = document.querySelector(".bar");
const dialog = document.querySelector("dialog");
const nRows = +document.body.dataset.rows, nColumns = +document.body.dataset.columns;
const make = (tag, text, parent, kind) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  if (parent) parent.append(made);
  return made;
};
const head = root.querySelector("thead tr");
const lines = [...root.querySelectorAll("tbody tr")];
if (!head || !lines.length) return;
const width = head.children.length - 1;
const kinds = new Map();
for (const entry of root.querySelectorAll(".dg-entry"))
  kinds.set(entry.dataset.kind, (kinds.get(entry.dataset.kind) || 0) + 1);
let down = 0, across = 0, kind = "", chosen = lines;

const pages = () => [Math.max(1, Math.ceil(chosen.length / nRows)), Math.max(1, Math.ceil(width / nColumns))];
const show = () => {
  const [n, m] = pages();
  down = Math.min(Math.max(down, 0), n - 1); across = Math.min(Math.max(across, 0), m - 1);
  const seen = new Set(chosen.slice(down * nRows, (down + 1) * nRows));
  const from = across * nColumns, to = from + nColumns;
  for (const line of [head, ...lines]) {
    line.hidden = line !== head && !seen.has(line);
    if (line.hidden) continue;
    for (let i = 0; i < width; i++) line.children[i + 1].hidden = i < from || i >= to;
  }
  told(n, m, from, to);
};
const filter = value => {
  kind = value;
  for (const entry of root.querySelectorAll(".dg-entry")) entry.hidden = !!kind && entry.dataset.kind !== kind;
  for (const more of root.querySelectorAll("details.dg-more")) {
    const matches = !!kind && !!more.querySelector(`.dg-entry[data-kind="${kind}"]`);
    more.hidden = !!kind && !matches; more.open = matches;
  }
  chosen = kind ? lines.filter(line => line.querySelector(`.dg-entry[data-kind="${kind}"]`)) : lines;
  down = 0; show();
};

const step = (text, label, act) => {
  const button = make("button", text);
  button.setAttribute("aria-label", label); button.addEventListener("click", act);
  return button;
};
const buttons = {
  up: step("\u2191", "rows before", () => { down--; show(); }),
  below: step("\u2193", "rows after", () => { down++; show(); }),
  left: step("\u2190", "columns before", () => { across--; show(); }),
  right: step("\u2192", "columns after", () => { across++; show(); }),
};
const rowsTold = make("span"), columnsTold = make("span");
const told = (n, m, from, to) => {
  rowsTold.textContent = chosen.length
    ? `rows ${down * nRows + 1}\u2013${Math.min(chosen.length, (down + 1) * nRows)} of ${chosen.length}` : "no rows";
  columnsTold.textContent = `columns ${from + 1}\u2013${Math.min(width, to)} of ${width}`;
  buttons.up.disabled = down === 0; buttons.below.disabled = down >= n - 1;
  buttons.left.disabled = across === 0; buttons.right.disabled = across >= m - 1;
};
if (lines.length > nRows) bar.append(buttons.up, rowsTold, buttons.below);
if (width > nColumns) bar.append(buttons.left, columnsTold, buttons.right);
if (kinds.size > 1) {
  const label = make("label", "show ", bar), select = make("select", "", label);
  make("option", "all", select).value = "";
  for (const [name, n] of kinds) make("option", `${name.replace("_", " ")} (${n})`, select).value = name;
  select.addEventListener("change", () => filter(select.value));
}
make("span", "click or Enter: larger \u00b7 arrows: next \u00b7 PageUp, PageDown: rows", bar, "keys");
bar.hidden = false;

const entries = () => [...root.querySelectorAll("tbody tr:not([hidden]) td:not([hidden]) .dg-entry:not([hidden])")];
let at = null;
const open = entry => {
  if (!entry) return;
  at = entry;
  const row = entry.closest("tr"), column = head.children[entry.closest("td").cellIndex];
  dialog.replaceChildren();
  const zoom = make("div", "", dialog, "zoom"), seen = make("div", "", zoom, "seen dreamo-gallery");
  const face = entry.querySelector("summary").cloneNode(true);
  const shell = make("div", "", seen, entry.className); shell.append(...face.childNodes);
  const right = make("div", "", zoom, "told dreamo-gallery"), nav = make("nav", "", right);
  nav.append(step("\u2190", "before", () => move(-1)), step("\u2192", "next", () => move(1)),
    step("close", "close", () => dialog.close()));
  const words = th => [...th.querySelectorAll(".dg-label")].map(part => part.textContent).join(" \u00b7 ");
  const axis = head.querySelector(".dg-across").textContent;
  make("h2", [words(row.querySelector("th")), `${axis} ${words(column)}`.trim()].filter(Boolean).join(", "), right);
  const facts = entry.querySelector(".dg-facts");
  if (facts) right.append(facts.cloneNode(true));
  if (!dialog.open) dialog.showModal();
};
const move = by => { const all = entries(); open(all[Math.min(all.length - 1, Math.max(0, all.indexOf(at) + by))]); };
root.addEventListener("click", event => {
  const summary = event.target.closest("summary");
  if (!summary || summary.parentElement.classList.contains("dg-more")) return;
  event.preventDefault(); open(summary.parentElement);
});
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  if (!at) return;
  const more = at.closest("details.dg-more");
  if (more) more.open = true;
  at.querySelector("summary").focus();
});
const beside = (entry, rows, columns) => {
  const cell = entry.closest("td"), seen = lines.filter(line => !line.hidden);
  const line = seen[seen.indexOf(cell.parentElement) + rows];
  const to = line && line.children[cell.cellIndex + columns];
  return to && !to.hidden && to.querySelector(".dg-entry:not([hidden])");
};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  const ways = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  const way = ways[event.key];
  if (dialog.open) { if (way) { event.preventDefault(); move(way[0] + way[1]); } return; }
  if (event.key === "PageDown" || event.key === "PageUp") {
    if (lines.length <= nRows) return;
    event.preventDefault(); down += event.key === "PageDown" ? 1 : -1; show(); scrollTo(0, 0); return;
  }
  const entry = document.activeElement && document.activeElement.closest(".dg-entry");
  if (!way || !entry) return;
  const to = beside(entry, way[0], way[1]);
  if (to) { event.preventDefault(); to.querySelector("summary").focus(); }
});
show();
})();
"""
