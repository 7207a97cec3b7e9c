// Pixels as Python sends and takes them: base64 of bytes in raster order, C of them a pixel, 1 (grey) or 3 (RGB).

export function bytes(text) {
  return Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
}

export function text(bytes) {
  let letters = "";
  for (const byte of bytes) letters += String.fromCharCode(byte);
  return btoa(letters);
}

// Paints whole rows of a canvas from row `top` on. Where `known` (a byte a pixel) is 0 the canvas stays clear.
export function paint(canvas, top, pixels, channels, known = null) {
  const count = pixels.length / channels;
  const image = new ImageData(canvas.width, count / canvas.width);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[channels * i + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = known === null || known[i] ? 255 : 0;
  }
  canvas.getContext("2d").putImageData(image, 0, top);
}
