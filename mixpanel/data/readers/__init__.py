"""Read events and rows from NDJSON, CSV and Parquet files."""

from mixpanel.data.readers.files import Columns, count_rows, read_events, read_rows, to_milliseconds

__all__ = ["Columns", "count_rows", "read_events", "read_rows", "to_milliseconds"]
