"use strict";
const $ = (id) => document.getElementById(id);
const list = $("list"), stack = $("stack"), tops = [...stack.children], boxes = [...list.querySelectorAll("input")];
const shows = boxes.map((box) => box.checked);  // as the file has it
let solo = null, x = 0, y = 0;

// A layer shows where its own box is ticked; with a solo layer, where it is that one, lies in it, or holds it.
function draw() {
  for (const box of boxes) {
    const picture = $(box.dataset.layer), chosen = solo && $(solo);
    const near = !chosen || chosen === picture || chosen.contains(picture) || picture.contains(chosen);
    picture.classList.toggle("off", chosen === picture ? false : !(near && box.checked));
  }
  for (const button of list.querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.layer === solo));
  $("sheet").classList.toggle("checker", $("checker").checked);
  const depth = $("depth").checked ? 0.03 * stack.clientWidth / Math.max(1, tops.length - 1) : 0;
  tops.forEach((top, index) => { top.style.transform = depth ? `translate(${x * depth * index}px, ${y * depth * index}px)` : ""; });
}

list.addEventListener("change", draw);
list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  solo = solo === button.dataset.layer ? null : button.dataset.layer;
  draw();
});
list.addEventListener("keydown", (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const at = boxes.indexOf(event.target.closest(".row")?.querySelector("input"));
  if (step && at >= 0) { boxes[(at + step + boxes.length) % boxes.length].focus(); event.preventDefault(); }
});
$("reset").addEventListener("click", () => { solo = null; boxes.forEach((box, index) => { box.checked = shows[index]; }); draw(); });
$("checker").addEventListener("change", draw);
$("depth").addEventListener("change", () => {
  const ask = window.DeviceOrientationEvent?.requestPermission;  // iOS wants to be asked, on a tap
  if (ask && $("depth").checked) ask.call(window.DeviceOrientationEvent).catch(() => {});
  draw();
});
addEventListener("pointermove", (event) => {
  const box = stack.getBoundingClientRect();
  x = (event.clientX - box.left) / box.width * 2 - 1;
  y = (event.clientY - box.top) / box.height * 2 - 1;
  if ($("depth").checked) requestAnimationFrame(draw);
});
addEventListener("deviceorientation", (event) => {
  if (event.gamma === null) return;
  x = Math.max(-1, Math.min(1, event.gamma / 30));
  y = Math.max(-1, Math.min(1, (event.beta - 45) / 30));
  if ($("depth").checked) requestAnimationFrame(draw);
});
document.documentElement.classList.toggle("picture", location.hash === "#picture");
draw();
