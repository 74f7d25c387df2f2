"""A registry that counts what comes to it: ``counter.py REGISTRY FIGURE serve CONFIG``, called as the registry itself.

The real one is started on another port, and what comes to its own is handed on to it, byte by byte. Every byte that
clients send counts, their headers too; what the local cloud itself asks (it is ECR) does not. FIGURE holds the sum; it
is there before the registry has the bytes, and so before a client can end.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

_CHUNK = 1 << 16
#: The local cloud asks by urllib; splitbake by urllib3, which writes its name in lower case.
_OF_CLOUD = b"User-Agent: Python-urllib/"


class Counter:
    """Hands connections on to ``port``, and writes to ``figure`` how much came."""

    def __init__(self, port: int, figure: Path) -> None:
        self._port, self._total = port, 0
        self._file = os.open(figure, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._write()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand one connection on."""
        try:
            answers, registry = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(self._count(reader, registry), _hand_on(answers, writer))
            registry.close()
        except OSError:
            pass  # one of both went away, or the registry is not there yet: to the other one it is the same
        finally:
            writer.close()

    async def _count(self, reader: asyncio.StreamReader, registry: asyncio.StreamWriter) -> None:
        chunk = await reader.read(_CHUNK)
        ours = _OF_CLOUD not in chunk
        while chunk:
            if ours:
                self._total += len(chunk)
                self._write()
            registry.write(chunk)
            await registry.drain()
            chunk = await reader.read(_CHUNK)
        registry.write_eof()

    def _write(self) -> None:
        os.pwrite(self._file, b"%020d" % self._total, 0)


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def main(registry: str, figure: Path, config: Path) -> None:
    """Start the registry behind us, and serve until it ends."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    host, _, port = settings["http"]["addr"].rpartition(":")
    with socket.create_server((host, 0)) as free:
        behind = free.getsockname()[1]
    settings["http"]["addr"] = f"{host}:{behind}"
    inner = config.with_name("behind.yml")
    inner.touch(mode=0o600)
    inner.write_text(json.dumps(settings), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(registry, "serve", str(inner))
    await asyncio.start_server(Counter(behind, figure).serve, host, int(port))
    await process.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[4])))
