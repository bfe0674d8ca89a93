// Making and mending of elements. Text only ever goes in as text: the policy allows nothing else (trusted types).

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

// Brings the children of `parent` in line with `items`, keeping the element of each key: focus and hover stay.
export function sync(parent, items, keyOf, make, update) {
  const known = parent.known ?? (parent.known = new Map());
  const wanted = new Set();
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    wanted.add(key);
    let element = known.get(key);
    if (!element) {
      element = make(item);
      known.set(key, element);
    }
    update(element, item);
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== element) parent.insertBefore(element, place);
    before = element;
  }
  for (const [key, element] of known) {
    if (!wanted.has(key)) {
      element.remove();
      known.delete(key);
    }
  }
}

// A table's body: `columns` are {label, class, fill(cell, item)}; `nothing` is said when there are no rows.
export function table(body, columns, items, keyOf, nothing) {
  const rows = items.length ? items : [null];
  sync(
    body,
    rows,
    (item) => (item === null ? "\0none" : keyOf(item)),
    (item) => {
      if (item === null) return el("tr", { class: "none" }, el("td", { colspan: columns.length }, nothing));
      const cells = columns.map((column) => el("td", { class: column.class ?? null, "data-label": column.label }));
      return el("tr", {}, ...cells);
    },
    (row, item) => {
      if (item === null) setText(row.firstChild, nothing);
      else columns.forEach((column, number) => column.fill(row.children[number], item));
    },
  );
}
