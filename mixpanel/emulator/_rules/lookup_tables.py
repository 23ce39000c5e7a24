"""Parse the CSV of a lookup table by the documented rules. Does no I/O."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 100_000_000
MAX_REPLACEMENTS = 100
MAX_FAILED = 10
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that violates a rule; `index` counts data rows from 0 (which is not documented)."""

    index: int
    message: str


def read_table(text: str) -> tuple[list[dict[str, Any]], list[FailedRow]]:
    """Parse RFC 4180 text into typed rows, and return the invalid ones too (at most ten).

    The first row has the unique names of the columns; the first column has the unique key of a row.
    """
    lines = csv.reader(text.splitlines(keepends=True), strict=True)
    rows: list[dict[str, Any]] = []
    failed: list[FailedRow] = []
    keys: set[str] = set()
    try:
        header = next(lines, [])
        if not header or "" in header or len(set(header)) < len(header):
            return [], [FailedRow(0, "header row must have a unique name for every column")]
        for index, row in enumerate(_without_empty(lines)):
            if len(row) != len(header):
                failed.append(FailedRow(index, f"expected {len(header)} fields, found {len(row)}"))
            elif not row[0]:
                failed.append(FailedRow(index, "row key is empty"))
            elif row[0] in keys:
                failed.append(FailedRow(index, f"row key {row[0]!r} is not unique"))
            else:
                keys.add(row[0])
                pairs = zip(header, row, strict=True)
                rows.append({name: typed(value) for name, value in pairs if value})
    except csv.Error as error:
        failed.append(FailedRow(len(rows) + len(failed), f"not RFC 4180: {error}"))
    return rows, failed[:MAX_FAILED]


def _without_empty(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    return (row for row in lines if row)


def typed(value: str) -> Any:
    """Convert a field to its documented type: number, boolean, list of strings, or text.

    Mixpanel also converts RFC 3339 times to datetimes; here they stay text.
    """
    if NUMBER.fullmatch(value):
        return float(value) if re.search(r"[.eE]", value) else int(value)
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value.startswith("["):
        try:
            members = json.loads(value)
        except ValueError:
            return value
        if isinstance(members, list) and all(isinstance(member, str) for member in members):
            return members
    return value
