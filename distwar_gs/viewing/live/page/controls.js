// Mouse, keys and touch. `moved` is called when the camera has moved; `state` has camera, style ("orbit" or "fly"),
// extent, and place, where the picture is.

const TURN = 2.5;  // radians for a drag over the height of the stage

export function listen(stage, state, moved, slide) {
  const fingers = new Map();
  let button = 0, sliding = false;

  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    stage.focus();
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    button = event.shiftKey ? 2 : event.button;
    sliding = fingers.size === 1 && slide.isAt(event.offsetX);
  });
  for (const end of ["pointerup", "pointercancel"])
    stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.offsetX, event.offsetY], others = [...fingers].filter(([id]) => id !== event.pointerId);
    fingers.set(event.pointerId, now);
    if (sliding) { slide.to(event.offsetX); return; }
    const dx = (now[0] - before[0]) / stage.clientHeight, dy = (now[1] - before[1]) / stage.clientHeight;
    if (others.length) pinch(before, now, others[0][1], dx, dy);
    else drag(dx, dy);
    moved();
  });

  function drag(dx, dy) {
    if (button) state.camera.pan(dx, dy);
    else if (state.style === "fly") state.camera.look(-dx * TURN / 2, -dy * TURN / 2);
    else state.camera.orbit(dx * TURN, dy * TURN);
  }

  // Two fingers: apart is closer, together to the side is aside.
  function pinch(before, now, other, dx, dy) {
    const span = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    state.camera.pan(dx / 2, dy / 2);
    const factor = span(before) / span(now);
    if (state.style === "fly") state.camera.move(0, 0, (1 - factor) * state.extent);
    else state.camera.dolly(factor);
  }

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const notches = Math.max(-3, Math.min(3, event.deltaY / (event.deltaMode ? 3 : 100)));
    if (state.style === "fly") state.camera.move(0, 0, -0.1 * notches * state.extent);
    else state.camera.dolly(1.15 ** notches);
    moved();
  }, { passive: false });

  const held = new Set();
  const MOVES = { KeyW: [0, 0, 1], KeyS: [0, 0, -1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyQ: [0, 1, 0], KeyE: [0, -1, 0] };
  const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  let last = 0;
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.code in MOVES || event.code in TURNS)) return;
    event.preventDefault();
    if (!held.size) { last = performance.now(); requestAnimationFrame(step); }
    held.add(event.code);
    held.isFast = event.shiftKey;
  });
  stage.addEventListener("keyup", (event) => held.delete(event.code));
  stage.addEventListener("blur", () => held.clear());

  function step(now) {
    if (!held.size) return;
    const seconds = Math.min((now - last) / 1000, 0.1), speed = (held.isFast ? 2 : 0.5) * state.extent * seconds;
    last = now;
    for (const code of held) {
      if (code in MOVES) state.camera.move(...MOVES[code].map((way) => way * speed));
      else if (state.style === "fly") state.camera.look(...TURNS[code].map((way) => way * seconds));
      else state.camera.orbit(...TURNS[code].map((way) => -way * seconds));
    }
    moved();
    requestAnimationFrame(step);
  }
}
