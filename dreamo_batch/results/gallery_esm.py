"""The front end of the gallery's widget: a module without a build step.

All words are set as text, never as markup. Addresses of pictures are given back when the page is drawn anew.
"""

from __future__ import annotations

from typing import Final

STYLE: Final = """
.dreamo-gallery.dg-live{padding:4px 2px}
.dreamo-gallery .dg-bar{display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center;margin:0 0 8px;min-height:28px}
.dreamo-gallery .dg-bar .dg-spring{flex:1}
.dreamo-gallery button{font:inherit;color:inherit;background:var(--dg-wash);border:1px solid var(--dg-line);
 border-radius:5px;padding:2px 9px;cursor:pointer}
.dreamo-gallery button:disabled{opacity:.4;cursor:default}
.dreamo-gallery .dg-hint{opacity:.6;font-size:11.5px}
.dreamo-gallery .dg-live-entry{cursor:zoom-in;border-radius:5px;outline-offset:2px}
.dreamo-gallery .dg-live-entry:focus-visible{outline:2px solid var(--dg-open)}
.dreamo-gallery .dg-live-entry[aria-selected=true]{box-shadow:0 0 0 3px var(--dg-open)}
.dreamo-gallery .dg-tick{position:absolute;right:5px;top:5px;width:20px;height:20px;padding:0;border-radius:50%;
 border:1.5px solid #fff;background:rgba(0,0,0,.35);color:transparent;font-size:12px;line-height:1;opacity:0;
 box-shadow:0 0 2px rgba(0,0,0,.5)}
.dreamo-gallery .dg-live-entry:hover .dg-tick,.dreamo-gallery .dg-live-entry:focus-within .dg-tick,
.dreamo-gallery .dg-live-entry:focus .dg-tick{opacity:1}
.dreamo-gallery .dg-live-entry[aria-selected=true] .dg-tick{opacity:1;background:var(--dg-open);color:#fff}
@media (hover:none){.dreamo-gallery .dg-tick{opacity:1}}
.dreamo-gallery dialog{border:0;border-radius:10px;padding:0;max-width:min(1180px,94vw);max-height:94vh;overflow:auto;
 background:var(--jp-layout-color1,Canvas);color:var(--jp-ui-font-color1,CanvasText);
 box-shadow:0 10px 60px rgba(0,0,0,.5)}
.dreamo-gallery dialog::backdrop{background:rgba(0,0,0,.72)}
.dreamo-gallery .dg-zoom{display:flex;flex-wrap:wrap;gap:18px;padding:18px}
.dreamo-gallery .dg-seen{flex:2 1 340px;min-width:0;max-width:720px}
.dreamo-gallery .dg-seen img{width:100%;max-height:84vh;object-fit:contain;border-radius:6px}
.dreamo-gallery .dg-words{flex:1 1 300px;min-width:0}
.dreamo-gallery .dg-words nav{display:flex;gap:8px;margin-bottom:12px}
.dreamo-gallery .dg-words nav .dg-spring{flex:1}
.dreamo-gallery .dg-words h4{font-size:14px;font-weight:600;margin:0 0 8px;overflow-wrap:anywhere;max-height:24vh;
 overflow:auto}
"""

ESM: Final = r"""
const make = (tag, parent, kind, text) => {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined && text !== "") made.textContent = text;
  if (parent) parent.append(made);
  return made;
};
const press = (parent, text, label, act) => {
  const button = make("button", parent, "", text);
  button.type = "button"; button.setAttribute("aria-label", label); button.title = label;
  button.addEventListener("click", event => { event.stopPropagation(); act(event); });
  return button;
};

function render({ model, el }) {
  const root = make("div", el, "dreamo-gallery dg-live");
  root.setAttribute("data-lm-suppress-shortcuts", "true");  // keys are the gallery's while it has the focus
  const bar = make("div", root, "dg-bar"), head = make("div", root, "dg-head");
  const scroll = make("div", root, "dg-scroll"), dialog = make("dialog", root);
  let urls = [], full = null, cells = new Map(), order = [], anchor = null, at = null, chosenTold = null, clear = null;

  const image = (parent, thumbnail, alt) => {
    const [bytes, width, height] = thumbnail, made = make("img", parent);
    const url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    urls.push(url);
    made.width = width; made.height = height; made.alt = alt; made.src = url;
    return made;
  };
  const references = (parent, listed, word) => {
    if (!listed.length) return;
    const box = make("div", parent, "dg-references");
    let within = box;
    listed.forEach((one, n) => {
      if (n === 3) {
        within = make("details", box, "dg-more");
        make("summary", within, "", `+${listed.length - 3} more`);
      }
      const figure = make("figure", within);
      if (one.thumbnail) image(figure, one.thumbnail, `reference ${one.label}`);
      make("figcaption", figure, "", `${word}${one.label}`);
    });
  };
  const labels = (parent, listed) => { for (const label of listed) make("span", parent, "dg-label", label); };

  const chosen = () => new Set(model.get("chosen"));
  const choose = positions => {
    model.set("chosen", [...positions].sort((a, b) => a - b)); model.save_changes(); mark();
  };
  const toggle = position => {
    const now = chosen();
    now.has(position) ? now.delete(position) : now.add(position);
    anchor = position; choose(now);
  };
  const reach = position => {
    const from = order.indexOf(anchor === null ? position : anchor), to = order.indexOf(position);
    const now = chosen();
    for (const one of order.slice(Math.min(from, to), Math.max(from, to) + 1)) if (isSeen(one)) now.add(one);
    choose(now);
  };
  const mark = () => {
    const now = chosen();
    for (const [position, entry] of cells) entry.setAttribute("aria-selected", String(now.has(position)));
    if (chosenTold) { chosenTold.textContent = now.size ? `${now.size} chosen` : ""; clear.hidden = !now.size; }
  };

  const face = (parent, entry) => {
    if (entry.thumbnail) image(parent, entry.thumbnail, entry.alt);
    else {
      const box = make("span", parent, "dg-box");
      make("b", box, "", entry.word); make("span", box, "", entry.note);
    }
    if (entry.same) make("span", parent, "dg-same", "duplicate");
  };
  const draw = (cell, entry, row, column) => {
    const made = make("div", cell, `dg-entry dg-live-entry dg-${entry.kind}`);
    made.tabIndex = order.length ? -1 : 0; made.title = entry.title;
    made.setAttribute("role", "option"); made.setAttribute("aria-label", entry.title);
    made.dataset.position = entry.position; made.dataset.row = row; made.dataset.column = column;
    face(made, entry);
    const tick = press(made, "\u2713", "choose", () => toggle(entry.position));
    tick.className = "dg-tick"; tick.tabIndex = -1;
    if (entry.told) make("span", made, "dg-told", entry.told);
    made.addEventListener("click", event => {
      if (event.shiftKey) { event.preventDefault(); reach(entry.position); }
      else if (event.ctrlKey || event.metaKey) toggle(entry.position);
      else open(entry.position);
      focus(made);
    });
    cells.set(entry.position, made); order.push(entry.position);
  };
  const focus = entry => {
    const more = entry.closest("details");
    if (more) more.open = true;
    for (const other of cells.values()) other.tabIndex = -1;
    entry.tabIndex = 0; entry.focus();
  };

  const known = new Map();
  const unfold = (td, cell, row, column, n, m) => {
    const more = make("details", td, "dg-more");
    make("summary", more, "", `+${cell.n_more} more`);
    for (const entry of cell.more) { known.set(entry.position, { entry, row, column }); draw(more, entry, n, m); }
    if (cell.beyond) make("div", more, "dg-beyond", cell.beyond);
  };
  const isSeen = position => !cells.get(position).closest("details:not([open])");
  const table = content => {
    const made = make("table", null), first = make("tr", make("thead", made));
    made.setAttribute("role", "listbox"); made.setAttribute("aria-multiselectable", "true");
    const names = make("th", first, "dg-names");
    make("span", names, "dg-down", content.down); make("span", names, "dg-across", content.across);
    for (const column of content.columns) {
      const th = make("th", first);
      references(th, column.references, ""); labels(th, column.labels);
    }
    const body = make("tbody", made);
    content.rows.forEach((row, n) => {
      const line = make("tr", body), th = make("th", line);
      references(th, row.references, ""); labels(th, row.labels);
      row.cells.forEach((cell, m) => {
        const td = make("td", line, cell.entries.length ? "" : "dg-none");
        td.dataset.column = content.columns[m].labels.join(", ");
        if (!cell.entries.length) { td.textContent = "\u2013"; td.title = "not in the table"; }
        for (const entry of cell.entries) {
          known.set(entry.position, { entry, row, column: content.columns[m] });
          draw(td, entry, n, m);
        }
        if (cell.n_more) unfold(td, cell, row, content.columns[m], n, m);
      });
    });
    return made;
  };
  const release = () => { urls.forEach(URL.revokeObjectURL, URL); urls = []; };
  const redraw = () => {
    const content = model.get("content");
    const shownAt = at; close();
    release(); cells = new Map(); order = []; known.clear();
    bar.replaceChildren(); head.replaceChildren(); scroll.replaceChildren();
    if (!content || !content.rows) return;
    root.style.setProperty("--dg-cell", `${content.cell}px`);
    if (content.title) make("b", bar, "", content.title);
    if (content.pages > 1) {
      const turn = by => model.send({ type: "turn", number: content.number + by });
      press(bar, "\u2190", "page before", () => turn(-1)).disabled = content.number <= 1;
      make("span", bar, "", `page ${content.number} of ${content.pages}`);
      press(bar, "\u2192", "next page", () => turn(1)).disabled = content.number >= content.pages;
    }
    if (content.live) press(bar, "refresh", "read the run anew", () => model.send({ type: "refresh" }));
    chosenTold = make("b", bar);
    clear = press(bar, "clear", "choose nothing", () => choose([]));
    make("span", bar, "dg-spring");
    make("span", bar, "dg-hint", "click: full picture \u00b7 tick, Space or Shift-click: choose \u00b7 arrows: move");
    references(head, content.references, "reference ");
    const told = make("div", head), keys = make("div", told, "dg-keys");
    for (const [kind, text] of content.counts) make("span", keys, `dg-key dg-${kind}`, text);
    if (content.extent) make("div", told, "dg-extent", content.extent);
    if (content.rows.length) scroll.append(table(content));
    else make("p", scroll, "", "nothing to show: the table has no rows");
    mark();
    if (shownAt !== null && known.has(shownAt)) open(shownAt);
  };

  const drop = () => { if (full) URL.revokeObjectURL(full); full = null; };
  const close = () => { drop(); at = null; if (dialog.open) dialog.close(); dialog.replaceChildren(); };
  const open = position => {
    const { entry, row, column } = known.get(position);
    drop(); at = position;
    dialog.replaceChildren();
    const zoom = make("div", dialog, "dg-zoom"), seen = make("div", zoom, `dg-seen dg-${entry.kind}`);
    if (entry.kind === "picture" && !entry.thumbnail) {
      make("img", seen).alt = entry.alt; model.send({ type: "full", position });
    } else if (entry.thumbnail) {
      const small = cells.get(position).querySelector("img").cloneNode();
      small.removeAttribute("width"); small.removeAttribute("height");
      seen.append(small); model.send({ type: "full", position });
    } else face(seen, entry);
    const words = make("div", zoom, "dg-words"), nav = make("nav", words);
    const step = by => { const to = order[order.indexOf(position) + by]; if (to !== undefined) open(to); };
    press(nav, "\u2190", "before", () => step(-1)); press(nav, "\u2192", "next", () => step(1));
    const pick = press(nav, "", "choose", () => { toggle(position); say(); });
    const say = () => { pick.textContent = chosen().has(position) ? "chosen \u2713" : "choose"; };
    say(); make("span", nav, "dg-spring"); press(nav, "close", "close", () => leave());
    const across = `${model.get("content").across} ${column.labels.join(" \u00b7 ")}`.trim();
    const name = [row.labels.join(" \u00b7 "), across];
    make("h4", words, "", name.filter(Boolean).join(", "));
    const list = make("dl", make("div", words, "dg-facts"));
    for (const [term, value] of entry.facts) { make("dt", list, "", term); make("dd", list, "", value); }
    if (!dialog.open) dialog.showModal();
  };
  const leave = () => { const was = at; close(); if (cells.has(was)) focus(cells.get(was)); };
  dialog.addEventListener("cancel", event => { event.preventDefault(); leave(); });
  dialog.addEventListener("click", event => { event.stopPropagation(); if (event.target === dialog) leave(); });

  const arrived = (message, buffers) => {
    if (message.type !== "full" || message.position !== at) return;
    const seen = dialog.querySelector(".dg-seen");
    if (!buffers || !buffers.length) { make("p", seen, "dg-told", "the file is gone or can't be read"); return; }
    drop();
    full = URL.createObjectURL(new Blob([buffers[0]], { type: message.media }));
    const picture = seen.querySelector("img");
    picture.src = full; picture.dataset.full = "true";
  };
  const moved = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const keys = event => {
    const way = moved[event.key];
    if (dialog.open) {
      if (!way) return;
      event.preventDefault(); event.stopPropagation();
      const to = order[order.indexOf(at) + way[0] + way[1]];
      if (to !== undefined) open(to);
      return;
    }
    const entry = event.target.closest(".dg-live-entry");
    if (!entry || event.target !== entry) return;
    const position = +entry.dataset.position;
    if (event.key === "Enter") open(position);
    else if (event.key === " ") toggle(position);
    else if (event.key === "Escape") choose([]);
    else if (way) {
      const all = [...cells.values()], row = +entry.dataset.row + way[0], column = +entry.dataset.column + way[1];
      const to = all.find(one => +one.dataset.row === row && +one.dataset.column === column);
      if (to) {
        if (event.shiftKey && anchor === null) anchor = position;
        focus(to);
        if (event.shiftKey) reach(+to.dataset.position);
      }
    } else return;
    event.preventDefault(); event.stopPropagation();
  };
  root.addEventListener("keydown", keys);
  model.on("change:content", redraw); model.on("change:chosen", mark); model.on("msg:custom", arrived);
  redraw();
  return () => {
    model.off("change:content", redraw); model.off("change:chosen", mark); model.off("msg:custom", arrived);
    close(); release();
  };
}
export default { render };
"""
