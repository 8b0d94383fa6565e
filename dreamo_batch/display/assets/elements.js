// Elements of a page, for the scripts that follow.

const create = (tag, parent, className = "", text = "") => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const button = (parent, text, label, onClick) => {
  const element = create("button", parent, "", text);
  element.type = "button";
  element.setAttribute("aria-label", label);
  element.title = label;
  element.addEventListener("click", onClick);
  return element;
};
