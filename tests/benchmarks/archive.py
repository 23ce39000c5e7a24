"""An export's files, made once, and a loopback server that sends them as Mixpanel would.

`Archive` writes a gzipped NDJSON file a day, and the same lines in one plain file for whoever
reads from disk. The server runs in a process of its own; it ends when its parent closes the pipe.
"""

import asyncio
import gzip
import json
import os
import subprocess
import sys
import threading
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Self
from urllib.parse import parse_qs, urlsplit

FIRST = date(2026, 1, 1)
LIFETIME = 1800  # seconds, whatever happens
NAMES = ("Page Viewed", "Order Paid", "Signed Up", "Search Made", "Item Added")
CITIES = ("Oslo", "São Paulo", "München", "Kraków", "Lima", "Nairobi")
PLANS = ("free", "team", "enterprise")


class Archive:
    """So many events over so many days, about 340 bytes each, in a folder."""

    def __init__(self, folder: Path, events: int, days: int) -> None:
        self.folder, self.events, self.days = folder, events, days
        self.plain = folder / "all.ndjson"
        with self.plain.open("wb") as everything:
            for number in range(days):
                lines = b"".join(self._lines(number))
                everything.write(lines)
                packed = gzip.compress(lines, 1, mtime=0)
                (folder / f"{FIRST + timedelta(days=number)}.gz").write_bytes(packed)

    @property
    def last(self) -> date:
        """Return the last day."""
        return FIRST + timedelta(days=self.days - 1)

    def _lines(self, number: int):
        random = Random(number)
        start = 1_767_225_600_000 + number * 86_400_000
        count = self.events // self.days
        for index in range(count):
            time = start + index * 86_400_000 // count
            user = random.randrange(50_000)
            properties = {
                "time": time,
                "distinct_id": f"user-{user:06}",
                "$insert_id": f"{number:04x}{index:08x}{user:08x}",
                "mp_processing_time_ms": time + 40_000,
                "$city": random.choice(CITIES),
                "$os": "Linux",
                "mp_lib": "python",
                "plan": random.choice(PLANS),
                "amount": random.randrange(100, 99_999) / 100,
                "items": random.randrange(1, 9),
                "session": f"{random.getrandbits(64):016x}",
                "campaign": f"spring-{random.randrange(40)}",
                "path": f"/shop/category-{random.randrange(90)}/item-{random.randrange(9000)}",
            }
            event = {"event": random.choice(NAMES), "properties": properties}
            yield json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__), self.folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


async def answer(folder: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the requested days: gzip allows to put one file after the other."""
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            query = parse_qs(urlsplit(head.split()[1]).query)
            first, last = (date.fromisoformat(query[name][0]) for name in ("from_date", "to_date"))
            days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
            files = [folder / f"{day}.gz" for day in days if (folder / f"{day}.gz").exists()]
            size = sum(file.stat().st_size for file in files)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n"
                b"Content-Length: %d\r\n\r\n" % size
            )
            for file in files:
                with file.open("rb") as body:
                    await asyncio.get_running_loop().sendfile(writer.transport, body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(folder: Path) -> None:
    server = await asyncio.start_server(lambda r, w: answer(folder, r, w), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    await asyncio.sleep(LIFETIME)


def leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
