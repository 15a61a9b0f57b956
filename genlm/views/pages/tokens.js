
function percent(part) { return `${(100 * part).toPrecision(3)} %`; }

function describe(token) {
  const likely = token.alternatives.map(([id, label, probability]) =>
    `${id === token.id ? "\u25cf" : "\u25cb"} ${percent(probability)}  ${label}`);
  return `${token.label}\nid ${token.id}, rank ${token.rank.toLocaleString("en")}\n` +
    `probability ${percent(token.probability)} (${token.logprob.toFixed(3)} nats)\n` +
    `entropy ${token.entropy.toFixed(3)} nats\n` +
    `candidates ${token.candidates.toLocaleString("en")}, which held ${percent(token.mass)}\n\n` + likely.join("\n");
}

function bucketOf(token) { return data.bounds.filter((bound) => token.probability < bound).length; }

function makeToken(token, place) {
  const span = element("span", `token b${bucketOf(token)}`, token.text);
  span.classList.toggle("beyond", !token.within);
  span.classList.toggle("break", /^\n+$/.test(token.text));
  span.tabIndex = place ? -1 : 0;
  const atPointer = (event) => showNote(describe(token), event.clientX, event.clientY);
  span.addEventListener("pointermove", atPointer);
  span.addEventListener("pointerdown", atPointer);
  span.addEventListener("pointerleave", hideNote);
  span.addEventListener("focus", () => {
    const box = span.getBoundingClientRect();
    showNote(describe(token), box.left, box.bottom - 12);
  });
  span.addEventListener("blur", hideNote);
  return span;
}

function turn(event) {
  const steps = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" };
  const next = event.key in steps ? event.target[steps[event.key]] : null;
  if (next) {
    event.preventDefault();
    next.focus();
  }
  if (event.key === "Escape") hideNote();
}

function makeWords(tokens) {
  const words = element("div", "words");
  words.dir = "auto";
  words.append(...tokens.map(makeToken));
  words.addEventListener("keydown", turn);
  return words;
}

document.getElementById("legend").append(...data.buckets.map((name, at) => element("li", `b${at}`, name)));
document.addEventListener("wheel", hideNote, { passive: true });
