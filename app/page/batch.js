// Many photos: a few at a time, a table that fills, and what was found as a file.

import { send } from "./api.js";

const IN_FLIGHT = 2;
const element = (id) => document.getElementById(id);

let entries = [];
let running = null;

/**
 * Classifies files one after the other and lists them.
 *
 * @param onOpen called with an entry `{file, name, answer, roundTripMs, error}` that is to be looked at.
 * @param onAnswer called with each entry that was answered.
 * @param onKey called if the service asks for a key, which ends the run.
 */
export async function runBatch(files, { onOpen, onAnswer, onKey, say }) {
  running?.abort();
  const run = (running = new AbortController());
  const mine = (entries = files.map((file) => ({ file, name: file.name })));
  element("rows").replaceChildren(...mine.map((entry) => (entry.row = row(entry, onOpen))));
  element("batch").hidden = false;
  element("cancel").hidden = false;
  let done = 0;
  const progress = () => {
    element("progress").max = mine.length;
    element("progress").value = done;
    element("count").textContent = `${done} of ${mine.length}`;
  };
  progress();
  const waiting = mine.values();
  const worker = async () => {
    for (const entry of waiting) {
      if (run.signal.aborted) return;
      const onWait = (seconds) => fill(entry, `busy, again in ${seconds} s`);
      try {
        Object.assign(entry, await send("predict", entry.file, { signal: run.signal, onWait }));
        fill(entry, entry.answer.unknown ? "unknown" : best(entry).label, percent(best(entry)?.score));
        onAnswer(entry);
      } catch (error) {
        if (run.signal.aborted) return;
        entry.error = error;
        fill(entry, error.problem?.title ?? error.message);
        entry.row.classList.add("failed");
        entry.row.title = error.message;
        if (error.status === 401) {
          run.abort();
          onKey();
          return;
        }
      }
      done += 1;
      progress();
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  if (running !== run) return;
  for (const entry of mine) if (!entry.answer && !entry.error) fill(entry, "not done");
  element("cancel").hidden = true;
  const failed = mine.filter((entry) => entry.error).length;
  say(`${done} of ${mine.length} photos done${failed ? `, ${failed} of them without an answer` : ""}.`);
}

export function offerExport() {
  element("cancel").addEventListener("click", () => running?.abort());
  element("csv").addEventListener("click", () => save("labels.csv", "text/csv", csv()));
  element("json").addEventListener("click", () => save("labels.json", "application/json", json()));
}

export function percent(score) {
  return score === undefined ? "" : `${(score * 100).toFixed(1)} %`;
}

function best(entry) {
  return entry.answer.predictions[0];
}

function row(entry, onOpen) {
  const made = document.createElement("tr");
  const open = document.createElement("button");
  open.type = "button";
  open.className = "link";
  open.textContent = entry.name;
  open.addEventListener("click", () => onOpen(entry));
  made.append(...["th", "td", "td"].map((kind) => document.createElement(kind)));
  made.cells[0].scope = "row";
  made.cells[0].append(open);
  made.cells[2].className = "number";
  return made;
}

function fill(entry, label, score = "") {
  entry.row.cells[1].textContent = label;
  entry.row.cells[2].textContent = score;
}

/** RFC 4180. */
function csv() {
  const head = ["file", "label", "id", "score", "unknown", "model", "version", "error"];
  const lines = entries.map(({ name, answer, error }) => {
    const { label, id, score } = answer?.predictions[0] ?? {};
    return [name, label, id, score, answer?.unknown, answer?.model.name, answer?.model.version, error?.message];
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
