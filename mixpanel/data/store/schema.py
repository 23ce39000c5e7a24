"""The SQL that makes rows of an export into rows of a table."""

from __future__ import annotations

from glob import escape
from typing import TYPE_CHECKING

from mixpanel.data.store.quoting import literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["bounded", "events", "profiles", "reader"]

EVENTS = (
    "event_name VARCHAR, event_time TIMESTAMP, distinct_id VARCHAR, insert_id VARCHAR, "
    "properties JSON"
)
LOCAL = "event_time_local TIMESTAMP"
PROFILES = "distinct_id VARCHAR, properties JSON, last_seen TIMESTAMP"
# Events that agree in these are copies of one event.
KEY = "event_name, event_time, distinct_id, insert_id"
HAS_ID = "(insert_id IS NOT NULL AND insert_id <> '')"

# So many objects, in a text so long, may be nested in each other: a tenth of what is too much.
DEEPEST, LONG = 10_000, 50_000

# Milliseconds of the years 1 to 9999, which both DuckDB and Python can tell.
FIRST_TIME, LAST_TIME = -62_135_596_800_000, 253_402_300_799_999


def reader(paths: Iterable[Path], columns: str, *, gzip: bool) -> str:
    """Return the source of rows of part files; each says which file it is from."""
    files = ", ".join(literal(escape(str(path))) for path in paths)
    compression = "gzip" if gzip else "uncompressed"
    return (
        f"read_ndjson([{files}], columns = {{{columns}}}, filename = true, "
        f"compression = '{compression}')"
    )


def events(paths: Mapping[Path, int], *, gzip: bool, time_in_ms: bool, timezone: str | None) -> str:
    """Return the query of the rows of part files, with the number of each row's part.

    What becomes a column is taken out of `properties`, except a time that is none.
    """
    source = reader(paths, "event: 'VARCHAR', properties: 'JSON'", gzip=gzip)
    numbers = ", ".join(f"({literal(str(path))}, {number})" for path, number in paths.items())
    milliseconds = (
        "TRY_CAST(found[1] AS BIGINT)"
        if time_in_ms
        else "TRY_CAST(round(TRY_CAST(found[1] AS DOUBLE) * 1000) AS BIGINT)"
    )
    clock = f"CASE WHEN ms BETWEEN {FIRST_TIME} AND {LAST_TIME} THEN epoch_ms(ms) END"
    utc, local = "clock", ""
    if timezone is not None:
        # Until 2023 projects wrote the wall clock of their zone as if it were UTC.
        utc, local = f"timezone('UTC', timezone({literal(timezone)}, clock))", "clock, "
    return f"""
        SELECT event, {utc}, found[2], found[3],
            CASE WHEN properties IS NULL OR NOT starts_with(properties, '{{') THEN properties
                 WHEN clock IS NULL THEN {_without("distinct_id", "$insert_id")}
                 ELSE {_without("time", "distinct_id", "$insert_id")} END,
            {local}part
        FROM (SELECT *, {clock} AS clock FROM (SELECT *, {milliseconds} AS ms FROM (
            SELECT event, properties, part, json_extract_string(
                properties, ['/time', '/distinct_id', '/$insert_id']) AS found
            FROM {source} JOIN (VALUES {numbers}) AS parts(filename, part) USING (filename)
        )))
    """  # noqa: S608 - paths and the zone are quoted


def profiles(paths: Mapping[Path, int], *, gzip: bool) -> str:
    """Return the query of the profiles of part files, with the number of each row's part."""
    columns = "\"$distinct_id\": 'VARCHAR', \"$properties\": 'JSON'"
    numbers = ", ".join(f"({literal(str(path))}, {number})" for path, number in paths.items())
    return f"""
        SELECT "$distinct_id",
            CASE WHEN seen IS NULL THEN properties
                 ELSE {_without("$last_seen")} END,
            seen, part
        FROM (SELECT "$distinct_id", "$properties" AS properties, part,
                TRY_CAST("$properties"->>'/$last_seen' AS TIMESTAMP) AS seen
            FROM {reader(paths, columns, gzip=gzip)}
            JOIN (VALUES {numbers}) AS parts(filename, part) USING (filename))
    """  # noqa: S608 - paths are quoted


def bounded(properties: str) -> str:
    """Return a JSON column, or fail: DuckDB 1.4 crashes when it patches what nests very deep."""
    deep = f"length(replace({properties}, '{{', '')) < length({properties}) - {DEEPEST}"
    failure = "error('properties are nested too deeply')"
    return (
        f"CASE WHEN strlen({properties}) > {LONG} AND {deep} THEN {failure} ELSE {properties} END"
    )


def _without(*keys: str) -> str:
    patch = ", ".join(f'"{key}": null' for key in keys)
    return f"json_merge_patch({bounded('properties')}, '{{{patch}}}')"
