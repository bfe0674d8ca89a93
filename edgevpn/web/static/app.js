// The dashboard: keeps what the node told, and draws the parts that changed, once a frame.

import { Graph } from "./graph.js";
import { Traffic, drawSpark, spark } from "./charts.js";
import { byId, el, setAttributes, setText, sync, table } from "./dom.js";
import { age, bits, bytes, milliseconds, parsed, short } from "./format.js";
import { Refused, ask, follow, forgetToken, hasToken, keepToken, place, takeTokenFromAddress } from "./stream.js";

const HISTORY = 300;
const MOST_ROWS = 200;
const KINDS = {
  datagram: ["datagram", "direct, UDP", "good"],
  stream: ["stream", "TCP stream", "warn"],
  relayed: ["relayed", "relayed, TCP", "warn"],
  "edgevpn-stream": ["go", "Go stream", "info"],
  none: ["idle", "no packets yet", ""],
};
const STATES = { up: "good", joining: "warn", starting: "warn", stopping: "bad" };
const ACTOR_STATES = { ready: "good", starting: "warn", stopping: "warn", "backing-off": "warn", failed: "bad" };
const RECORDS = { 1: "A", 2: "NS", 5: "CNAME", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV" };

const told = { node: {}, peers: [], actors: [], ledger: new Map(), samples: [] };
const stale = new Set();
let drawing = false;

// --- what is told

function event(name, value) {
  if (name === "ledger") {
    if (value.entries.length) told.ledger.set(value.bucket, value);
    else told.ledger.delete(value.bucket);
  } else if (name === "history") told.samples = value;
  else if (name === "sample") {
    told.samples.push(value);
    if (told.samples.length > HISTORY) told.samples.shift();
  } else told[name] = value;
  changed(name);
}

function changed(name) {
  stale.add(name);
  if (drawing) return;
  drawing = true;
  if (document.hidden) setTimeout(draw, 500); // there are no frames while nobody sees the page
  else requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  const names = new Set(stale);
  stale.clear();
  const any = (...those) => those.some((one) => names.has(one));
  if (any("node")) drawNode();
  if (any("node", "peers", "ledger", "clock")) drawTiles();
  if (any("node", "peers", "ledger", "sample", "history", "clock")) drawNodes();
  if (any("sample", "history")) drawTraffic();
  if (any("ledger", "node", "peers", "clock")) drawLedger();
  if (any("actors", "clock")) drawActors();
}

const entries = (bucket) => told.ledger.get(bucket)?.entries ?? [];

// --- this node

function drawNode() {
  const node = told.node;
  setText(byId("who-name"), node.hostname || short(node.peer_id));
  setText(byId("who-address"), node.address?.join(", ") || "no interface");
  setText(byId("state"), node.state ?? "connecting");
  byId("state").className = `pill ${STATES[node.state] ?? ""}`;
  byId("waiting").hidden = !node.waiting_for;
  setText(byId("waiting"), node.waiting_for ? `Waiting for ${node.waiting_for}` : "");
  setText(byId("about"), `edgevpn ${node.version}, node ${node.peer_id}, ownership ${node.ownership}. Up for ${age(node.started)}.`);
  for (const button of document.querySelectorAll("button.add")) button.disabled = !node.peer_id; // entries name their owner
  document.title = `${node.hostname || "edgevpn"}: ${node.state}`;
}

// --- nodes: peers that are connected, and those that the ledger knows

function nodes() {
  const me = told.node.peer_id;
  const found = new Map();
  const known = (peer) => {
    if (!found.has(peer)) found.set(peer, { peer, me: peer === me, hostname: "", addresses: [], row: null, heard: 0 });
    return found.get(peer);
  };
  if (me) known(me);
  for (const entry of entries("machines")) {
    const machine = parsed(entry.value);
    if (typeof machine?.PeerID !== "string" || !machine.PeerID) continue;
    const node = known(machine.PeerID);
    node.addresses.push(entry.key);
    node.hostname ||= typeof machine.Hostname === "string" ? machine.Hostname : "";
  }
  for (const entry of entries("healthcheck")) known(entry.key).heard = entry.updated;
  for (const row of told.peers) if (row.member || found.has(row.peer_id)) known(row.peer_id).row = row;
  const last = told.samples.at(-1)?.peers ?? {};
  for (const node of found.values()) {
    const row = node.row;
    const sample = last[node.peer];
    [node.kind, node.said, node.mood] = row ? (KINDS[row.path] ?? KINDS.none) : ["gone", "not connected", "bad"];
    if (node.me) [node.kind, node.said, node.mood] = ["me", "this node", ""];
    node.hostname ||= node.me ? told.node.hostname : "";
    node.name = node.hostname || node.addresses[0] || short(node.peer);
    node.rtt = sample?.[0] ?? null;
    node.rates = sample ? [sample[1], sample[2]] : [0, 0];
  }
  return [...found.values()].sort(
    (a, b) => b.me - a.me || !!b.row - !!a.row || compare(a.addresses[0] ?? "~", b.addresses[0] ?? "~") || compare(a.peer, b.peer),
  );
}

const compare = (a, b) => a.localeCompare(b, "en", { numeric: true });
const nameOf = (peer) => byPeer.get(peer)?.name ?? short(peer);
let byPeer = new Map();

const trail = (peer, number) => told.samples.map((sample) => [sample.t, sample.peers[peer]?.[number] ?? (number ? 0 : null)]);

function fillTrail(cell, text, name, points) {
  if (!cell.firstChild) cell.append(el("span", { class: "with" }, el("span"), spark(name)));
  setText(cell.firstChild.firstChild, text);
  drawSpark(cell.firstChild.lastChild, points);
}

function fillTwo(cell, first, second, title) {
  if (!cell.firstChild) cell.append(el("span", {}, el("span"), el("span", { class: "sub" })));
  setText(cell.firstChild.children[0], first);
  setText(cell.firstChild.children[1], second);
  if (title) setAttributes(cell, { title });
}

function fillPill(cell, text, mood, title = "") {
  if (!cell.firstChild) cell.append(el("span"));
  setText(cell.firstChild, text);
  setAttributes(cell.firstChild, { class: `pill ${mood}`, title });
}

const NODE_COLUMNS = [
  { label: "Node", fill: (cell, node) => fillTwo(cell, node.name, node.me ? "this node" : short(node.peer), node.peer) },
  { label: "VPN address", class: "wide", fill: (cell, node) => setText(cell, node.addresses.join(", ") || "–") },
  { label: "Path", fill: (cell, node) => fillPill(cell, node.said, node.mood, node.row?.path_why ?? "") },
  { label: "Round trip", class: "num", fill: (cell, node) => (node.me ? setText(cell, "") : fillTrail(cell, milliseconds(node.rtt), "rtt", trail(node.peer, 0))) },
  { label: "Received", class: "num", fill: (cell, node) => (node.me ? setText(cell, "") : fillTrail(cell, bits(node.rates[0]), "in", trail(node.peer, 1))) },
  { label: "Sent", class: "num", fill: (cell, node) => (node.me ? setText(cell, "") : fillTrail(cell, bits(node.rates[1]), "out", trail(node.peer, 2))) },
  { label: "Connected", class: "num", fill: (cell, node) => setText(cell, node.me ? "" : node.row ? age(node.row.since) : `heard ${age(node.heard)} ago`) },
];

function drawNodes() {
  const all = nodes();
  byPeer = new Map(all.map((node) => [node.peer, node]));
  graph.show(all);
  table(byId("nodes-body"), NODE_COLUMNS, all.slice(0, MOST_ROWS), (node) => node.peer, "nobody yet");
  for (const [peer, row] of byId("nodes-body").known) row.dataset.peer = peer;
  for (const cell of byId("nodes-body").querySelectorAll("td.num:empty")) cell.classList.add("blank");
  const strangers = told.peers.filter((row) => !byPeer.has(row.peer_id)).length;
  setText(byId("nodes-note"), strangers ? `and ${strangers} connection${strangers > 1 ? "s" : ""} to peers outside this network` : "");
}

function choose(peer) {
  const row = byId("nodes-body").known?.get(peer);
  if (!row) return;
  row.scrollIntoView({ block: "center" });
  row.classList.add("mark");
  setTimeout(() => row.classList.remove("mark"), 1600);
}

// --- at a glance

function drawTiles() {
  const members = told.peers.filter((row) => row.member);
  const direct = members.filter((row) => row.path === "datagram").length;
  const tiles = [
    ["Nodes", members.length + 1, members.length ? `${direct} of ${members.length} by UDP` : "alone so far", "#nodes"],
    ["Machines", entries("machines").length, told.node.address?.[0] ?? "", "#machines"],
    ["Services", entries("services").length, "", "#services"],
    ["Files", entries("files").length, "", "#files"],
    ["Names", entries("dns").length, "", "#names"],
    ["Ledger", [...told.ledger.values()].reduce((sum, bucket) => sum + bucket.entries.length + bucket.more, 0), `in ${told.ledger.size} buckets`, "#ledger"],
  ];
  sync(
    byId("tiles"),
    tiles,
    ([name]) => name,
    ([name, , , href]) => el("a", { class: "tile", href }, el("span", {}, name), el("b"), el("small")),
    (tile, [, value, more]) => {
      setText(tile.children[1], String(value));
      setText(tile.children[2], more || "\u00a0");
    },
  );
}

function drawTraffic() {
  traffic.show(told.samples);
  const [received, sent] = told.samples.at(-1)?.total ?? [0, 0];
  setText(byId("rate-in"), bits(received));
  setText(byId("rate-out"), bits(sent));
}

// --- the ledger and what it is for

const keyed = (entry) => entry.key;
const isOurs = (bucket, entry) =>
  !["machines", "healthcheck"].includes(bucket) && (entry.owner === told.node.peer_id || !entry.owner || told.node.ownership !== "enforce");

const removeColumn = (bucketOf) => ({
  label: "",
  class: "end",
  fill: (cell, entry) => {
    const bucket = bucketOf(entry);
    const may = isOurs(bucket, entry);
    if (may && !cell.firstChild) {
      cell.append(el("button", { type: "button", class: "remove", "aria-label": `Remove ${entry.key}`, onclick: () => remove(bucket, entry.key) }, "Remove"));
    } else if (!may && cell.firstChild) cell.replaceChildren();
  },
});
const ageColumn = { label: "Age", class: "num", fill: (cell, entry) => setText(cell, age(entry.updated)) };
const text = (value) => (typeof value === "string" ? value : "");

const MACHINE_COLUMNS = [
  { label: "Address", fill: (cell, entry) => setText(cell, entry.key) },
  { label: "Host", class: "wide", fill: (cell, entry) => setText(cell, text(entry.parsed?.Hostname) || "–") },
  { label: "System", fill: (cell, entry) => setText(cell, [entry.parsed?.OS, entry.parsed?.Arch].map(text).filter(Boolean).join(" ") || "–") },
  { label: "Version", fill: (cell, entry) => setText(cell, text(entry.parsed?.Version) || "–") },
  {
    label: "Status",
    fill: (cell, entry) => {
      const node = byPeer.get(text(entry.parsed?.PeerID));
      const silent = !node?.heard || Date.now() / 1000 - node.heard > (told.node.longest_silence ?? 900);
      if (node?.me) fillPill(cell, "this node", "good");
      else if (node?.row) fillPill(cell, "connected", "good");
      else fillPill(cell, silent ? "offline" : "online, not connected", silent ? "bad" : "warn");
    },
  },
  { label: "Node", class: "mono", fill: (cell, entry) => setText(cell, short(text(entry.parsed?.PeerID))) },
];
const offered = (bucket) => [
  { label: "Name", class: "wide", fill: (cell, entry) => setText(cell, entry.key) },
  { label: "Offered by", fill: (cell, entry) => setText(cell, nameOf(text(entry.parsed?.PeerID) || entry.owner)) },
  ageColumn,
  removeColumn(() => bucket),
];
const SERVICE_COLUMNS = offered("services");
const FILE_COLUMNS = offered("files");
const NAME_COLUMNS = [
  { label: "Name or pattern", class: "wide mono", fill: (cell, entry) => setText(cell, entry.key || "(empty)") },
  {
    label: "Records",
    class: "wide",
    fill: (cell, entry) => setText(cell, Object.entries(entry.parsed ?? {}).map(([type, record]) => `${RECORDS[type] ?? `TYPE${type}`} ${record}`).join(", ") || "none"),
  },
  { label: "Owner", fill: (cell, entry) => setText(cell, entry.owner ? nameOf(entry.owner) : "nobody") },
  ageColumn,
  removeColumn(() => "dns"),
];
const LEDGER_COLUMNS = [
  { label: "Bucket", fill: (cell, entry) => setText(cell, entry.bucket) },
  { label: "Key", class: "wide", fill: (cell, entry) => setText(cell, entry.key.startsWith("12D3KooW") ? short(entry.key) : entry.key) },
  { label: "Value", class: "value mono", fill: (cell, entry) => setText(cell, entry.value.length > 300 ? `${entry.value.slice(0, 300)}…` : entry.value) },
  { label: "Owner", fill: (cell, entry) => setText(cell, entry.owner ? nameOf(entry.owner) : "nobody") },
  ageColumn,
  removeColumn((entry) => entry.bucket),
];

function drawLedger() {
  const read = (bucket) =>
    entries(bucket)
      .map((entry) => ({ ...entry, parsed: parsed(entry.value) }))
      .sort((a, b) => compare(a.key, b.key))
      .slice(0, MOST_ROWS);
  table(byId("machines-body"), MACHINE_COLUMNS, read("machines"), keyed, "No machine has an address yet.");
  table(byId("services-body"), SERVICE_COLUMNS, read("services"), keyed, "Nobody offers a service.");
  table(byId("files-body"), FILE_COLUMNS, read("files"), keyed, "Nobody offers a file.");
  table(byId("names-body"), NAME_COLUMNS, read("dns"), keyed, "No names are set.");
  drawEntries();
}

function drawEntries() {
  const select = byId("ledger-bucket");
  const names = [...told.ledger.keys()].sort();
  sync(select, ["", ...names], (name) => `b${name}`, (name) => el("option", { value: name }), (option, name) => setText(option, name || "All buckets"));
  const wanted = byId("ledger-filter").value.trim().toLowerCase();
  const found = [];
  let more = 0;
  for (const bucket of names) {
    if (select.value && select.value !== bucket) continue;
    more += told.ledger.get(bucket).more;
    for (const entry of entries(bucket)) {
      if (!wanted || `${bucket} ${entry.key} ${entry.value} ${entry.owner} ${nameOf(entry.owner)}`.toLowerCase().includes(wanted)) found.push({ ...entry, bucket });
    }
  }
  table(byId("ledger-body"), LEDGER_COLUMNS, found.slice(0, MOST_ROWS), (entry) => `${entry.bucket}\n${entry.key}`, wanted ? "Nothing matches." : "The ledger is empty.");
  const rest = Math.max(0, found.length - MOST_ROWS) + more;
  setText(byId("ledger-note"), rest ? `and ${rest} more: filter, or ask \`edgevpn ledger\`` : "");
}

const ACTOR_COLUMNS = [
  { label: "Actor", fill: (cell, actor) => setText(cell, actor.name) },
  { label: "State", fill: (cell, actor) => fillPill(cell, actor.state, ACTOR_STATES[actor.state] ?? "") },
  { label: "Restarts", class: "num", fill: (cell, actor) => setText(cell, String(actor.restarts)) },
  { label: "Up for", class: "num", fill: (cell, actor) => setText(cell, age(actor.since)) },
  { label: "Memory", class: "num", fill: (cell, actor) => setText(cell, bytes(actor.memory)) },
  { label: "PID", class: "num", fill: (cell, actor) => setText(cell, actor.pid ? String(actor.pid) : "–") },
  { label: "Last exit", class: "wide", fill: (cell, actor) => setText(cell, actor.last_exit || "–") },
];

function drawActors() {
  table(byId("actors-body"), ACTOR_COLUMNS, told.actors, (actor) => actor.name, "not known yet");
  setText(byId("actors-note"), `${bytes(told.actors.reduce((sum, actor) => sum + actor.memory, 0))} in all`);
}

// --- changes

function say(what) {
  const toast = byId("toast");
  toast.textContent = what;
  toast.classList.add("on");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => toast.classList.remove("on"), 3500);
}

// Opens a dialog; `act` gets its form's values. What it refuses is said in the dialog, which then stays.
function open(id, act) {
  const dialog = byId(id);
  const form = dialog.querySelector("form");
  const wrong = dialog.querySelector(".wrong");
  form.reset();
  wrong.textContent = "";
  form.onsubmit = async (submitted) => {
    submitted.preventDefault();
    try {
      await act(Object.fromEntries(new FormData(form)));
      dialog.close();
    } catch (error) {
      wrong.textContent = error.message;
      if (error instanceof Refused && error.status === 401) {
        dialog.close();
        login();
      }
    }
  };
  dialog.showModal();
}

for (const button of document.querySelectorAll("dialog .cancel")) button.addEventListener("click", () => button.closest("dialog").close());

byId("service-add").addEventListener("click", () =>
  open("dialog-service", async ({ name }) => {
    await ask("PUT", `/api/v1/ledger/${place("services", name)}`, { PeerID: told.node.peer_id, Name: name });
    say(`${name} is announced`);
  }),
);
byId("name-add").addEventListener("click", () =>
  open("dialog-name", async ({ pattern, type, record }) => {
    await ask("POST", "/api/dns", { Regex: pattern, Records: { [type]: record } });
    say(`${pattern} is set`);
  }),
);
byId("entry-add").addEventListener("click", () =>
  open("dialog-entry", async ({ bucket, key, value }) => {
    const json = parsed(value);
    await ask("PUT", `/api/v1/ledger/${place(bucket, key)}`, json === null && value.trim() !== "null" ? value : json);
    say(`${bucket}/${key} is written`);
  }),
);

function remove(bucket, key) {
  open("dialog-remove", async () => {
    await ask("DELETE", `/api/v1/ledger/${place(bucket, key)}`);
    say(`${key} is removed`);
  });
  setText(byId("dialog-remove-what"), `${bucket}/${key} will be deleted for the whole network.`);
}

// --- coming in

function login() {
  forgetToken();
  byId("forget").hidden = true;
  const dialog = byId("login");
  if (dialog.open) return;
  dialog.oncancel = (event_) => event_.preventDefault();
  dialog.querySelector("form").onsubmit = async (submitted) => {
    submitted.preventDefault();
    const given = byId("login-token").value.trim();
    keepToken(given.includes("#token=") ? given.split("#token=")[1] : given);
    try {
      await ask("GET", "/health");
    } catch (error) {
      forgetToken();
      setText(byId("login-wrong"), error.status === 401 ? "That is not this node's token." : error.message);
      return;
    }
    byId("login-token").value = "";
    setText(byId("login-wrong"), "");
    dialog.close();
    start();
  };
  dialog.showModal();
}

function start() {
  byId("forget").hidden = !hasToken();
  follow({
    event,
    refused: login,
    live: (on) => {
      byId("live").classList.toggle("on", on);
      setText(byId("live"), on ? "live" : "reconnecting");
      if (on) told.ledger.clear(); // all of it comes again
    },
  });
}

byId("forget").addEventListener("click", () => {
  forgetToken();
  location.reload();
});

// --- theme, keys, sections

const THEMES = [["", "◐", "as the system has it"], ["light", "☀", "light"], ["dark", "☾", "dark"]];
function theme(name) {
  const [value, sign, said] = THEMES.find(([one]) => one === name) ?? THEMES[0];
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  byId("theme").firstChild.textContent = sign;
  byId("theme").setAttribute("aria-label", `Colour theme: ${said}`);
}
byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "";
  const next = THEMES[(THEMES.findIndex(([one]) => one === now) + 1) % THEMES.length][0];
  localStorage.setItem("edgevpn-theme", next);
  theme(next);
});
theme(localStorage.getItem("edgevpn-theme") ?? "");

document.addEventListener("keydown", (pressed) => {
  if (pressed.key !== "/" || pressed.ctrlKey || pressed.metaKey || /INPUT|TEXTAREA|SELECT/.test(document.activeElement?.tagName)) return;
  if (document.querySelector("dialog[open]")) return;
  pressed.preventDefault();
  byId("ledger-filter").focus();
});
byId("ledger-filter").addEventListener("input", drawEntries);
byId("ledger-bucket").addEventListener("change", drawEntries);

const links = new Map([...document.querySelectorAll(".tabs a[href^='#']")].map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver(
  (found) => {
    for (const one of found) {
      if (!one.isIntersecting) continue;
      for (const [id, link] of links) {
        if (id === one.target.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  },
  { rootMargin: "-22% 0px -70% 0px" },
);
for (const id of links.keys()) seen.observe(byId(id));

setInterval(() => changed("clock"), 10000);

const graph = new Graph(byId("graph"), choose);
const traffic = new Traffic(byId("traffic"));
drawTiles();
takeTokenFromAddress();
start();
