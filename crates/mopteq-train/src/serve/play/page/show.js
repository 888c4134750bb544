// What the server found, as pictures and charts.

/** From no response over purple and orange to a strong one; its brightness alone orders the values. */
const COLOURS = [
  [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122],
  [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191],
];
const PALETTE = Array.from({ length: 256 }, (_, value) => {
  const place = (value / 255) * (COLOURS.length - 1);
  const index = Math.min(COLOURS.length - 2, Math.floor(place));
  return COLOURS[index].map((low, channel) => low + (place - index) * (COLOURS[index + 1][channel] - low));
});

/** A map of the server on a canvas of its size. */
function paintMap(canvas, map) {
  const values = bytes(map.values);
  if (canvas.width !== map.columns || canvas.height !== map.rows) {
    [canvas.width, canvas.height] = [map.columns, map.rows];
  }
  const image = new ImageData(map.columns, map.rows);
  values.forEach((value, index) => image.data.set([...PALETTE[value], 255], 4 * index));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A picture, channel after channel. */
function paintPicture(canvas, text, { channels, height, width }) {
  const values = bytes(text);
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  const plane = width * height;
  for (let index = 0; index < plane; index += 1) {
    const value = (channel) => values[Math.min(channel, channels - 1) * plane + index];
    image.data.set([value(0), value(1), value(2), 255], 4 * index);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function percent(probability) {
  return `${(100 * probability).toFixed(2)} %`;
}

/** The likeliest classes as bars; a screen reader hears them as a list. */
function showClasses(place, classes) {
  const rows = classes.map(({ class: name, probability }) => {
    const fill = element("i");
    fill.style.width = `${100 * probability}%`;
    const bar = element("div", { className: "bar", "aria-hidden": "true" }, fill);
    return element("div", { className: "class" }, element("b", {}, name), bar, element("span", {}, percent(probability)));
  });
  place.replaceChildren(...rows);
}

/** A row of maps under a heading; returns how to show others in it. */
function mapRow(title, help) {
  const row = element("div", { className: "maps" });
  const whole = element("div", {}, element("h3", {}, title), element("p", { className: "help" }, help), row);
  const show = (maps) => {
    whole.hidden = maps.length === 0;
    while (row.children.length > maps.length) row.lastChild.remove();
    maps.forEach((map, index) => {
      if (!row.children[index]) {
        row.append(element("figure", {}, element("canvas", { role: "img" }), element("figcaption")));
      }
      const [canvas, caption] = row.children[index].children;
      paintMap(canvas, map);
      const size = `${map.rows}\u00a0×\u00a0${map.columns}`;
      caption.textContent = `branch ${index + 1}, ${size}`;
      canvas.setAttribute("aria-label", `Branch ${index + 1}, ${size} pixels, white is ${shown(map.high)}`);
    });
  };
  return { whole, show };
}

/** Steps between two pictures of an animation, in milliseconds. */
const PACE = 350;

/** One equilibrium of the model: its pictures step by step, and its charts. */
class StageView {
  constructor(index) {
    const id = `stage-${index}`;
    this.title = element("h2", { id: `${id}-title` });
    this.status = element("p", { className: "help" });
    this.slider = element("input", { type: "range", min: 0, step: 1, value: 0, id: `${id}-step` });
    this.label = element("label", { htmlFor: this.slider.id, "aria-live": "off" });
    this.button = element("button", { type: "button", className: "main" }, "Play");
    this.states = mapRow("State z", "Size of the response over all channels; white is the largest of all steps.");
    this.inputs = mapRow("Input c", "What the objective is given: the picture after the stem, for each branch.");
    this.rebuilt = mapRow("Reconstruction W z", "What the equilibrium makes of its input.");
    this.charts = element("div", { className: "charts" });
    this.scrub = element("div", { className: "scrub" }, this.button, element("div", {}, this.label, this.slider));
    this.whole = element(
      "section",
      { className: "stage" },
      element("div", {}, this.title, this.status),
      this.scrub,
      element("div", { className: "rows" }, this.states.whole, this.inputs.whole, this.rebuilt.whole),
      this.charts,
    );
    this.whole.setAttribute("aria-labelledby", this.title.id);
    this.slider.addEventListener("input", () => {
      this.halt();
      this.frame(Number(this.slider.value));
    });
    this.button.addEventListener("click", () => (this.timer ? this.halt() : this.play()));
    this.timer = null;
  }

  /** Shows what was found, at the end of the solve. */
  update(stage, classes, count, index) {
    this.halt();
    this.stage = stage;
    this.classes = classes;
    const place = count > 1 ? `Stage ${index + 1} of ${count}: ${stage.name}` : `The ${stage.name}`;
    this.title.textContent = place;
    const evaluations = stage.solver.steps[stage.solver.steps.length - 1];
    const plain = stage.plain.steps[stage.plain.steps.length - 1];
    this.status.textContent = stage.status
      ? `${stage.status}: ${evaluations} evaluations of the map, ${plain} by plain iteration`
      : "This model has no solver.";
    this.scrub.hidden = stage.frames.length < 2;
    this.slider.max = stage.frames.length - 1;
    this.inputs.show(stage.inputs);
    this.rebuilt.show(stage.reconstruction);
    this.frame(stage.frames.length - 1);
  }

  frame(index) {
    const frame = this.stage.frames[index];
    this.slider.value = index;
    const path = frame.path === "perturbed" ? this.stage.perturbed : this.stage.solver;
    const residual = path.residuals[path.steps.indexOf(frame.step)];
    const step = frame.path === "perturbed" ? `perturbed, step ${frame.step - 1} of the way back` : `step ${frame.step}`;
    const said = residual === undefined ? step : `${step}, residual ${shown(residual)}`;
    this.label.textContent = said;
    this.slider.setAttribute("aria-valuetext", said);
    this.states.show(frame.branches);
    this.chart(frame);
  }

  chart(frame) {
    const { stage, classes } = this;
    const solving = frame.path === "solve";
    const open = [...this.charts.querySelectorAll("details")].map((part) => part.open);
    const pairs = (path, values) => path.steps.map((step, index) => [step, values[index]]);
    // The objective is known before the first step, too. On its own scale nothing is to be seen after two
    // steps, so the charts show how far it is above the lowest value that any path reached.
    const paths = [stage.solver, stage.plain, stage.perturbed];
    const lowest = Math.min(...paths.flatMap((path) => path.objective).filter((value) => value !== null));
    const along = (path) => path.objective.map((value, index) => [index, value === null ? null : value - lowest]);
    const residuals = [
      { name: "the chosen solver", points: pairs(stage.solver, stage.solver.residuals) },
      { name: "plain iteration", points: pairs(stage.plain, stage.plain.residuals) },
    ];
    if (stage.perturbed.steps.length) {
      residuals.push({ name: "back from the perturbation", points: pairs(stage.perturbed, stage.perturbed.residuals) });
    }
    const charts = [];
    if (stage.solver.steps.length) {
      const now = solving ? frame.step : undefined;
      charts.push(lineChart({
        title: "Relative residual", xName: "step", lines: residuals, log: true, now, limit: stage.tolerance,
      }));
    }
    if (stage.solver.objective.length) {
      const lines = [
        { name: "the chosen solver", points: along(stage.solver) },
        { name: "plain iteration", points: along(stage.plain) },
      ];
      if (stage.perturbed.steps.length) {
        lines.push({ name: "back from the perturbation", points: along(stage.perturbed) });
      }
      const now = solving ? frame.step : undefined;
      const title = `Hidden objective above its lowest value, ${Number(lowest.toPrecision(7))}`;
      charts.push(lineChart({ title, xName: "step", lines, log: true, now }));
      charts.push(shareChart({
        title: "Shares of its terms", xName: "step", names: stage.terms,
        rows: stage.solver.terms, now,
      }));
    }
    if (stage.frames.length > 1) {
      const rows = stage.frames.filter((other) => other.path === frame.path);
      const lines = classes.map(({ class: name }, index) => ({
        name, points: rows.map((other) => [other.step, other.classes[index]]),
      }));
      charts.push(lineChart({
        title: solving ? "Answer at each step" : "Answer on the way back", xName: "step", lines, low: 0, high: 1,
        now: frame.step,
      }));
    }
    this.charts.replaceChildren(...charts);
    this.charts.querySelectorAll("details").forEach((part, index) => (part.open = open[index] || false));
  }

  play() {
    const last = this.stage.frames.length - 1;
    let index = Number(this.slider.value) === last ? 0 : Number(this.slider.value);
    this.button.textContent = "Pause";
    const step = () => {
      this.frame(index);
      if (index === last) this.halt();
      else this.timer = setTimeout(step, PACE);
      index += 1;
    };
    step();
  }

  halt() {
    clearTimeout(this.timer);
    this.timer = null;
    this.button.textContent = "Play";
  }
}
