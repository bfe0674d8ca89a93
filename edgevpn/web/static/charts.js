// Small charts in SVG: a trace for a table's cell, and the throughput of the last minutes with axes.

import { setAttributes, svg } from "./dom.js";
import { bits } from "./format.js";

const WIDTH = 74;
const HEIGHT = 22;
const SPAN = 300; // seconds that the large chart shows

export function spark(name) {
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: `area ${name}` }),
    svg("path", { class: `trace ${name}` }),
  );
}

// `points`: [time, value or null] of the last minutes, in order.
export function drawSpark(element, points, span = 60) {
  const last = points.at(-1)?.[0] ?? 0;
  const shown = points.filter(([time, value]) => value !== null && time > last - span);
  const top = Math.max(...shown.map(([, value]) => value), 1e-9);
  const line = shown.map(([time, value]) => [
    WIDTH - ((last - time) / span) * WIDTH,
    HEIGHT - 1.5 - (value / top) * (HEIGHT - 4),
  ]);
  setAttributes(element.lastChild, { d: path(line) });
  setAttributes(element.firstChild, { d: line.length > 1 ? area(line, HEIGHT) : "" });
}

const path = (line) => line.map(([x, y], number) => `${number ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const area = (line, ground) => `${path(line)}L${line.at(-1)[0].toFixed(1)} ${ground}L${line[0][0].toFixed(1)} ${ground}Z`;

// The throughput chart: received above, sent over it, one scale.
export class Traffic {
  constructor(holder) {
    this.holder = holder;
    this.lines = svg("g");
    this.shapes = Object.fromEntries(
      ["in", "out"].map((name) => [name, [svg("path", { class: `area ${name}` }), svg("path", { class: `trace ${name}` })]]),
    );
    this.svg = svg("svg", { role: "img", "aria-label": "Throughput of the last five minutes" }, this.lines, ...Object.values(this.shapes).flat());
    holder.append(this.svg);
    new ResizeObserver(() => this.draw()).observe(holder);
    this.samples = [];
  }

  show(samples) {
    this.samples = samples;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.holder;
    if (!width || !height) return;
    const left = 62;
    const ground = height - 24;
    const last = this.samples.at(-1)?.t ?? Date.now() / 1000;
    const shown = this.samples.filter((sample) => sample.t > last - SPAN);
    const top = nice(Math.max(1250, ...shown.flatMap((sample) => sample.total)));
    const x = (time) => width - 4 - ((last - time) / SPAN) * (width - left - 4);
    const y = (value) => ground - (value / top) * (ground - 12);
    setAttributes(this.svg, { viewBox: `0 0 ${width} ${height}` });
    const marks = [0, 0.25, 0.5, 0.75, 1].flatMap((part) => [
      svg("line", { class: "grid", x1: left, x2: width - 4, y1: y(top * part), y2: y(top * part) }),
      svg("text", { class: "axis", x: left - 8, y: y(top * part) + 4, "text-anchor": "end" }, bits(top * part)),
    ]);
    for (let minutes = 0; minutes <= 5; minutes += 1) {
      marks.push(
        svg(
          "text",
          { class: "axis", x: x(last - minutes * 60), y: height - 6, "text-anchor": minutes === 0 ? "end" : minutes === 5 ? "start" : "middle" },
          minutes === 0 ? "now" : `${minutes} min`,
        ),
      );
    }
    this.lines.replaceChildren(...marks);
    ["in", "out"].forEach((name, number) => {
      const line = shown.map((sample) => [x(sample.t), y(sample.total[number])]);
      const [filled, trace] = this.shapes[name];
      setAttributes(trace, { d: path(line) });
      setAttributes(filled, { d: line.length > 1 ? area(line, ground) : "" });
    });
    const now = shown.at(-1)?.total ?? [0, 0];
    setAttributes(this.svg, { "aria-label": `Throughput of the last five minutes; now ${bits(now[0])} received, ${bits(now[1])} sent` });
  }
}

// The next of 1, 2, 5 times a power of ten, in bits.
function nice(value) {
  const wanted = value * 8;
  const power = 10 ** Math.floor(Math.log10(wanted));
  for (const step of [1, 2, 4, 8, 10]) if (wanted <= step * power) return (step * power) / 8;
  return wanted / 8;
}
