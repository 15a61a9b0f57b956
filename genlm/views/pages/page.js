
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// One note for the whole page, beside the pointer and never outside the window.
const note = element("div", "note");
note.id = "note";
note.hidden = true;
document.body.append(note);

function showNote(text, x, y) {
  note.textContent = text;
  (document.querySelector("dialog[open]") || document.body).append(note);
  note.hidden = false;
  const left = Math.min(x + 14, window.innerWidth - note.offsetWidth - 8);
  const top = y + 18 + note.offsetHeight > window.innerHeight ? y - note.offsetHeight - 10 : y + 18;
  note.style.left = Math.max(8, left) + "px";
  note.style.top = Math.max(8, top) + "px";
}

function hideNote() { note.hidden = true; }
