// A camera with OpenCV axes: right, down and forward are the rows of its world-to-camera rotation, in the training frame.

export const add = (a, b, s = 1) => a.map((value, i) => value + s * b[i]);
export const subtract = (a, b) => add(a, b, -1);
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const length = (a) => Math.hypot(...a);
export const unit = (a) => a.map((value) => value / (length(a) || 1));

// Turns v about an axis of length 1 (Rodrigues).
export function turned(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), along = dot(axis, v) * (1 - c), across = cross(axis, v);
  return v.map((value, i) => value * c + across[i] * s + axis[i] * along);
}

export class Camera {
  constructor(viewmat, fov, pivot, up) {
    this.up = up;
    this.pivot = pivot;
    this.set(viewmat, fov);
  }

  // viewmat: 16 numbers by rows. fov: vertical, radians.
  set(viewmat, fov) {
    const m = viewmat, t = [m[3], m[7], m[11]];
    this.axes = [m.slice(0, 3), m.slice(4, 7), m.slice(8, 11)];
    this.position = [0, 1, 2].map((i) => -(this.axes[0][i] * t[0] + this.axes[1][i] * t[1] + this.axes[2][i] * t[2]));
    this.fov = fov;
    this.hand = Math.sign(dot(cross(this.axes[0], this.axes[1]), this.axes[2])) || 1;  // -1 in left-handed worlds
  }

  get right() { return this.axes[0]; }
  get down() { return this.axes[1]; }
  get forward() { return this.axes[2]; }

  pose() {
    const rows = this.axes.map((axis) => [...axis, -dot(axis, this.position)]);
    return { viewmat: [...rows.flat(), 0, 0, 0, 1], fov: this.fov };
  }

  // Rounding adds up over thousands of turns: the axes are made right-angled again.
  _turn(axis, angle) {
    const [, down, forward] = this.axes.map((one) => turned(one, axis, angle * this.hand));
    const z = unit(forward), y = unit(subtract(down, z.map((value) => value * dot(down, z))));
    this.axes = [cross(y, z).map((value) => value * this.hand), y, z];
  }

  // Looks elsewhere from where it is: radians to the right, and down.
  look(right, down) {
    this._turn(unit(this._upright()), -right);
    this._turn(this.right, -down);
  }

  // Goes around the pivot, which stays where it is in the picture.
  orbit(right, down) {
    const before = subtract(this.pivot, this.position);
    const seen = this.axes.map((axis) => dot(axis, before));
    this.look(right, down);
    const after = [0, 1, 2].map((i) => this.axes.reduce((sum, axis, k) => sum + axis[i] * seen[k], 0));
    this.position = subtract(this.pivot, after);
  }

  // The axis of turning to the side: the scene's up, or where the camera stands on its head or looks along it, its own.
  _upright() {
    const own = this.down.map((value) => -value);
    return Math.abs(dot(this.up, this.forward)) > 0.995 ? own : dot(this.up, own) < 0 ? this.up.map((v) => -v) : this.up;
  }

  distance() { return Math.max(dot(subtract(this.pivot, this.position), this.forward), 1e-3); }

  // In the camera's own axes; the pivot comes along.
  move(right, down, forward, withPivot = true) {
    const by = [0, 1, 2].map((i) => this.right[i] * right + this.down[i] * down + this.forward[i] * forward);
    this.position = add(this.position, by);
    if (withPivot) this.pivot = add(this.pivot, by);
  }

  // Shares of the picture's height.
  pan(right, down) {
    const height = 2 * Math.tan(this.fov / 2) * this.distance();
    this.move(-right * height, -down * height, 0);
  }

  // To factor times the distance from the pivot.
  dolly(factor) { this.move(0, 0, this.distance() * (1 - factor), false); }

  // The pivot comes into the middle, at the depth that it has.
  lookAhead() { this.pivot = add(this.position, this.forward, this.distance()); }

  // In shares of the picture's height from its middle, and depth; for what is drawn over the picture.
  project(point) {
    const offset = subtract(point, this.position), depth = dot(this.forward, offset);
    const focal = 0.5 / Math.tan(this.fov / 2);
    return [focal * dot(this.right, offset) / depth, focal * dot(this.down, offset) / depth, depth];
  }
}

// Between two poses {viewmat, fov}, at t in [0, 1]: places and axes are mixed, the axes made right-angled again.
export function between(a, b, t, pivot, up) {
  const one = new Camera(a.viewmat, a.fov, pivot, up), other = new Camera(b.viewmat, b.fov, pivot, up);
  const mix = (p, q) => p.map((value, i) => value * (1 - t) + q[i] * t);
  one.position = mix(one.position, other.position);
  one.axes = one.axes.map((axis, k) => mix(axis, other.axes[k]));
  one.fov = a.fov * (1 - t) + b.fov * t;
  one._turn([0, 0, 1], 0);
  return one;
}
