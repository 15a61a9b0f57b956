
function makeNumber(row) {
  return element("span", "number", row.human ? "H" : String(row.number));
}

function makeText(sample) {
  const box = element("div", "sample");
  box.append(element("div", "head", sample.head));
  if (sample.tokens) {
    box.append(makeWords(sample.tokens));
    box.querySelectorAll(".token").forEach((span, at) => span.classList.toggle("again", sample.tokens[at].again));
  } else {
    const words = element("div", "words", sample.text);
    words.dir = "auto";
    box.append(words);
  }
  return box;
}

function makeCard(cell) {
  const row = data.rows[cell.row];
  const card = element("section", `card ${row.style}`);
  const head = element("h3");
  head.append(makeNumber(row), row.name);
  card.append(head);
  if (cell.error) card.append(element("p", "failed", cell.error));
  const [first, ...others] = cell.samples.map(makeText);
  if (first) card.append(first);
  if (others.length) {
    const more = element("details");
    more.append(element("summary", "", `${others.length} more`), ...others);
    card.append(more);
  }
  return card;
}

function showPrompt(at) {
  const prompt = data.prompts[at];
  document.getElementById("prompt").textContent = prompt.text;
  document.getElementById("texts").replaceChildren(...prompt.cells.map(makeCard));
  hideNote();
}

function startTexts() {
  const select = document.getElementById("prompts");
  select.append(...data.prompts.map((prompt, at) => new Option(`${at + 1}: ${prompt.text.slice(0, 60)}`, at)));
  select.addEventListener("change", () => showPrompt(Number(select.value)));
  document.getElementById("choice").hidden = data.prompts.length < 2;
  showPrompt(0);
}

// What has no value comes last, whichever way the others go.
function compareCells(one, other, column, sign) {
  const [a, b] = [one.cells[column].value, other.cells[column].value];
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

function makeCell(cell, column) {
  const made = element(column ? "td" : "th", cell.best ? "best" : "");
  if (!column) made.scope = "row";
  if (cell.row) made.append(makeNumber(cell.row));
  made.append(cell.text);
  if (cell.interval) made.append(element("span", "interval", cell.interval));
  return made;
}

function startTable(table, headings, body) {
  const lines = table.rows.map((row) => {
    const line = element("tr", row.style);
    line.append(...row.cells.map(makeCell));
    return { line, cells: row.cells };
  });
  const show = () => body.replaceChildren(...lines.map((each) => each.line));
  table.headings.forEach((text, column) => {
    const heading = element("th");
    heading.scope = "col";
    const button = element("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => {
      const rises = heading.getAttribute("aria-sort") !== "ascending";
      for (const each of headings.children) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", rises ? "ascending" : "descending");
      lines.sort((one, other) => compareCells(one, other, column, rises ? 1 : -1));
      show();
    });
    heading.append(button);
    headings.append(heading);
  });
  show();
}

function build([tag, attributes, ...children]) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.map((child) => (typeof child === "string" ? child : build(child))));
  return made;
}

function makeFigure(plot) {
  const figure = element("figure");
  const drawn = build(plot.svg);
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", plot.title);
  figure.append(drawn, element("figcaption", "", plot.title));
  return figure;
}

function makeKey(row) {
  const item = element("li", row.style);
  item.append(makeNumber(row), row.name);
  return item;
}

const at = (id) => document.getElementById(id);
at("about").textContent = data.about;
at("notes").append(...data.notes.map((text) => element("p", "", text)));
at("cut").textContent = data.cut || "";
at("cut").hidden = !data.cut;
startTexts();
startTable(data.table, at("headings"), at("rows"));
if (data.apart) {
  startTable(data.apart, at("apart-headings"), at("apart-rows"));
  at("apart").hidden = false;
}
at("failures").append(...data.failures.map((text) => element("li", "failed", text)));
at("failures").hidden = !data.failures.length;
for (const [name, meaning] of data.meanings) at("meanings").append(element("dt", "", name), element("dd", "", meaning));
at("key").append(...data.rows.map(makeKey));
at("plots").append(...data.plots.map(makeFigure));
