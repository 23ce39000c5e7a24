"""Read a file that `--failed` wrote: the records of its lines, as they were corrected by hand."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from mixpanel._records.failed_rows import FailedRecord, is_failed_row
from mixpanel._records.rows import UnreadableRow
from mixpanel.data.readers.options import converted
from mixpanel.data.readers.text_files import json_row
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mixpanel.data.readers.options import ReadOptions

__all__ = ["TYPE_NAMES", "cells_record", "corrected_rows"]

CELLS = frozenset({"line", "columns", "cells"})
TIMESTAMP = "timestamp"  # a detected one, which is not written in the way of `date_format`
# The types that DuckDB detects; others, also a date, are the text of the cell.
TYPE_NAMES = {
    "BIGINT": "number", "HUGEINT": "number", "DOUBLE": "number", "BOOLEAN": "boolean",
    "TIMESTAMP": TIMESTAMP, "TIMESTAMP WITH TIME ZONE": TIMESTAMP,
}  # fmt: skip


def cells_record(line: int, types: Mapping[str, str], cells: list[str]) -> dict[str, Any]:
    """Return the record of a line of a CSV file that does not fit.

    :param types: the names of the columns and their types, stated or as DuckDB detected them.
    """
    return {"line": line, "columns": dict(types), "cells": cells}


def corrected_rows(
    rows: Iterator[dict[str, Any]], name: str, options: ReadOptions
) -> Iterator[dict[str, Any]]:
    """Yield rows of NDJSON, those of a file of failed rows as what their records are.

    :raises ConfigurationError: if the options give types, and a row is not a failed one.
    """
    for row in rows:
        if is_failed_row(row):
            yield _corrected(row, options)
            continue
        if options.types and not isinstance(row, UnreadableRow):
            raise ConfigurationError(
                f"{name}: types= are for CSV files; JSON and Parquet have types of their own"
            )
        yield row


def _corrected(row: dict[str, Any], options: ReadOptions) -> dict[str, Any]:
    record = row["record"]
    if isinstance(record, str):
        record = {"line": row["position"] + 1, "text": record}
    if not isinstance(record, dict):
        return UnreadableRow("the record is not a JSON object", {"value": record})
    if record.get("truncated") is True:
        return UnreadableRow("the record is only the beginning of the line", record)
    if record.keys() in ({"line", "text"}, {"row", "text"}) and isinstance(record["text"], str):
        where = {key: value for key, value in record.items() if key != "text"}
        parsed = json_row(record["text"], where)
        return parsed if isinstance(parsed, UnreadableRow) else FailedRecord(parsed)
    try:
        if record.keys() == CELLS:
            return _row_of_cells(record, options)
        return _with_types(record, options)
    except ValueError as error:
        return UnreadableRow(str(error), record)


def _row_of_cells(record: dict[str, Any], options: ReadOptions) -> FailedRecord:
    columns, cells = record["columns"], record["cells"]
    if not isinstance(columns, dict) or not isinstance(cells, list):
        raise ValueError("the record is not a line with columns and cells")  # noqa: TRY004
    if len(cells) != len(columns):
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        raise ValueError(f"the line has {count}, the first line has {len(columns)}")
    row = FailedRecord()
    row.is_csv = True
    for (column, detected), cell in zip(columns.items(), cells, strict=True):
        type_ = options.types.get(column, detected)
        if cell in ("", None):
            row[column] = None
        elif not isinstance(cell, str):
            row[column] = cell  # written by hand as JSON
        elif type_ == TIMESTAMP:
            time = converted(column, cell, "date", None)
            row[column] = time.astimezone(UTC).replace(tzinfo=None)
        else:
            row[column] = converted(column, cell, type_, options.date_format)
    return row


def _with_types(record: dict[str, Any], options: ReadOptions) -> FailedRecord:
    row = FailedRecord(record)
    is_nested = isinstance(row.get("properties", row.get("traits")), dict)
    for column, type_ in {} if is_nested else options.types.items():
        if isinstance(row.get(column), str):
            row[column] = converted(column, row[column], type_, options.date_format)
    return row
