// What is drawn: the picture, a photo beside or over it, the crop box, key views and cameras; and the curves.

// The largest place of a shape in an area, in its middle: [x, y, width, height].
export function fitted(width, height, [x, y, w, h]) {
  const scale = Math.min(w / width, h / height);
  return [x + (w - width * scale) / 2, y + (h - height * scale) / 2, width * scale, height * scale];
}

// scene: {picture, header, photo, compare, split, camera, lines}. Returns the place of the picture.
export function drawScene(canvas, scene) {
  const context = canvas.getContext("2d"), { picture, photo, compare } = scene;
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (!picture) return null;
  const all = [0, 0, canvas.width, canvas.height], half = canvas.width / 2;
  const hasPhoto = photo && compare !== "none";
  const area = hasPhoto && compare === "beside" ? [0, 0, half, canvas.height] : all;
  const place = fitted(picture.width, picture.height, area);
  if (!hasPhoto || compare !== "only") context.drawImage(picture, ...place);
  drawLines(context, scene, place);
  if (!hasPhoto) return place;
  if (compare === "beside") context.drawImage(photo, ...fitted(photo.width, photo.height, [half, 0, half, canvas.height]));
  else if (compare === "only") context.drawImage(photo, ...place);
  else drawSlider(context, photo, place, scene.split);
  return place;
}

function drawSlider(context, photo, [x, y, width, height], split) {
  const at = x + width * split;
  context.save();
  context.beginPath();
  context.rect(at, y, width - width * split, height);
  context.clip();
  context.drawImage(photo, x, y, width, height);
  context.restore();
  context.fillStyle = "#fff";
  context.fillRect(at - 1, y, 2, height);
  context.beginPath();
  context.arc(at, y + height / 2, 9, 0, 2 * Math.PI);
  context.fill();
}

// Lines in the training frame: [{points, color}]; what is behind the camera is left out.
function drawLines(context, { camera, lines }, [x, y, width, height]) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.lineWidth = Math.max(1, height / 700);
  for (const { points, color } of lines) {
    context.strokeStyle = color;
    for (let i = 1; i < points.length; i++) {
      const [a, b] = [camera.project(points[i - 1]), camera.project(points[i])];
      if (a[2] < 1e-3 || b[2] < 1e-3) continue;
      context.beginPath();
      context.moveTo(x + width / 2 + a[0] * height, y + height / 2 + a[1] * height);
      context.lineTo(x + width / 2 + b[0] * height, y + height / 2 + b[1] * height);
      context.stroke();
    }
  }
  context.restore();
}

export function boxLines({ center, size, axes }, color) {
  const corner = (signs) => center.map((value, i) =>
    value + axes.reduce((sum, axis, k) => sum + axis[i] * signs[k] * size[k] / 2, 0));
  const signs = [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], lines = [];
  for (const end of [-1, 1]) lines.push({ color, points: signs.map(([a, b]) => corner([a, b, end])) });
  for (const [a, b] of signs.slice(0, 4)) lines.push({ color, points: [corner([a, b, -1]), corner([a, b, 1])] });
  return lines;
}

// The pyramid of a camera's picture, `size` deep.
export function cameraLines(camera, aspect, size, color) {
  const half = Math.tan(camera.fov / 2) * size;
  const at = (r, d) => camera.position.map((value, i) => value + camera.forward[i] * size +
    camera.right[i] * r * half * aspect + camera.down[i] * d * half);
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([r, d]) => at(r, d));
  const sides = corners.map((corner) => ({ color, points: [camera.position, corner] }));
  return [...sides, { color, points: [...corners, corners[0]] }];
}

// points: [[step, value]]; dots: the same, drawn as such.
export function drawPlot(canvas, title, points, told, dots = []) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = "#1d2026";
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#9aa3ad";
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  const last = points.length ? told(points[points.length - 1][1]) : "";
  context.fillText(`${title} ${last}`, 4 * ratio, 12 * ratio);
  const all = [...points, ...dots].filter(([, value]) => Number.isFinite(value));
  if (!all.length) return;
  const [steps, values] = [all.map((one) => one[0]), all.map((one) => one[1])];
  const [x0, x1, y0, y1] = [Math.min(...steps), Math.max(...steps), Math.min(...values), Math.max(...values)];
  const x = (step) => 4 * ratio + (step - x0) / (x1 - x0 || 1) * (width - 8 * ratio);
  const y = (value) => height - 4 * ratio - (value - y0) / (y1 - y0 || 1) * (height - 22 * ratio);
  context.strokeStyle = "#5aa9e6";
  context.lineWidth = 1.5 * ratio;
  context.beginPath();
  points.forEach(([step, value], i) => context[i ? "lineTo" : "moveTo"](x(step), y(value)));
  context.stroke();
  context.fillStyle = "#f0c674";
  for (const [step, value] of dots) context.fillRect(x(step) - 2 * ratio, y(value) - 2 * ratio, 4 * ratio, 4 * ratio);
}
