"""The HTTP API's application over a node in memory: who is let in, what is answered, and what is told live."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from edgevpn.web.app import OPERATIONS
from edgevpn.web.hub import MAX_WATCHERS, Hub, TooManyWatchersError
from edgevpn.web.pages import STATIC, Pages
from tests.vectors.api_node import MemoryNode, app_of, client

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
PAGES = ["/", "/app", "/app/", "/app/x", "/docs", *(f"/assets/{path.name}" for path in sorted(STATIC.iterdir()))]
PATHS = sorted({re.sub(r"\{\w+(:\w+)?\}", "x", operation.path) for operation in OPERATIONS})
OTHER = ["/api", "/api/", "/nosuch", "/assets/nosuch", "/api/v1/nosuch", "/app.js", "/debug/pprof/"]


def is_public(method: str, path: str) -> bool:
    return method == "GET" and path in PAGES


async def answers(path: str, method: str, **how: Any) -> tuple[int, str]:
    node = MemoryNode()
    before = dict(node.state.storage)
    async with client(app_of(node), **how) as http:
        answer = await http.request(method, path)
    assert node.state.storage == before or answer.status_code < 300
    return answer.status_code, answer.text


async def test_no_route_and_no_method_is_open_without_credentials() -> None:
    assert "/metrics" in PATHS
    refused = total = 0
    for path in (*PATHS, *PAGES, *OTHER):
        for method in METHODS:
            if is_public(method, path):
                continue
            total += 1
            for token in ("", "wrong"):
                status, text = await answers(path, method, token=token)
                refused += status == 401 and (method == "HEAD" or set(json.loads(text)) == {"message"})
    print(f"refused {refused} of {2 * total}")
    assert refused == 2 * total > 700


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:8080"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
    ids=str,
)
async def test_no_route_and_no_method_is_open_to_another_host_or_origin(headers: dict[str, str]) -> None:
    refused = total = 0
    for path in (*PATHS, *PAGES, *OTHER):
        for method in METHODS:
            total += 1
            status, _ = await answers(path, method, **headers)
            refused += status == 403
    print(f"refused {refused} of {total}")
    assert refused == total > 300


async def test_with_credentials_every_operation_answers() -> None:
    for operation in OPERATIONS:
        path = re.sub(r"\{\w+(:\w+)?\}", "x", operation.path)
        if operation.media == "text/event-stream":
            continue  # without an end
        node = MemoryNode()
        node.gate = True
        await node.announce("x", "x", '"y"')
        async with client(app_of(node)) as http:
            body = (
                {"content": b"{}", "headers": {"content-type": "application/json"}}
                if operation.body is not None
                else {}
            )
            answer = await http.request(operation.method, path, **body)
        assert answer.status_code == 200, operation
        assert answer.headers["content-type"].startswith(operation.media)


async def test_every_answer_forbids_what_a_page_does_not_need() -> None:
    async with client(app_of(MemoryNode()), token="") as http:
        for path in (*PAGES, "/api/summary"):
            answer = await http.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"


def test_pages_have_nothing_inline_and_nothing_from_elsewhere() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        text = text.replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:8080/api/summary", "")
        assert not re.search(
            r"https?://|//cdn|url\(|@import|innerHTML|insertAdjacentHTML|document\.write|eval\(", text
        ), path
        if path.suffix == ".html":
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text), path
            for name in re.findall(r"(?:src|href)=\"(/assets/[^\"]+)\"", text):
                assert Pages().find(name), name


async def test_another_protocol_than_http_1_is_not_spoken() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    app = app_of(MemoryNode())
    await app({"type": "websocket", "path": "/api/summary", "headers": []}, receive, send)
    assert sent.pop()["type"] == "websocket.close"
    await app({"type": "http", "http_version": "2", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert sent[0]["status"] == 505


async def test_a_body_that_does_not_come_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def never() -> Any:
        await trio.sleep(1000)
        yield b""

    async with client(app_of(MemoryNode())) as http:
        answer = await http.put("/api/v1/ledger/vec/k", content=never(), timeout=None)
    assert answer.status_code == 408
    assert trio.current_time() < 30


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_what_is_no_json_is_refused(data: bytes) -> None:
    async with client(app_of(MemoryNode())) as http:
        assert (await http.put("/api/v1/ledger/vec/k", content=data)).status_code == 400
        broken = await http.post("/api/dns", content=data or b"{", headers={"content-type": "application/json"})
        assert broken.status_code == 400


async def test_an_entry_is_written_as_any_json_and_deleted_at_once() -> None:
    node = MemoryNode()
    async with client(app_of(node)) as http:
        value = {"PeerID": node.me, "Name": "web"}
        assert (await http.put("/api/v1/ledger/services/web", json=value)).status_code == 200
        assert (await http.get("/api/services")).json() == [value]
        assert (await http.put("/api/ledger/vec/k/text")).status_code == 200
        assert (await http.delete("/api/ledger/vec/k")).status_code == 200
        assert (await http.get("/api/ledger/vec")).json() is None
        assert (await http.delete("/api/v1/ledger/services/web")).status_code == 200
        assert (await http.get("/api/services")).json() == []
        assert (await http.delete("/api/v1/ledger/services/web")).status_code == 404


async def test_what_others_would_reject_is_refused_with_the_reason() -> None:
    node = MemoryNode()
    async with client(app_of(node)) as http:
        answer = await http.put("/api/ledger/machines/10.1.0.9/x")
    assert answer.status_code == 403
    assert "not ours to write" in answer.json()["message"]
    assert "machines" not in node.state.storage


async def test_readiness_follows_the_node() -> None:
    node = MemoryNode()
    async with client(app_of(node)) as http:
        assert (await http.get("/ready")).status_code == 200
        node.node_state = "starting"
        assert (await http.get("/ready")).status_code == 503
        assert (await http.get("/health")).status_code == 200


async def test_metrics_are_in_prometheus_format_and_say_what_is() -> None:
    node = MemoryNode(connected=("peer-1",))
    await node.announce("vec", "k", "1")
    async with client(app_of(node)) as http:
        await http.get("/api/summary")
        await http.get("/api/ledger/a/b")
        text = (await http.get("/metrics")).text
    samples = {
        (one.name, *sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert samples["edgevpn_ledger_entries", ("bucket", "vec")] == 1
    assert samples["edgevpn_actor_restarts_total", ("actor", "ledger")] == 2
    assert samples["edgevpn_path_rtt_seconds", ("peer", "peer-1")] == 0.002
    assert samples["edgevpn_node_state", ("state", "up")] == 1
    routes = {dict(name[1:])["route"] for name in samples if name[0] == "edgevpn_api_requests_total"}
    assert routes == {"/api/summary", "/api/ledger/{bucket}/{key}"}  # no path of anybody's: series are bounded


async def test_the_openapi_document_names_every_operation() -> None:
    async with client(app_of(MemoryNode())) as http:
        found = (await http.get("/api/openapi.json")).json()
    named = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    assert named == {(one.method, re.sub(r":\w+\}", "}", one.path)) for one in OPERATIONS}
    identifiers = [one["operationId"] for methods in found["paths"].values() for one in methods.values()]
    assert len(identifiers) == len(set(identifiers))


# --- events


async def test_a_watcher_gets_the_whole_first_and_changes_after() -> None:
    hub = Hub(lambda: [1])
    hub.put("node", {"a": 1})
    watcher = hub.watch()
    assert await watcher.next(1) == [("node", '{"a":1}'), ("history", "[1]")]
    hub.put("node", {"a": 1})
    hub.put("ledger/x", {"bucket": "x"})
    assert await watcher.next(1) == [("ledger", '{"bucket":"x"}')]


async def test_a_slow_watcher_gets_the_newest_of_each_and_nothing_piles_up() -> None:
    hub = Hub()
    watcher = hub.watch()
    await watcher.next(1)
    for number in range(1000):
        hub.put("node", number)
        hub.sample(number)
    assert await watcher.next(1) == [("node", "999"), ("sample", "999")]


async def test_watchers_are_bounded_and_leave() -> None:
    hub = Hub()
    watchers = [hub.watch() for _ in range(MAX_WATCHERS)]
    with pytest.raises(TooManyWatchersError):
        hub.watch()
    watchers[0].close()
    hub.watch()
    assert hub.came.is_set()


async def test_who_samples_for_watchers_waits_for_the_first_and_not_after_the_last() -> None:
    hub = Hub()
    first, second = hub.watch(), hub.watch()
    first.close()
    assert hub.came.is_set()
    second.close()
    second.close()
    assert not hub.came.is_set()
    assert hub.watched == 0


async def test_a_stream_without_events_is_kept_alive(autojump_clock: trio.testing.MockClock) -> None:
    watcher = Hub(lambda: None).watch()
    await watcher.next(1)
    began = trio.current_time()
    assert await watcher.next(15) == []
    assert trio.current_time() - began == pytest.approx(15)
