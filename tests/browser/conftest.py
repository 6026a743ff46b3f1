"""A real Chromium before the dashboard's own server, whose factory the tests move as they like."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from localcluster.debian import ensure_packages
from plugin import kubectl_aifactory as plugin
from tests.unit.plugin import scene

SHELL = "chromium-headless-shell"
TOKEN = "the-token"
expect.set_options(timeout=30_000)


def chromium() -> str:
    """A Chromium of this machine (AIFACTORY_BROWSER names another one); Debian's is installed where there is none."""
    names = [os.environ.get("AIFACTORY_BROWSER", ""), SHELL, "chromium", "google-chrome"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if found is None:
        ensure_packages([SHELL])
        found = shutil.which(SHELL)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium())
        yield found
        found.close()


class Factory:
    """What the page shows, and the server that sends it there."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.floor = plugin.Floor(self.now - timedelta(minutes=8))
        self._heard = 1.0
        self.port = 0

    def serve(self) -> None:
        """Begin, or go on at the same port."""
        self._server = plugin.serving(self.floor, "namespace ns of kind-factory", TOKEN, self.port)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """As when the command ends."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def has(self, *objects: dict[str, Any]) -> None:
        """These are all the objects there are."""
        self._heard += 1
        scene.told_to(self.floor, self.now, list(objects), self._heard)

    def changes(self, obj: dict[str, Any], type_: str = "MODIFIED") -> None:
        """An event about one of them."""
        self._heard += 1
        self.floor.event(scene.event(type_, scene.moved(obj, self.now)), self._heard, self.now)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/{TOKEN}/"


@pytest.fixture
def factory() -> Iterator[Factory]:
    made = Factory()
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def open_page(browser: Browser, factory: Factory) -> Iterator[Callable[..., Page]]:
    """Opens the page on a screen; what the browser complains of fails the test."""
    contexts, complaints = [], []

    def open_(width: int = 1280, height: int = 900, **settings: Any) -> Page:
        settings = {"reduced_motion": "reduce", **settings}
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
        page.goto(factory.address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [text for text in complaints if "ERR_CONNECTION_REFUSED" not in text] == []
