"""Lines of a file of failed rows: `{"position", "message", "record"}`, and what to import of them.

`mp import` and `mp cdp` write such a file with `--failed`. Its records may be corrected by hand and
read again; positions and reasons do not matter then.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["FailedRecord", "is_failed_row"]

_REQUIRED: Final = frozenset({"position", "record"})
_OTHERS: Final = frozenset({"message", "field", "insert_id", "past"})


class FailedRecord(dict[str, Any]):
    """The record of a failed row: an event, a message, or a row of a table.

    `is_csv` is True if it is a line of a CSV file.
    """

    is_csv = False


def is_failed_row(row: Any) -> bool:
    """Return True if a row is a line of a file of failed rows, whose `record` is the row."""
    if not isinstance(row, dict) or not row.keys() >= _REQUIRED:
        return False
    return not row.keys() - _REQUIRED - _OTHERS and type(row["position"]) is int
