// One photo at a time on the stage; many in a list. Everything shown is set as text, never as HTML.

import { read, rememberKey, send } from "./api.js";
import { offerExport, percent, runBatch, update } from "./batch.js";
import { offerCamera } from "./camera.js";
import { sayWhatItKnows, showCurl } from "./knows.js";
import { drawMap, thumbnail } from "./photo.js";
import { Failure } from "./words.js";

const MOST_RECENT = 24;
const element = (id) => document.getElementById(id);

/** Photos that were answered, newest first: `{file, name, answer, roundTripMs, error, maps}`. */
const recent = [];
/** What is on the stage, and what stops the request for it. */
let current = null;
let stop = null;
/** Index of the class whose map is shown; what to do again once a key was given. */
let chosen = null;
let onceKeyed = null;

function say(text) {
  element("announcer").textContent = text;
}

// --- photos come in ---------------------------------------------------------------------------------------------

function take(files) {
  const list = [...files];
  if (list.length === 1) classify(entryOf(list[0]));
  else if (list.length > 1) classifyAll(list);
}

function classifyAll(files) {
  clear();
  runBatch(files, { onOpen: open, onKey: askForKey, say });
}

function entryOf(file) {
  return { file, name: file.name || "pasted photo" };
}

async function classify(entry) {
  show(entry);
  stop = new AbortController();
  const { signal } = stop;
  const onWait = (seconds) => wait(`The service is busy. Trying again in ${seconds} s.`);
  const onAway = () => wait("The service is away; waiting.");
  try {
    Object.assign(entry, { error: null }, await send("predict?view=groups", entry.file, { signal, onWait, onAway }));
    remember(entry);
  } catch (error) {
    if (signal.aborted) return;
    entry.error = error;
    if (error.status === 401) askForKey(() => classify(entry), error);
  }
  update(entry);
  if (entry === current) render();
}

/** A result that is there already, or why there is none; what was not asked yet is asked now. */
function open(entry) {
  if (entry.answer || entry.error) {
    show(entry);
    render();
    element("stage").scrollIntoView({ block: "nearest" });
  } else {
    classify(entry);
  }
}

function askForKey(again, { message }) {
  onceKeyed = again;
  element("key-label").textContent = message;
  element("key-form").hidden = false;
  element("key").focus();
}

// --- the stage --------------------------------------------------------------------------------------------------

/** Nothing is on the stage: no photo, no answer, no error of an earlier one. */
function clear() {
  stop?.abort();
  current = null;
  chosen = null;
  document.body.classList.remove("fresh");
  URL.revokeObjectURL(element("photo").src);
  element("photo").removeAttribute("src");
  element("map").hidden = true;
  element("frame").classList.remove("mapped");
  for (const id of ["empty", "figure", "unseen", "answer", "error", "waiting", "key-form"]) element(id).hidden = true;
}

function show(entry) {
  clear();
  current = entry;
  element("figure").hidden = false;
  const photo = element("photo");
  photo.hidden = false;
  photo.src = URL.createObjectURL(entry.file);
  photo.alt = entry.name;
  element("caption").textContent = entry.name;
  wait("Looking …");
}

function wait(text) {
  element("waiting").hidden = false;
  element("waiting").textContent = text;
  element("result").ariaBusy = "true";
}

function render() {
  const { answer, error, roundTripMs } = current;
  element("waiting").hidden = true;
  element("result").ariaBusy = "false";
  if (error) return fail(error.message, error.said, () => classify(current));
  const { groups, labels, predictions, unknown, timing_ms: timing } = answer;
  const [group, ...others] = groups;
  element("answer").hidden = false;
  element("unknown").hidden = !unknown;
  element("answer").classList.toggle("unsure", unknown);
  element("answer").classList.toggle("grouped", Boolean(group));
  element("shown").hidden = labels.length < 2;
  element("shown").textContent = `This photo shows ${labels.join(", ")}.`;
  element("group").hidden = !group;
  if (group) {
    element("group").firstElementChild.textContent = group.label;
    element("group").lastElementChild.textContent = percent(group.score);
  }
  element("labels").replaceChildren(...predictions.map(labelRow));
  element("other-groups").hidden = !others.length;
  element("other-groups").textContent = `Less likely: ${others.map((other) => `${other.label}, ${percent(other.score)}`).join("; ")}`;
  element("timing").replaceChildren(
    ...Object.entries({ Queue: timing.queue, Decode: timing.decode, Infer: timing.infer, "Round trip": roundTripMs }).map(timingItem),
  );
  element("photo").alt = `${current.name}: ${nameOf(answer)}`;
  const best = [...(group ? [group] : []), ...predictions];
  say((unknown ? "Unknown. Best guesses: " : labels.length > 1 ? `${element("shown").textContent} ` : "") + best.map((one) => `${one.label}, ${percent(one.score)}`).join("; "));
  element("map-note").textContent = "";
  element("show-map").disabled = false;
  if (element("show-map").checked) showMap(predictions[0]);
}

/** What an answer comes to, in a word or two. */
function nameOf({ groups, labels, predictions, unknown }) {
  if (labels.length > 1) return labels.join(", ");
  return unknown ? "unknown" : (groups[0] ?? predictions[0])?.label;
}

/** Says why there is no answer, with the service's own words folded away, and offers to try `again`. */
function fail(message, said = "", again = null) {
  element("waiting").hidden = true;
  element("answer").hidden = true;
  element("error").hidden = false;
  element("error-text").textContent = message;
  element("error-said").hidden = !said;
  element("error-said").open = false;
  element("error-said").lastElementChild.textContent = said;
  element("retry").hidden = !again;
  element("retry").onclick = again;
}

function labelRow(prediction) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const [name, score, bar] = ["name", "score", "bar"].map((kind) => {
    const part = document.createElement("span");
    part.className = kind;
    return part;
  });
  name.textContent = prediction.label;
  score.textContent = percent(prediction.score);
  bar.style.setProperty("--score", prediction.score);
  button.type = "button";
  button.title = `Show the evidence for ${prediction.label}`;
  button.ariaPressed = "false";
  button.dataset.index = prediction.index;
  button.append(name, " ", score, bar);
  button.addEventListener("click", () => {
    element("show-map").checked = true;
    showMap(prediction);
  });
  item.append(button);
  return item;
}

function timingItem([name, milliseconds]) {
  const item = document.createElement("div");
  const term = document.createElement("dt");
  const value = document.createElement("dd");
  term.textContent = name;
  value.textContent = `${milliseconds.toFixed(1)} ms`;
  item.append(term, value);
  return item;
}

// --- the evidence map -------------------------------------------------------------------------------------------

async function showMap(prediction) {
  const entry = current;
  chosen = prediction.index;
  press();
  element("strength").hidden = false;
  entry.maps ??= new Map();
  if (!entry.maps.has(prediction.index)) {
    element("map-note").textContent = "Working out what speaks for it …";
    // Two classes may have the same label.
    const asked = encodeURIComponent(prediction.id ?? prediction.label);
    entry.maps.set(prediction.index, send(`explain?label=${asked}`, entry.file));
  }
  try {
    const { answer } = await entry.maps.get(prediction.index);
    if (entry !== current || chosen !== prediction.index) return;
    drawMap(element("map"), answer);
    element("map").hidden = false;
    element("frame").classList.add("mapped");
    element("map-note").textContent =
      `Yellow speaks for “${prediction.label}” most, blue against it. The model sees what is inside the line.`;
    say(`Evidence map for ${prediction.label}.`);
  } catch (error) {
    entry.maps.delete(prediction.index);
    if (entry !== current) return;
    hideMap();
    element("map-note").textContent = error instanceof Failure ? error.message : "The map could not be drawn.";
    // A model without maps will not have one for another label either.
    element("show-map").disabled = Boolean(error.problem?.type?.endsWith(":not-explainable"));
  }
}

function hideMap() {
  chosen = null;
  press();
  element("map").hidden = true;
  element("frame").classList.remove("mapped");
  element("strength").hidden = true;
  element("show-map").checked = false;
  element("map-note").textContent = "";
}

function press() {
  for (const button of element("labels").querySelectorAll("button")) {
    button.ariaPressed = String(Number(button.dataset.index) === chosen);
  }
}

// --- recent photos ----------------------------------------------------------------------------------------------

async function remember(entry) {
  recent.unshift(entry);
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.ariaLabel = `${entry.name}: ${nameOf(entry.answer)}`;
  button.title = button.ariaLabel;
  button.addEventListener("click", () => open(entry));
  button.append(await thumbnail(entry.file, 128));
  item.append(button);
  element("history").prepend(item);
  element("recent").hidden = false;
  if (recent.length > MOST_RECENT) {
    recent.pop();
    element("history").lastElementChild.remove();
  }
}

// --- wiring -----------------------------------------------------------------------------------------------------

for (const id of ["files", "shot"]) {
  element(id).addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = "";
  });
}
element("choose").addEventListener("click", () => element("files").click());
document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else fail("That was no file. Save the picture first, then drop the file here.");
});
element("photo").addEventListener("load", ({ target }) => {
  element("frame").style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
});
element("photo").addEventListener("error", () => {
  element("photo").hidden = true;
  element("unseen").hidden = false;
});
element("show-map").addEventListener("change", ({ target }) => {
  if (target.checked && current?.answer?.predictions.length) showMap(current.answer.predictions[0]);
  else hideMap();
});
element("opacity").addEventListener("input", ({ target }) => {
  element("map").style.opacity = target.value / 100;
});
element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey(element("key").value);
  element("key").value = "";
  element("key-form").hidden = true;
  onceKeyed();
  sayWhatItKnows();
});
offerCamera((file) => classify(entryOf(file)), (message) => fail(message));
offerExport();
showCurl();
sayWhatItKnows();

read("health").then(({ model, precision, input_size: size }) => {
  if (model) element("model").textContent = `${model.name} · ${model.version} · ${precision} · ${size.width}\u00a0×\u00a0${size.height}`;
}, () => fail("The service cannot be reached. Check the network, then reload this page."));
