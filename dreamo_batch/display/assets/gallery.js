// The gallery on the page that to_html() writes and in the notebook's widget. Python renders the same HTML for both;
// this script adds keys, the enlarged view, and paging: a filter on the page, choosing rows in the widget.

// What a key says of a picture, in the widget.
const SAYS = { 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, p: "pick", x: "reject", u: "undo" };

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

class Gallery {
  constructor(root, model = null) {
    this.root = root;
    this.model = model; // of the widget; null on a page
    this.current = null; // the entry that is enlarged
    this.url = null; // of its full picture
    this.anchor = null; // where choosing a range starts
    this.bar = create("div", null, "dg-bar");
    root.prepend(this.bar);
    this.dialog = create("dialog", root);
    this.dialog.addEventListener("click", event => { if (event.target === this.dialog) this.dialog.close(); });
    this.dialog.addEventListener("close", () => this.closed());
    root.addEventListener("click", event => this.click(event));
    root.addEventListener("keydown", event => this.key(event));
    if (model) this.offerChoice();
  }

  entries() {
    return [...this.root.querySelectorAll("tbody tr:not([hidden]) td:not([hidden]) .dg-entry:not([hidden])")];
  }
  at(position) { return this.root.querySelector(`tbody .dg-entry[data-position="${position}"]`); }

  click(event) {
    const summary = event.target.closest("summary");
    const entry = summary?.parentElement;
    if (!entry?.matches(".dg-entry")) return;
    event.preventDefault();
    if (this.model && event.shiftKey) this.chooseTo(entry);
    else if (this.model && (event.ctrlKey || event.metaKey || event.target.closest(".dg-tick"))) this.toggle(entry);
    else return this.open(entry);
    this.focus(entry);
  }

  key(event) {
    const handled = this.dialog.open ? this.keyInDialog(event) : this.keyInGrid(event);
    if (handled) { event.preventDefault(); event.stopPropagation(); }
  }
  keyInDialog(event) {
    const arrow = ARROWS[event.key];
    if (arrow) this.step(arrow[0] + arrow[1]);
    return Boolean(arrow) || this.rate(this.current, event);
  }
  keyInGrid(event) {
    const entry = event.target.matches("summary") && event.target.closest(".dg-entry");
    if (!entry || event.ctrlKey || event.altKey || event.metaKey) return false;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const target = this.neighbour(entry, ...arrow);
      if (target && this.model && event.shiftKey && this.anchor === null) this.anchor = entry;
      if (target) this.focus(target);
      if (target && this.model && event.shiftKey) this.chooseTo(target);
      return Boolean(target);
    }
    if (!this.model) return false;
    if (this.rate(entry, event)) return true;
    if (event.key === " ") this.toggle(entry);
    else if (event.key === "Escape") this.choose([]);
    else return false;
    return true;
  }
  neighbour(entry, down, across) {
    const cell = entry.closest("td");
    const rows = [...this.root.querySelectorAll("tbody tr:not([hidden])")];
    const isFlow = this.root.matches(".dg-flow"); // one column, whose rows stand side by side
    const nAcross = isFlow ? rows.filter(row => row.offsetTop === rows[0].offsetTop).length : 1;
    const row = rows[rows.indexOf(cell.parentElement) + down * nAcross + (isFlow ? across : 0)];
    const target = row?.children[isFlow ? 1 : cell.cellIndex + across];
    return target && !target.hidden && target.querySelector(".dg-entry:not([hidden])");
  }
  focus(entry) {
    const more = entry.closest(".dg-more");
    if (more) more.open = true;
    const summary = entry.querySelector("summary");
    if (this.model) {
      for (const other of this.root.querySelectorAll("tbody .dg-entry > summary")) other.tabIndex = -1;
      summary.tabIndex = 0;
    }
    summary.focus();
  }

  // The enlarged view.
  open(entry) {
    this.release();
    this.current = entry;
    this.dialog.replaceChildren();
    const zoom = create("div", this.dialog, "dg-zoom");
    const full = create("div", zoom, "dg-full");
    full.style.cssText = entry.style.cssText;
    full.append(...entry.querySelector("summary").cloneNode(true).childNodes);
    full.querySelector(".dg-tick")?.remove();
    const about = create("div", zoom, "dg-about"), nav = create("nav", about);
    button(nav, "\u2190", "previous", () => this.step(-1));
    button(nav, "\u2192", "next", () => this.step(1));
    if (this.model) button(nav, "", "choose", () => this.toggle(entry)).classList.add("dg-choose");
    button(nav, "close", "close", () => this.dialog.close());
    create("span", about, "dg-problem").setAttribute("role", "status"); // what is behind the view can't be seen
    create("h2", about, "", this.heading(entry));
    about.append(entry.querySelector(".dg-facts").cloneNode(true));
    if (this.model) {
      this.mark();
      this.showMarks();
      if (entry.dataset.kind === "picture") this.send({ type: "full", position: +entry.dataset.position });
    }
    if (!this.dialog.open) this.dialog.showModal();
  }
  heading(entry) {
    const labels = th => [...th.querySelectorAll(".dg-label")].map(label => label.textContent).join(" \u00b7 ");
    const cell = entry.closest("td"), head = this.root.querySelector("thead tr");
    const across = `${head.querySelector(".dg-across").textContent} ${labels(head.children[cell.cellIndex])}`.trim();
    return [labels(cell.parentElement.querySelector("th")), across].filter(Boolean).join(", ");
  }
  step(by) {
    const entries = this.entries();
    this.open(entries[Math.min(entries.length - 1, Math.max(0, entries.indexOf(this.current) + by))]);
  }
  showFull(message, buffers) {
    if (message.type !== "full" || !this.current || message.position !== +this.current.dataset.position) return;
    const full = this.dialog.querySelector(".dg-full");
    if (!buffers?.length) return create("p", full, "dg-caption", "The file is missing or can't be read.");
    this.release();
    this.url = URL.createObjectURL(new Blob([buffers[0]], { type: message.media }));
    const small = full.querySelector("img"), picture = small || create("img", null);
    picture.removeAttribute("width"); picture.removeAttribute("height");
    picture.src = this.url;
    picture.dataset.full = "true";
    if (!small) full.replaceChildren(picture);
  }
  release() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
  }
  closed() {
    this.release();
    const entry = this.current;
    this.current = null;
    this.dialog.replaceChildren();
    if (entry) this.focus(entry);
  }

  // Rating pictures, in the widget. Python keeps it and sends it back: what is shown is what is kept.
  rate(entry, event) {
    const value = SAYS[event.key.toLowerCase()];
    if (!this.model || !entry || value === undefined || event.ctrlKey || event.altKey || event.metaKey) return false;
    if (event.repeat) return true; // a key held down says it once
    this.showMessage("");
    this.send({ type: "rate", position: +entry.dataset.position, value });
    return true;
  }
  showMarks() {
    const marks = this.model.get("marks");
    for (const entry of this.root.querySelectorAll("tbody .dg-entry")) {
      const summary = entry.querySelector("summary"), words = this.showMark(summary, marks[entry.dataset.position]);
      summary.setAttribute("aria-label", [summary.title, words].filter(Boolean).join(", "));
    }
    const full = this.dialog.querySelector(".dg-full");
    if (full && this.current) this.showMark(full, marks[this.current.dataset.position]);
  }
  showMark(parent, mark) {
    parent.querySelector(".dg-rating")?.remove();
    const [rating, picked] = mark || [null, null];
    const words = picked === null ? "" : picked ? "\u2713 picked" : "\u2715 rejected";
    const text = [words, rating === null ? "" : `\u2605 ${rating}`].filter(Boolean).join(" ");
    if (text) create("span", parent, picked === false ? "dg-rating dg-rejected" : "dg-rating", text);
    return text;
  }
  send(message) {
    try {
      this.model.send(message);
    } catch { // after a restart
      this.showMessage("The kernel that made this gallery is gone. Run its cell again.");
    }
  }
  showMessage(text) {
    for (const place of this.root.querySelectorAll(".dg-problem")) place.textContent = text;
  }

  // Choosing rows, in the widget.
  offerChoice() {
    this.root.classList.add("dg-live");
    // Jupyter leaves the keys to the gallery; it asks the focused element first: else X would cut the cell.
    this.root.addEventListener("focusin", event => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
    const table = this.root.querySelector("table");
    if (table) { table.setAttribute("role", "listbox"); table.setAttribute("aria-multiselectable", "true"); }
    for (const [number, summary] of this.root.querySelectorAll("tbody .dg-entry > summary").entries()) {
      summary.setAttribute("role", "option");
      summary.setAttribute("aria-label", summary.title);
      summary.tabIndex = number ? -1 : 0;
      const tick = button(summary, "\u2713", "choose", () => {});
      tick.className = "dg-tick";
      tick.tabIndex = -1;
    }
    // Firefox would also open the entry when Space is released.
    this.root.addEventListener("keyup", event => {
      if (event.key === " " && event.target.matches("summary[role=option]")) event.preventDefault();
    });
  }
  choose(positions) {
    this.model.set("chosen", [...positions].sort((a, b) => a - b));
    this.model.save_changes();
    this.mark();
  }
  toggle(entry) {
    const chosen = new Set(this.model.get("chosen")), position = +entry.dataset.position;
    if (!chosen.delete(position)) chosen.add(position);
    this.anchor = entry;
    this.choose(chosen);
  }
  chooseTo(entry) {
    const entries = this.entries(), ends = [entries.indexOf(this.anchor ?? entry), entries.indexOf(entry)];
    const range = entries.slice(Math.min(...ends), Math.max(...ends) + 1);
    const seen = range.filter(one => !one.closest(".dg-more:not([open])"));
    this.choose(new Set([...this.model.get("chosen"), ...seen.map(one => +one.dataset.position)]));
  }
  mark() {
    const chosen = new Set(this.model.get("chosen"));
    for (const summary of this.root.querySelectorAll("tbody .dg-entry > summary"))
      summary.setAttribute("aria-selected", String(chosen.has(+summary.parentElement.dataset.position)));
    if (this.chosenCount) {
      this.chosenCount.textContent = chosen.size ? `${chosen.size} chosen` : "";
      this.clearButton.hidden = !chosen.size;
    }
    const choose = this.dialog.querySelector(".dg-choose");
    if (choose) choose.textContent = chosen.has(+this.current.dataset.position) ? "chosen \u2713" : "choose";
  }
}

// A page of its own holds the whole grid: it hides what is on other pages, and filters by what became of the rows.
function setUpPage(root) {
  const pageRows = +document.body.dataset.rows, pageColumns = +document.body.dataset.columns;
  const head = root.querySelector("thead tr"), rows = [...root.querySelectorAll("tbody tr")];
  if (!head || !rows.length) return;
  const gallery = new Gallery(root), bar = gallery.bar;
  const allEntries = [...root.querySelectorAll(".dg-entry")];
  const nColumns = head.children.length - 1;
  let matching = rows, down = 0, across = 0;

  const show = () => {
    const nDown = Math.max(1, Math.ceil(matching.length / pageRows));
    const nAcross = Math.max(1, Math.ceil(nColumns / pageColumns));
    down = Math.min(Math.max(down, 0), nDown - 1);
    across = Math.min(Math.max(across, 0), nAcross - 1);
    const shown = new Set(matching.slice(down * pageRows, (down + 1) * pageRows));
    const from = across * pageColumns, to = Math.min(nColumns, from + pageColumns);
    for (const row of [head, ...rows]) {
      row.hidden = row !== head && !shown.has(row);
      if (row.hidden) continue;
      for (let i = 0; i < nColumns; i++) row.children[i + 1].hidden = i < from || i >= to;
    }
    const last = Math.min(matching.length, (down + 1) * pageRows);
    rowsShown.textContent = last ? `rows ${down * pageRows + 1}\u2013${last} of ${matching.length}` : "no rows";
    columnsShown.textContent = `columns ${from + 1}\u2013${to} of ${nColumns}`;
    up.disabled = down === 0; below.disabled = down >= nDown - 1;
    left.disabled = across === 0; right.disabled = across >= nAcross - 1;
  };
  const filter = kind => {
    const has = part => part.querySelector(`.dg-entry[data-kind="${kind}"]`);
    for (const entry of allEntries) entry.hidden = Boolean(kind) && entry.dataset.kind !== kind;
    for (const more of root.querySelectorAll("details.dg-more")) {
      more.open = Boolean(kind && has(more));
      more.hidden = Boolean(kind && !has(more));
    }
    matching = kind ? rows.filter(has) : rows;
    down = 0;
    show();
  };

  const up = button(null, "\u2191", "previous rows", () => { down--; show(); });
  const below = button(null, "\u2193", "next rows", () => { down++; show(); });
  const left = button(null, "\u2190", "previous columns", () => { across--; show(); });
  const right = button(null, "\u2192", "next columns", () => { across++; show(); });
  const rowsShown = create("span"), columnsShown = create("span");
  if (rows.length > pageRows) bar.append(up, rowsShown, below);
  if (nColumns > pageColumns) bar.append(left, columnsShown, right);
  const counts = new Map();
  for (const { dataset } of allEntries) counts.set(dataset.kind, (counts.get(dataset.kind) || 0) + 1);
  if (counts.size > 1) {
    const label = create("label", bar, "", "show "), select = create("select", label);
    create("option", select, "", "all").value = "";
    for (const [kind, n] of counts) {
      const box = kind !== "picture" && document.querySelector(`.dg-entry[data-kind="${kind}"] .dg-box b`);
      create("option", select, "", `${box ? box.textContent : kind} (${n})`).value = kind;
    }
    select.addEventListener("change", () => filter(select.value));
  }
  const turns = rows.length > pageRows ? " \u00b7 PageUp, PageDown: rows" : "";
  create("span", bar, "dg-hint", `click or Enter: enlarge \u00b7 arrows: move${turns}`);
  document.addEventListener("keydown", event => {
    if (gallery.dialog.open || event.target.tagName === "SELECT" || rows.length <= pageRows) return;
    if (event.key !== "PageDown" && event.key !== "PageUp") return;
    event.preventDefault();
    down += event.key === "PageDown" ? 1 : -1;
    show();
    scrollTo(0, 0);
  });
  show();
}

// The widget holds one page of the grid; Python turns pages, reads full pictures, and knows what is chosen.
function render({ model, el }) {
  let gallery = null;
  const fillBar = () => {
    const { number, pages, live } = model.get("content"), bar = gallery.bar;
    if (pages > 1) {
      const turn = by => gallery.send({ type: "turn", number: number + by });
      button(bar, "\u2190", "previous page", () => turn(-1)).disabled = number <= 1;
      create("span", bar, "", `page ${number} of ${pages}`);
      button(bar, "\u2192", "next page", () => turn(1)).disabled = number >= pages;
    }
    if (live) button(bar, "refresh", "read the run directory again", () => gallery.send({ type: "refresh" }));
    gallery.chosenCount = create("b", bar);
    gallery.clearButton = button(bar, "clear", "clear the choice", () => gallery.choose([]));
    create("span", bar, "dg-problem").setAttribute("role", "status");
    create("span", bar, "dg-hint", "click: enlarge \u00b7 tick, Space or Shift-click: choose \u00b7 arrows: move \u00b7 "
      + "1\u20135: rate, P: pick, X: reject, U: undo");
  };
  const draw = () => {
    const enlarged = gallery?.current?.dataset.position;
    gallery?.release();
    // The template escapes every value; a parsed document runs no script.
    const parsed = new DOMParser().parseFromString(model.get("content").html, "text/html");
    el.replaceChildren(...parsed.body.children);
    gallery = new Gallery(el.firstElementChild, model);
    fillBar();
    gallery.mark();
    gallery.showMarks();
    if (enlarged !== undefined && gallery.at(enlarged)) gallery.open(gallery.at(enlarged));
  };
  const mark = () => gallery.mark();
  const showMarks = () => gallery.showMarks();
  const receive = (message, buffers) => {
    if (message.type === "problem") gallery.showMessage(message.text);
    else gallery.showFull(message, buffers);
  };
  model.on("change:content", draw);
  model.on("change:chosen", mark);
  model.on("change:marks", showMarks);
  model.on("msg:custom", receive);
  draw();
  return () => {
    model.off("change:content", draw);
    model.off("change:chosen", mark);
    model.off("change:marks", showMarks);
    model.off("msg:custom", receive);
    gallery.release();
  };
}

for (const root of document.querySelectorAll(".dreamo-page .dreamo-gallery")) setUpPage(root);

export default { render };
