"""A real browser in a lab's namespace: Debian's chromium, driven by selenium through chromium-driver.

A namespace belongs to a thread (setns(2)), and what a thread starts is in its namespace: `inside` runs a function in a
thread that entered one, so driver, browser and every request between them are in there, where nothing else can be
reached. `Browser.requests` are the addresses of all that pages asked for, `Browser.complaints` what they wrote to the
console as a warning or an error.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from scripts.labkit.namespaces import LabError

T = TypeVar("T")
CHROMIUM, DRIVER = "chromium", "chromedriver"
_CLONE_NEWNET = 0x40000000
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # there is none for root; the pages are ours
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


def why_no_browser() -> str:
    """Empty when there is one."""
    missing = [name for name in (CHROMIUM, DRIVER) if shutil.which(name) is None]
    return f"there is no {' and no '.join(missing)}: scripts/setup.sh installs them" if missing else ""


class Inside:
    """A thread in a network namespace, which runs one function after the other."""

    def __init__(self, netns: str) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(netns,))

    def run(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()

    def close(self) -> None:
        self._thread.shutdown()


def inside(netns: str, work: Callable[[], T]) -> T:
    """What `work()` gives, run in a thread that is in the network namespace."""
    thread = Inside(netns)
    try:
        return thread.run(work)
    finally:
        thread.close()


def _enter(netns: str) -> None:
    with open(f"/run/netns/{netns}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Browser:
    """One browser window. `dark`: what the system's setting is; `phone`: a narrow screen with touch."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        if reason := why_no_browser():
            raise LabError(reason)
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        self._home = tempfile.mkdtemp(prefix="evb-")
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which(CHROMIUM))
        for flag in (*_FLAGS, f"--user-data-dir={self._home}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 2.0}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        try:
            self.driver = webdriver.Chrome(options=options, service=Service(str(shutil.which(DRIVER))))
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        self.driver.set_page_load_timeout(20)
        self.driver.set_script_timeout(20)
        self.prefer(dark=dark)
        self._seen: list[str] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.driver.quit()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def prefer(self, *, dark: bool) -> None:
        """What the system says of light and dark."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def begin_anew(self, *, width: int, height: int, phone: bool, dark: bool) -> None:
        """A new tab, which shares nothing with the one before; that one is closed."""
        before = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        after = self.driver.current_window_handle
        self.driver.switch_to.window(before)
        self.driver.close()
        self.driver.switch_to.window(after)
        self.driver.execute_cdp_cmd("Page.bringToFront", {})  # a hidden page draws nothing
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.prefer(dark=dark)
        self.requests()
        self.complaints()
        self._seen.clear()

    def open(self, url: str) -> None:
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of JavaScript that returns one."""
        return self.driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """Addresses of all requests so far."""
        for line in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(line["message"])["message"]
            url = message["params"]["request"]["url"] if message["method"] == "Network.requestWillBeSent" else ""
            if not url.startswith(("chrome:", "data:")) and url:  # of the empty page that a window begins with
                self._seen.append(url)
        return list(self._seen)

    def complaints(self) -> list[str]:
        """What the console got as a warning or an error since the last time."""
        return [
            line["message"]
            for line in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if line["level"] in ("SEVERE", "WARNING")
        ]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        if whole:
            import base64

            shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
            path.write_bytes(base64.b64decode(shot["data"]))
        else:
            self.driver.save_screenshot(str(path))
