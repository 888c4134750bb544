// The drawing pad: light strokes on black, by pointer or keyboard.

class Pad {
  /** `changed` is called after every change, with whether a stroke is unfinished. */
  constructor(canvas, said, changed) {
    this.canvas = canvas;
    this.said = said;
    this.changed = changed;
    /** Strokes of points from 0 to 1. */
    this.strokes = [];
    this.stroke = null;
    this.pen = { x: 0.5, y: 0.5, down: false, shown: false };
    canvas.addEventListener("pointerdown", (event) => this.start(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.end());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.focus(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => this.focus(false));
    this.paint();
  }

  isEmpty() {
    return this.strokes.length === 0;
  }

  clear() {
    this.strokes = [];
    this.stroke = null;
    this.pen.down = false;
    this.paint();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  start(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pen.shown = false;
    this.stroke = [this.place(event)];
    this.strokes.push(this.stroke);
    this.paint();
    this.changed(true);
  }

  move(event) {
    if (!this.stroke) return;
    // Fast movements come as several points at once.
    const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const part of all.length ? all : [event]) this.stroke.push(this.place(part));
    this.paint();
    this.changed(true);
  }

  end() {
    if (!this.stroke) return;
    this.stroke = null;
    this.changed(false);
  }

  focus(shown) {
    this.pen.shown = shown;
    this.paint();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const pen = this.pen;
    if (moves[event.key]) {
      const [x, y] = moves[event.key];
      pen.x = Math.min(1, Math.max(0, pen.x + x / 28));
      pen.y = Math.min(1, Math.max(0, pen.y + y / 28));
      if (pen.down) this.strokes[this.strokes.length - 1].push([pen.x, pen.y]);
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) this.strokes.push([[pen.x, pen.y]]);
    } else if (event.key === "Backspace" || event.key === "Delete") {
      this.strokes.pop();
      pen.down = false;
    } else if (event.key === "Escape") {
      this.strokes = [];
      pen.down = false;
    } else {
      return;
    }
    event.preventDefault();
    pen.shown = true;
    const [column, row] = [Math.round(pen.x * 28), Math.round(pen.y * 28)];
    this.said.textContent = `pen ${pen.down ? "down" : "up"}, column ${column}, row ${row} of 28`;
    this.paint();
    this.changed(false);
  }

  paint() {
    const side = this.canvas.width;
    const context = this.canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    Pad.trace(context, this.strokes, side / 13, ([x, y]) => [x * side, y * side]);
    if (!this.pen.shown) return;
    context.strokeStyle = this.pen.down ? "#ff9f5a" : "#4cc3d4";
    context.lineWidth = 4;
    context.beginPath();
    context.arc(this.pen.x * side, this.pen.y * side, side / 22, 0, 7);
    context.stroke();
  }

  static trace(context, strokes, width, at) {
    context.strokeStyle = "#fff";
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of strokes) {
      context.beginPath();
      context.moveTo(...at(stroke[0]));
      for (const point of stroke) context.lineTo(...at(point));
      // A line without length would draw nothing.
      const [x, y] = at(stroke[stroke.length - 1]);
      context.lineTo(x + 0.01, y);
      context.stroke();
    }
  }

  /**
   * The drawing as a picture file. With `centre` it is scaled to 20 of 28 pixels, and its centre of
   * mass is in the middle, as in MNIST.
   */
  async file(centre) {
    const side = 280;
    const canvas = element("canvas", { width: side, height: side });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const draw = (at) => {
      context.fillStyle = "#000";
      context.fillRect(0, 0, side, side);
      Pad.trace(context, this.strokes, 22, at);
    };
    if (!centre || this.isEmpty()) {
      draw(([x, y]) => [x * side, y * side]);
    } else {
      const points = this.strokes.flat();
      const ends = [0, 1].map((axis) => {
        const values = points.map((point) => point[axis]);
        return [Math.min(...values), Math.max(...values)];
      });
      const extent = Math.max(...ends.map(([low, high]) => high - low));
      // Without the width of the pen; a dot keeps its size.
      const scale = extent > 0.02 ? 178 / extent : side;
      const shift = ends.map(([low, high]) => side / 2 - ((low + high) / 2) * scale);
      const at = ([x, y]) => [x * scale + shift[0], y * scale + shift[1]];
      draw(at);
      const data = context.getImageData(0, 0, side, side).data;
      let [mass, x, y] = [0, 0, 0];
      for (let index = 0; index < side * side; index += 1) {
        const value = data[4 * index];
        mass += value;
        x += value * (index % side);
        y += value * Math.floor(index / side);
      }
      const off = [side / 2 - x / mass, side / 2 - y / mass];
      draw((point) => at(point).map((value, axis) => value + off[axis]));
    }
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}
