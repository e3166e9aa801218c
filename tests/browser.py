"""Pages that tests open in Chromium."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def look_at(file: Path, look: Callable[[Any], Awaitable[None]], scheme: str) -> list[str]:
    """Opens a file in a tab, waits for `look(tab)`, and returns the addresses that the page asked for.

    Fails the test if a script of the page fails or writes to the console. The tab is Playwright's of `async_api`.
    """
    async_api = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("there is no browser")
    faults: list[str] = []
    asked: list[str] = []

    async def opened() -> None:
        async with async_api.async_playwright() as playwright:
            chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = await chromium.new_page(color_scheme=scheme, viewport={"width": 1100, "height": 900})
            tab.on("pageerror", lambda error: faults.append(str(error)))
            tab.on("console", lambda message: faults.append(message.text))
            tab.on("request", lambda request: asked.append(request.url))
            await tab.goto(file.as_uri())
            await look(tab)
            await chromium.close()

    asyncio.run(opened())
    assert faults == []
    return asked
