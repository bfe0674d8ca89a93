// The API's page: drawn from /api/openapi.json, which the program makes from its own routes.

import { byId, el } from "./dom.js";
import { ask, takeTokenFromAddress } from "./stream.js";

const MOODS = { get: "good", put: "warn", post: "info", delete: "bad" };

takeTokenFromAddress();
ask("GET", "/api/openapi.json").then(draw, (error) => {
  byId("said").textContent = error.status === 401 ? "Log in on the dashboard first, in this tab: this page uses its token." : error.message;
});

function draw(found) {
  byId("said").hidden = true;
  const tags = new Map();
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push({ path, method, ...operation });
    }
  }
  for (const [tag, operations] of tags) {
    byId("operations").append(el("section", { class: "card" }, el("div", { class: "card-head" }, el("h2", {}, tag)), ...operations.map(one)));
  }
}

function one({ path, method, summary, responses, requestBody }) {
  const [type, answer] = Object.entries(responses["200"].content)[0];
  const parts = [el("p", { class: "note" }, `Answers 200, ${type}:`), code(answer.schema)];
  if (requestBody) parts.unshift(el("p", { class: "note" }, "Takes:"), code(requestBody.content["application/json"].schema));
  return el(
    "details",
    {},
    el("summary", {}, el("span", { class: `pill ${MOODS[method]}` }, method.toUpperCase()), el("span", { class: "mono" }, path), el("span", { class: "note" }, summary)),
    ...parts,
  );
}

const code = (schema) => el("pre", {}, el("code", {}, JSON.stringify(example(schema), null, 2)));

// What a value of the schema looks like.
function example(schema) {
  if (schema.properties) return Object.fromEntries(Object.entries(schema.properties).map(([name, inner]) => [name, example(inner)]));
  if (schema.items) return [example(schema.items)];
  if (schema.additionalProperties) return { "…": example(schema.additionalProperties) };
  return { string: "text", integer: 0, number: 0.5, boolean: true }[schema.type] ?? "any JSON";
}
