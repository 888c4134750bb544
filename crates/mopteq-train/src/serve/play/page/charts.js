// Charts as SVG, each with a table of its numbers.

const WIDTH = 420;
const HEIGHT = 230;
const EDGE = { left: 56, right: 12, top: 10, bottom: 38 };
/** Lines differ by their dashes, too: colour alone is not enough for everybody. */
const DASHES = ["", "7 4", "2 4", "10 3 2 3", "1 3"];

function scale(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

/** Round numbers between two ends. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const all = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) all.push(value);
  return all;
}

function powers(low, high) {
  const [first, last] = [Math.floor(low), Math.ceil(high)];
  const stride = Math.max(1, Math.ceil((last - first) / 5));
  const all = [];
  for (let power = first; power <= last; power += stride) all.push(power);
  return all;
}

function legend(names, dashed) {
  const items = names.map((name, index) => {
    const mark = dashed
      ? drawn("line", { x1: 0, x2: 22, y1: 5, y2: 5, class: `line s${index + 1}`, "stroke-dasharray": DASHES[index % 5] })
      : drawn("rect", { width: 14, height: 10, class: `f${index + 1}` });
    return element("li", {}, drawn("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, mark), name);
  });
  return element("ul", { className: "legend" }, ...items);
}

function table(head, rows) {
  const line = (cells, kind) => element("tr", {}, ...cells.map((cell) => element(kind, {}, cell)));
  const body = rows.map((row) => line(row.map((cell) => (typeof cell === "string" ? cell : shown(cell))), "td"));
  const whole = element("table", {}, element("thead", {}, line(head, "th")), element("tbody", {}, ...body));
  return element("details", {}, element("summary", {}, "Numbers"), element("div", { className: "scroll" }, whole));
}

/** Axes of a chart; returns where things go. */
function axes(svg, x, y, options) {
  const bottom = HEIGHT - EDGE.bottom;
  for (const value of options.yTicks) {
    const at = y(value);
    svg.append(
      drawn("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: at, y2: at }),
      drawn("text", { x: EDGE.left - 6, y: at + 4, "text-anchor": "end" }, options.yText(value)),
    );
  }
  for (const value of options.xTicks) {
    svg.append(drawn("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, String(value)));
  }
  svg.append(
    drawn("line", { class: "axis", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: bottom, y2: bottom }),
    drawn("text", { x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, options.xName),
  );
}

function figure(title, label, svg, ...more) {
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  return element("figure", { className: "chart" }, element("figcaption", {}, title), svg, ...more);
}

/**
 * Lines over steps. `lines` are `{name, points: [[x, y], ...]}`; a y that is null leaves a gap.
 * `now` marks a step, `limit` a value.
 */
function lineChart({ title, xName, lines, log, now, limit, low, high }) {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
  const turn = (value) => (log ? Math.log10(value) : value);
  const usable = (value) => value !== null && Number.isFinite(value) && (!log || value > 0);
  const kept = lines.map((line) => ({ ...line, points: line.points.filter(([, value]) => usable(value)) }));
  const all = kept.flatMap((line) => line.points);
  const xs = all.map(([step]) => step);
  const ys = all.map(([, value]) => turn(value));
  if (usable(limit ?? null)) ys.push(turn(limit));
  const ends = [low ?? Math.min(...ys), high ?? Math.max(...ys)];
  if (!all.length || !(ends[1] > ends[0])) ends[1] = (ends[0] = Number.isFinite(ends[0]) ? ends[0] - 0.5 : 0) + 1;
  const yTicks = log ? powers(...ends) : ticks(...ends, 5);
  if (log) [ends[0], ends[1]] = [Math.min(ends[0], yTicks[0]), Math.max(ends[1], yTicks[yTicks.length - 1])];
  const span = xs.length ? [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)] : [0, 1];
  const x = scale(...span, EDGE.left + 8, WIDTH - EDGE.right - 8);
  const y = scale(...ends, HEIGHT - EDGE.bottom, EDGE.top);
  axes(svg, x, y, {
    yTicks,
    yText: (value) => (log ? `1e${value}` : shown(Number(value.toPrecision(6)))),
    xTicks: ticks(...span, 8).filter(Number.isInteger),
    xName,
  });
  if (usable(limit ?? null)) {
    const at = y(turn(limit));
    svg.append(drawn("line", { class: "limit", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: at, y2: at }));
    svg.append(drawn("text", { x: EDGE.left + 4, y: at - 4 }, "tolerance"));
  }
  if (now !== undefined && now >= span[0] && now <= span[1]) {
    svg.append(drawn("line", { class: "now", x1: x(now), x2: x(now), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
  }
  kept.forEach((line, index) => {
    const path = line.points.map(([step, value]) => `${x(step).toFixed(1)},${y(turn(value)).toFixed(1)}`);
    svg.append(
      drawn("polyline", { class: `line s${index + 1}`, points: path.join(" "), "stroke-dasharray": DASHES[index % 5] }),
    );
    for (const [step, value] of line.points) {
      const dot = drawn("circle", { class: `f${index + 1}`, cx: x(step), cy: y(turn(value)), r: 2.6 });
      dot.append(drawn("title", {}, `${line.name}, ${xName} ${step}: ${shown(value)}`));
      svg.append(dot);
    }
  });
  const ending = kept
    .filter((line) => line.points.length)
    .map((line) => {
      const [first, last] = [line.points[0], line.points[line.points.length - 1]];
      return `${line.name}: from ${shown(first[1])} to ${shown(last[1])} at ${xName} ${last[0]}`;
    });
  const steps = [...new Set(lines.flatMap((line) => line.points.map(([step]) => step)))].sort((a, b) => a - b);
  const rows = steps.map((step) => [
    String(step),
    ...lines.map((line) => {
      const found = line.points.find(([known]) => known === step);
      return found ? shown(found[1]) : "";
    }),
  ]);
  const names = lines.map((line) => line.name);
  const numbers = table([xName, ...names], rows);
  return figure(title, `${title}. ${ending.join("; ")}.`, svg, legend(names, true), numbers);
}

/** Shares of the terms at each step, as bars of one height. */
function shareChart({ title, xName, names, rows, now }) {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
  const x = scale(0, Math.max(1, rows.length), EDGE.left, WIDTH - EDGE.right);
  const y = scale(0, 1, HEIGHT - EDGE.bottom, EDGE.top);
  const stride = Math.ceil(rows.length / 12);
  axes(svg, (step) => x(step + 0.5), y, {
    yTicks: [0, 0.25, 0.5, 0.75, 1],
    yText: (value) => `${Math.round(100 * value)} %`,
    xTicks: rows.map((_, step) => step).filter((step) => step % stride === 0),
    xName,
  });
  rows.forEach((row, step) => {
    // A term may be negative; its share is that of its size.
    const total = row.reduce((sum, value) => sum + Math.abs(value ?? 0), 0) || 1;
    let below = 0;
    row.forEach((value, index) => {
      const share = Math.abs(value ?? 0) / total;
      const [top, bottom] = [y(below + share), y(below)];
      const gap = Math.min(3, (x(1) - x(0)) / 6);
      const bar = drawn("rect", {
        class: `f${index + 1}`, x: x(step) + gap, width: x(1) - x(0) - 2 * gap, y: top, height: Math.max(0, bottom - top),
        opacity: now === undefined || now === step ? 1 : 0.6,
      });
      bar.append(drawn("title", {}, `${names[index]}, step ${step}: ${shown(value)} (${(100 * share).toFixed(1)} %)`));
      svg.append(bar);
      below += share;
    });
  });
  const last = rows[rows.length - 1] || [];
  const ending = names.map((name, index) => `${name} ${shown(last[index])}`).join(", ");
  const numbers = table([xName, ...names], rows.map((row, step) => [String(step), ...row]));
  return figure(title, `${title}. At the end: ${ending}.`, svg, legend(names, false), numbers);
}
