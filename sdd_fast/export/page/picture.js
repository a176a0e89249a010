// Pictures to what the encoder takes, and back to a canvas.
const LARGEST_FILE = 100e6; // bytes
const LARGEST_PICTURE = 64e6; // pixels: more may not fit into a phone's memory

// A file, or the address of a sample → an image element; an Error says what is wrong with it.
export async function opened(source) {
  const file = source instanceof Blob;
  const name = file ? source.name || "This" : source;
  if (file && source.size > LARGEST_FILE)
    throw new Error(`${name} is too large: ${Math.round(source.size / 1e6)} MB, at most 100 are opened.`);
  const address = file ? URL.createObjectURL(source) : source;
  const image = new Image();
  try {
    image.src = address;
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
    const { naturalWidth: width, naturalHeight: height } = image;
    if (width * height > LARGEST_PICTURE)
      throw new RangeError(`${name} is too large: ${width} × ${height} pixels, at most 64 million are opened.`);
    if (!width || !height) throw new Error("empty");
    await image.decode();
  } catch (error) {
    if (error instanceof RangeError) throw error;
    throw new Error(`${name} is no picture that this browser can open. JPEG, PNG and WebP are.`);
  } finally {
    if (file) URL.revokeObjectURL(address);
  }
  return image;
}

// Draw the largest centered part of the canvas's shape. Halved until it is near its size: browsers
// leave out pixels where they shrink a picture more at once.
export function drawCropped(image, canvas) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const scale = Math.min(width / canvas.width, height / canvas.height);
  let side = [canvas.width * scale, canvas.height * scale];
  let from = [(width - side[0]) / 2, (height - side[1]) / 2];
  let source = image;
  while (side[0] >= 4 * canvas.width) {
    const half = new OffscreenCanvas(Math.ceil(side[0] / 2), Math.ceil(side[1] / 2));
    drawPart(source, from, side, half);
    [source, from, side] = [half, [0, 0], [half.width, half.height]];
  }
  drawPart(source, from, side, canvas);
}

function drawPart(source, [x, y], [width, height], canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, x, y, width, height, 0, 0, canvas.width, canvas.height);
}

// A canvas → [1, 3, height, width] from -1 to 1.
export function toValues(canvas) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const values = new Float32Array(3 * width * height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) values[c * width * height + i] = data[4 * i + c] / 127.5 - 1;
  return { values, shape: [1, 3, height, width] };
}

export function drawValues(values, [, , height, width], canvas) {
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = (values[c * width * height + i] + 1) * 127.5;
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
