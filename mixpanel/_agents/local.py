"""Read the local database for an agent; each function returns a result of limited size."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mixpanel._agents.reports import local_report
from mixpanel._agents.results import (
    MAX_CELL,
    MAX_ROWS,
    MAX_TEXT,
    Page,
    decoded_cursor,
    json_text,
    page_of,
)
from mixpanel.data._queries.discovery_responses import similar
from mixpanel.data.exceptions import (
    ConfigError,
    EventNotFoundError,
    MixpanelDataError,
    PropertyNotFoundError,
)
from mixpanel.data.store.quoting import literal, pointer, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mixpanel.data.results import TableInfo
    from mixpanel.data.store import Database

__all__ = [
    "FUNCTIONS",
    "error_of",
    "has_events",
    "list_events",
    "list_properties",
    "property_values",
    "sample",
    "sql",
    "table_facts",
    "table_names",
]

SAMPLED = 20_000  # rows that are read to find the properties of a table
MAX_PROPERTIES = 20_000
MAX_EVENTS = 2_000
SAMPLE_ROWS = 5
MAX_NAME = 200  # characters of the name of a column
EVENT_COLUMNS = frozenset({"event_name", "event_time", "distinct_id", "properties"})


# ---- SQL ----------------------------------------------------------------------------------------


def sql(
    database: Database, query: str, *, limit: int = 100, cursor: str | None = None
) -> dict[str, Any]:
    """Return a page of the rows of a query.

    :raises SQLError: if DuckDB rejects it.
    :raises UnsafeSQLError: if it does more than read.
    :raises ConfigError: if the names of its columns leave too little space for rows.
    """
    scope = {"tool": "sql", "query": query}
    offset = decoded_cursor(cursor, scope)
    found = database.sql_page(query, offset=offset, limit=min(limit, MAX_ROWS), width=MAX_CELL)
    columns = [
        {"name": name[:MAX_NAME], "type": type_}
        for name, type_ in zip(found.columns, found.types, strict=True)
    ]
    room = MAX_TEXT - len(json_text(columns))
    if room < MAX_TEXT // 2:
        raise ConfigError(
            f"the result has {len(columns):,} columns: their names alone take more than half of "
            "the space of a result",
            code="TOO_WIDE",
        )
    ordered = "order by" in " ".join(query.casefold().split())
    unstable = "" if ordered else "use ORDER BY: otherwise pages may overlap"
    page = page_of(
        found.rows,
        scope,
        offset=offset,
        limit=limit,
        has_more=found.has_more,
        max_text=room,
        hint=unstable,
    )
    return {"columns": columns, "rows": page.rows, "row_count": len(page.rows), **page.to_dict()}


def sample(database: Database, table: str) -> dict[str, Any]:
    """Return the columns of a table and a few of its rows."""
    schema = database.schema(table)
    columns = [{"name": each.name, "type": each.type} for each in schema.columns]
    query = f"FROM {quoted(schema.table_name)} LIMIT {SAMPLE_ROWS}"
    found = database.sql_page(query, offset=0, limit=SAMPLE_ROWS, width=MAX_CELL)
    page = page_of(found.rows, {"table": schema.table_name}, limit=SAMPLE_ROWS)
    return {
        "table": schema.table_name,
        "columns": columns,
        "row_count": database.sql_scalar(f"SELECT count(*) FROM {quoted(schema.table_name)}"),
        "first_rows": page.rows,
    }


# ---- tables -------------------------------------------------------------------------------------


def table_facts(database: Database) -> list[dict[str, Any]]:
    """Return the facts of each table, those with most rows first.

    A table of events has its `events` with counts, and one of events or profiles has `properties`:
    name, JSON type of the values, and the share of rows that have it. Properties are found
    in up to 20,000 rows, chosen at random; `sampled` is their number for a larger table, which may
    have others.
    """
    infos = sorted(database.tables(), key=lambda each: (-each.row_count, each.name))
    return [_facts(database, info) for info in infos]


def _facts(database: Database, info: TableInfo) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": info.name,
        "type": info.type,
        "rows": info.row_count,
        "from_date": None if info.from_date is None else str(info.from_date),
        "to_date": None if info.to_date is None else str(info.to_date),
        "missing_days": [f"{first} to {last}" for first, last in info.gaps],
        "filters": [each for each in info.filters if each],
        "columns": {},
    }
    if info.state != "complete":
        return facts | {"state": "incomplete: repeat the fetch to complete it"}
    columns = {each.name: each.type for each in database.schema(info.name).columns}
    facts["columns"] = columns
    if info.type == "events" and "event_name" in columns:
        facts["events"], facts["event_count"] = _event_counts(database, info.name)
    if info.type in ("events", "profiles") and columns.get("properties") == "JSON":
        found, count, rows = _properties(database, info.name)
        sampled = rows if rows < info.row_count else 0
        facts |= {"properties": found, "property_count": count, "sampled": sampled}
    return facts


def _event_counts(database: Database, table: str) -> tuple[list[tuple[str, int]], int]:
    """Return the most frequent events of a table with their counts, and how many there are."""
    query = (
        "SELECT event_name, count(*), count(*) OVER () "
        f"FROM {quoted(table)} WHERE event_name NOT NULL "
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MAX_EVENTS}"
    )
    rows = database.sql_rows(query).rows
    return [(name, count) for name, count, _ in rows], rows[0][2] if rows else 0


def _properties(
    database: Database, table: str, event: str | None = None, search: str = ""
) -> tuple[list[dict[str, Any]], int, int]:
    """Return the properties in a sample of a table, their number, and the rows of the sample.

    The most frequent properties come first.
    """
    where = "" if event is None else f"WHERE event_name = {literal(event)}"
    sampled = (
        f"SELECT properties FROM (FROM {quoted(table)} {where}) "
        f"USING SAMPLE reservoir({SAMPLED} ROWS) REPEATABLE (1)"
    )
    query = (
        f"WITH sampled AS MATERIALIZED ({sampled}), "
        "named AS (SELECT properties, unnest(json_keys(properties)) AS key FROM sampled) "
        "SELECT key, count(*), mode(json_type(properties, "
        "'/' || replace(replace(key, '~', '~0'), '/', '~1'))), "
        "count(*) OVER (), (SELECT count(*) FROM sampled) FROM named "
        f"WHERE contains(lower(key), lower({literal(search)})) "
        f"GROUP BY key ORDER BY 2 DESC, 1 LIMIT {MAX_PROPERTIES}"
    )
    found = database.sql_rows(query).rows
    properties = [
        {"name": key, "type": _json_type(type_), "share": round(count / max(total, 1), 3)}
        for key, count, type_, _, total in found
    ]
    count, rows = found[0][3:5] if found else (0, 0)
    return properties, count, rows


def _json_type(found: str | None) -> str:
    types = {"VARCHAR": "text", "BOOLEAN": "boolean", "DOUBLE": "number", "NULL": "null"}
    types |= {"UBIGINT": "number", "BIGINT": "number", "ARRAY": "list", "OBJECT": "object"}
    types |= {"HUGEINT": "number", "UHUGEINT": "number"}
    return types.get(found or "NULL", "other")


# ---- names --------------------------------------------------------------------------------------


def _table_of_events(database: Database, table: str | None) -> list[str]:
    """Return the named table, or all tables of events, the largest first.

    :raises TableNotFoundError: if there is none of that name.
    :raises ConfigError: if it is not a table of events, or there is none.
    """
    if table is not None:
        schema = database.schema(table)
        missing = EVENT_COLUMNS - {each.name for each in schema.columns}
        if missing:
            raise ConfigError(
                f"{schema.table_name} is not a table of events: it has no "
                f"{', '.join(sorted(missing))}"
            )
        return [schema.table_name]
    known = sorted(database.tables(), key=lambda each: (-each.row_count, each.name))
    found = [each.name for each in known if each.type == "events" and each.state == "complete"]
    if not found:
        raise ConfigError("the local database has no table of events", code="NO_LOCAL_EVENTS")
    return found


def table_names(database: Database) -> list[str]:
    """Return the names of all tables and views."""
    return [each.name for each in database.tables() if each.state == "complete"]


def has_events(database: Database) -> bool:
    """Return True if there is a table of events."""
    return any(each.type == "events" and each.state == "complete" for each in database.tables())


def list_events(
    database: Database,
    *,
    search: str = "",
    table: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Return the events of a table, or of all tables of events, the most frequent first.

    Tables may overlap: an event of several tables is counted in the one that has most of it.
    """
    tables = _table_of_events(database, table)
    scope = {"tool": "list_events", "search": search, "tables": tables}
    offset = decoded_cursor(cursor, scope)
    every = " UNION ALL ".join(
        f"SELECT event_name, {literal(each)} AS source, count(*) AS n, "
        "count(DISTINCT distinct_id) AS users, min(event_time) AS first, max(event_time) AS last "
        f"FROM {quoted(each)} GROUP BY event_name"
        for each in tables
    )
    rows = database.sql_rows(
        f"SELECT * FROM ({every}) WHERE contains(lower(event_name), lower(?)) "
        "QUALIFY row_number() OVER (PARTITION BY event_name ORDER BY n DESC, source) = 1 "
        "ORDER BY n DESC, event_name",
        [search],
    ).rows
    events = [
        {
            "event": event,
            "table": source,
            "count": count,
            "users": users,
            "first": _utc(first),
            "last": _utc(last),
        }
        for event, source, count, users, first, last in rows
    ]
    page = page_of(
        events[offset:],
        scope,
        offset=offset,
        limit=limit,
        total=len(events),
        hint="search narrows the list",
    )
    return {"source": "local", "tables": tables, **_listed("events", page, len(events))}


def _utc(time: datetime | None) -> str | None:
    return None if time is None else time.replace(tzinfo=UTC).isoformat()


def _listed(name: str, page: Page, total: int) -> dict[str, Any]:
    return {name: page.rows, "total": total, **page.to_dict()}


def list_properties(
    database: Database,
    event: str,
    *,
    search: str = "",
    table: str | None = None,
    limit: int = 200,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Return the properties of an event, the most frequent first.

    Types and shares are those of up to 20,000 of its `rows`, chosen at random; `rows_read` of fewer
    has a `note`.

    :raises EventNotFoundError: with similar names.
    """
    names = _table_of_events(database, table)
    scope = {"tool": "list_properties", "event": event, "search": search, "tables": names}
    offset = decoded_cursor(cursor, scope)
    found = _table_with(database, names, event)
    properties, count, rows_read = _properties(database, found, event, search)
    total = f"SELECT count(*) FROM {quoted(found)} WHERE event_name = {literal(event)}"
    rows = database.sql_scalar(total)
    page = page_of(
        properties[offset:],
        scope,
        offset=offset,
        limit=limit,
        total=count,
        hint="search narrows the list",
    )
    result = {"source": "local", "table": found, "event": event, "rows": rows}
    result["rows_read"] = min(rows, SAMPLED) if not properties else rows_read
    if rows > SAMPLED:
        result["note"] = (
            f"types and shares are those of {SAMPLED:,} of {rows:,} rows, chosen at random: a rare "
            "property may be missing. property_values reads all rows"
        )
    return {**result, **_listed("properties", page, count)}


def _table_with(database: Database, tables: Sequence[str], event: str) -> str:
    """Return the first table that has an event of this name.

    :raises EventNotFoundError: with similar names.
    """
    known: dict[str, None] = {}
    for table in tables:
        query = f"SELECT DISTINCT event_name FROM {quoted(table)} WHERE event_name NOT NULL"
        names = {name for (name,) in database.sql_rows(query).rows}
        if event in names:
            return table
        known |= dict.fromkeys(sorted(names))
    raise EventNotFoundError(event, similar(event, list(known)))


def property_values(
    database: Database,
    property: str,
    event: str,
    *,
    table: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Return the values of a property of an event, the most frequent first.

    :raises EventNotFoundError: with similar names.
    :raises PropertyNotFoundError: with similar names.
    """
    names = _table_of_events(database, table)
    scope = {"tool": "property_values", "event": event, "property": property, "tables": names}
    offset = decoded_cursor(cursor, scope)
    found = _table_with(database, names, event)
    value = f"(properties->{literal(pointer(property))})"
    source = f"FROM {quoted(found)} WHERE event_name = {literal(event)}"
    distinct, count, missing = database.sql_rows(
        f"SELECT count(DISTINCT {value}), count({value}), count(*) - count({value}) {source}"
    ).rows[0]
    if not count:
        known = [each["name"] for each in _properties(database, found, event)[0]]
        raise PropertyNotFoundError(property, event, similar(property, known))
    query = (
        f"SELECT {value} AS value, count(*) AS count {source} AND {value} IS NOT NULL "
        "GROUP BY ALL ORDER BY 2 DESC, 1"
    )
    rows = database.sql_page(query, offset=offset, limit=limit, width=MAX_CELL)
    page = page_of(
        [{"value": each, "count": number} for each, number in rows.rows],
        scope,
        offset=offset,
        limit=limit,
        total=distinct,
    )
    result = _listed("values", page, distinct)
    where = {"table": found, "event": event, "property": property}
    return {"source": "local", **where, "missing": missing, **result}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sql": sql,
    "sample": sample,
    "table_facts": table_facts,
    "table_names": table_names,
    "has_events": has_events,
    "list_events": list_events,
    "list_properties": list_properties,
    "property_values": property_values,
    "local_report": local_report,
}


def error_of(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON values, for the process that sent the request."""
    if isinstance(error, MixpanelDataError):
        return error.to_dict()
    with suppress(Exception):
        return {"code": "INTERNAL", "message": f"{type(error).__name__}: {error}", "details": {}}
    return {"code": "INTERNAL", "message": type(error).__name__, "details": {}}
