"use strict";
// What the pages of answers share; `images` is the page's own.
const $ = (id) => document.getElementById(id);
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Light or dark -----------------------------------------------------------------------------------
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

// An image with its crops -------------------------------------------------------------------------
function crops(name, zoom) {
  const image = images[name];
  const frame = el("div", { class: "crops" }, el("img", { src: image.uri, alt: `Image of the question, ${image.width} by ${image.height} pixels`, loading: "lazy", width: image.width, height: image.height, style: "height: auto" }));
  if (zoom && zoom.kept) {
    const [cols, rows] = zoom.high, kept = new Set(zoom.kept);
    const grid = el("div", { class: "grid", style: `grid-template: repeat(${rows}, 1fr) / repeat(${cols}, 1fr)` });
    for (let i = 0; i < cols * rows; i++) grid.append(el("i", { class: kept.has(i) ? "kept" : null }));
    frame.append(grid);
  }
  return frame;
}
function strip(name, zoom) {
  const [cols, rows] = zoom.high;
  const place = (i, n) => (n > 1 ? (100 * i) / (n - 1) : 0);
  const node = el("div", { class: "strip" });
  for (const i of zoom.kept) {
    const crop = el("i", { title: `high crop ${i}` });
    crop.style.backgroundImage = `url("${images[name].uri}")`;
    crop.style.backgroundSize = `${100 * cols}% ${100 * rows}%`;
    crop.style.backgroundPosition = `${place(i % cols, cols)}% ${place(Math.floor(i / cols), rows)}%`;
    node.append(crop);
  }
  return node;
}
