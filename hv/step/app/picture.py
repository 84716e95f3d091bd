"""The screen as a picture: an SVG, the same bytes for the same place of the same run."""

from __future__ import annotations

import asyncio

from hv.step.app.screen import StepApp
from hv.step.board import Look
from hv.step.model import Model


def picture(model: Model, size: tuple[int, int], colours: str, look: Look, title: str) -> str:
    """The screen of *size* (columns, lines)."""
    app = StepApp(model, colours, look)
    app.looks_ahead = False

    async def photographed() -> str:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            return app.export_screenshot(title=title)

    text = asyncio.run(photographed())
    if app.failure is not None:
        raise app.failure
    return text
