// A sample's content, {type: text or base64}, as elements and files.

import { make } from "./dom.js";

const SUFFIXES = { "image/png": "png", "image/gif": "gif", "audio/wav": "wav", "text/plain": "txt", "application/json": "json" };

export function blobOf(type, content) {
  if (type.startsWith("text/")) return new Blob([content], { type });
  return new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], { type });
}

const source = (type, content) => `data:${type};base64,${content}`;

// Numbers as rows of the last axis.
function numbers(value) {
  if (!Array.isArray(value)) return String(value);
  if (Array.isArray(value[0])) return value.map(numbers).join("\n");
  return value.map((number) => (Number.isInteger(number) ? number : number.toFixed(3)).toString().padStart(7)).join(" ");
}

// The picture of a tile: the moving one if there is one.
export function picture({ content, outputs }, alt, pixelated) {
  const type = ["image/gif", "image/png"].find((kind) => content[kind]);
  if (type) return make("img", { src: source(type, content[type]), alt, className: pixelated ? "pixels" : "", draggable: false });
  if (content["text/plain"] !== undefined) return make("pre", { textContent: content["text/plain"] });
  return make("pre", { className: "numbers", textContent: numbers(Object.values(outputs ?? {})[0] ?? "") });
}

export function large(item, alt, pixelated) {
  const sound = item.content["audio/wav"];
  const player = sound ? [make("audio", { controls: true, src: source("audio/wav", sound) })] : [];
  return [picture(item, alt, pixelated), ...player];
}

// [blob, suffix] of what a sample is saved as.
export function saved(item) {
  const type = ["audio/wav", "image/gif", "image/png", "text/plain"].find((kind) => item.content[kind] !== undefined);
  if (type) return [blobOf(type, item.content[type]), SUFFIXES[type]];
  return [new Blob([JSON.stringify(item.outputs)], { type: "application/json" }), "json"];
}

// A PNG with all pictures in a grid, as `latentc sample -o grid.png` lays them out.
export async function sheet(items, columns) {
  const pictures = await Promise.all(items.map((item) => createImageBitmap(blobOf("image/png", item.content["image/png"]))));
  const [width, height, gap] = [pictures[0].width, pictures[0].height, 2];
  const canvas = document.createElement("canvas");
  const rows = Math.ceil(pictures.length / columns);
  [canvas.width, canvas.height] = [columns * (width + gap) - gap, rows * (height + gap) - gap];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  pictures.forEach((image, i) => context.drawImage(image, (i % columns) * (width + gap), Math.floor(i / columns) * (height + gap)));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
