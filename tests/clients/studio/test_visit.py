"""What a page knows, over a real server."""

from __future__ import annotations

import asyncio
import socket

import numpy as np

from ancestral_client import AsyncClient
from ancestral_studio.visit import LISTED, Visit
from running import ServerProcess


def test_models_and_calls_of_a_server(toy_server: ServerProcess) -> None:
    async def main() -> None:
        async with AsyncClient(toy_server.address) as client:
            visit = Visit(client)
            changes, news = list[int](), list[str]()
            visit.on_models(lambda: changes.append(len(visit.models)))
            visit.on_news(lambda: news.append(visit.problem))
            await visit.refresh()
            await visit.refresh()
            assert [model.name for model in visit.models] == ["tally"]
            assert changes == [1]  # and not again where nothing changed
            assert visit.problem == ""
            for _ in range(LISTED + 1):
                async with visit.asking("Encode") as asked:
                    encoding = await client.encode("tally", np.zeros((2, 4, 3, 1), np.uint8))
                    asked.answered(encoding.info)
            assert len(visit.calls) == LISTED
            line = visit.calls[0].line()
            assert line.startswith("Encode, tally version 1: ")
            assert line.endswith("batch of 2")
            assert "first rows" not in line

    asyncio.run(main())


def test_what_goes_wrong_is_one_line_until_the_next_call(toy_server: ServerProcess) -> None:
    async def main() -> None:
        async with AsyncClient(toy_server.address) as client:
            visit = Visit(client)
            for call in (client.encode("gone", np.zeros((1, 4, 3, 1), np.uint8)), client.decode("tally", [0.0, 0.0])):
                async with visit.asking("Call"):
                    await call
                assert visit.problem.startswith("Call: ")
                assert "\n" not in visit.problem
                assert not visit.calls
            own = list[str]()
            async with visit.asking("Call", own.append):
                await client.decode("tally", [0.0, 0.0])
            assert len(own) == 1
            async with visit.asking("Models"):
                await client.models()
            assert visit.problem == ""

    asyncio.run(main())


def test_a_server_that_does_not_answer_is_told_and_so_is_that_it_does(toy_server: ServerProcess) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with AsyncClient(address, retry_seconds=0) as nobody, AsyncClient(toy_server.address) as client:
            visit = Visit(nobody)
            await visit.refresh()
            assert visit.problem == f"nothing listens at {address}; start a server with: make serve"
            assert visit.models == []
            visit.client = client
            await visit.refresh()
            assert (visit.problem, len(visit.models)) == ("", 1)
            visit.client = nobody
            await visit.refresh()
            assert "nothing listens" in visit.problem
            assert len(visit.models) == 1  # it may be back soon

    asyncio.run(main())
