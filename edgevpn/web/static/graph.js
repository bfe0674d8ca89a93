// Who is connected, and how: this node in the middle, the others around it, an edge for each path.

import { setAttributes, setText, svg, sync } from "./dom.js";
import { bits, milliseconds } from "./format.js";

const MOST = 40; // nodes drawn; the table has them all

export class Graph {
  constructor(holder, chosen) {
    this.holder = holder;
    this.chosen = chosen;
    this.edges = svg("g");
    this.plates = svg("g");
    this.dots = svg("g");
    this.title = svg("title");
    this.svg = svg("svg", { role: "img" }, this.title, this.edges, this.plates, this.dots);
    holder.append(this.svg);
    new ResizeObserver(() => this.draw()).observe(holder);
    this.nodes = [];
  }

  show(nodes) {
    this.nodes = nodes;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.holder;
    if (!width || !height) return;
    setAttributes(this.svg, { viewBox: `0 0 ${width} ${height}` });
    const me = this.nodes.find((node) => node.me);
    const others = this.nodes.filter((node) => !node.me).slice(0, MOST);
    const placed = others.map((node, number) => ({ node, ...around(number, others.length, width, height) }));
    const centre = { x: width / 2, y: height / 2 };
    if (me) placed.push({ node: me, ...centre });
    const links = placed.filter(({ node }) => !node.me);
    setText(this.title, summary(others));
    sync(
      this.edges,
      links,
      ({ node }) => node.peer,
      () => svg("line"),
      (line, { node, x, y }) =>
        setAttributes(line, {
          class: `edge ${node.kind}`, x1: centre.x, y1: centre.y, x2: x, y2: y,
          "stroke-width": node.kind === "gone" ? 1.5 : (1.6 + Math.min(4, Math.log10(1 + (node.rates[0] + node.rates[1]) / 1000))).toFixed(2),
        }),
    );
    sync(
      this.plates,
      others.length > 14 ? [] : links.filter(({ node }) => node.rtt !== null && node.rtt !== undefined),
      ({ node }) => node.peer,
      () => svg("text", { class: "edge-name" }),
      (text, { node, x, y }) => {
        setAttributes(text, { x: centre.x + (x - centre.x) * 0.57, y: centre.y + (y - centre.y) * 0.57 + 4 });
        setText(text, milliseconds(node.rtt));
      },
    );
    sync(
      this.dots,
      placed,
      ({ node }) => node.peer,
      ({ node }) =>
        svg(
          "g",
          { onclick: () => this.chosen(node.peer) },
          svg("circle", { r: node.me ? 21 : 16 }),
          svg("text"),
          svg("text", { class: "dot-name" }),
          svg("text", { class: "dot-more" }),
          svg("title"),
        ),
      (group, { node, x, y }) => {
        const [circle, initial, name, more, title] = group.children;
        const above = !node.me && y < centre.y - 4; // the edge comes from the other side
        const [first, second] = above ? [-37, -23] : [node.me ? 37 : 31, node.me ? 51 : 45];
        setAttributes(circle, { class: `dot ${node.me ? "me" : node.kind}`, cx: x, cy: y });
        setAttributes(initial, { class: `initial ${node.me ? "me" : ""}`, x, y });
        setText(initial, [...node.name.replace(/^…/, "")].slice(0, 2).join("").toUpperCase());
        setAttributes(name, { x, y: y + first });
        setText(name, node.me && width < 480 ? "" : cut(node.name)); // no room, and it stands in the header
        setAttributes(more, { x, y: y + second });
        setText(more, node.me ? "" : (node.addresses[0] ?? ""));
        setText(title, `${node.name}: ${node.said}, ${bits(node.rates[0])} in, ${bits(node.rates[1])} out`);
      },
    );
  }
}

const cut = (name) => (name.length > 18 ? `${name.slice(0, 17)}…` : name);

function around(number, count, width, height) {
  const angle = (number / Math.max(count, 1)) * 2 * Math.PI - Math.PI / 2 + (count === 2 ? Math.PI / 2 : count % 2 ? 0 : Math.PI / count);
  const reach = count > 14 && number % 2 ? 0.68 : 1;
  const rx = Math.max(60, Math.min(width / 2 - 62, 330)) * reach;
  const ry = (height / 2 - 56) * reach;
  return { x: width / 2 + Math.cos(angle) * rx, y: height / 2 + Math.sin(angle) * ry };
}

function summary(others) {
  const kinds = new Map();
  for (const node of others) kinds.set(node.said, (kinds.get(node.said) ?? 0) + 1);
  const told = [...kinds].map(([kind, count]) => `${count} ${kind}`).join(", ");
  return others.length ? `This node and ${others.length} others: ${told}` : "This node alone";
}
