"""Names and values inside SQL: which table names there may be, and how to quote the rest."""

from __future__ import annotations

import re
from typing import Any

from mixpanel.data.exceptions import ConfigError

__all__ = ["literal", "pointer", "quoted", "table_name"]

_TABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*", re.ASCII)
LONGEST = 128


def table_name(name: Any) -> str:
    """Return a name that a user's table may have.

    :raises ConfigError: unless it is of letters, digits and `_`, and does not begin with `_`.
    """
    if not isinstance(name, str) or not _TABLE.fullmatch(name) or len(name) > LONGEST:
        raise ConfigError(
            f"{name!r} cannot be the name of a table: use letters, digits and _ (at most "
            f"{LONGEST}), and do not begin with _, as the database's own tables do"
        )
    return name


def quoted(identifier: str) -> str:
    """Quote an identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text."""
    return "'" + text.replace("'", "''") + "'"


def pointer(key: str) -> str:
    """Return the JSON pointer to a top-level key, which reaches any key exactly."""
    return "/" + key.replace("~", "~0").replace("/", "~1")
