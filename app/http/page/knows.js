// What is said before there is a photo: what the model can name, and how to ask without this page.

import { read } from "./api.js";

/** How many names are said at once, and how many classes of a group a search shows. */
const EXAMPLES = 6;
const MOST_CLASSES = 8;
const element = (id) => document.getElementById(id);

/** `{name, classes}` of each group; of a model without groups, each class by itself. */
let groups = [];

/** How to send a photo to this very service from a terminal; `keyed`: it asks for a key. */
export function showCurl(keyed = false) {
  const address = new URL("predict", document.baseURI);
  address.search = address.hash = "";
  const quoted = /^[\w.:/%~[\]-]+$/.test(address.href) ? address.href : `'${address.href.replaceAll("'", "%27")}'`;
  element("curl").textContent = `curl ${keyed ? '-H "Authorization: Bearer $KEY" ' : ""}-F file=@photo.jpg ${quoted}`;
}

/** Lists what the model can name; nothing where the service does not say, as without its key. */
export async function sayWhatItKnows() {
  const { labels = [], status } = await read("labels").catch(() => ({}));
  if (status === 401) showCurl(true);
  if (!labels.length) return;
  const byName = new Map();
  for (const { label, group } of labels) {
    const name = group ?? label;
    if (!byName.has(name)) byName.set(name, []);
    if (group !== null) byName.get(name).push(label);
  }
  groups = [...byName].map(([name, classes]) => ({ name, classes }));
  const most = [...groups].sort((one, other) => other.classes.length - one.classes.length).slice(0, EXAMPLES);
  const examples = most.map(({ name }) => name).join(", ");
  const count = labels.length.toLocaleString("en");
  element("knows-summary").textContent =
    `This model knows ${labels.length === 1 ? "one thing" : `${count} things`}: ${examples}${groups.length > EXAMPLES ? " …" : ""}`;
  list("");
  element("knows").hidden = false;
}

/** Lists the groups whose name or one of whose classes has `text` in it, with those classes. */
function list(text) {
  const wanted = text.trim().toLowerCase();
  const has = (name) => name.toLowerCase().includes(wanted);
  const items = [];
  for (const { name, classes } of groups) {
    const named = wanted ? classes.filter(has) : [];
    if (has(name) || named.length) items.push(item(name, named));
  }
  element("known").replaceChildren(...items);
  element("known-none").hidden = items.length > 0;
}

function item(name, classes) {
  const made = document.createElement("li");
  const shown = classes.slice(0, MOST_CLASSES).join(", ");
  made.textContent = name + (shown && `: ${shown}${classes.length > MOST_CLASSES ? " …" : ""}`);
  return made;
}

element("search").addEventListener("input", ({ target }) => list(target.value));
