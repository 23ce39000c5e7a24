"""The columns of tables, and the SQL that turns rows of an export into rows of a table."""

from __future__ import annotations

from glob import escape
from typing import TYPE_CHECKING

from mixpanel.data.store.quoting import literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["checked_nesting", "events", "ndjson_source", "profiles"]

EVENTS = (
    "event_name VARCHAR, event_time TIMESTAMP, distinct_id VARCHAR, insert_id VARCHAR, "
    "properties JSON"
)
LOCAL_TIME = "event_time_local TIMESTAMP"
PROFILES = "distinct_id VARCHAR, properties JSON, last_seen TIMESTAMP"
# Events that are equal in these are copies of one event: Mixpanel deduplicates by them.
EVENT_KEY = "event_name, event_time, distinct_id, insert_id"
HAS_INSERT_ID = "(insert_id IS NOT NULL AND insert_id <> '')"

# Objects may be nested this deep, a tenth of the depth at which DuckDB crashes. Text up to the
# length is too short to be nested dangerously, and is not checked.
MAX_PROPERTIES_BYTES = 16_000_000
MAX_NESTING, NESTING_CHECK_LENGTH = 10_000, 50_000

# The years 1 to 9999, which both DuckDB and Python can represent.
MIN_TIME_MS, MAX_TIME_MS = -62_135_596_800_000, 253_402_300_799_999


def _sorted(properties: str) -> str:
    """Return SQL for properties in the order of their keys; NULL if they are not an object."""
    return f"list_sort(map_entries(TRY_CAST({properties} AS MAP(VARCHAR, JSON))))"


# Whether the properties of `new` and `old` are equal; the order of keys is ignored. CASE, because
# DuckDB would evaluate both sides of an OR.
SAME_PROPERTIES = (
    "(CASE WHEN new.properties IS NOT DISTINCT FROM old.properties THEN true "
    f"ELSE coalesce({_sorted('new.properties')} = {_sorted('old.properties')}, false) END)"
)


def ndjson_source(paths: Iterable[Path], columns: str, *, gzip: bool) -> str:
    """Return the SQL table function that reads part files, with a column `filename`."""
    files = ", ".join(literal(escape(str(path))) for path in paths)
    compression = "gzip" if gzip else "uncompressed"
    return (
        f"read_ndjson([{files}], columns = {{{columns}}}, filename = true, "
        f"compression = '{compression}')"
    )


def events(paths: Mapping[Path, int], *, gzip: bool, time_in_ms: bool, timezone: str | None) -> str:
    """Return the query that reads events from part files, each row with its part's number.

    Properties that become columns are removed from `properties`, except an invalid time.
    """
    source = ndjson_source(paths, "event: 'VARCHAR', properties: 'JSON'", gzip=gzip)
    numbers = ", ".join(f"({literal(str(path))}, {number})" for path, number in paths.items())
    milliseconds = (
        "TRY_CAST(found[1] AS BIGINT)"
        if time_in_ms
        else "TRY_CAST(round(TRY_CAST(found[1] AS DOUBLE) * 1000) AS BIGINT)"
    )
    clock = f"CASE WHEN ms BETWEEN {MIN_TIME_MS} AND {MAX_TIME_MS} THEN epoch_ms(ms) END"
    utc, local = "clock", ""
    if timezone is not None:
        # Projects created before 2023 store local wall-clock time as if it were UTC.
        utc, local = f"timezone('UTC', timezone({literal(timezone)}, clock))", "clock, "
    return f"""
        SELECT event, {utc}, found[2], found[3],
            CASE WHEN rest IS NULL THEN properties
                 WHEN {_has_promoted_twice()} THEN error('{TWICE}')
                 ELSE rest END,
            {local}part
        FROM (SELECT *,
            CASE WHEN properties IS NULL OR NOT starts_with(properties, '{{') THEN NULL
                 WHEN clock IS NULL THEN {_without("distinct_id", "$insert_id")}
                 ELSE {_without("time", "distinct_id", "$insert_id")} END AS rest
        FROM (SELECT *, {clock} AS clock FROM (SELECT *, {milliseconds} AS ms FROM (
            SELECT event, properties, part, json_extract_string(
                properties, ['/time', '/distinct_id', '/$insert_id']) AS found
            FROM {source} JOIN (VALUES {numbers}) AS parts(filename, part) USING (filename)
        ))))
    """


PROMOTED = ("time", "distinct_id", "$insert_id")
TWICE = "a property occurs twice"
# A row with these keys twice; `_has_promoted_twice` sees those that become columns.
HAS_PROPERTY_TWICE = "len(keys) <> list_unique(keys)"


def _has_promoted_twice() -> str:
    """Return SQL that is true if one of the keys that become columns occurs twice in `properties`.

    Few texts are shorter without these keys, `rest`, by more than their values in `found` take;
    only those are parsed.
    """
    taken = " + ".join(
        f"CASE WHEN found[{n}] IS NULL THEN 0 ELSE strlen(found[{n}]) + {len(key) + 6} END"
        for n, key in enumerate(PROMOTED, 1)
    )
    counted = " OR ".join(
        f"len(list_filter(json_keys(properties), lambda key: key = '{key}')) > 1"
        for key in PROMOTED
    )
    is_shorter = f"strlen(properties) - strlen(rest) > {taken}"
    return f"CASE WHEN {is_shorter} THEN {counted} ELSE false END"


def profiles(paths: Mapping[Path, int], *, gzip: bool) -> str:
    """Return the query that reads profiles from part files, each row with its part's number."""
    columns = "\"$distinct_id\": 'VARCHAR', \"$properties\": 'JSON'"
    numbers = ", ".join(f"({literal(str(path))}, {number})" for path, number in paths.items())
    return f"""
        SELECT "$distinct_id",
            CASE WHEN seen IS NULL THEN properties
                 ELSE {_without("$last_seen")} END,
            seen, part
        FROM (SELECT "$distinct_id", "$properties" AS properties, part,
                TRY_CAST("$properties"->>'/$last_seen' AS TIMESTAMP) AS seen
            FROM {ndjson_source(paths, columns, gzip=gzip)}
            JOIN (VALUES {numbers}) AS parts(filename, part) USING (filename))
    """


def checked_nesting(properties: str) -> str:
    """Return SQL that yields a JSON column, or an error if it is nested too deeply or too long.

    Whether DuckDB refuses a long line itself depends on its buffers. DuckDB 1.4 crashes in
    `json_merge_patch` on very deep nesting, which an error prevents. Opening braces are counted,
    as an upper bound of the depth.
    """
    deep = f"length(replace({properties}, '{{', '')) < length({properties}) - {MAX_NESTING}"
    failure = "error('properties are nested too deeply')"
    too_long = "error('properties are too long')"
    return (
        f"CASE WHEN strlen({properties}) > {MAX_PROPERTIES_BYTES} THEN {too_long} "
        f"WHEN strlen({properties}) > {NESTING_CHECK_LENGTH} AND {deep} "
        f"THEN {failure} ELSE {properties} END"
    )


def _without(*keys: str) -> str:
    patch = ", ".join(f'"{key}": null' for key in keys)
    return f"json_merge_patch({checked_nesting('properties')}, '{{{patch}}}')"
