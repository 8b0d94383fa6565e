// A comparison on a page of its own: choices are kept in the browser, and saved as a file that Python takes in.

const data = JSON.parse(document.getElementById("dreamo-pairs").textContent);
let kept = { rater: "", choices: [] }; // one choice for each pair, in their order
try {
  kept = JSON.parse(localStorage.getItem(data.key)) ?? kept;
} catch { /* a browser may keep nothing */ }
let draw, receive;

const content = () => {
  const number = kept.choices.length, pair = data.pairs[number], shown = { number, total: data.pairs.length };
  if (!pair) return shown;
  const [left, right] = pair.sides.map(one => data.pictures[one]);
  return { ...shown, left, right, prompt: pair.prompt, references: pair.references.map(one => data.references[one]) };
};
const keep = () => {
  try {
    localStorage.setItem(data.key, JSON.stringify(kept));
  } catch {
    receive({ type: "problem", text: "This browser keeps no choices: save them before you close the page." });
  }
};
const model = {
  get: content,
  on: (name, listen) => name === "msg:custom" ? receive = listen : draw = listen,
  send: message => {
    if (message.type === "undo") kept.choices.pop();
    else kept.choices.push(message.choice);
    draw();
    keep();
  },
};
render({ model, el: document.getElementById("dreamo-pairs-shown") });
document.querySelector(".dreamo-compare").focus();

const rater = document.getElementById("dreamo-rater");
rater.value = kept.rater;
rater.addEventListener("input", () => { kept.rater = rater.value; keep(); });
document.getElementById("dreamo-save").addEventListener("submit", event => {
  event.preventDefault();
  const name = rater.value.trim();
  const lines = kept.choices.map((choice, number) => [...data.pairs[number].jobs, name, choice]);
  const quoted = cell => `"${cell.replaceAll('"', '""')}"`;
  const text = [data.columns, ...lines].map(line => line.map(quoted).join(",") + "\r\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `${["choices", ...name.match(/[\p{L}\p{M}\p{N}]+/gu) ?? []].join("-")}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});
