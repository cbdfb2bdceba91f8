// What came of a training: its worth, what it confuses, and the model beside it.

import { thumbnail } from "./grid.js";

/** Photos that are worth looking at, as many as one looks at. */
const MOST_DOUBTS = 10;
const MOST_CONFUSIONS = 12;

export function percent(share) {
  return `${(share * 100).toFixed(1)} %`;
}

/** When a training began, for people. */
export function when(seconds) {
  return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/**
 * Says in `top` what a training is worth, and in `root` the rest; `onPhoto(id, label)` shows a photo among the others.
 *
 * Everything that is said is set as text.
 */
export function showResult(top, root, run, { isServed, onPhoto }) {
  if (run.outcome !== "done") {
    const what = { running: "It is under way.", failed: "It failed.", cancelled: "It was cancelled.", interrupted: "It was interrupted." };
    top.replaceChildren(make("p", {}, make("strong", {}, what[run.outcome]), " ", run.reason ?? ""));
    root.replaceChildren();
    return;
  }
  top.replaceChildren(worth(run), ...(isServed ? [make("p", { className: "served" }, "This model is served now.")] : []));
  root.replaceChildren(
    classes(run),
    ...beside(run.compared),
    ...confusions(run, onPhoto),
    ...doubts(run, onPhoto),
    ...list("What to know", [...run.warnings, ...run.notes]),
    ...list("Not used", run.left_out),
  );
}

/** What a share means, as "95.0 % of 40 photos, 12 different ones (95 % interval 83.5 to 98.6 %)". */
function share({ accuracy, interval, photos, independent }) {
  if (accuracy === null || accuracy === undefined) return "not known: no photo";
  const different = independent === photos ? "" : `, ${independent} different ones`;
  return `${percent(accuracy)} of ${photos} photos${different} (95 % interval ${(interval[0] * 100).toFixed(1)} to ${percent(interval[1])})`;
}

function worth({ measured, photos, seconds, model }) {
  const [low, high] = measured.interval ?? [0, 1];
  const bar = make("div", { className: "interval", ariaHidden: "true" }, make("span", { className: "range" }), make("span", { className: "point" }));
  bar.style.setProperty("--low", low);
  bar.style.setProperty("--high", high);
  bar.style.setProperty("--value", measured.accuracy ?? 0);
  return make(
    "div",
    { className: "worth" },
    make("p", { className: "figure" }, measured.accuracy === null ? "?" : percent(measured.accuracy), make("span", {}, " right")),
    bar,
    make("p", {}, share(measured), `, by ${measured.held_out}: each photo was judged by a model that had not learned from it.`),
    make("p", { className: "hint" }, `${photos} photos, ${seconds} s, ${model.name} ${model.version}, ${(model.bytes / 1e6).toFixed(1)} MB.`),
  );
}

function classes({ measured }) {
  const head = make("tr", {}, ...["Class", "Right", "95 % interval", "Photos", "Different"].map((text) => make("th", { scope: "col" }, text)));
  const rows = measured.classes.map(({ label, accuracy, interval, photos, independent }) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, label),
      make("td", {}, accuracy === null ? "?" : percent(accuracy)),
      make("td", {}, interval ? `${(interval[0] * 100).toFixed(0)} to ${(interval[1] * 100).toFixed(0)} %` : ""),
      make("td", {}, photos),
      make("td", {}, independent ?? ""),
    ),
  );
  const table = make("table", {}, make("caption", { className: "heard" }, "By class"), make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "By class" }, table);
}

/** The model that was served, on the same photos. */
function beside({ reason, name, version, knows, photos, learned, served_right: served, new_right: fresh, answers }) {
  const said = [];
  if (reason) said.push(make("p", {}, `The served model could not be asked: ${reason}`));
  else if (knows && photos) {
    said.push(make("p", {}, `Of ${photos} photos that neither has learned from, ${name} ${version} names ${served} rightly, the new model ${fresh}.`));
    if (learned) said.push(make("p", { className: "hint" }, `${learned} more are not compared: the served model has learned from them.`));
  } else if (knows) said.push(make("p", {}, `${name} ${version} has learned from all of these photos, so they cannot tell which is better. Add new ones to compare.`));
  else if (answers?.length) {
    said.push(make("p", {}, `${name} ${version} does not have these classes. What it calls the photos:`));
    const lines = answers.map(({ label, said: names }) => `${label}: ${names.map((one) => `${one.label} (${one.photos})`).join(", ")}`);
    said.push(make("ul", {}, ...lines.map((line) => make("li", {}, line))));
  }
  return said.length ? [make("h3", {}, "The model served before"), ...said] : [];
}

function confusions({ confusions: found }, onPhoto) {
  if (!found.length) return [];
  const items = found.slice(0, MOST_CONFUSIONS).map(({ label, likely, count, photos }) =>
    make("li", {}, make("p", {}, `${label} taken for ${likely}: ${count}`), strip(photos.map((photo) => ({ photo, label, text: `${label}, taken for ${likely}` })), onPhoto, "small")),
  );
  return [make("h3", {}, "What it confuses"), make("ul", { className: "confusions" }, ...items)];
}

function doubts({ doubts: found }, onPhoto) {
  if (!found.length) return [];
  const shown = found.slice(0, MOST_DOUBTS).map(({ photo, label, score, likely, likely_score: other }) => ({
    photo,
    label,
    text: `${label} ${percent(score)}, ${likely} ${percent(other)}`,
    caption: `${label} ${percent(score)}`,
    under: `${likely} ${percent(other)}`,
  }));
  return [
    make("h3", {}, "Worth a look"),
    make("p", { className: "hint" }, "These look like another class, the least believed first. Is the class right? Choose one to see it among the others."),
    strip(shown, onPhoto),
  ];
}

function strip(photos, onPhoto, size = "") {
  return make(
    "ul",
    { className: `strip ${size}` },
    ...photos.map(({ photo, label, text, caption, under }) => {
      const picture = make("img", { alt: "" });
      thumbnail(photo).then((address) => (picture.src = address), () => {});
      const button = make("button", { type: "button", ariaLabel: text, title: text }, picture);
      button.addEventListener("click", () => onPhoto(photo, label));
      return make("li", {}, button, ...(caption ? [make("span", {}, caption), make("span", {}, under)] : []));
    }),
  );
}

function list(title, lines) {
  return lines.length ? [make("h3", {}, title), make("ul", {}, ...lines.map((line) => make("li", {}, line)))] : [];
}

export function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}
