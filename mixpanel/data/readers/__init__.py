"""Read files of rows: NDJSON, CSV and Parquet."""
