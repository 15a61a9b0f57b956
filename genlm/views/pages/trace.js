
function makeSample(sample) {
  const box = element("div", "sample");
  box.append(element("div", "head", sample.head), makeWords(sample.tokens));
  return box;
}

document.getElementById("about").textContent = data.about;
document.getElementById("prompt").textContent = data.prompt;
document.getElementById("samples").append(...data.samples.map(makeSample));
if (data.cut) {
  document.getElementById("cut").textContent = data.cut;
  document.getElementById("cut").hidden = false;
}
