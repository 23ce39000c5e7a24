"""Fetch a project's events and profiles once into DuckDB, then SQL; discover and query it live.

Needs `pip install 'mixpanel-async[data]'`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixpanel.data.config import Config, Credentials
    from mixpanel.data.workspace import AsyncWorkspace, Workspace

_HOME = {
    "AsyncWorkspace": "mixpanel.data.workspace",
    "Config": "mixpanel.data.config",
    "Credentials": "mixpanel.data.config",
    "Workspace": "mixpanel.data.workspace",
}

__all__ = ["AsyncWorkspace", "Config", "Credentials", "Workspace"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
