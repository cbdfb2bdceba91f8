// Classes, their photos, a training, and which model is served. Everything shown is set as text, never as HTML.

import { rememberKey, send } from "../api.js";
import { offerCamera } from "../camera.js";
import { Grid } from "./grid.js";
import { make, percent, showResult, when } from "./result.js";
import { blob, get, post, told } from "./service.js";

/** Milliseconds between two looks at what others have done, and at a training. */
const IDLE = 5000;
const BUSY = 1000;
/** Photos that are sent at once, failures that are named, and steps that can be undone. */
const IN_FLIGHT = 3;
const MOST_FAILURES = 8;
const MOST_UNDO = 50;
const element = (id) => document.getElementById(id);

/** What the service said last; which class, or other place, is open; which training. */
let state = null;
let open = null;
let run = null;
/** What undoes what was done, the last at the end: `{what, undo}`. */
const done = [];
let onceKeyed = null;
let timer = null;

function say(text) {
  element("announcer").textContent = text;
}

function fail(error) {
  if (error.status === 401) return askForKey(error);
  element("error").hidden = false;
  element("error-text").textContent = told(error);
}

function askForKey({ message }) {
  onceKeyed = refresh;
  element("key-label").textContent = message;
  element("key-form").hidden = false;
  element("key").focus();
}

/** Does something, says what was wrong with it, and shows how things are then. */
async function act(work) {
  element("error").hidden = true;
  try {
    await work();
  } catch (error) {
    fail(error);
  }
  await refresh();
}

// --- what there is ----------------------------------------------------------------------------------------------

async function refresh() {
  clearTimeout(timer);
  try {
    const before = state;
    state = await get("teach/state");
    await show(before);
  } catch (error) {
    // While a page is only looked at, a service that is away is no news.
    if (error.status || !state) fail(error);
  }
  clearTimeout(timer);
  // Until there is a key, there is nothing to look at.
  if (!element("key-form").hidden) return;
  timer = setTimeout(() => (document.hidden ? watch() : refresh()), state?.training ? BUSY : IDLE);
}

/** Looks again when somebody looks at the page. */
function watch() {
  document.addEventListener("visibilitychange", () => refresh(), { once: true });
}

async function show(before) {
  const { model, classes } = state;
  element("model").textContent = `${model.name} · ${model.version}`;
  if (open?.label !== undefined && !classes.some(({ label }) => label === open.label)) open = null;
  if (!open && classes.length) open = { label: classes[0].label };
  showClasses();
  element("photos-part").hidden = !open;
  const finished = before?.training && !state.training;
  // What a training found odd about photos is shown on them.
  if (open && (before?.revision !== state.revision || open !== shown || finished)) await load();
  showTraining();
  if (finished || !before || before.runs.length !== state.runs.length || before.served !== state.served) {
    await showRun(finished || !run ? state.runs[0]?.number : run.number);
    if (finished) {
      element("result-title").focus();
      element("result-part").scrollIntoView({ block: "start" });
      say(run?.outcome === "done" ? `Trained. ${percent(run.measured.accuracy ?? 0)} right.` : `Not trained. ${run?.reason ?? ""}`);
    }
  }
}

function showClasses() {
  const items = state.classes.map(({ label, photos, refused }) => {
    const few = !refused && photos < state.least_photos;
    return entry(label, `${photos}${few ? ` of ${state.least_photos}` : ""}`, { label }, few);
  });
  if (state.lately) items.push(entry("Came in lately", state.lately, { place: "lately" }));
  if (state.removed) items.push(entry("Removed", state.removed, { place: "removed" }));
  const focused = element("classes").contains(document.activeElement) && document.activeElement.dataset.key;
  element("classes").replaceChildren(...items);
  // What had the focus has been made anew.
  if (focused) [...element("classes").querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
  const targets = state.classes.filter(({ label }) => label !== open?.label);
  const options = targets.map(({ label }, at) => make("option", { value: label }, `${label}`));
  element("to").replaceChildren(make("option", { value: "" }, "Move to …"), ...options);
}

function entry(name, count, place, few = false) {
  const pressed = same(open, place);
  const number = make("span", { className: few ? "count few" : "count" }, String(count));
  const button = make("button", { type: "button", ariaPressed: String(pressed) }, make("span", {}, name), number);
  button.dataset.key = JSON.stringify(place);
  button.addEventListener("click", () => openPlace(place));
  return make("li", {}, button);
}

function same(one, other) {
  return one?.label === other?.label && one?.place === other?.place;
}

async function openPlace(place) {
  open = place;
  await act(async () => {
    showClasses();
    await load();
  });
  element("photos-title").focus({ preventScroll: true });
  element("photos-part").scrollIntoView({ block: "nearest" });
}

// --- photos -----------------------------------------------------------------------------------------------------

const grid = new Grid(element("grid"), describe, showSelected);
/** What the grid shows. */
let shown = null;

function describe({ label, marks, camera, said }, at) {
  const name = label || camera || "photo";
  return [`${name} ${at + 1}`, said, ...marks].filter(Boolean).join(", ");
}

async function load() {
  const wanted = open;
  const query = wanted.label === undefined ? `place=${wanted.place}` : `label=${encodeURIComponent(wanted.label)}`;
  const { photos } = await get(`teach/photos?${query}`);
  if (wanted !== open) return;
  const keep = same(shown, wanted);
  shown = wanted;
  const places = { lately: "Came in lately", removed: "Removed" };
  const count = photos.length === 1 ? "1 photo" : `${photos.length} photos`;
  element("photos-title").textContent = `2. ${places[wanted.place] ?? wanted.label}: ${count}`;
  const isClass = wanted.label !== undefined;
  for (const id of ["class-actions", "ways"]) element(id).hidden = !isClass;
  element("remove").hidden = wanted.place === "removed";
  element("tools").hidden = !photos.length && !done.length;
  element("grid").hidden = !photos.length;
  grid.show(photos, keep);
}

function showSelected() {
  const { size } = grid.selected;
  element("selected").textContent = size ? `${size} selected` : "None selected";
  for (const id of ["none", "remove", "to", "look"]) element(id).disabled = !size;
  element("undo").disabled = !done.length;
  element("undo").title = done.length ? `Undo: ${done.at(-1).what}` : "";
}

/** Remembers how something is undone. */
function remember(what, undo) {
  done.push({ what, undo });
  if (done.length > MOST_UNDO) done.shift();
}

async function undo() {
  const last = done.pop();
  if (!last) return;
  await act(last.undo);
  say(`Undone: ${last.what}.`);
  showSelected();
}

/** Moves photos to a class; null: removes them. */
async function move(ids, to) {
  if (!ids.length) return say("No photo is selected.");
  await act(async () => {
    const { moved } = await post("teach/photos/move", { photos: ids, to });
    grid.selected.clear();
    const count = moved.length === 1 ? "1 photo" : `${moved.length} photos`;
    const what = to === null ? `removed ${count}` : `moved ${count} to ${to}`;
    if (moved.length) remember(what, () => moveBack(moved));
    say(`${what[0].toUpperCase()}${what.slice(1)}.`);
  });
}

async function moveBack(moved) {
  const byClass = new Map();
  for (const { id, before } of moved) byClass.set(before, [...(byClass.get(before) ?? []), id]);
  for (const [before, ids] of byClass) await post("teach/photos/move", { photos: ids, to: before });
}

// --- photos come in ---------------------------------------------------------------------------------------------

let uploads = null;

/** Sends files to the class that is open; more may come while others are on their way. */
async function take(files) {
  if (open?.label === undefined) return;
  const { label } = open;
  const list = [...files].map((file) => ({ file, label }));
  if (uploads) {
    uploads.waiting.push(...list);
    uploads.all += list.length;
    return showUploads();
  }
  uploads = { waiting: list, all: list.length, ended: 0, added: [], known: 0, failed: [], stop: new AbortController() };
  const mine = uploads;
  element("upload-failures").replaceChildren();
  element("uploading").hidden = false;
  showUploads();
  await Promise.all(Array.from({ length: IN_FLIGHT }, () => upload(mine)));
  uploads = null;
  element("uploading").hidden = true;
  if (mine.added.length) remember(`added ${mine.added.length} photos`, () => post("teach/photos/move", { photos: mine.added, to: null }));
  const said = [`${mine.added.length} added`, mine.known && `${mine.known} there already`, mine.failed.length && `${mine.failed.length} failed`];
  say(`${said.filter(Boolean).join(", ")}.`);
  element("taken").textContent = element("announcer").textContent;
  showFailures(mine);
  await refresh();
}

async function upload(mine) {
  while (mine.waiting.length && !mine.stop.signal.aborted) {
    const { file, label } = mine.waiting.shift();
    try {
      const { answer } = await send(`teach/photos?label=${encodeURIComponent(label)}`, file, { signal: mine.stop.signal });
      if (answer.added) mine.added.push(answer.photo.id);
      else mine.known++;
    } catch (error) {
      if (mine.stop.signal.aborted) return;
      if (error.status === 401) askForKey(error);
      mine.failed.push(`${file.name}: ${told(error)}`);
      // The next ones would fare no better.
      if ([401, 403, 404, 507].includes(error.status)) mine.waiting.length = 0;
    }
    mine.ended++;
    showUploads();
  }
}

function showUploads() {
  if (!uploads) return;
  element("upload-progress").max = uploads.all;
  element("upload-progress").value = uploads.ended;
  element("upload-count").textContent = `${uploads.ended} of ${uploads.all}`;
}

function showFailures({ failed }) {
  const lines = failed.slice(0, MOST_FAILURES);
  if (failed.length > lines.length) lines.push(`and ${failed.length - lines.length} more`);
  element("upload-failures").replaceChildren(...lines.map((line) => make("li", {}, line)));
}

// --- training ---------------------------------------------------------------------------------------------------

function showTraining() {
  const { training, classes, least_photos: least, missing, used_bytes: used, most_bytes: most, days } = state;
  const known = classes.filter(({ photos, refused }) => photos && !refused);
  const few = classes.filter(({ photos }) => photos && photos < least);
  const empty = classes.filter(({ photos }) => !photos);
  let hint = `${known.length} classes, ${classes.reduce((sum, { photos }) => sum + photos, 0)} photos. Twenty different ones of each class are a good start.`;
  if (missing) hint = missing;
  else if (known.length < 2) hint = `A model needs two classes with ${least} photos each at least.`;
  else if (few.length) hint = `Each class needs ${least} photos at least; add some to ${few.map(({ label }) => label).join(", ")}.`;
  else if (empty.length) hint += ` Without photos, and so not learned: ${empty.map(({ label }) => label).join(", ")}.`;
  element("ready").textContent = hint;
  element("train").disabled = Boolean(training || missing || known.length < 2 || few.length);
  element("cancel").hidden = !training;
  element("training").hidden = !training;
  if (training) {
    element("train-progress").value = training.share;
    const left = training.left_s === null ? "" : `; about ${duration(training.left_s)} left`;
    element("train-step").textContent = `${training.step}${left}`;
  }
  element("storage").textContent = `${megabytes(used)} of ${megabytes(most)} used. What is removed is kept for ${days} days.`;
}

function duration(seconds) {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

async function showRun(number) {
  element("result-part").hidden = !state.runs.length;
  const options = state.runs.map(({ number: one, outcome, started_at: began, accuracy }) => {
    const worth = outcome === "done" ? (accuracy === null ? "" : percent(accuracy)) : outcome;
    const text = [`${one}: ${when(began)}`, worth, one === state.served && "served"].filter(Boolean).join(", ");
    return make("option", { value: String(one), selected: one === number }, text);
  });
  element("runs").replaceChildren(...options);
  element("which").hidden = state.runs.length < 2;
  run = state.runs.some((one) => one.number === number) ? await get(`teach/trainings/${number}`) : null;
  if (run) showResult(element("worth"), element("result"), run, { isServed: run.number === state.served, onPhoto });
  element("use").hidden = run?.outcome !== "done" || run.number === state.served;
  element("download").hidden = run?.outcome !== "done";
  element("back").hidden = !state.can_go_back;
}

/** Shows one photo among the others of its class. */
async function onPhoto(id, label) {
  const found = state.classes.find((one) => one.label === label) ?? state.classes.find((one) => one.label.replaceAll("_", " ") === label);
  if (found) await openPlace({ label: found.label });
  grid.pick(id);
}

// --- wiring -----------------------------------------------------------------------------------------------------

element("new-class").addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => {
    const { label } = await post("teach/classes", { label: element("new-name").value });
    element("new-name").value = "";
    open = { label };
    say(`Class ${label} made.`);
  });
});
element("rename").addEventListener("click", () => {
  element("naming-name").value = open.label;
  element("naming").showModal();
});
element("naming-cancel").addEventListener("click", () => element("naming").close());
element("naming-form").addEventListener("submit", () => {
  const [label, to] = [open.label, element("naming-name").value];
  act(async () => {
    const { label: now } = await post("teach/classes/rename", { label, to });
    open = { label: now };
    remember(`renamed ${label}`, async () => {
      await post("teach/classes/rename", { label: now, to: label });
      open = { label };
    });
    say(`Renamed to ${now}.`);
  });
});
element("remove-class").addEventListener("click", () => {
  const { label } = open;
  act(async () => {
    const { moved } = await post("teach/classes/remove", { label });
    remember(`removed class ${label}`, async () => {
      await post("teach/classes", { label });
      if (moved.length) await moveBack(moved);
      open = { label };
    });
    say(`Class ${label} removed.`);
  });
});
for (const id of ["files", "shot"]) {
  element(id).addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = "";
  });
}
element("choose").addEventListener("click", () => element("files").click());
element("stop-upload").addEventListener("click", () => uploads?.stop.abort());
const part = element("photos-part");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  part.classList.add("dropping");
});
document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || part.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  part.classList.remove("dropping");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
element("all").addEventListener("click", () => grid.selectAll(true));
element("none").addEventListener("click", () => grid.selectAll(false));
element("to").addEventListener("change", ({ target }) => {
  const to = target.value;
  target.value = "";
  if (to) move(grid.chosen(), to);
});
element("remove").addEventListener("click", () => move(grid.chosen(), null));
element("undo").addEventListener("click", undo);
element("look").addEventListener("click", () => look(grid.photos.find(({ id }) => id === grid.chosen()[0]) ?? grid.photos[grid.active]));
element("grid").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = Number(event.key) - 1;
  if (state.classes[at] && state.classes[at].label !== open.label) move(grid.chosen(), state.classes[at].label);
  else if ((event.key === "Delete" || event.key === "Backspace") && open.place !== "removed") move(grid.chosen(), null);
  else if (event.key === "Enter") look(grid.photos[grid.active]);
  else return;
  event.preventDefault();
});
element("grid").addEventListener("dblclick", () => look(grid.photos[grid.active]));
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !typing) {
    event.preventDefault();
    undo();
  }
});

async function look(photo) {
  if (!photo) return;
  try {
    const address = URL.createObjectURL(await blob(`teach/photos/${photo.id}?size=large`));
    element("large-photo").onload = () => URL.revokeObjectURL(address);
    element("large-photo").src = address;
    element("large-photo").alt = describe(photo, grid.photos.indexOf(photo));
    element("large-said").textContent = [`${(photo.bytes / 1e3).toFixed(0)} kB`, when(photo.since), photo.said, ...photo.marks].filter(Boolean).join("; ");
    element("large").showModal();
  } catch (error) {
    fail(error);
  }
}

element("close-large").addEventListener("click", () => element("large").close());
element("dismiss").addEventListener("click", () => (element("error").hidden = true));
element("train").addEventListener("click", () => act(() => post("teach/train")));
element("cancel").addEventListener("click", () => act(() => post("teach/train/cancel")));
element("runs").addEventListener("change", ({ target }) => act(() => showRun(Number(target.value))));
element("use").addEventListener("click", () =>
  act(async () => {
    const { model } = await post("teach/use", { training: run.number });
    say(`${model.name} ${model.version} is served now.`);
  }),
);
element("back").addEventListener("click", () =>
  act(async () => {
    const { model } = await post("teach/back");
    say(`${model.name} ${model.version} is served again.`);
  }),
);
element("download").addEventListener("click", () =>
  act(async () => {
    const address = URL.createObjectURL(await blob(`teach/trainings/${run.number}/model`));
    make("a", { href: address, download: run.model.file }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }),
);
element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey(element("key").value);
  element("key").value = "";
  element("key-form").hidden = true;
  onceKeyed();
});
offerCamera((file) => take([file]), (message) => fail({ message }), { stay: true });
refresh();
