"""An overview of a project and its local tables, in at most 2,000 tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mixpanel._agents.results import json_text, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["MAX_TOKENS", "overview_of", "overview_text"]

MAX_TOKENS = 2_000
RESERVED = 260  # of them, for the notes of what was left out, and the counts next to the lists
MAX_NAME = 80  # characters; a longer name is cut here, and whole in the lists of other commands
FEW = 8  # properties of an event of the project
LIST_COST = 8  # tokens of an empty list with its name


@dataclass(slots=True)
class _Shown:
    """The part of a table that is shown so far, and its lists with the items to add."""

    table: dict[str, Any]
    pending: dict[str, list[Any]] = field(default_factory=dict)


def overview_of(
    head: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    project_events: Mapping[str, Sequence[str]] | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, Any]:
    """Return the head, the tables with columns, events and properties, and what was left out.

    `tables` are those of `local.table_facts`; `project_events` maps the events of the project to
    their properties. If not everything fits into `max_tokens`, every table gets a line before any
    gets a list, and the lists get their most frequent items in turn.
    """
    result: dict[str, Any] = dict(copy.deepcopy(dict(head)))
    result["tables"] = []
    room = max_tokens - RESERVED - tokens(json_text(result))
    shown: list[_Shown] = []
    for table in tables:
        line = _line(table)
        cost = tokens(json_text(line)) + 2
        if cost > room:
            break
        room -= cost
        result["tables"].append(line)
        lists: dict[str, list[Any]] = {
            "columns": [[_name(name), str(type_)[:40]] for name, type_ in table["columns"].items()],
            "events": [[_name(name), count] for name, count in table.get("events", ())],
            "properties": [_property(each) for each in table.get("properties", ())],
        }
        shown.append(_Shown(line, {name: items for name, items in lists.items() if items}))
    if project_events is not None:
        result["project_events"] = {}
        room -= 10
        line = result["project_events"]
        names = [
            [_name(event), [_name(each) for each in properties]]
            for event, properties in project_events.items()
        ]
        shown.append(_Shown(line, {"": names}))
    room = _fill(shown, room)
    left_out = _left_out(tables, result["tables"], project_events, result.get("project_events"))
    if left_out:
        result["left_out"] = left_out
    return result


def _line(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a table other than its lists, without empty ones."""
    names = ("name", "type", "rows", "from_date", "to_date", "state")
    line = {name: table[name] for name in names if table.get(name) is not None}
    line["name"] = _name(line["name"])
    if table.get("sampled"):
        line["properties_from"] = f"{table['sampled']:,} rows, chosen at random"
    gaps, filters = table.get("missing_days", ()), table.get("filters", ())
    if gaps:
        line["missing_days"] = [*gaps[:3], *([f"and {len(gaps) - 3} more"] if gaps[3:] else [])]
    if filters:
        text = json_text(list(filters))
        line["fetched_with"] = text if len(text) <= MAX_NAME * 2 else text[: MAX_NAME * 2] + "…"
    return line


def _name(name: Any) -> str:
    text = str(name)
    return text if len(text) <= MAX_NAME else text[:MAX_NAME] + "…"


def _property(known: Mapping[str, Any]) -> list[str]:
    """Return the name of a property, and its type with the share of the rows that have it."""
    share = known["share"]
    shown = "" if share >= 0.995 else f", {share:.0%}" if share >= 0.01 else ", <1%"
    return [_name(known["name"]), f"{known['type']}{shown}"]


def _fill(shown: Sequence[_Shown], room: int) -> int:
    """Add the next item of each list in turn until the tokens are used; return the rest."""
    turns = [iter(_additions(one)) for one in shown]
    while turns:
        for turn in list(turns):
            addition = next(turn, None)
            if addition is None:
                turns.remove(turn)
                continue
            place, key, value, cost = addition
            if cost > room:
                turns.remove(turn)
                continue
            room -= cost
            if isinstance(place, dict):
                place[key] = value
            else:
                place.append(value)
    return room


def _additions(one: _Shown) -> Iterator[tuple[Any, Any, Any, int]]:
    """Yield the container, key, value and tokens of each item, in the order to add them.

    Columns come first, then events and properties in turn.
    """
    table = one.table
    if "" in one.pending:  # events of the project, which have a dictionary of their own
        for name, properties in one.pending[""]:
            yield table, name, [], tokens(json_text({name: []})) + 1
            for each in properties[:FEW]:
                yield table[name], None, each, tokens(json_text(each)) + 1
        return
    if "columns" in one.pending:
        yield from _of_list(table, "columns", one.pending["columns"])
    turns = [
        _of_list(table, name, one.pending[name])
        for name in ("events", "properties")
        if name in one.pending
    ]
    while turns:
        for turn in list(turns):
            addition = next(turn, None)
            if addition is None:
                turns.remove(turn)
            else:
                yield addition


def _of_list(table: dict[str, Any], name: str, items: list[Any]) -> Iterator[Any]:
    """Yield an empty dictionary for a table, and then its items."""
    yield table, name, {}, LIST_COST
    for key, value in items:
        yield table[name], key, value, tokens(json_text({key: value})) + 1


def _left_out(
    tables: Sequence[Mapping[str, Any]],
    shown: Sequence[Mapping[str, Any]],
    project_events: Mapping[str, Sequence[str]] | None,
    shown_events: Mapping[str, Sequence[str]] | None,
) -> list[str]:
    """Return a note for each kind of item that was left out, with the tool that lists it."""
    counted: dict[str, int] = dict.fromkeys(("columns", "events", "properties"), 0)
    totals = {"events": "event_count", "properties": "property_count"}
    sampled = any(table.get("sampled") for table in tables)
    for table, line in zip(tables, shown, strict=False):
        for kind in counted:
            total = table.get(totals.get(kind, ""), len(table.get(kind, ())))
            counted[kind] += total - len(line.get(kind, ()))
    notes = []
    if len(tables) > len(shown):
        notes.append(f"{len(tables) - len(shown):,} tables (sql: SHOW TABLES)")
    names: dict[str, str] = {
        "columns": "columns (sql: DESCRIBE TABLE)",
        "events": "events of tables (list_events)",
        "properties": "properties of tables (list_properties)",
    }
    if sampled:
        names["properties"] += ", of those in 20,000 rows a table"
    notes += [f"{counted[kind]:,} {name}" for kind, name in names.items() if counted[kind]]
    if project_events is not None and shown_events is not None:
        missing = len(project_events) - len(shown_events)
        lists = [
            len(properties) - len(shown_events.get(_name(event), ()))
            for event, properties in project_events.items()
        ]
        if missing:
            notes.append(f"{missing:,} events of the project (list_events)")
        if sum(lists):
            notes.append(f"{sum(lists):,} properties of its events (list_properties)")
    return notes


# ---- as text ------------------------------------------------------------------------------------


def overview_text(result: Mapping[str, Any]) -> str:
    """Return an overview as text; names with punctuation or hidden characters are quoted."""
    lines = [f"{name}: {_as_text(value)}" for name, value in result.items() if name not in _LISTS]
    for table in result["tables"]:
        lines += _table_lines(table)
    if not result["tables"]:
        lines += ["", "There are no local tables yet."]
    if result.get("project_events"):
        lines += ["", "## Events of the project, and their properties"]
        for name, properties in result["project_events"].items():
            lines.append(f"{_as_text(name)}: {', '.join(map(_as_text, properties))}".rstrip(": "))
    if result.get("left_out"):
        lines += ["", f"Left out: {'; '.join(result['left_out'])}."]
    return "\n".join(lines) + "\n"


def _table_lines(table: Mapping[str, Any]) -> Iterator[str]:
    days = f", {table['from_date']} to {table['to_date']}" if table.get("to_date") else ""
    state = f" ({table['state']})" if table.get("state") else ""
    yield ""
    yield f"## {_as_text(table['name'])}: {table['type']}, {table['rows']:,} rows{days}{state}"
    if table.get("missing_days"):
        yield f"missing days: {', '.join(table['missing_days'])}"
    if table.get("fetched_with"):
        yield f"fetched with: {table['fetched_with']}"
    if table.get("properties_from"):
        yield f"properties are those of {table['properties_from']}"
    if table.get("columns"):
        columns = (f"{_as_text(name)} {type_}" for name, type_ in table["columns"].items())
        yield f"columns: {', '.join(columns)}"
    if table.get("events"):
        events = (f"{_as_text(name)} {count:,}" for name, count in table["events"].items())
        yield f"events: {', '.join(events)}"
    if table.get("properties"):
        properties = (
            _as_text(name) + ("" if known == "text" else f" ({known})")
            for name, known in table["properties"].items()
        )
        yield f"properties: {', '.join(properties)}"


_LISTS = ("tables", "project_events", "left_out")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(inner)}" for name, inner in value.items())
    text = value if isinstance(value, str) else json_text(value)
    plain = text.isprintable() and not any(mark in text for mark in '",;:\n\\')
    return text if plain else json_text(text)
