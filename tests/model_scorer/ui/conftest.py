"""Headless Chromium, and a scorer that answers what a test tells it to."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from model_scorer.ui import OPEN_PATHS, build_ui

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)
WAIT_SECONDS = 40
KEY = "right-key"
# Runs before the page's own scripts; what the policy forbids is reported to it.
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""

Reply = tuple[int, Any, dict[str, str]]


@dataclass
class FakeScorer:
    """A server with the page of one model; `reply` answers the scoring requests."""

    description: dict[str, Any]
    reply: Callable[[str, bytes], Reply] = lambda path, body: (200, [], {})
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, _, body in self.requests]


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scorer: FakeScorer

    def do_GET(self) -> None:
        answer = build_ui(self.scorer.description).get(self.path)
        if answer is None:
            self._send(404, b"{}", {})
        elif self.path not in OPEN_PATHS and not self._allowed():
            self._send(401, b'{"message": "an API key is needed"}', {"x-request-id": "r-401"})
        else:
            headers = {"Content-Type": answer.content_type, **dict(answer.headers)}
            self._send(answer.status, answer.body, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._allowed():
            self._send(401, b'{"message": "the API key is wrong"}', {"x-request-id": "r-401"})
            return
        self.scorer.requests.append((self.path, dict(self.headers), body))
        status, value, headers = self.scorer.reply(self.path, body)
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self._send(status, content, {"Content-Type": "application/json", **headers})

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization")
        return not self.scorer.description["needsKey"] or given == f"Bearer {KEY}"

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeScorer]]:
    """Start a fake scorer for a description."""
    servers = []

    def start(description: dict[str, Any], **fields: Any) -> FakeScorer:
        scorer = FakeScorer(description, **fields)
        handler = type("Handler", (FakeHandler,), {"scorer": scorer})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        servers.append((server, thread))
        scorer.url = f"http://127.0.0.1:{server.server_port}/ui"
        return scorer

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Page:
    """The browser on the page, in the words of somebody who uses it."""

    driver: Chrome
    hosts: set[str] = field(default_factory=set)

    def open(self, url: str, *, key: str | None = None) -> None:
        self.hosts.add(urlsplit(url).netloc)
        self.driver.get(url)
        if key is not None:
            self.until(lambda: self.find("#key").is_displayed())
            self.type("#key", key)
            self.click("#key-form .primary")
            self.until(lambda: self.find("#request").is_displayed())
        self.until(lambda: self.find("#request").is_displayed() or self.find("#key").is_displayed())

    def until(self, check: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, WAIT_SECONDS, 0.02).until(lambda _: check())

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [e.text for e in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, selector: str, text: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def score(self) -> None:
        """Send, and wait for the outcome."""
        self.click("#send")
        self.settle()

    def settle(self) -> None:
        self.until(lambda: self.find("#result").get_attribute("aria-busy") == "false")

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def focused(self) -> str:
        return self.run("return document.activeElement.id || document.activeElement.tagName")

    def emulate(self, command: str, **parameters: Any) -> None:
        self.driver.execute_cdp_cmd(f"Emulation.{command}", parameters)

    def requested(self) -> set[str]:
        """Hosts that the browser was made to ask since the last call; the page's own data and blobs are none."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(message["params"]["request"]["url"])
                if url.scheme not in ("data", "blob", "about", "chrome"):
                    found.add(url.netloc)
        return found

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if os.environ.get("SKIP_BROWSER_TESTS") == "1":
        pytest.skip("SKIP_BROWSER_TESTS is 1")
    for path, package in ((CHROMIUM, "chromium"), (DRIVER, "chromium-driver")):
        if not path.exists():
            pytest.fail(
                f"{path} is missing: apt-get install -y {package}, or set SKIP_BROWSER_TESTS=1",
                pytrace=False,
            )
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = Chrome(options, Service(str(DRIVER)))
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    yield browser
    browser.quit()


@pytest.fixture
def page(driver: Chrome) -> Iterator[Page]:
    """A page that must not break its policy, fail in its scripts, or ask another host, whatever a test does."""
    driver.get("about:blank")
    driver.get_log("performance")
    driver.get_log("browser")
    page = Page(driver)
    yield page
    assert page.run("return window.violations") == []
    assert page.requested() <= page.hosts
    page.run("sessionStorage.clear()")
    # A refused request is a line in the console by itself; errors of scripts are what must not be there.
    assert [line for line in page.console() if "Failed to load resource" not in line] == []
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
