// Blind choices between two pictures. Python, or the page, keeps each choice and sends the next pair.

const CHOICES = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };

function render({ model, el }) {
  const root = create("div", el, "dreamo-compare");
  root.tabIndex = 0;
  // Jupyter leaves the keys to the focused element, which it asks first.
  root.addEventListener("focusin", event => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));

  // With the number of the pair that was seen: what is pressed again before the next pair is shown counts once.
  const send = message => {
    try {
      model.send({ ...message, number: model.get("content").number });
    } catch { // after a restart
      receive({ type: "problem", text: "The kernel that showed this pair is gone. Run its cell again." });
    }
  };
  const choose = choice => {
    if (model.get("content").left) send({ type: "choose", choice });
  };
  const undo = () => send({ type: "undo" });
  const picture = (parent, source, side) => {
    const place = button(parent, "", `choose ${side}`, () => choose(side));
    place.className = "dc-side";
    if (!source) return create("span", place, "", "The file is missing or can't be read.");
    const image = create("img", place);
    image.src = source;
    image.alt = `${side} picture`;
  };
  const draw = () => {
    const content = model.get("content"), hadFocus = root.contains(root.getRootNode().activeElement);
    root.replaceChildren();
    const bar = create("div", root, "dc-bar");
    create("progress", bar).max = content.total;
    bar.firstChild.value = content.number;
    create("span", bar, "", `${content.number} of ${content.total}`);
    if (content.number) button(bar, "undo (U)", "undo the last choice", undo);
    create("span", bar, "dc-problem").setAttribute("role", "status");
    if (content.number === content.total) {
      const then = content.scores ? "The strength of each group, with 95 % intervals:" : "Save your choices.";
      create("p", root, "", `Every pair is judged. ${then}`);
      // pandas escapes every value; a parsed document runs no script.
      root.append(...new DOMParser().parseFromString(content.scores ?? "", "text/html").body.children);
    } else {
      const head = create("div", root, "dc-head");
      for (const source of content.references) {
        const image = create("img", head);
        image.src = source;
        image.alt = "reference";
      }
      create("div", head, "dc-prompt", content.prompt);
      const sides = create("div", root, "dc-sides");
      picture(sides, content.left, "left");
      picture(sides, content.right, "right");
      const below = create("div", root, "dc-bar dc-below");
      button(below, "\u2190 left", "choose left", () => choose("left"));
      button(below, "\u2193 tie", "call it a tie", () => choose("tie"));
      button(below, "right \u2192", "choose right", () => choose("right"));
    }
    if (hadFocus) root.focus({ preventScroll: true });
  };
  root.addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (CHOICES[event.key] && !event.repeat) choose(CHOICES[event.key]);
    else if (event.key.toLowerCase() === "u" && !event.repeat) undo();
    else if (!CHOICES[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
  });
  const receive = message => {
    if (message.type === "problem") root.querySelector(".dc-problem").textContent = message.text;
  };
  model.on("change:content", draw);
  model.on("msg:custom", receive);
  draw();
  return () => {
    model.off("change:content", draw);
    model.off("msg:custom", receive);
  };
}

export default { render };
