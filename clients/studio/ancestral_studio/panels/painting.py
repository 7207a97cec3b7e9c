"""Streams of samples on the page."""

from __future__ import annotations

from ancestral_client import AsyncSampleStream, PaintedRow, SampledImage
from ancestral_studio import served
from ancestral_studio.canvas import Tiles
from ancestral_studio.visit import Asked


async def paint(stream: AsyncSampleStream, tiles: Tiles, asked: Asked) -> SampledImage | None:
    """Shows what comes as it comes, rows and images; the last image. The stream is closed, whatever happens: the server
    stops painting what nobody looks at.
    """
    last = None
    async with stream as events:
        async for event in events:
            if isinstance(event, PaintedRow):
                tiles.row(event.index, event.row, event.pixels)
            else:
                tiles.image(event.index, event.image, served.nats(event.log_likelihood))
                last = event
            asked.answered(event.info)
    return last
