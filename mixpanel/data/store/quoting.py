"""Validate table names, and quote identifiers and text in SQL."""

from __future__ import annotations

import re
from typing import Any

from mixpanel.data.exceptions import ConfigError

__all__ = ["literal", "pointer", "quoted", "table_name"]

_TABLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*", re.ASCII)
MAX_NAME_LENGTH = 128


def table_name(name: Any) -> str:
    """Return `name` if it is a valid table name.

    :raises ConfigError: unless it consists of letters, digits and `_`, and begins with no `_`.
    """
    if not isinstance(name, str) or not _TABLE_NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ConfigError(
            f"{name!r} is not a valid table name: use letters, digits and _ (up to "
            f"{MAX_NAME_LENGTH}), not beginning with _, which marks internal tables"
        )
    return name


def quoted(identifier: str) -> str:
    """Return an identifier quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def pointer(key: str) -> str:
    """Return the JSON pointer of a top-level key; unlike a path, it can express any key."""
    return "/" + key.replace("~", "~0").replace("/", "~1")
