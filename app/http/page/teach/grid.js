// A grid of photos to select from, of which only those in view are in the document: 2,000 are as quick as 20.

import { blob } from "./service.js";

/** Pixels between photos, and the least that one is wide. */
const GAP = 8;
const LEAST = 92;
/** Rows that are made beyond those in view. */
const BEYOND = 2;
/** Thumbnails that are kept once they were seen; a phone has little memory. */
const MOST_PICTURES = 400;
/** Milliseconds for which a photo has to be in view before it is asked for: not while somebody scrolls past. */
const PATIENCE = 60;

/** By a photo's id the address of its thumbnail, the one that was used last at the end. */
const pictures = new Map();

/** The address of a photo's thumbnail; asked for once. */
export async function thumbnail(id, signal) {
  let known = pictures.get(id);
  if (known) pictures.delete(id);
  else known = URL.createObjectURL(await blob(`teach/photos/${id}`, signal));
  pictures.set(id, known);
  if (pictures.size > MOST_PICTURES) {
    const [oldest, address] = pictures.entries().next().value;
    pictures.delete(oldest);
    URL.revokeObjectURL(address);
  }
  return known;
}

export class Grid {
  /**
   * @param root a listbox that can be focused.
   * @param describe what a photo is called, from it and its place.
   * @param onSelect called when what is selected, or what the keys are at, has changed.
   */
  constructor(root, describe, onSelect) {
    this.root = root;
    this.describe = describe;
    this.onSelect = onSelect;
    this.photos = [];
    this.selected = new Set();
    this.active = 0;
    this.from = 0;
    this.cells = new Map();
    this.sheet = document.createElement("div");
    this.sheet.role = "presentation";
    this.sheet.className = "sheet";
    root.append(this.sheet);
    root.addEventListener("scroll", () => this.soon(), { passive: true });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("click", (event) => this.click(event));
    root.addEventListener("focus", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(root);
  }

  /** Shows these photos, `{id, marks}` each; what was selected and is among them stays so. */
  show(photos, keep = true) {
    const active = this.photos[this.active]?.id;
    this.photos = photos;
    const there = new Set(photos.map(({ id }) => id));
    this.selected = new Set(keep ? [...this.selected].filter((id) => there.has(id)) : []);
    const at = keep ? photos.findIndex(({ id }) => id === active) : 0;
    this.active = Math.max(0, at >= 0 ? at : Math.min(this.active, photos.length - 1));
    this.from = this.active;
    if (!keep) this.root.scrollTop = 0;
    for (const cell of this.cells.values()) this.drop(cell);
    this.cells.clear();
    this.draw();
    this.onSelect();
  }

  /** The ids that something is to be done with: the selected ones, else the one that the keys are at. */
  chosen() {
    if (this.selected.size) return this.photos.map(({ id }) => id).filter((id) => this.selected.has(id));
    const focused = document.activeElement === this.root && this.photos[this.active];
    return focused ? [focused.id] : [];
  }

  selectAll(all) {
    this.selected = new Set(all ? this.photos.map(({ id }) => id) : []);
    this.refresh();
  }

  /** Selects one photo and brings it into view. */
  pick(id) {
    const at = this.photos.findIndex((photo) => photo.id === id);
    if (at < 0) return;
    this.selected = new Set([id]);
    this.go(at);
    this.root.focus();
  }

  // --- drawing

  measure() {
    const width = this.root.clientWidth || 320;
    this.columns = Math.max(2, Math.floor((width + GAP) / (LEAST + GAP)));
    this.side = Math.floor((width - GAP * (this.columns - 1)) / this.columns);
    this.rows = Math.ceil(this.photos.length / this.columns);
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = null;
    this.measure();
    const step = this.side + GAP;
    const height = Math.max(0, this.rows * step - GAP);
    this.sheet.style.height = `${height}px`;
    // As high as what is in it, up to what the style sheet allows.
    this.root.style.setProperty("--height", `${height + 4}px`);
    const first = Math.max(0, Math.floor(this.root.scrollTop / step) - BEYOND);
    const last = Math.ceil((this.root.scrollTop + (this.root.clientHeight || 600)) / step) + BEYOND;
    const wanted = new Set();
    for (let at = first * this.columns; at < Math.min(last * this.columns, this.photos.length); at++) wanted.add(at);
    for (const [at, cell] of this.cells) {
      if (wanted.has(at)) continue;
      this.drop(cell);
      this.cells.delete(at);
    }
    const made = [];
    for (const at of wanted) {
      let cell = this.cells.get(at);
      if (!cell) {
        cell = this.make(at);
        this.cells.set(at, cell);
        made.push(cell);
      }
      const [row, column] = [Math.floor(at / this.columns), at % this.columns];
      cell.style.transform = `translate(${column * step}px, ${row * step}px)`;
      cell.style.width = cell.style.height = `${this.side}px`;
    }
    this.sheet.append(...made);
    this.mark();
  }

  make(at) {
    const photo = this.photos[at];
    const cell = document.createElement("div");
    cell.role = "option";
    cell.id = `photo-${at}`;
    cell.className = "cell";
    cell.dataset.at = at;
    cell.ariaSetSize = this.photos.length;
    cell.ariaPosInSet = at + 1;
    cell.ariaLabel = this.describe(photo, at);
    cell.title = photo.marks.join(", ");
    const picture = document.createElement("img");
    picture.alt = "";
    picture.draggable = false;
    cell.append(picture);
    if (photo.marks.length) {
      const badge = document.createElement("span");
      badge.className = "badge";
      badge.textContent = photo.marks.length > 1 ? `${photo.marks[0]} +${photo.marks.length - 1}` : photo.marks[0];
      cell.append(badge);
    }
    cell.stop = new AbortController();
    if (pictures.has(photo.id)) this.load(cell, picture, photo);
    else cell.timer = setTimeout(() => this.load(cell, picture, photo), PATIENCE);
    return cell;
  }

  async load(cell, picture, photo) {
    try {
      picture.src = await thumbnail(photo.id, cell.stop.signal);
    } catch (error) {
      if (error.name !== "AbortError") cell.classList.add("unseen");
    }
  }

  drop(cell) {
    clearTimeout(cell.timer);
    cell.stop.abort();
    cell.remove();
  }

  /** Shows what is selected, and where the keys are. */
  mark() {
    for (const [at, cell] of this.cells) {
      cell.ariaSelected = String(this.selected.has(this.photos[at].id));
      cell.classList.toggle("active", at === this.active);
    }
    if (this.cells.has(this.active)) this.root.setAttribute("aria-activedescendant", `photo-${this.active}`);
    else this.root.removeAttribute("aria-activedescendant");
  }

  refresh() {
    this.mark();
    this.onSelect();
  }

  // --- hands

  /** Moves the keys to a photo, into view. */
  go(at) {
    this.active = Math.min(Math.max(at, 0), this.photos.length - 1);
    this.measure();
    const step = this.side + GAP;
    const top = Math.floor(this.active / this.columns) * step;
    const { scrollTop, clientHeight } = this.root;
    if (top < scrollTop) this.root.scrollTop = top;
    else if (top + this.side > scrollTop + clientHeight) this.root.scrollTop = top + this.side - clientHeight;
    this.draw();
    this.onSelect();
  }

  /** Selects everything from where the last selection began to the active photo. */
  extend() {
    const [first, last] = [Math.min(this.from, this.active), Math.max(this.from, this.active)];
    this.selected = new Set(this.photos.slice(first, last + 1).map(({ id }) => id));
    this.refresh();
  }

  toggle(at) {
    const { id } = this.photos[at];
    if (!this.selected.delete(id)) this.selected.add(id);
    this.from = at;
    this.refresh();
  }

  click(event) {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    this.active = Number(cell.dataset.at);
    if (event.shiftKey) this.extend();
    else this.toggle(this.active);
  }

  key(event) {
    if (!this.photos.length) return;
    const page = this.columns * Math.max(1, Math.floor(this.root.clientHeight / (this.side + GAP)));
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page };
    if (event.key in steps && !event.ctrlKey && !event.metaKey) this.go(this.active + steps[event.key]);
    else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go(this.photos.length - 1);
    else if (event.key === " ") this.toggle(this.active);
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.selectAll(true);
    else if (event.key === "Escape") this.selectAll(false);
    else return;
    event.preventDefault();
    if (event.shiftKey && event.key !== " ") this.extend();
    else if (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End") this.from = this.active;
  }
}
