// The way to the node: requests with the token, and its stream of events, opened again whenever it ends.
// The token is kept for this tab (sessionStorage); it never is in a cookie or in the address that is sent.

const KEPT = "edgevpn-token";
const PATIENCE = 25000; // ms without a word on a stream (it has one every 15 s): the connection is dead

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function takeTokenFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    keepToken(given);
    history.replaceState(null, "", location.pathname);
  }
}

export const keepToken = (token) => sessionStorage.setItem(KEPT, token);
export const forgetToken = () => sessionStorage.removeItem(KEPT);
export const hasToken = () => sessionStorage.getItem(KEPT) !== null;

function headers(more = {}) {
  const token = sessionStorage.getItem(KEPT);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

export async function ask(method, path, body) {
  const more = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers: headers(more), body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, "the node does not answer");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, found?.message ?? `it answered ${answer.status}`);
  return found;
}

export const place = (...parts) => parts.map(encodeURIComponent).join("/");

// Calls on.event(name, value) for each event, on.live(bool) as the stream comes and goes, on.refused() once a token is
// asked for; then it ends, to be started again.
export async function follow(on) {
  let pause = 200;
  for (;;) {
    const given_up = new AbortController();
    let watch = setTimeout(() => given_up.abort(), PATIENCE);
    try {
      const answer = await fetch("/api/v1/events", { headers: headers(), signal: given_up.signal });
      if (answer.status === 401) {
        on.live(false);
        on.refused();
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      pause = 200;
      on.live(true);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        clearTimeout(watch);
        watch = setTimeout(() => given_up.abort(), PATIENCE);
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) tell(block, on.event);
      }
    } catch {
      // the node is away: it is waited for
    } finally {
      clearTimeout(watch);
    }
    on.live(false);
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 1.6, 3000);
  }
}

function tell(block, event) {
  let name = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data = line.slice(6);
  }
  if (name) event(name, JSON.parse(data));
}
