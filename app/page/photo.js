// What is drawn: evidence maps and thumbnails.

/** Pixels a side of a drawn map; the grid has 5 to 9 cells, and the browser scales the rest. */
const SIDE = 192;
const FOR = [255, 138, 0];
const AGAINST = [40, 96, 255];

/**
 * Draws an evidence map over the part of the photo that the model saw.
 *
 * @param canvas lies in a frame as large as the photo.
 * @param explanation `{box, evidence}` as `/explain` answers.
 */
export function drawMap(canvas, { box, evidence }) {
  const percent = (fraction) => `${fraction * 100}%`;
  canvas.style.left = percent(box.left);
  canvas.style.top = percent(box.upper);
  canvas.style.width = percent(box.right - box.left);
  canvas.style.height = percent(box.lower - box.upper);
  canvas.width = canvas.height = SIDE;
  const most = Math.max(...evidence.flat().map(Math.abs)) || 1;
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  for (let y = 0, at = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++, at += 4) {
      const value = bilinear(evidence, (x + 0.5) / SIDE, (y + 0.5) / SIDE) / most;
      const [red, green, blue] = value > 0 ? FOR : AGAINST;
      const strength = Math.abs(value);
      // The strongest evidence glows towards yellow, so that it also differs in lightness.
      image.data.set([red, green + (value > 0 ? 90 * strength ** 2 : 0), blue, 235 * strength ** 0.9], at);
    }
  }
  context.putImageData(image, 0, 0);
}

/** The grid's value at a place in it, both from 0 to 1; cells have their values at their centres. */
function bilinear(grid, across, down) {
  const [top, bottom, v] = neighbours(down, grid.length);
  const [left, right, h] = neighbours(across, grid[0].length);
  const mix = (a, b, t) => a + (b - a) * t;
  return mix(mix(grid[top][left], grid[top][right], h), mix(grid[bottom][left], grid[bottom][right], h), v);
}

function neighbours(place, cells) {
  const at = Math.min(Math.max(place * cells - 0.5, 0), cells - 1);
  const first = Math.floor(at);
  return [first, Math.min(first + 1, cells - 1), at - first];
}

/** A square canvas with the middle of a photo; stays empty if the browser cannot read the file. */
export async function thumbnail(file, side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap) {
    const part = Math.min(bitmap.width, bitmap.height);
    const [x, y] = [(bitmap.width - part) / 2, (bitmap.height - part) / 2];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, x, y, part, part, 0, 0, side, side);
    bitmap.close();
  }
  return canvas;
}
