
const size = data.tokens.length;
const perHead = size * (size + 1) / 2;
const weights = decodeWeights(data.weights);
const RAMP = [[20, 20, 40], [50, 40, 110], [110, 45, 130], [180, 60, 110], [235, 110, 80], [252, 190, 100], [252, 240, 190]];

// Two bytes a weight, low byte first, in steps of 1 / 65535: the lower triangle of each head, row by row.
function decodeWeights(text) {
  const raw = atob(text);
  const made = new Float32Array(raw.length / 2);
  for (let at = 0; at < made.length; at++) {
    made[at] = (raw.charCodeAt(2 * at) + 256 * raw.charCodeAt(2 * at + 1)) / 65535;
  }
  return made;
}

function weight(head, row, column) {
  return column > row ? null : weights[head * perHead + row * (row + 1) / 2 + column];
}

// The square root lets small weights be told apart.
function colour(value) {
  const at = Math.sqrt(Math.min(1, Math.max(0, value))) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((part, n) => Math.round(part + (RAMP[low + 1][n] - part) * (at - low)));
}

function picture(head) {
  const made = new ImageData(size, size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column <= row; column++) {
      made.data.set([...colour(weight(head, row, column)), 255], 4 * (row * size + column));
    }
  }
  return made;
}

function nameOf(head) { return `layer ${data.heads[head][0]}, head ${data.heads[head][1]}`; }

function describe(head, row, column) {
  const value = weight(head, row, column);
  if (value === null) return `${data.tokens[row]} cannot see ${data.tokens[column]}, which comes later`;
  return `${data.tokens[row]} \u2192 ${data.tokens[column]}  ${value.toFixed(4)}`;
}

// Which row and column of a square at (x, y), `side` long, a pointer is over.
function cellAt(event, box, left, top, side) {
  const column = Math.floor((event.clientX - box.left - left) / side * size);
  const row = Math.floor((event.clientY - box.top - top) / side * size);
  return row >= 0 && column >= 0 && row < size && column < size ? [row, column] : null;
}

function makeThumbnail(head) {
  const button = element("button", "head");
  button.type = "button";
  button.setAttribute("aria-label", nameOf(head));
  const canvas = element("canvas");
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(picture(head), 0, 0);
  button.append(canvas, element("span", "", `head ${data.heads[head][1]}`));
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const cell = cellAt(event, box, 0, 0, box.width);
    if (cell) showNote(`${nameOf(head)}\n${describe(head, ...cell)}`, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", hideNote);
  button.addEventListener("click", () => enlarge(head));
  return button;
}

const large = document.getElementById("large");
const map = document.getElementById("map");
const value = document.getElementById("value");
let shown = 0;
let pinned = null;

function enlarge(head) {
  hideNote();
  shown = head;
  pinned = null;
  value.textContent = "";
  document.getElementById("large-title").textContent = nameOf(head);
  if (!large.open) large.showModal();
  draw();
}

// Where the square lies in the large canvas, in CSS pixels; the labels of the rows stand to its left.
function layout() {
  const width = map.parentElement.clientWidth;
  const context = map.getContext("2d");
  context.font = labelFont(12);
  const longest = Math.max(...data.tokens.map((token) => context.measureText(token).width));
  const left = Math.ceil(Math.min(longest, width * 0.3)) + 10;
  const side = Math.max(80, Math.min(width - left - 2, window.innerHeight * 0.72));
  return { width, left, side };
}

function labelFont(pixels) { return `${pixels}px ui-monospace, "DejaVu Sans Mono", monospace`; }

function draw() {
  const { width, left, side } = layout();
  const ratio = window.devicePixelRatio || 1;
  map.width = Math.round(width * ratio);
  map.height = Math.round((side + 2) * ratio);
  map.style.height = side + 2 + "px";
  const context = map.getContext("2d");
  context.scale(ratio, ratio);
  context.imageSmoothingEnabled = false;
  const small = element("canvas");
  small.width = small.height = size;
  small.getContext("2d").putImageData(picture(shown), 0, 0);
  context.drawImage(small, left, 1, side, side);
  drawLabels(context, left, side);
  if (pinned) outline(context, left, side, pinned);
}

function drawLabels(context, left, side) {
  const cell = side / size;
  const every = Math.max(1, Math.ceil(11 / cell));
  const style = getComputedStyle(document.body);
  context.font = labelFont(Math.min(13, Math.max(9, cell - 1)));
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (let row = 0; row < size; row += every) {
    context.fillStyle = pinned && pinned[0] === row ? style.getPropertyValue("--accent") : style.getPropertyValue("--ink");
    context.fillText(data.tokens[row], left - 6, 1 + (row + 0.5) * cell, left - 8);
  }
}

function outline(context, left, side, [row, column]) {
  const cell = side / size;
  [["#000", 4], ["#fff", 2]].forEach(([ink, width]) => {
    context.strokeStyle = ink;
    context.lineWidth = width;
    context.strokeRect(left + column * cell, 1 + row * cell, cell, cell);
  });
}

function point(event) {
  const { left, side } = layout();
  const cell = cellAt(event, map.getBoundingClientRect(), left, 1, side);
  if (!cell) return;
  pinned = cell;
  value.textContent = describe(shown, ...cell);
  draw();
}

function turn(by) { enlarge((shown + by + data.heads.length) % data.heads.length); }

map.addEventListener("pointermove", point);
map.addEventListener("pointerdown", point);
document.getElementById("close").addEventListener("click", () => large.close());
document.getElementById("back").addEventListener("click", () => turn(-1));
document.getElementById("on").addEventListener("click", () => turn(1));
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});
function redraw() { if (large.open) draw(); }
window.addEventListener("resize", redraw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function drawScale() {
  const canvas = document.getElementById("scale");
  const made = new ImageData(256, 1);
  for (let at = 0; at < 256; at++) made.data.set([...colour(at / 255), 255], 4 * at);
  canvas.getContext("2d").putImageData(made, 0, 0);
}

function start() {
  document.getElementById("about").textContent = data.about;
  document.getElementById("prompt").textContent = data.prompt;
  if (data.check) {
    document.getElementById("check").textContent = data.check;
    document.getElementById("check").hidden = false;
  }
  drawScale();
  const layers = document.getElementById("layers");
  let grid = null;
  data.heads.forEach(([layer], head) => {
    if (head === 0 || data.heads[head - 1][0] !== layer) {
      grid = element("div", "heads");
      grid.style.setProperty("--count", data.heads.filter((other) => other[0] === layer).length);
      layers.append(element("h2", "", `Layer ${layer}`), grid);
    }
    grid.append(makeThumbnail(head));
  });
}

start();
