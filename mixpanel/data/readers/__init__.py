"""Read events and rows from NDJSON, CSV and Parquet files."""

from mixpanel._records.rows import UnreadableRow, to_milliseconds
from mixpanel.data.readers.csv import RaggedCSVError
from mixpanel.data.readers.events import Columns
from mixpanel.data.readers.files import count_rows, format_of, read_events, read_rows
from mixpanel.data.readers.options import DecimalIds, MixedColumn, ReadOptions

__all__ = [
    "Columns",
    "DecimalIds",
    "MixedColumn",
    "RaggedCSVError",
    "ReadOptions",
    "UnreadableRow",
    "count_rows",
    "format_of",
    "read_events",
    "read_rows",
    "to_milliseconds",
]
