// The page: pictures in, controls, answers out.

const find = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const newest = new Newest();
const stages = [];
/** What the server says of the model. */
let model = null;
/** The picture in the model's shape, in base64. */
let picture = null;
/** Where it came from, to invert it again. */
let source = null;
let seed = 1;
let example = 0;

/** A slider's place for a value, and back: its ends are far apart on some scales. */
const SCALES = {
  linear: { place: (value) => value, value: (place) => place },
  log: { place: (value) => Math.log10(value), value: (place) => 10 ** place },
  square: { place: (value) => Math.sqrt(value), value: (place) => place * place },
};

class Control {
  constructor(about) {
    this.about = about;
    const id = `control-${about.name}`;
    this.output = element("output", { htmlFor: id });
    if (about.choices) {
      const options = about.choices.map(({ value, label }) => element("option", { value }, label));
      this.input = element("select", { id }, ...options);
    } else {
      this.scale = SCALES[about.scale];
      const [low, high] = [about.low, about.high].map(this.scale.place);
      this.input = element("input", { type: "range", id, min: low, max: high, step: about.step || (high - low) / 200 });
    }
    this.input.setAttribute("aria-describedby", `${id}-help`);
    const row = element("div", { className: "row" }, element("label", { htmlFor: id }, about.label), this.output);
    const help = element("p", { className: "help", id: `${id}-help` }, about.help);
    this.whole = element("div", { className: "control" }, row, this.input, help);
    this.input.addEventListener("input", () => {
      this.touched = true;
      this.tell();
      solve();
    });
    this.reset();
  }

  reset() {
    // The place of a slider is rounded, so an untouched one stands for its exact value.
    this.touched = false;
    this.input.value = this.scale ? this.scale.place(this.about.value) : this.about.value;
    this.tell();
  }

  value() {
    if (!this.touched) return this.about.value;
    if (!this.scale) return this.input.value;
    const { low, high } = this.about;
    return Math.min(high, Math.max(low, this.scale.value(Number(this.input.value))));
  }

  tell() {
    const value = this.value();
    this.whole.classList.toggle("changed", value !== this.about.value);
    if (!this.scale) return;
    this.output.textContent = shown(value);
    this.input.setAttribute("aria-valuetext", shown(value));
  }
}

let controls = [];

/** The controls that were changed; the others stay as in the run. */
function changes() {
  const changed = controls.filter((control) => control.value() !== control.about.value);
  return { ...Object.fromEntries(changed.map((control) => [control.about.name, control.value()])), seed };
}

/** Asks for the equilibrium of the picture. Whatever changed since then is asked for afterwards. */
function solve(animate = false) {
  if (picture === null) return Promise.resolve();
  return newest.run(async () => {
    const began = performance.now();
    try {
      const view = await ask("/play/look", JSON.stringify({ picture, controls: changes() }));
      show(view, performance.now() - began);
      complain("");
      if (animate && !still.matches) stages.forEach((stage) => stage.stage.frames.length > 1 && stage.play());
    } catch (error) {
      complain(error.message);
    }
  });
}

function show(view, milliseconds) {
  paintPicture(find("seen"), view.picture, model);
  const best = view.classes[0];
  find("seen").setAttribute("aria-label", `The picture as the model sees it, ${model.width} by ${model.height} pixels`);
  showClasses(find("classes"), view.classes);
  const took = `The model took ${Math.round(view.milliseconds)} ms, the answer ${Math.round(milliseconds)} ms.`;
  const calm = view.calm && `Before the perturbation: ${view.calm.class}, ${percent(view.calm.probability)}.`;
  find("note").textContent = [calm, took].filter(Boolean).join(" ");
  document.title = `${best.class} - mopteq play`;
  while (stages.length > view.stages.length) stages.pop().whole.remove();
  view.stages.forEach((stage, index) => {
    if (!stages[index]) {
      stages[index] = new StageView(index);
      find("stages").append(stages[index].whole);
    }
    stages[index].update(stage, view.classes, view.stages.length, index);
  });
  // For tests: what is on the page now.
  document.body.dataset.answer = best.class;
  document.body.dataset.answers = Number(document.body.dataset.answers || 0) + 1;
}

/** Takes a picture file, decoded by the server as `predict` does. */
async function take(file, name, animate) {
  source = { file, name };
  try {
    if (file.size > model.most_bytes) {
      throw new Error(`picture: ${file.size} bytes; ${model.most_bytes} are allowed (--max-upload)`);
    }
    const invert = find("invert").checked && name ? "?invert=true" : "";
    const taken = await ask(`/play/picture${invert}`, file);
    if (taken.refused) throw new Error(taken.refused);
    picture = taken.picture;
    await solve(animate);
  } catch (error) {
    complain(name ? error.message.replace(/^picture:/, `${name}:`) : error.message);
  }
}

/** The first picture of a drop, a paste or a choice. */
function takeFirst(files) {
  const file = files && files[0];
  if (!file) return;
  pad.clear();
  take(file, file.name || "the pasted picture", true);
}

const drawing = new Newest();
const pad = new Pad(find("pad"), find("pad-said"), () => {
  drawing.run(async () => {
    if (pad.isEmpty()) return;
    await take(await pad.file(model.digits && find("centre").checked), "", false);
  });
});

find("clear").addEventListener("click", () => {
  pad.clear();
  pad.canvas.focus();
});
find("centre").addEventListener("change", () => pad.changed(false));
find("invert").addEventListener("change", () => source && source.name && take(source.file, source.name, false));
find("file").addEventListener("change", (event) => {
  takeFirst(event.target.files);
  // The same file again is a choice, too.
  event.target.value = "";
});
find("example").addEventListener("click", async () => {
  try {
    pad.clear();
    source = null;
    picture = (await ask(`/play/example?number=${example}`)).picture;
    example = (example + 1) % model.examples;
    await solve(true);
  } catch (error) {
    complain(error.message);
  }
});
find("reset").addEventListener("click", () => {
  controls.forEach((control) => control.reset());
  solve();
});
find("again").addEventListener("click", () => {
  seed += 1;
  solve();
});
find("sliders").addEventListener("submit", (event) => event.preventDefault());

addEventListener("paste", (event) => takeFirst(event.clipboardData && event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    find("drop").hidden = false;
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) find("drop").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").hidden = true;
  takeFirst(event.dataTransfer.files);
});

async function begin() {
  try {
    model = await ask("/play/model");
  } catch (error) {
    complain(error.message);
    return;
  }
  const colour = model.channels === 1 ? "grey" : "colour";
  find("about").textContent = `${model.run}, ${model.checkpoint}: ${model.network} with ${model.parameters} parameters ` +
    `for ${model.width} × ${model.height} pictures in ${colour}, ${model.classes.length} classes.`;
  find("pad-figure").hidden = find("pad-help").hidden = find("clear").hidden = !model.drawable;
  find("centre-label").hidden = !(model.drawable && model.digits);
  find("example").hidden = model.examples === 0;
  controls = model.controls.map((about) => new Control(about));
  find("sliders").replaceChildren(...controls.map((control) => control.whole));
  document.body.dataset.ready = "yes";
}
begin();
