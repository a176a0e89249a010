// The page: a picture, a slider for each edit, the divider. The networks run in worker.js.
import { drawCropped, drawValues, opened, toValues } from "./picture.js";

const element = (id) => document.getElementById(id);
const [before, after, status, error] = ["before", "after", "status", "error"].map(element);
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map(); // id of a message → what goes on when it is answered
let sent = 0;
let picture = 0; // counts the pictures chosen; what belongs to an earlier one is not shown
let encoded = false;
let busy = false;
let moved = false; // a slider, while the last edit was computed

function ask(kind, content = {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++sent, { resolve, reject });
    worker.postMessage({ id: sent, kind, ...content });
  });
}

worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.backend) showBackend(data);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
};
worker.onerror = (event) => fail(`The networks cannot be started: ${event.message ?? "worker.js is missing"}`);

function tell(text) {
  status.textContent = text;
}

function fail(text) {
  error.textContent = text;
  error.hidden = false;
}

async function start() {
  const about = await (await fetch("edit.json")).json();
  element("title").textContent = document.title = about.title;
  element("license").textContent = about.license;
  if (about.hint) element("hint").textContent += ` ${about.hint}`;
  [before.width, before.height] = about.input_size;
  [after.width, after.height] = about.image_size;
  element("pictures").style.aspectRatio = `${after.width} / ${after.height}`;
  about.edits.forEach(addSlider);
  about.samples.forEach(addSample);

  tell("Loading the networks …");
  const asked = new URLSearchParams(location.search).get("backend");
  const loaded = await ask("load", { asked: asked === "wasm" || asked === "webgpu" ? asked : null });
  if (loaded.blocked) {
    tell("");
    fail("WebAssembly is blocked in this browser, by its settings or by a policy of this site, and the " +
      "networks cannot run without it. Allow it, or use another browser.");
    return;
  }
  element("file").onchange = ({ target }) => target.files[0] && choose(target.files[0]);
  if (about.samples.length) await choose(about.samples[0]);
  else tell("Choose a picture.");
}

function showBackend({ backend, why }) {
  document.body.dataset.backend = backend;
  element("backend").textContent = backend === "webgpu"
    ? "Runs on the graphics card of this device (WebGPU)."
    : `Runs on the processor of this device (WebAssembly)${why ? `, ${why}` : ""}.`;
}

function addSlider({ prompt, initial }, index) {
  const row = document.createElement("div");
  row.className = "slider";
  const [label, output, reset, slider] =
    ["label", "output", "button", "input"].map((name) => document.createElement(name));
  Object.assign(slider, { type: "range", id: `strength-${index}`, min: -1.5, max: 2, step: 0.05 });
  label.textContent = prompt;
  label.htmlFor = slider.id;
  output.htmlFor = slider.id;
  reset.textContent = "Reset";
  reset.setAttribute("aria-label", `Reset: ${prompt}`);
  const show = () => {
    output.value = slider.valueAsNumber.toFixed(2);
    slider.setAttribute("aria-valuetext", `strength ${output.value}`);
  };
  const set = () => {
    slider.value = initial;
    show();
    edit();
  };
  slider.oninput = () => {
    show();
    edit();
  };
  reset.onclick = slider.ondblclick = set;
  row.append(label, output, reset, slider);
  element("sliders").append(row);
  set();
}

function addSample(address, index) {
  const [button, image] = ["button", "img"].map((name) => document.createElement(name));
  Object.assign(image, { src: address, alt: `Sample ${index + 1}` });
  button.append(image);
  button.onclick = () => choose(address);
  element("samples").append(button);
}

async function choose(source) {
  const mine = ++picture;
  error.hidden = true;
  try {
    const image = await opened(source);
    if (mine !== picture) return;
    drawCropped(image, before);
    encoded = false;
    const { values, shape } = toValues(before);
    await ask("encode", { images: values, shape });
  } catch (problem) {
    if (mine === picture) fail(problem.message);
    return;
  }
  if (mine !== picture) return;
  encoded = true;
  element("divider").disabled = element("download").disabled = false;
  edit();
}

// At most one edit is under way; of those asked for meanwhile the last one follows.
async function edit() {
  moved = true;
  if (busy || !encoded) return;
  busy = true;
  while (moved && encoded) {
    moved = false;
    const mine = picture;
    const began = performance.now();
    const sliders = document.querySelectorAll(".slider input");
    const strengths = Float32Array.from(sliders, (slider) => slider.valueAsNumber);
    try {
      const { edited, shape } = await ask("edit", { strengths });
      if (mine !== picture) continue;
      drawValues(edited, shape, after);
      document.body.dataset.shown = strengths.join(" ");
      tell(`Edited in ${Math.round(performance.now() - began)} ms.`);
    } catch (problem) {
      fail(`The edit failed: ${problem.message}`);
    }
  }
  busy = false;
}

element("divider").oninput = ({ target }) =>
  element("pictures").style.setProperty("--divider", `${target.value}%`);

element("download").onclick = () => after.toBlob((blob) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "edited.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file && document.body.dataset.backend) choose(file);
});

start().catch((problem) => {
  tell("");
  fail(`The page cannot be started: ${problem.message}`);
});
