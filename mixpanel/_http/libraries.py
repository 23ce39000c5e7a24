"""Import httpx and httpcore, of which httpcore imports trio if it is installed.

The rest of this package imports both from here. That happens late and in threads, while another
thread may be importing trio too. Python can then give a thread a module that is only half imported,
and the import fails in both: `anyio.run(main, backend="trio")` in another thread raised
`KeyError: 'trio'`, or its calls in worker threads never returned.

The cause is the order of the locks that Python has for each module. `import trio` locks trio and
then its submodules; anyio's `import trio.from_thread` locks the submodule first. Two threads then
wait for each other. Python detects that, and lets one of them continue without the lock.
"""

from __future__ import annotations

import sys
from contextlib import suppress


def _import_trio() -> None:
    """Import trio as anyio does, or as the thread does that is importing it already."""
    with suppress(ImportError):
        if "trio" in sys.modules:
            import trio  # waits for the other thread
        else:
            import trio.from_thread  # noqa: F401


_import_trio()

import httpcore  # noqa: E402
import httpx  # noqa: E402

__all__ = ["httpcore", "httpx"]
