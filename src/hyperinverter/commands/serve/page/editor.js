// The editor's page: it asks the server on this machine for pictures and keeps the state of the sliders.
import { entryOf } from "./gallery.js";

const $ = (id) => document.getElementById(id);
const state = { about: null, open: null, leave: new AbortController(), searching: null, name: "", photo: null, moves: { powers: {}, strength: {} }, past: [], future: [], shown: [], urls: new Map() };

const say = (text) => { $("message").textContent = text || ""; $("message").hidden = !text; };

async function ask(path, options = {}) {
  let answer;
  try { answer = await fetch(path, options); } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is `hyperinverter serve` still running?");
  }
  if (answer.ok) return answer;
  let text = `the server answered ${answer.status}`;
  try { text = (await answer.json()).error || text; } catch { /* no sentence came with it */ }
  throw new Error(text);
}
const post = (path, said, signal) => ask(path, { method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) });
const attempt = (work) => async (...given) => { say(""); try { return await work(...given); } catch (error) { if (error.name !== "AbortError") say(error.message); } };

function show(part) {
  for (const id of ["start", "faces", "camera-box", "work", "gallery"]) $(id).hidden = id !== part;
}

// Photos ----------------------------------------------------------------------------------------------------------

const upload = attempt(async (file) => {
  if (!file) return;
  if (file.name.endsWith(".safetensors")) return loadInversion(file);
  const said = await (await ask(`/api/photo?name=${encodeURIComponent(file.name || "photo")}`, { method: "POST", body: file })).json();
  leavePhoto();
  state.photo = said;
  if (said.faces.length === 1) return openPhoto({ photo: said.photo, face: 0 });
  $("faces-title").textContent = said.faces.length ? "Which face?" : "No face was found in this photo. Use its centre, or try another photo.";
  $("preview").src = `/api/preview/${said.photo}`;
  $("canvas").querySelectorAll(".face").forEach((box) => box.remove());
  said.faces.forEach((box, index) => {
    const button = document.createElement("button");
    button.type = "button"; button.className = "face"; button.setAttribute("aria-label", `Face ${index + 1}`);
    const [left, top, right, bottom] = box;
    const place = { left: left / said.width, top: top / said.height, width: (right - left) / said.width, height: (bottom - top) / said.height };
    for (const [side, part] of Object.entries(place)) button.style[side] = `${100 * part}%`;
    const label = document.createElement("span"); label.textContent = index + 1; button.append(label);
    button.addEventListener("click", () => attempt(openPhoto)({ photo: said.photo, face: index }));
    $("canvas").append(button);
  });
  show("faces");
});

const loadInversion = attempt(async (file) => {
  const said = await (await ask(`/api/load?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file })).json();
  await begin(said, [said.model]);
});

async function openPhoto(which) {
  const said = await (await post("/api/open", which)).json();
  await begin(said, state.about.models.map((_, index) => index));
}

// The server forgets photos that this page does not show any more.
const forget = (said) => navigator.sendBeacon("/api/leave", new Blob([JSON.stringify(said)], { type: "application/json" }));

// What is under way for the opened photo ends: nobody waits for it.
function leave() {
  state.leave.abort(); state.leave = new AbortController();
  if (state.open) forget({ open: [state.open] });
  state.open = null;
}
function leavePhoto() { leave(); if (state.photo) forget({ photos: [state.photo.photo] }); state.photo = null; }

async function begin(said, models) {
  leave();
  state.open = said.open; state.name = said.name; state.past = []; state.future = [];
  state.moves = { powers: {}, strength: {} };
  showMoves(); buildTiles(models); show("work");
  const open = said.open, { signal } = state.leave, slow = (model) => Number(state.about.models[model].slow);
  await setPicture("photo", `/api/picture/${open}/${models[0]}/photo`);
  for (const model of [...models].sort((a, b) => slow(a) - slow(b) || a - b)) {
    try {
      const { numbers } = await watched(open, model, () => post("/api/invert", { open, model }, signal).then((a) => a.json()));
      if (state.open !== open) return;
      if (model === models[0]) {
        await setPicture("w", `/api/picture/${open}/${model}/w_image`);
        caption("w", { l2: numbers.first_l2, perceptual: numbers.first_perceptual, identity: numbers.first_identity });
      }
      await setPicture(`inversion-${model}`, `/api/picture/${open}/${model}/inversion`);
      caption(`inversion-${model}`, numbers);
      state.shown = [...state.shown, model].sort((a, b) => a - b);
      showOf();
      draw();
    } catch (error) {
      if (error.name === "AbortError" || state.open !== open) return;
      say(error.message);
      for (const id of [`inversion-${model}`, `edit-${model}`, ...(model === models[0] ? ["w"] : [])]) {
        document.querySelector(`#tile-${id} .frame`).classList.remove("busy");
        document.querySelector(`#tile-${id} figcaption span`).textContent = error.message;
      }
    }
  }
}

// Whose edit is taken away, where there are several.
function showOf() {
  const before = $("of").value;
  $("of").replaceChildren(...state.shown.map((model) => new Option(state.about.models[model].name, model)));
  if (state.shown.includes(Number(before)) && before) $("of").value = before;
  $("of-box").hidden = state.shown.length < 2;
}

async function watched(open, model, work) {
  if (!state.about.models[model].slow) return work();
  state.searching = { open, model };
  $("bar").value = 0; $("progress-text").textContent = ""; $("progress").hidden = false;
  const timer = setInterval(async () => {
    try {
      const { step, steps, waiting } = await (await ask(`/api/progress?open=${open}&model=${model}`)).json();
      $("bar").value = steps ? step / steps : 0;
      $("progress-text").textContent = `${state.about.models[model].name}: ${steps ? `step ${step} of ${steps}` : waiting ? `${waiting} before you` : "begins"}`;
    } catch { /* the next answer of the search says what is wrong */ }
  }, 300);
  try { return await work(); } finally {
    clearInterval(timer);
    if (state.searching?.open === open && state.searching.model === model) { state.searching = null; $("progress").hidden = true; }
  }
}

// Pictures --------------------------------------------------------------------------------------------------------

function buildTiles(models) {
  state.shown = [];
  $("tiles").replaceChildren(); $("work").dataset.models = models.length; showOf();
  for (const url of state.urls.values()) URL.revokeObjectURL(url);
  state.urls.clear();
  const several = models.length > 1;
  const tile = (id, title) => {
    const figure = document.createElement("figure"); figure.id = `tile-${id}`; figure.className = id.split("-")[0];
    const frame = document.createElement("div"); frame.className = "frame busy";
    const image = document.createElement("img"); image.alt = title; frame.append(image);
    const text = document.createElement("figcaption"); const head = document.createElement("b"); head.textContent = title;
    const more = document.createElement("span"); more.className = "quiet"; text.append(head, more);
    figure.append(frame, text); $("tiles").append(figure);
  };
  const named = (model) => (several ? ` (${state.about.models[model].name})` : "");
  tile("photo", "Photo"); tile("w", `Phase I${named(models[0])}`);
  for (const model of models) {
    const name = named(model);
    tile(`inversion-${model}`, `Inversion${name}`); tile(`edit-${model}`, `Edit${name}`);
  }
  $("tiles").querySelectorAll(".frame").forEach((frame) => {
    frame.addEventListener("pointermove", (event) => zoomAt(event, frame));
    frame.addEventListener("pointerleave", () => zoomAt(null));
  });
}

function zoomAt(event, frame) {
  const box = event && frame.getBoundingClientRect();
  const on = event && $("zoom").checked;
  for (const part of document.querySelectorAll(".frame img, .frame canvas")) {
    part.style.transformOrigin = on ? `${(100 * (event.clientX - box.left)) / box.width}% ${(100 * (event.clientY - box.top)) / box.height}%` : "";
    part.style.transform = on ? "scale(3)" : "";
  }
}

const imageOf = (id) => document.querySelector(`#tile-${id} img:not(.under)`);

async function setPicture(id, source) {
  const blob = source instanceof Blob ? source : await (await ask(source)).blob();
  const image = imageOf(id);
  if (!image) return;
  const url = URL.createObjectURL(blob);
  const old = state.urls.get(id);
  image.src = url; state.urls.set(id, url);
  await image.decode().catch(() => {});
  if (old) URL.revokeObjectURL(old);
  image.parentElement.classList.remove("busy");
  look();
}

function caption(id, numbers) {
  const place = document.querySelector(`#tile-${id} figcaption span`);
  if (!place || numbers.l2 === undefined) return;
  const time = numbers.ms === undefined ? "" : numbers.ms < 1000 ? `, ${numbers.ms.toFixed(0)} ms` : `, ${(numbers.ms / 1000).toFixed(1)} s`;
  place.textContent = `L2 ${numbers.l2.toFixed(4)}, perceptual ${numbers.perceptual.toFixed(3)}, identity ${numbers.identity.toFixed(2)}${time}`;
}

// One request at a time and model; while it is away only the last position of the sliders is kept.
const busy = new Map();
function draw() { for (const model of state.shown) drawOne(model); }
async function drawOne(model) {
  if (busy.has(model)) { busy.set(model, true); return; }
  busy.set(model, false);
  const open = state.open, began = performance.now();
  try {
    const blob = await (await post("/api/edit", { open, model, moves: state.moves }, state.leave.signal)).blob();
    if (state.open === open) {
      await setPicture(`edit-${model}`, blob);
      const place = document.querySelector(`#tile-edit-${model} figcaption span`);
      if (place) place.textContent = `${Math.round(performance.now() - began)} ms`;
      document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
      if (model === chosen()) command();
    }
  } catch (error) { if (error.name !== "AbortError") say(error.message); }
  const again = busy.get(model);
  busy.delete(model);
  if (again) drawOne(model);
}

const chosen = () => Number($("of").value || state.shown[0]);
let asked = 0;
async function command() {
  const mine = ++asked;
  try {
    const { command: text } = await (await post("/api/command", { open: state.open, model: chosen(), moves: state.moves })).json();
    if (mine === asked) $("command").textContent = text;
  } catch (error) { say(error.message); }
}

function look() {
  document.querySelectorAll(".frame canvas, .frame img.under").forEach((part) => part.remove());
  const photo = imageOf("photo");
  if (!photo || !photo.naturalWidth) return;
  for (const model of state.shown) {
    const inversion = imageOf(`inversion-${model}`), edit = imageOf(`edit-${model}`);
    if ($("error-map").checked && inversion?.naturalWidth) inversion.parentElement.append(errorMap(photo, inversion));
    const wipe = Number($("wipe").value);
    if (edit) edit.style.clipPath = wipe ? `inset(0 0 0 ${wipe}%)` : "";
    if (wipe && edit) {
      const under = document.createElement("img"); under.className = "under"; under.src = photo.src; under.alt = "";
      edit.before(under);
    }
  }
}

function errorMap(a, b) {
  const side = a.naturalWidth, canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", "Error of the inversion: brighter is larger");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(a, 0, 0, side, side); const one = pen.getImageData(0, 0, side, side);
  pen.drawImage(b, 0, 0, side, side); const two = pen.getImageData(0, 0, side, side);
  for (let i = 0; i < one.data.length; i += 4) {
    const far = (Math.abs(one.data[i] - two.data[i]) + Math.abs(one.data[i + 1] - two.data[i + 1]) + Math.abs(one.data[i + 2] - two.data[i + 2])) / 3;
    const heat = Math.min(1, far / 80);
    two.data[i] = 255 * Math.min(1, 2 * heat); two.data[i + 1] = 255 * Math.max(0, 2 * heat - 1); two.data[i + 2] = 60 * (1 - heat);
  }
  pen.putImageData(two, 0, 0);
  return canvas;
}

// Sliders ---------------------------------------------------------------------------------------------------------

function buildSliders() {
  const groups = new Map();
  for (const direction of state.about.directions) {
    if (!groups.has(direction.group)) groups.set(direction.group, []);
    groups.get(direction.group).push({ kind: "powers", key: direction.name, zero: 0, low: -3, high: 3, step: 0.05, safe: [direction.low, direction.high], about: direction.about });
  }
  groups.set("strength of the residuals", state.about.strengths.map((key) => ({ kind: "strength", key, zero: 1, low: 0, high: 1.5, step: 0.05, safe: [0, 1.2], about: key === "all" ? "0 draws phase I, 1 the inversion" : "" })));
  for (const [title, sliders] of groups) {
    const box = document.createElement("fieldset"), head = document.createElement("legend");
    head.textContent = title; box.append(head);
    for (const slider of sliders) box.append(sliderOf(slider));
    $("groups").append(box);
  }
}

function sliderOf({ kind, key, zero, low, high, step, safe, about }) {
  const row = document.createElement("div"); row.className = "slider"; row.dataset.name = `${key} ${about}`.toLowerCase();
  const id = `${kind}-${key}`, label = document.createElement("label"), out = document.createElement("output"), back = document.createElement("button"), range = document.createElement("input");
  label.htmlFor = id; label.textContent = key.replaceAll("_", " "); out.htmlFor = id;
  back.type = "button"; back.textContent = "reset"; back.setAttribute("aria-label", `Reset ${label.textContent}`);
  Object.assign(range, { type: "range", id, min: low, max: high, step, value: zero });
  Object.assign(range.dataset, { kind, key, zero, low: safe[0], high: safe[1] });
  const set = (value, done) => {
    if (!range.movesBefore) range.movesBefore = JSON.stringify(state.moves);
    if (value === zero) delete state.moves[kind][key]; else state.moves[kind][key] = value;
    showOne(range); draw();
    if (done) { remember(range.movesBefore); range.movesBefore = null; }
  };
  range.addEventListener("input", () => set(Number(range.value), false));
  range.addEventListener("change", () => set(Number(range.value), true));
  range.addEventListener("dblclick", () => set(zero, true));
  range.addEventListener("keydown", (event) => { if (event.key === "Home") { event.preventDefault(); set(zero, true); } });
  back.addEventListener("click", () => set(zero, true));
  row.append(label, out, back, range);
  if (about) { const note = document.createElement("span"); note.className = "quiet"; note.textContent = about; row.append(note); }
  showOne(range, out);
  return row;
}

function showOne(range, out = range.parentElement.querySelector("output")) {
  const { kind, key, zero, low, high } = range.dataset;
  const value = state.moves[kind][key] ?? Number(zero);
  range.value = value;
  const far = value < Number(low) || value > Number(high);
  out.textContent = kind === "powers" && value > 0 ? `+${value.toFixed(2)}` : value.toFixed(2);
  out.classList.toggle("far", far);
  out.title = far ? "beyond the range in which faces hold together" : "";
}

const showMoves = () => { document.querySelectorAll(".slider input").forEach((range) => showOne(range)); $("undo").disabled = !state.past.length; $("redo").disabled = !state.future.length; };

function remember(before) {
  if (before === JSON.stringify(state.moves)) return;
  state.past.push(before); state.future = [];
  showMoves();
}
function go(from, to) {
  if (!from.length) return;
  to.push(JSON.stringify(state.moves)); state.moves = JSON.parse(from.pop());
  showMoves(); draw();
}

// Results -----------------------------------------------------------------------------------------------------------

const take = attempt(async (kind) => {
  const answer = await post("/api/take", { open: state.open, model: chosen(), moves: state.moves, kind });
  const name = /filename\*?=(?:utf-8'')?"?([^";]+)/i.exec(answer.headers.get("content-disposition") || "")?.[1] || "result";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob()); link.download = decodeURIComponent(name);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

const gallery = attempt(async () => {
  const found = await (await ask("/api/gallery")).json();
  $("listed").replaceChildren(...found.map((entry, index) => entryOf(entry, index, { ask, attempt, open: attempt(openPhoto) })));
  show("gallery");
});

// Start ---------------------------------------------------------------------------------------------------------------

let stream = null;
const cameraOff = () => { stream?.getTracks().forEach((track) => track.stop()); stream = null; };
const restart = () => { cameraOff(); leavePhoto(); show("start"); say(""); };

$("choose").addEventListener("click", () => $("file").click());
$("choose-file").addEventListener("click", () => $("inversion-file").click());
for (const id of ["file", "inversion-file"]) $(id).addEventListener("change", (event) => { upload(event.target.files[0]); event.target.value = ""; });
for (const id of ["back", "again", "camera-off"]) $(id).addEventListener("click", restart);
$("use-centre").addEventListener("click", () => attempt(openPhoto)({ photo: state.photo.photo, face: null }));
$("camera").addEventListener("click", attempt(async () => {
  try { stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } }); } catch { throw new Error("the camera cannot be used: allow it for this page, or choose a photo"); }
  $("video").srcObject = stream; show("camera-box");
}));
$("shoot").addEventListener("click", () => {
  const video = $("video"), canvas = document.createElement("canvas");
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  cameraOff();
  canvas.toBlob((blob) => upload(new File([blob], "camera.png")), "image/png");
});
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); $("drop").classList.remove("over"); upload(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => upload([...event.clipboardData.files][0]));
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || $("work").hidden || event.target.type === "search") return;
  const key = event.key.toLowerCase();
  if (key === "z") { event.preventDefault(); event.shiftKey ? go(state.future, state.past) : go(state.past, state.future); }
  if (key === "y") { event.preventDefault(); go(state.future, state.past); }
});
$("undo").addEventListener("click", () => go(state.past, state.future));
$("redo").addEventListener("click", () => go(state.future, state.past));
$("reset").addEventListener("click", () => { const before = JSON.stringify(state.moves); state.moves = { powers: {}, strength: {} }; remember(before); showMoves(); draw(); });
$("search").addEventListener("input", () => {
  const wanted = $("search").value.trim().toLowerCase();
  document.querySelectorAll(".slider").forEach((row) => { row.hidden = !row.dataset.name.replaceAll("_", " ").includes(wanted); });
  document.querySelectorAll("fieldset").forEach((box) => { box.hidden = !box.querySelector(".slider:not([hidden])"); });
  $("none").hidden = Boolean(document.querySelector("fieldset:not([hidden])"));
});
for (const id of ["error-map", "wipe"]) $(id).addEventListener("input", look);
for (const button of document.querySelectorAll("[data-take]")) button.addEventListener("click", () => take(button.dataset.take));
$("copy").addEventListener("click", attempt(async () => { try { await navigator.clipboard.writeText($("command").textContent); } catch { throw new Error("the browser does not allow copying here: select the command below and copy it"); } }));
$("stop").addEventListener("click", attempt(() => state.searching && post("/api/cancel", state.searching)));
window.addEventListener("pagehide", leavePhoto);
$("of").addEventListener("change", command);
$("to-gallery").addEventListener("click", gallery);
$("gallery-back").addEventListener("click", () => show(state.open ? "work" : "start"));

attempt(async () => {
  state.about = await (await ask("/api/about")).json();
  $("models").textContent = state.about.models.map((model) => model.name).join(" · ");
  $("to-gallery").hidden = !state.about.gallery;
  buildSliders();
  for (let index = 0; index < state.about.examples; index++) {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button"; button.setAttribute("aria-label", `Example ${index + 1}`); image.src = `/api/example/${index}`; image.alt = "";
    button.append(image); button.addEventListener("click", () => attempt(openPhoto)({ example: index }));
    $("examples").append(button);
  }
  $("examples-box").hidden = !state.about.examples;
})();
