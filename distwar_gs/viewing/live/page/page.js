// The page: asks for a picture when the camera has moved or the model has, shows it, and passes buttons on.

import { Camera, between, cross, dot, subtract, turned, unit } from "/camera.js";
import { listen } from "/controls.js";
import { boxLines, cameraLines, drawPlot, drawScene } from "/drawing.js";
import { Link } from "/link.js";

const REST_MS = 160;  // without a move, until a fine picture is asked for
const AGAIN_MS = 1000;  // between two fine pictures of a model in training
const LARGEST = 2048, SMALLEST = 16;
const $ = (id) => document.getElementById(id);

const scene = await (await fetch("/scene.json")).json();
const state = {
  extent: scene.extent, style: "orbit", mode: "colour", camera: null, photo: null, picture: null, header: null,
  photoImage: null, compare: "none", split: 0.5, crop: scene.crop, keys: scene.keys, status: {}, place: null,
  movedAt: 0, askedAt: 0, pick: null, asked: null, isFine: false, share: 0.4, pictures: 0, playing: null,
};

// ------------------------------------------------------------------------------------------------------- pictures

function sizeOf(share) {
  const stage = $("stage"), ratio = window.devicePixelRatio || 1;
  const room = state.compare === "beside" && state.photo !== null ? [0.5, 1] : [1, 1];
  let size = [stage.clientWidth * ratio * room[0], stage.clientHeight * ratio * room[1]].map((side) => side * share);
  const over = Math.max(1, Math.max(...size) / LARGEST);
  return size.map((side) => Math.max(SMALLEST, Math.round(side / over)));
}

function ask() {
  if (!link.isFree || document.hidden) return;
  const now = performance.now(), isMoving = now - state.movedAt < REST_MS;
  const isLive = scene.live && !link.isOver && !state.status.paused && !state.status.over;
  const isDue = isMoving || !state.isFine || state.pick || (isLive && now - state.askedAt > AGAIN_MS);
  if (!isDue) return;
  const full = Number($("size").value);
  state.askedAt = now;
  state.isFine = !isMoving;
  link.look({
    pose: state.camera.pose(), photo: state.photo, mode: state.mode, moving: isMoving, pick: state.pick,
    size: sizeOf(isMoving ? full * state.share : full),
  });
  state.asked = { pick: state.pick, position: state.camera.position, axes: state.camera.axes };
  state.pick = null;
}

// Smaller pictures while they come slowly, larger ones while they come fast.
function adapt(header) {
  if (!header.moving) return;
  const factor = header.took > 200 ? 0.85 : header.took < 90 ? 1.1 : 1;
  state.share = Math.min(0.75, Math.max(0.12, state.share * factor));
}

// What was clicked becomes the point to turn around.
function pick(event) {
  if (!state.place) return;
  const ratio = window.devicePixelRatio || 1, [x, y, width, height] = state.place;
  const place = [(event.offsetX * ratio - x) / width, (event.offsetY * ratio - y) / height];
  if (place.every((share) => share >= 0 && share <= 1)) state.pick = place;
}

function setPivot(depth, { pick: [x, y], position, axes }, aspect) {
  const height = 2 * Math.tan(state.camera.fov / 2) * depth;
  const shifts = [(x - 0.5) * height * aspect, (y - 0.5) * height, depth];
  state.camera.pivot = position.map((value, i) => value + axes.reduce((sum, axis, k) => sum + axis[i] * shifts[k], 0));
  notice("turning around what you clicked");
}

async function show(header, blob) {
  adapt(header);
  if (header.picked) setPivot(header.picked, state.asked, header.width / header.height);
  const picture = await createImageBitmap(blob);
  if (state.picture) state.picture.close();
  state.picture = picture;
  state.header = header;
  state.pictures += 1;
  const psnr = header.psnr === undefined ? "" : `PSNR ${header.psnr.toFixed(2)} dB`;
  $("remark").textContent = [header.remark, psnr].filter(Boolean).join(" ");
  redraw();
}

function moved() {
  state.photo = null;
  state.photoImage = null;
  $("photo").value = "";
  changed();
}

function changed() {
  state.movedAt = performance.now();
  state.isFine = false;
  redraw();
}

let isDrawing = false;
function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    const canvas = $("view"), ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    state.place = drawScene(canvas, { ...state, photo: state.photoImage, lines: lines() });
  });
}

function lines() {
  const found = [];
  if (state.crop && $("crop-sliders").offsetParent) found.push(...boxLines(state.crop, "#f0c674"));
  const cameras = state.keys.map((key) => new Camera(key.viewmat, key.fov, scene.focus, scene.up));
  found.push({ color: "#8bd17c", points: cameras.map((camera) => camera.position) });
  for (const camera of cameras) found.push(...cameraLines(camera, 16 / 9, 0.06 * scene.extent, "#8bd17c"));
  if ($("cameras").checked)
    for (const view of scene.views) {
      const camera = new Camera(view.viewmat, view.fov, scene.focus, scene.up);
      const color = view.split === "test" ? "#e06c75" : "#5aa9e6";
      found.push(...cameraLines(camera, view.size[0] / view.size[1], 0.05 * scene.extent, color));
    }
  return found;
}

// --------------------------------------------------------------------------------------------------------- photos

function jump(index) {
  const view = scene.views[index];
  state.camera.set(view.viewmat, view.fov);
  state.camera.pivot = scene.focus;
  state.camera.lookAhead();
  state.photo = index;
  state.photoImage = null;
  $("photo").value = String(index);
  tellFov();
  const image = new Image();
  image.onload = () => { if (state.photo === index) { state.photoImage = image; redraw(); } };
  image.onerror = () => notice(`the photo ${view.name} cannot be shown`);
  image.src = `/photo/${index}.jpg`;
  state.isFine = false;
  redraw();
}

function neighbor(by) {
  const count = scene.views.length, now = state.photo === null ? (by > 0 ? -1 : 0) : state.photo;
  jump((now + by + count) % count);
}

// ------------------------------------------------------------------------------------------------------------ run

function tell(status) {
  state.status = status;
  const seconds = status.seconds === undefined ? "" : `, ${status.seconds.toFixed(0)} s`;
  const speed = status.speed ? `, ${status.speed.toFixed(1)} steps/s` : "";
  const doing = !scene.live ? "trained model" : status.over ? "all steps are made" : status.paused ? "paused" : "training";
  $("standing").textContent = `${doing}: step ${status.step.toLocaleString("en")}${seconds}${speed}
${status.count.toLocaleString("en")} Gaussians`;
  $("pause").setAttribute("aria-pressed", String(Boolean(status.paused)));
  if (!scene.live || !status.points) return;
  const curve = (column) => status.points.map((point) => [point[0], point[column]]);
  drawPlot($("plot-loss"), "loss", curve(1), (value) => value.toFixed(4));
  drawPlot($("plot-psnr"), "PSNR", curve(2), (value) => `${value.toFixed(2)} dB`, status.tested);
  drawPlot($("plot-count"), "Gaussians", curve(3), (value) => value.toLocaleString("en"));
}

const notice = (words) => { $("notice").textContent = words; };

const link = new Link({
  picture: show, status: tell, notice,
  opened: () => { notice(""); state.isFine = false; },
  closed: (isOver) => { if (!isOver) notice("no connection; trying again"); },
});

// ------------------------------------------------------------------------------------------------------- crop box

// A box that stands upright: its second edge is along the scene's up.
function newBox() {
  const up = scene.up, aside = Math.abs(up[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0];
  const first = unit(subtract(aside, up.map((value) => value * dot(aside, up))));
  return { center: [...state.camera.pivot], size: [1, 1, 1].map(() => scene.extent), axes: [first, up, cross(first, up)] };
}

function setCrop(box) {
  state.crop = box;
  link.send({ do: "crop", box });
  makeSliders();
  state.isFine = false;
  redraw();
}

function slider(words, low, high, value, heard) {
  const label = document.createElement("label"), input = document.createElement("input");
  Object.assign(input, { type: "range", min: low, max: high, step: (high - low) / 400, value });
  input.addEventListener("input", () => { heard(Number(input.value)); redraw(); });
  input.addEventListener("change", () => setCrop(state.crop));
  label.append(words, input);
  return label;
}

// The box as it was when the sliders were made, moved along its edges, resized and turned about its second one.
function makeSliders() {
  const place = $("crop-sliders");
  place.replaceChildren();
  if (!state.crop) return;
  const { center, size, axes } = structuredClone(state.crop), reach = 2 * scene.extent, shift = [0, 0, 0];
  ["side", "height", "depth"].forEach((words, k) => {
    place.append(slider(`${words}: place`, -reach, reach, 0, (value) => {
      shift[k] = value;
      state.crop.center = center.map((start, i) => start + axes.reduce((sum, axis, n) => sum + axis[i] * shift[n], 0));
    }));
    place.append(slider(`${words}: length`, 0.01 * scene.extent, 4 * scene.extent, size[k], (value) => {
      state.crop.size[k] = value;
    }));
  });
  place.append(slider("turn", -Math.PI / 2, Math.PI / 2, 0, (angle) => {
    state.crop.axes = axes.map((axis) => turned(axis, axes[1], angle));
  }));
}

// ------------------------------------------------------------------------------------------------------ key views

function tellKeys() {
  $("keys-told").textContent = state.keys.length === 1 ? "1 key view" : `${state.keys.length} key views`;
  redraw();
}

// Two seconds from key to key.
function play() {
  if (state.keys.length < 2) return notice("a path has two key views at least");
  const begun = performance.now(), token = (state.playing = {});
  const step = () => {
    const time = (performance.now() - begun) / 2000, index = Math.floor(time);
    if (state.playing !== token || index >= state.keys.length - 1) return;
    const at = between(state.keys[index], state.keys[index + 1], time - index, state.camera.pivot, scene.up);
    state.camera.set(at.pose().viewmat, at.fov);
    moved();
    requestAnimationFrame(step);
  };
  step();
}

function saveKeys() {
  const name = $("key-name").value;
  if (!/^[A-Za-z0-9][A-Za-z0-9_-]*$/.test(name)) return notice("a path's name has letters, digits, - and _");
  if (!state.keys.length) return notice("there are no key views yet");
  link.send({ do: "keys", name, poses: state.keys.map(({ viewmat, fov }) => ({ viewmat, fov })) });
}

// -------------------------------------------------------------------------------------------------------- controls

function tellFov() {
  const degrees = state.camera.fov * 180 / Math.PI;
  $("fov").value = degrees;
  $("fov-told").textContent = `${degrees.toFixed(0)} degrees`;
}

function setStyle(style) {
  state.style = style;
  for (const one of ["orbit", "fly"]) $(one).setAttribute("aria-pressed", String(one === style));
  if (style === "orbit") state.camera.lookAhead();
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, words]) => new Option(words, value)));
}

const slide = {
  isAt: (x) => state.compare === "slider" && state.photoImage && state.place && Math.abs(x - slide.at()) < 14,
  at: () => (state.place[0] + state.place[2] * state.split) / (window.devicePixelRatio || 1),
  to: (x) => {
    const ratio = window.devicePixelRatio || 1;
    state.split = Math.min(1, Math.max(0, (x * ratio - state.place[0]) / state.place[2]));
    redraw();
  },
};

const first = scene.views[Math.floor(scene.views.length / 2)];
state.camera = new Camera(first.viewmat, first.fov, scene.focus, scene.up);
state.camera.lookAhead();
document.title = $("name").textContent = scene.name;
$("run").hidden = !scene.live;
fill($("mode"), scene.modes.map((mode) => [mode, mode]));
fill($("photo"), [["", "none"], ...scene.views.map((view, index) => [index, `${view.split}: ${view.name}`])]);
tellFov();
tellKeys();
makeSliders();
listen($("stage"), state, () => { state.playing = null; moved(); }, slide);

const on = (id, event, heard) => $(id).addEventListener(event, heard);
for (const name of ["pause", "go", "step", "checkpoint", "export"]) on(name, "click", () => link.send({ do: name }));
on("mode", "change", () => { state.mode = $("mode").value; state.isFine = false; });
on("size", "change", () => { state.isFine = false; });
on("fov", "input", () => { state.camera.fov = $("fov").value * Math.PI / 180; tellFov(); moved(); });
on("orbit", "click", () => setStyle("orbit"));
on("fly", "click", () => setStyle("fly"));
on("home", "click", () => { state.camera.set(first.viewmat, first.fov); state.camera.pivot = scene.focus;
  state.camera.lookAhead(); tellFov(); moved(); });
on("photo", "change", () => { if ($("photo").value) jump(Number($("photo").value)); else moved(); });
on("before", "click", () => neighbor(-1));
on("after", "click", () => neighbor(1));
on("compare", "change", () => { state.compare = $("compare").value; if (state.photo === null) jump(0); changed(); });
on("crop-set", "click", () => setCrop(newBox()));
on("crop-clear", "click", () => setCrop(null));
on("key-add", "click", () => { state.keys.push(state.camera.pose()); tellKeys(); });
on("key-drop", "click", () => { state.keys.pop(); tellKeys(); });
on("key-play", "click", play);
on("key-save", "click", saveKeys);
on("cameras", "change", redraw);
on("stage", "dblclick", pick);
on("fold", "click", () => { $("panel").classList.toggle("folded"); redraw(); });
new ResizeObserver(() => { state.isFine = false; redraw(); }).observe($("stage"));
setInterval(ask, 15);
window.viewer = { state, scene, link, jump, moved };
