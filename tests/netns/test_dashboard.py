"""The dashboard in a real browser, of a real node, in a namespace where nothing else can be reached."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from scripts.labkit import traffic
from scripts.labkit.browser import Browser, Inside, why_no_browser
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser()),
    # selenium leaves its driver's sockets to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FIRST_PAINT = 1.0  # seconds
UPDATE = 1.0


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Vpn, Vpn]]:
    """Two nodes; the first serves the dashboard."""
    with Lab(2) as lab:
        token = new_token()
        nodes = [
            Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false", *(["--api"] if k == 1 else [])) for k in (1, 2)
        ]
        try:
            for vpn in nodes:
                vpn.wait_for_state("up", 40)
            traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
            yield nodes[0], nodes[1]
        finally:
            for vpn in nodes:
                print(f"--- {vpn.tail(20)}")
                vpn.close()


Pair = tuple[Vpn, Vpn]
InBrowser = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(pair: Pair) -> Iterator[tuple[Inside, Browser]]:
    """One browser in the first node's namespace, for all tests."""
    thread = Inside(pair[0].node.netns)
    try:
        opened = thread.run(Browser)
        try:
            yield thread, opened
        finally:
            thread.run(opened.close)
    finally:
        thread.close()


@pytest.fixture
def in_browser(pair: Pair, browser: tuple[Inside, Browser]) -> Callable[..., Any]:
    """`work(browser, url)` in a new tab; afterwards nothing was asked of another host."""
    thread, opened = browser

    def run(
        work: Callable[[Browser, str], Any],
        *,
        width: int = 1280,
        height: int = 900,
        phone: bool = False,
        dark: bool = False,
    ) -> Any:
        url = pair[0].ask("api-url").stdout.strip()

        def go() -> Any:
            opened.begin_anew(width=width, height=height, phone=phone, dark=dark)
            found = work(opened, url)
            asked = opened.requests()
            assert {urlsplit(one).netloc for one in asked} == {"127.0.0.1:8080"}, asked
            assert not any("token" in one for one in asked)
            return found

        return thread.run(go)

    return run


def shows(browser: Browser, selector: str, text: str, seconds: float = 10) -> float:
    """Seconds until an element of that selector has the text."""
    script = "return [...document.querySelectorAll(arguments[0])].some(e => e.textContent.includes(arguments[1]))"
    began = time.monotonic()
    try:
        wait_for(lambda: browser.run(script, selector, text), seconds, interval=0.01, what=f"{text!r} in {selector}")
    except LabError as exc:
        said = browser.run("return [...document.querySelectorAll('.wrong')].map(e => e.textContent).join()")
        raise LabError(f"{exc}; dialogs say {said!r}; {browser.complaints()}") from exc
    return time.monotonic() - began


def vanishes(browser: Browser, selector: str, text: str, seconds: float = 10) -> float:
    script = "return ![...document.querySelectorAll(arguments[0])].some(e => e.textContent.includes(arguments[1]))"
    began = time.monotonic()
    wait_for(lambda: browser.run(script, selector, text), seconds, interval=0.01, what=f"no {text!r} in {selector}")
    return time.monotonic() - began


def click(browser: Browser, selector: str) -> None:
    """Press a button, as soon as it can be."""
    script = (
        "const e = document.querySelector(arguments[0]); if (!e || e.disabled) return false; e.click(); return true"
    )
    wait_for(lambda: browser.run(script, selector), 10, interval=0.01, what=f"{selector} to press")


def fill(browser: Browser, selector: str, text: str) -> None:
    from selenium.webdriver.common.by import By

    browser.driver.find_element(By.CSS_SELECTOR, selector).send_keys(text)


def test_it_loads_paints_at_once_and_shows_the_network(pair: Pair, in_browser: InBrowser) -> None:
    def work(browser: Browser, url: str) -> list[float]:
        paints = []
        for _ in range(3):
            browser.open(url)
            shows(browser, "#nodes-body", "direct, UDP")
            shows(browser, "#machines-body", "10.1.0.2")
            shows(browser, "#actors-body", "ledger")
            shows(browser, "#ledger-body", "healthcheck")
            shows(browser, "#live", "live")
            shows(browser, "#state", "up")
            paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
            paints.append(browser.run(paint) / 1000)
            assert browser.run("return location.hash + location.search") == ""
            assert browser.run("return document.querySelectorAll('.graph circle').length") == 2
            browser.open("about:blank")
        assert browser.complaints() == []
        return paints

    paints = in_browser(work)
    print("first paint", [f"{paint * 1000:.0f} ms" for paint in paints])
    assert sorted(paints)[1] <= FIRST_PAINT


def test_what_changes_anywhere_shows_within_a_second(pair: Pair, in_browser: InBrowser) -> None:
    _, two = pair

    def announce(name: str) -> None:
        code = f"from edgevpn.proto.messages import Announce\nawait ledger._announce(Announce('live', {name!r}, '1'))"
        two.ask("repl", "ledger", "-c", code)

    def work(browser: Browser, url: str) -> list[float]:
        browser.open(url)
        shows(browser, "#live", "live")
        took = []
        for number in range(5):
            announce(f"entry-{number}")  # the command takes its time: the clock runs from its end
            took.append(shows(browser, "#ledger-body", f"entry-{number}"))
        assert browser.complaints() == []
        return took

    took = in_browser(work)
    print("shown after", [f"{seconds * 1000:.0f} ms" for seconds in took])
    assert max(took) <= UPDATE


def test_a_service_is_added_and_removed(pair: Pair, in_browser: InBrowser) -> None:
    _, two = pair

    def services() -> set[str]:
        return set(two.json("ledger", "services"))

    def work(browser: Browser, url: str) -> tuple[float, float]:
        browser.open(url)
        shows(browser, "#live", "live")
        click(browser, "#service-add")
        fill(browser, "#dialog-service input", "wiki")
        click(browser, "#dialog-service .main")
        added = shows(browser, "#services-body", "wiki")
        wait_for(lambda: services() == {"wiki"}, 10, what="the service at the other node")
        click(browser, "#services-body .remove")
        shows(browser, "#dialog-remove", "services/wiki")
        click(browser, "#dialog-remove .main")
        removed = vanishes(browser, "#services-body", "wiki")
        wait_for(lambda: services() == set(), 10, what="its end at the other node")
        assert browser.complaints() == []
        return added, removed

    added, removed = in_browser(work)
    print(f"added after {added * 1000:.0f} ms, removed after {removed * 1000:.0f} ms")
    assert max(added, removed) <= UPDATE


def test_names_and_entries_are_added_and_what_is_refused_is_said(pair: Pair, in_browser: InBrowser) -> None:
    def work(browser: Browser, url: str) -> None:
        browser.open(url)
        shows(browser, "#live", "live")
        click(browser, "#name-add")
        fill(browser, "#dialog-name [name=pattern]", "web.home.")
        fill(browser, "#dialog-name [name=record]", "10.1.0.1")
        click(browser, "#dialog-name .main")
        shows(browser, "#names-body", "A 10.1.0.1")
        click(browser, "#entry-add")
        fill(browser, "#dialog-entry [name=bucket]", "machines")
        fill(browser, "#dialog-entry [name=key]", "10.1.0.2")
        fill(browser, "#dialog-entry [name=value]", "mine now")
        click(browser, "#dialog-entry .main")
        shows(browser, "#dialog-entry .wrong", "not ours to write")
        # The browser itself notes the 403 in its console.
        assert all("403" in line for line in browser.complaints())

    in_browser(work)


def test_a_hostile_value_is_shown_as_text(pair: Pair, in_browser: InBrowser) -> None:
    evil = '<img src=x onerror="document.body.dataset.evil=1"><script>document.body.dataset.evil=1</script>'

    def work(browser: Browser, url: str) -> None:
        browser.open(url)
        shows(browser, "#live", "live")
        browser.run(
            "fetch('/api/v1/ledger/evil/' + encodeURIComponent(arguments[0]), {method: 'PUT', body: JSON.stringify("
            "arguments[0]), headers: {Authorization: 'Bearer ' + sessionStorage.getItem('edgevpn-token')}})",
            evil,
        )
        shows(browser, "#ledger-body", "onerror")
        assert browser.run("return document.body.dataset.evil ?? ''") == ""
        assert browser.run("return document.querySelectorAll('#ledger-body img, #ledger-body script').length") == 0
        assert browser.complaints() == []

    in_browser(work)


def test_it_asks_for_the_token_and_takes_no_other(pair: Pair, in_browser: InBrowser) -> None:
    def work(browser: Browser, url: str) -> None:
        page, _, token = url.partition("#token=")
        browser.open(page)
        wait_for(lambda: browser.run("return document.querySelector('#login').open"), 10, what="the question")
        fill(browser, "#login-token", "wrong")
        click(browser, "#login .main")
        shows(browser, "#login-wrong", "not this node")
        browser.run("document.querySelector('#login-token').value = ''")
        fill(browser, "#login-token", token)
        click(browser, "#login .main")
        shows(browser, "#live", "live")
        shows(browser, "#nodes-body", "10.1.0.2")
        browser.driver.refresh()
        shows(browser, "#live", "live")  # the tab remembers

    in_browser(work)


def test_it_comes_back_by_itself_when_the_actor_was_killed(pair: Pair, in_browser: InBrowser) -> None:
    one, _ = pair

    def work(browser: Browser, url: str) -> float:
        browser.open(url)
        shows(browser, "#live", "live")
        began = time.monotonic()
        os.kill(one.pid_of("api"), signal.SIGKILL)
        shows(browser, "#live", "reconnecting", 5)
        shows(browser, "#live", "live", 10)
        took = time.monotonic() - began
        shows(browser, "#nodes-body", "10.1.0.2")
        return took

    took = in_browser(work)
    print(f"live again after {took:.2f} s")
    assert took < 5


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_screen(pair: Pair, in_browser: InBrowser, dark: bool) -> None:
    def work(browser: Browser, url: str) -> tuple[int, str]:
        browser.open(url)
        shows(browser, "#nodes-body", "10.1.0.2")
        shows(browser, "#actors-body", "ledger")
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return browser.run(wide), browser.run("return getComputedStyle(document.body).backgroundColor")

    wide, ground = in_browser(work, width=390, height=844, phone=True, dark=dark)
    assert wide <= 0
    assert ground == ("rgb(12, 18, 17)" if dark else "rgb(243, 245, 246)")


def test_it_is_used_by_the_keyboard_alone_and_every_control_has_a_name(pair: Pair, in_browser: InBrowser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def work(browser: Browser, url: str) -> None:
        browser.open(url)
        shows(browser, "#live", "live")

        shows(browser, "#state", "up")

        def press(*keys: str) -> None:
            ActionChains(browser.driver).send_keys(*keys).perform()

        press(Keys.TAB)
        assert browser.run("return document.activeElement.className") == "skip"
        for _ in range(40):
            press(Keys.TAB)
            if browser.run("return document.activeElement.id") == "service-add":
                break
        press(Keys.ENTER)
        assert browser.run("return document.querySelector('#dialog-service').open")
        press("by-keys", Keys.ENTER)
        shows(browser, "#services-body", "by-keys")
        press("/")
        assert browser.run("return document.activeElement.id") == "ledger-filter"
        press("by-keys")
        wait_for(
            lambda: browser.run("return document.querySelectorAll('#ledger-body tr').length") == 1, 5, what="the filter"
        )
        nameless = browser.run(
            "return [...document.querySelectorAll('button, a, input, select, textarea')].filter(e => !(e.textContent"
            ".trim() || e.ariaLabel || e.closest('label')?.textContent.trim() || e.labels?.length)).map(e => e.id)"
        )
        assert nameless == []
        click(browser, "#services-body .remove")
        press(Keys.ESCAPE)
        assert not browser.run("return document.querySelector('#dialog-remove').open")

    in_browser(work)


def test_the_page_of_the_api_shows_its_routes(pair: Pair, in_browser: InBrowser) -> None:
    def work(browser: Browser, url: str) -> None:
        browser.open(url)
        shows(browser, "#live", "live")
        click(browser, ".tabs .far")
        shows(browser, "#operations", "/api/ledger/{bucket}/{key}")
        assert browser.complaints() == []

    in_browser(work)
