// Asking the server.

/** The answer of the server as an object; what it refuses is an Error with its own words. */
async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, body === undefined ? {} : { method: "POST", body });
  } catch {
    throw new Error("The server does not answer. Is mopteq play still running?");
  }
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    // A proxy may answer in HTML.
  }
  if (!response.ok) throw new Error(answer.error || `The server answered with status ${response.status}.`);
  return answer;
}

/** Runs the newest of the tasks it was given, one at a time; those in between are left out. */
class Newest {
  constructor() {
    this.busy = false;
    this.next = null;
  }

  async run(task) {
    this.next = task;
    if (this.busy) return;
    this.busy = true;
    while (this.next) {
      const task = this.next;
      this.next = null;
      await task();
    }
    this.busy = false;
  }
}

/** Bytes of base64. */
function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** An element with attributes and children. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list" && key !== "role") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** The same in SVG. */
function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A number for people. */
function shown(value) {
  if (value === null || value === undefined) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/** Writes an error where screen readers announce it; nothing wipes it. */
function complain(message) {
  const place = document.getElementById("alert");
  place.textContent = message || "";
  place.hidden = !message;
}
