// What is drawn: evidence maps and thumbnails.

/** Pixels a side of a drawn map; the grid has 5 to 9 cells, and the browser scales the rest. */
const SIDE = 192;
/** From some evidence to the strongest, as in the service's own pictures: the stronger, the lighter. */
const FOR = [[85, 15, 109], [186, 54, 85], [249, 140, 10], [252, 250, 130]];
const AGAINST = [40, 110, 255];

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
      const strength = Math.abs(value);
      image.data.set([...(value > 0 ? shade(strength) : AGAINST), 255 * strength ** 0.8], at);
    }
  }
  context.putImageData(image, 0, 0);
}

function shade(strength) {
  const [first, second, part] = neighbours((strength * (FOR.length - 1) + 0.5) / FOR.length, FOR.length);
  return FOR[first].map((channel, i) => mix(channel, FOR[second][i], part));
}

/** The grid's value at a place in it, both from 0 to 1; cells have their values at their centres. */
function bilinear(grid, across, down) {
  const [top, bottom, v] = neighbours(down, grid.length);
  const [left, right, h] = neighbours(across, grid[0].length);
  return mix(mix(grid[top][left], grid[top][right], h), mix(grid[bottom][left], grid[bottom][right], h), v);
}

function mix(a, b, part) {
  return a + (b - a) * part;
}

/** The cells before and after a place, and how far it is from the first to the second. */
function neighbours(place, cells) {
  const at = Math.min(Math.max(place * cells - 0.5, 0), cells - 1);
  const first = Math.floor(at);
  return [first, Math.min(first + 1, cells - 1), at - first];
}

/** Decoding takes a photo's pixels in memory, so one is decoded at a time. */
let decoding = Promise.resolve();

/**
 * Resolves to a square canvas with the middle of a photo, which stays empty if the browser cannot read the file; to null
 * if `wanted()` says, when its turn comes, that nobody looks any more.
 */
export function thumbnail(file, side, wanted = () => true) {
  const drawn = decoding.then(async () => {
    if (!wanted()) return null;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    // Scaled by the browser while it decodes, where it can, and twice as wide as needed: the middle of a wide photo.
    const small = { resizeWidth: 2 * side, resizeQuality: "medium" };
    const bitmap = await createImageBitmap(file, small).catch(() => null);
    if (!bitmap) return canvas;
    const part = Math.min(bitmap.width, bitmap.height);
    const [x, y] = [(bitmap.width - part) / 2, (bitmap.height - part) / 2];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, x, y, part, part, 0, 0, side, side);
    bitmap.close();
    return canvas;
  });
  decoding = drawn;
  return drawn;
}
