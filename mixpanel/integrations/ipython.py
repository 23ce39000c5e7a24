"""Send what is buffered after each cell of a notebook: `%load_ext mixpanel.integrations.ipython`.

A kernel that is shut down is killed, and loses what is buffered then.
"""

from __future__ import annotations

from typing import Any

from mixpanel.integrations._serving import flush_all

__all__ = ["load_ipython_extension", "unload_ipython_extension"]

FLUSH_TIMEOUT = 5.0  # seconds, for all clients together


def load_ipython_extension(ipython: Any) -> None:
    """Flush all clients after each cell, which takes five seconds at most."""
    ipython.events.register("post_run_cell", _flush)


def unload_ipython_extension(ipython: Any) -> None:
    """Stop flushing after cells."""
    ipython.events.unregister("post_run_cell", _flush)


def _flush(_result: Any = None) -> None:
    flush_all(FLUSH_TIMEOUT)
