// PSDs as ag-psd writes them, and the picture that a canvas composes of the same layers.
const { createCanvas } = require('@napi-rs/canvas');
const fs = require('fs');
const ag = require('ag-psd');
ag.initializeCanvas(createCanvas);
const W = 96, H = 64;
function disc(w, h, color, hard) {
  const c = createCanvas(w, h), g = c.getContext('2d');
  if (hard) { g.fillStyle = color; g.fillRect(0, 0, w, h); return c; }
  const r = g.createRadialGradient(w / 2, h / 2, 1, w / 2, h / 2, Math.min(w, h) / 2);
  r.addColorStop(0, color); r.addColorStop(1, color + '00');
  g.fillStyle = r; g.fillRect(0, 0, w, h); return c;
}
const back = createCanvas(W, H), b = back.getContext('2d');
const sky = b.createLinearGradient(0, 0, W, H); sky.addColorStop(0, '#204080'); sky.addColorStop(1, '#f0c080');
b.fillStyle = sky; b.fillRect(0, 0, W, H);
const mask = createCanvas(40, 40), m = mask.getContext('2d');
const ramp = m.createLinearGradient(0, 0, 40, 0); ramp.addColorStop(0, '#000'); ramp.addColorStop(1, '#fff');
m.fillStyle = ramp; m.fillRect(0, 0, 40, 40);
const green = disc(40, 40, '#20c060', true), red = disc(30, 30, '#e02040', true), glow = disc(50, 50, '#ffffa0'),
  shade = disc(50, 40, '#804020'), blue = disc(20, 44, '#2030d0', true);
const children = [
  { name: 'Back', canvas: back },
  { name: 'Masked', canvas: green, left: 4, top: 4, mask: { canvas: mask, left: 4, top: 4, right: 44, bottom: 44, defaultColor: 0 } },
  { name: 'Group Ä 組', opacity: 0.7, blendMode: 'normal', children: [
    { name: 'Base', canvas: red, left: 50, top: 8 },
    { name: 'Clipped', canvas: blue, left: 60, top: 0, clipping: true },
  ] },
  { name: 'Screen', canvas: glow, left: 20, top: 20, blendMode: 'screen', opacity: 0.8 },
  { name: 'Multiply', canvas: shade, left: 40, top: 22, blendMode: 'multiply' },
  { name: 'Hidden', canvas: disc(60, 60, '#000000', true), left: 0, top: 0, hidden: true },
];
const whole = createCanvas(W, H), g = whole.getContext('2d');
const lay = (c, x, y, mode = 'source-over', alpha = 1) => {
  g.globalCompositeOperation = mode; g.globalAlpha = alpha; g.drawImage(c, x, y);
};
lay(back, 0, 0);
const cut = createCanvas(40, 40), c = cut.getContext('2d'); c.drawImage(green, 0, 0);
const px = c.getImageData(0, 0, 40, 40), mx = m.getImageData(0, 0, 40, 40);
for (let i = 0; i < px.data.length; i += 4) px.data[i + 3] = Math.round(px.data[i + 3] * mx.data[i] / 255);
c.putImageData(px, 0, 0); lay(cut, 4, 4);
const group = createCanvas(W, H), q = group.getContext('2d');
q.drawImage(red, 50, 8); q.globalCompositeOperation = 'source-atop'; q.drawImage(blue, 60, 0);
lay(group, 0, 0, 'source-over', 0.7);
lay(glow, 20, 20, 'screen', 0.8); lay(shade, 40, 22, 'multiply');
const save = (name, psd, options) => fs.writeFileSync(`${process.argv[2]}/${name}.psd`, ag.writePsdBuffer(psd, { generateThumbnail: false, ...options }));
const base = { width: W, height: H, canvas: whole };
save('ag_layers', { ...base, children });
const text = (s, extra) => ({ text: s, transform: [1, 0, 0, 1, 10, 30], style: { font: { name: 'Arial-BoldMT' }, fontSize: 18, fillColor: { r: 200, g: 16, b: 46 } }, paragraphStyle: { justification: 'left' }, ...extra });
save('ag_more', { ...base, canvas: back, children: [
  { name: 'Back', canvas: back },
  { name: 'Unset', text: text('Hello\nWorld') },
  { name: 'Box', text: text('one two three four', { transform: [1, 0, 0, 1, 40, 4], shapeType: 'box', boxBounds: [0, 0, 50, 50] }) },
  { name: 'Runs', text: { ...text('Big small', { transform: [0.8, 0.6, -0.6, 0.8, 20, 20] }), styleRuns: [{ length: 4, style: { fontSize: 18 } }, { length: 5, style: { fontSize: 9, underline: true } }] } },
  { name: 'Shadow', canvas: red, left: 50, top: 8, effects: { dropShadow: [{ enabled: true, size: { units: 'Pixels', value: 4 }, distance: { units: 'Pixels', value: 4 }, angle: 120, color: { r: 0, g: 0, b: 0 }, opacity: 0.5, blendMode: 'multiply' }] } },
  { name: 'Levels', adjustment: { type: 'brightness/contrast', brightness: 30, contrast: 0 } },
  { name: 'Vivid', canvas: glow, left: 5, top: 5, blendMode: 'vivid light' },
  { name: 'Nothing' },
] });
