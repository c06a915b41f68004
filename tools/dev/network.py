"""A network on the way to a server: it delays, counts, and can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading


class Network:
    """Listens at `port` of 127.0.0.1 and passes on to the port `to`, a thread of its own.

    delay: seconds that each direction takes; half a round trip. login: seconds more that the first bytes of a client
    take, as if the server computed so long. A connection of TCP itself costs a round trip on a real network: it is
    added to these first bytes, too, since the connection to this port is made at once.

    connections: made so far. trips: times that a client spoke after the server had, or first; the round trips of a
    dialogue in turns.
    """

    def __init__(self, to: int, delay: float = 0.01, login: float = 0.0):
        self.to, self.delay, self.login = to, delay, login
        self.connections = self.trips = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connected, sock=self._listener))
        self._loop.run_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection("127.0.0.1", self.to)
            spoke: list[object] = [None]  # who did last
            ends = {writer, there[1]}
            self._writers |= ends
            await asyncio.gather(
                self._pass_on(reader, there[1], spoke, True), self._pass_on(there[0], writer, spoke, False)
            )
            self._writers -= ends
            there[1].close()
        writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spoke: list[object], client: bool
    ) -> None:
        """Until that side ends. What is on its way keeps its order and its distance."""
        on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            with contextlib.suppress(OSError):
                while True:
                    due, data = await on_its_way.get()
                    await asyncio.sleep(due - self._loop.time())
                    if not data:
                        writer.write_eof()
                        return
                    writer.write(data)
                    await writer.drain()

        arriving = asyncio.ensure_future(arrive())
        extra = self.login + 2 * self.delay if client else 0.0
        data = b"?"
        while data:
            try:
                data = await reader.read(1 << 16)
            except OSError:
                data = b""
            if client and data and spoke[0] is not reader:
                self.trips += 1
            spoke[0] = reader
            on_its_way.put_nowait((self._loop.time() + self.delay + extra, data))
            extra = 0.0
        await arriving

    def cut(self) -> None:
        """All connections break; what is on its way is lost."""

        async def abort() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(abort(), self._loop).result(10)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self.cut()
        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
