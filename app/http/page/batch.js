// Many photos: a few at a time, a table that fills, and what was found as a file.

import { send } from "./api.js";
import { thumbnail } from "./photo.js";

const IN_FLIGHT = 2;
/** Pixels a side of a row's picture, and how many rows keep theirs; a phone has little memory. */
const SIDE = 72;
const MOST_PICTURES = 200;
const element = (id) => document.getElementById(id);

let entries = [];
let running = null;
let tell = null;
/** By a row's frame the canvas that is in it or comes, the one that was in view last at the end. */
const pictures = new Map();
const seen = new IntersectionObserver(
  (changes) => {
    for (const { target, isIntersecting } of changes) {
      target.inView = isIntersecting;
      if (isIntersecting) picture(target);
    }
  },
  { rootMargin: "100px" },
);

/**
 * Lists files and classifies them one after the other.
 *
 * @param onOpen called with an entry `{file, name, answer, roundTripMs, error}` that is to be looked at.
 * @param onKey called with what goes on and whether a key was refused, if the service asks for a key; the run pauses.
 * @param say tells somebody who does not see the page.
 */
export function runBatch(files, { onOpen, onKey, say }) {
  tell = { onKey, say };
  pictures.clear();
  seen.disconnect();
  entries = files.map((file, number) => ({ file, number, name: file.name }));
  element("rows").replaceChildren(...entries.map((entry) => (entry.row = row(entry, onOpen))));
  element("batch").hidden = false;
  // Where whoever chose the files looks next, with the eyes or with the keyboard.
  element("batch").scrollIntoView({ block: "start" });
  element("batch-title").focus({ preventScroll: true });
  return work();
}

/** An entry was tried again elsewhere; shows what became of it, if it is in the list. */
export function update(entry) {
  if (!entries.includes(entry)) return;
  settle(entry, entry);
  count();
}

/** Classifies what has no answer yet. */
async function work() {
  running?.abort();
  const run = (running = new AbortController());
  const mine = entries;
  const due = mine.filter((entry) => !entry.answer);
  for (const entry of due) settle(entry, {});
  element("cancel").hidden = false;
  element("again").hidden = true;
  count();
  const waiting = due.values();
  const worker = async () => {
    for (const entry of waiting) {
      if (run.signal.aborted) return;
      const onWait = (seconds) => fill(entry, `busy, again in ${seconds} s`);
      const onAway = () => {
        fill(entry, "waiting");
        note("The service is away; waiting.");
      };
      try {
        const sent = await send("predict?view=groups", entry.file, { signal: run.signal, onWait, onAway });
        if (run.signal.aborted) return;
        settle(entry, sent);
        note("");
      } catch (error) {
        if (run.signal.aborted) return;
        if (error.status === 401) {
          run.abort();
          tell.onKey(work, error);
          return;
        }
        settle(entry, { error });
      }
      count();
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  if (running !== run) return;
  note("");
  for (const entry of mine) if (!entry.answer && !entry.error) fill(entry, "not done");
  element("cancel").hidden = true;
  element("again").hidden = mine.every((entry) => entry.answer);
  tell.say(`${count()}.`);
}

export function offerExport() {
  element("cancel").addEventListener("click", () => running?.abort());
  element("again").addEventListener("click", () => {
    element("batch-title").focus();
    work();
  });
  element("csv").addEventListener("click", () => save("labels.csv", "text/csv", csv()));
  element("json").addEventListener("click", () => save("labels.json", "application/json", json()));
}

export function percent(score) {
  return score === undefined ? "" : `${(score * 100).toFixed(1)} %`;
}

/** What became of the photos, as "149 answered, 51 failed, 3 to go". */
function count() {
  const answered = entries.filter((entry) => entry.answer).length;
  const failed = entries.filter((entry) => entry.error).length;
  const left = entries.length - answered - failed;
  element("progress").max = entries.length;
  element("progress").value = answered + failed;
  const parts = [`${answered} answered`, failed && `${failed} failed`, left && `${left} to go`];
  return (element("count").textContent = parts.filter(Boolean).join(", "));
}

/** Says why nothing moves, or that it does again. */
function note(text) {
  if (element("batch-note").textContent === text) return;
  element("batch-note").textContent = text;
  if (text) tell.say(text);
}

/** Takes what became of an entry, and shows it; failures stand first, each part in the order of the files. */
function settle(entry, { answer, roundTripMs, error }) {
  Object.assign(entry, { answer, roundTripMs, error });
  if (answer) fill(entry, answer.unknown ? "unknown" : nameOf(entry), percent(best(entry).score));
  else fill(entry, error ? error.message : "");
  if (entry.row.classList.contains("failed") === Boolean(error)) return;
  entry.row.classList.toggle("failed");
  const rank = (other) => (other.error ? 0 : entries.length) + other.number;
  const later = entries.filter((other) => rank(other) > rank(entry));
  const next = later.reduce((first, other) => (first && rank(first) < rank(other) ? first : other), null);
  const focused = entry.row.contains(document.activeElement) && document.activeElement;
  element("rows").insertBefore(entry.row, next?.row ?? null);
  // An element that is moved loses the focus.
  if (focused) focused.focus({ preventScroll: true });
}

function best(entry) {
  return entry.answer.groups[0] ?? entry.answer.predictions[0];
}

/** The best group or class, or, where a photo shows several classes, all of them. */
function nameOf(entry) {
  const { labels } = entry.answer;
  return labels.length > 1 ? labels.join(", ") : best(entry).label;
}

function row(entry, onOpen) {
  const made = document.createElement("tr");
  const open = document.createElement("button");
  const name = document.createElement("span");
  const frame = document.createElement("span");
  open.type = "button";
  open.className = "link";
  name.textContent = entry.name;
  frame.className = "thumb";
  frame.ariaHidden = "true";
  frame.file = entry.file;
  seen.observe(frame);
  open.addEventListener("click", () => onOpen(entry));
  open.append(frame, name);
  made.append(...["th", "td", "td"].map((kind) => document.createElement(kind)));
  made.cells[0].scope = "row";
  made.cells[0].append(open);
  made.cells[2].className = "number";
  return made;
}

/** Puts a small picture into a row that is in view; the row that was in view longest ago gives its own up. */
async function picture(frame) {
  const coming = pictures.get(frame) ?? thumbnail(frame.file, SIDE, () => frame.isConnected && frame.inView);
  pictures.delete(frame);
  pictures.set(frame, coming);
  if (pictures.size > MOST_PICTURES) {
    const [oldest] = pictures.keys();
    pictures.delete(oldest);
    oldest.replaceChildren();
  }
  const canvas = await coming;
  if (pictures.get(frame) !== coming) return;
  if (canvas) frame.replaceChildren(canvas);
  else pictures.delete(frame);
}

function fill(entry, label, score = "") {
  const [, first, second] = entry.row.cells;
  first.textContent = label;
  second.textContent = score;
  // Words want the room that a label leaves to its score.
  second.hidden = !score;
  first.colSpan = score ? 1 : 2;
}

/** RFC 4180. */
function csv() {
  const grouped = entries.some(({ answer }) => answer?.groups.length);
  const several = entries.some(({ answer }) => answer?.labels.length > 1);
  const head = ["file", ...(grouped ? ["group", "group_score"] : []), "label", "id", "score", ...(several ? ["labels"] : []), "unknown", "model", "version", "error"];
  const lines = entries.map(({ name, answer, error }) => {
    const { label, id, score } = answer?.predictions[0] ?? {};
    const why = error && (error.problem?.detail ?? error.message);
    const group = answer?.groups[0];
    return [name, ...(grouped ? [group?.label, group?.score] : []), label, id, score, ...(several ? [answer?.labels.join("|")] : []), answer?.unknown, answer?.model.name, answer?.model.version, why];
  });
  return [head, ...lines].map((cells) => cells.map(cell).join(",") + "\r\n").join("");
}

function cell(value) {
  // A spreadsheet would take a name like "=1+1.jpg" for a formula.
  const text = String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function json() {
  const rows = entries.map(({ name, answer, error }) => ({
    file: name,
    ...(answer ?? { problem: error ? (error.problem ?? { detail: error.message }) : null }),
  }));
  return JSON.stringify(rows, null, 2);
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
