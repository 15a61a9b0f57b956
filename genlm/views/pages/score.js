
function startTotal() {
  document.getElementById("about").textContent = data.about;
  const total = document.getElementById("total");
  for (const [name, value] of data.total) {
    const box = element("div");
    box.append(element("dt", "", name), element("dd", "", value));
    total.append(box);
  }
}

function startHistogram() {
  const all = data.ranks.reduce((sum, [, count]) => sum + count, 0);
  const histogram = document.getElementById("histogram");
  data.ranks.forEach(([name, count], bucket) => {
    const part = all ? count / all : 0;
    const fill = element("span", `fill b${bucket}`);
    fill.style.width = 100 * part + "%";
    fill.hidden = count === 0;
    const track = element("span", "track");
    track.append(fill);
    const row = element("div", "row");
    row.append(element("span", "", name), track,
      element("span", "count", `${count.toLocaleString("en")}  (${(100 * part).toFixed(1)} %)`));
    histogram.append(row);
  });
}

function describe([, label, id, logprob, rank, entropy]) {
  if (logprob === null) return `${label}\nid ${id}\nnot scored: nothing stands before it`;
  return `${label}\nid ${id}\nrank ${rank.toLocaleString("en")}\n` +
    `probability ${(100 * Math.exp(logprob)).toPrecision(3)} %\n` +
    `log-probability ${logprob.toFixed(3)} nats\nentropy ${entropy.toFixed(3)} nats`;
}

function makeToken(token) {
  const bucket = token[4] === null ? "none" : "b" + data.bounds.filter((bound) => token[4] > bound).length;
  const span = element("span", `token ${bucket}`, token[0]);
  span.tabIndex = -1;
  const show = (event) => showNote(describe(token), event.clientX, event.clientY);
  span.addEventListener("pointermove", show);
  span.addEventListener("pointerdown", show);
  span.addEventListener("pointerleave", hideNote);
  return span;
}

function makeText(item) {
  const box = element("div", "text");
  box.append(element("div", "place", item.place));
  const words = element("div", "words");
  words.append(...item.tokens.map(makeToken));
  box.append(words);
  return box;
}

startTotal();
startHistogram();
document.getElementById("texts").append(...data.items.map(makeText));
if (data.cut) {
  document.getElementById("cut").textContent = data.cut;
  document.getElementById("cut").hidden = false;
}
document.addEventListener("scroll", hideNote, { passive: true });
