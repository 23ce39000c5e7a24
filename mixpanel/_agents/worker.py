"""The process that reads the local database for an agent: `python -P -m mixpanel._agents.worker`.

Some functions of DuckDB ignore interrupts, so a statement that takes too long is ended by killing
this process. Requests come on stdin and responses go to stdout, one line of JSON each.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

from mixpanel._agents.local import FUNCTIONS, error_of
from mixpanel.data.store import Database

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["main"]

READY = b"{}\n"


def main(path: str, memory_limit: str, threads: str) -> None:
    """Call the function of each request on stdin, until stdin ends.

    A first line without a result reports that DuckDB is imported.
    """
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Output of libraries must not mix with the responses.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True).start()
    _write(responses, READY)
    database: Database | None = None
    while True:
        request = json.loads(requests.get())
        try:
            if database is None:
                database = Database.open(
                    path, read_only=True, memory_limit=memory_limit, threads=int(threads) or None
                )
            function = FUNCTIONS[request["function"]]
            found: dict[str, Any] = {"result": function(database, **request["arguments"])}
            line = json.dumps(found).encode()
        except Exception as error:
            line = json.dumps({"error": error_of(error)}, default=str).encode()
        _write(responses, line + b"\n")


def _read(stdin: BinaryIO, requests: queue.SimpleQueue[bytes]) -> None:
    """Queue requests; exit when the parent has ended, even in the middle of a statement."""
    for line in stdin:
        requests.put(line)
    os._exit(0)


def _write(responses: BinaryIO, line: bytes) -> None:
    responses.write(line)
    responses.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
