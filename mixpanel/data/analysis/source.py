"""The events of a report in SQL: their table, and their names and properties."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mixpanel.data.analysis import expressions as compiler
from mixpanel.data.analysis.expressions import (
    Compiled,
    Names,
    Value,
    compile_condition,
    compile_expression,
    property_in,
)
from mixpanel.data.analysis.layout import block, conditions
from mixpanel.data.exceptions import ConfigError, ExpressionError
from mixpanel.data.expressions import Expression

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

Condition = str | Expression | Compiled
"""The type of `where` and `on`: expression text, a Python expression, or compiled SQL."""

__all__ = ["Condition", "EventSource", "Scope", "accessor", "expression", "named"]

SECONDS = Value(number="epoch(time)", set_when="true", is_time=True)
USER = Value(text="distinct_id")
# Properties that have a column of their own.
COLUMNS = {
    "time": SECONDS,
    "$time": SECONDS,
    "distinct_id": USER,
    "$distinct_id": USER,
    "$insert_id": Value(text="insert_id"),
}
# The text of a JSON `value`; `1.0` becomes `1`, as in JavaScript.
LABEL_OF_JSON = (
    "CASE WHEN value IS NULL THEN 'undefined' "
    "WHEN starts_with(value, '\"') THEN json_extract_string(value, '$') "
    "ELSE regexp_replace(value::VARCHAR, '\\.0$', '') END"
)
_UNWRITABLE = re.compile(r'[\\"\x00-\x1f]')
_ACCESS = re.compile(r"""\b(properties|user|event)\s*\[\s*["']""")


@dataclass(frozen=True, slots=True)
class EventSource:
    """A table of events: the `relation` after FROM, and the SQL of each column.

    `time` is a timestamp in UTC, `properties` a JSON object, `profile` the properties of the user's
    profile, if any. If the table may contain copies of an event (same event, time, distinct_id and
    `$insert_id`), they are ordered by `version`, and the last one counts.
    """

    relation: str
    event: str = "event_name"
    time: str = "event_time"
    user: str = "distinct_id"
    insert_id: str = "insert_id"
    properties: str = "properties"
    profile: str | None = None
    version: str | None = None


@dataclass(slots=True)
class Scope:
    """The events that one report reads, and the parameters of its statement."""

    source: EventSource
    parameters: dict[str, Any] = field(default_factory=dict)
    _expressions: int = 0

    def parameter(self, name: str, value: Any) -> str:
        """Add a parameter and return its SQL; one with the same name and value is reused."""
        unique, number = name, 1
        while unique in self.parameters and self.parameters[unique] != value:
            number += 1
            unique = f"{name}_{number}"
        self.parameters[unique] = value
        return f"${unique}"

    def events(
        self,
        names: Sequence[str] | None,
        start: datetime,
        end: datetime,
        *,
        where: Condition | None = None,
        extra: Sequence[str] = (),
    ) -> str:
        """Return the query of the named events (None: all) from `start` to before `end`.

        Its columns are event, time, distinct_id (NULL for no user), insert_id, properties and
        profile; DuckDB reads only those that are used. `extra` are further conditions.
        """
        source = self.source
        chosen = [
            f"{source.time} >= {self.parameter('start', start)}",
            f"{source.time} < {self.parameter('end', end)}",
        ]
        if names is not None:
            known = [self.parameter(f"event{n}", name) for n, name in enumerate(names)]
            matched = f"= {known[0]}" if len(known) == 1 else f"IN ({', '.join(known)})"
            chosen.insert(0, f"{source.event} {matched}")
        query = self._every(chosen) if source.version is None else self._latest(chosen)
        filters = [*extra] if where is None else [self.condition(where, "where"), *extra]
        if filters:
            query = f"SELECT *\nFROM {block(query)}{conditions(*filters)}"
        return query

    def _every(self, chosen: Sequence[str]) -> str:
        source = self.source
        columns = [
            named(source.event, "event"),
            named(source.time, "time"),
            f"nullif({source.user}, '') AS distinct_id",
            named(source.insert_id, "insert_id"),
            named(source.properties, "properties"),
        ]
        if source.profile is not None:
            columns.append(named(source.profile, "profile"))
        return f"SELECT {', '.join(columns)}\nFROM {source.relation}{conditions(*chosen)}"

    def _latest(self, chosen: Sequence[str]) -> str:
        """Return the query of the last copy of each event."""
        source = self.source
        version, id_ = source.version, source.insert_id
        columns = [
            named(source.event, "event"),
            named(source.time, "time"),
            f"nullif({source.user}, '') AS distinct_id",
            named(source.insert_id, "insert_id"),
            f"arg_max({source.properties}, {version}) AS properties",
        ]
        if source.profile is not None:
            columns.append(f"arg_max({source.profile}, {version}) AS profile")
        # Events without an id are never copies: their version makes each a group of its own.
        key = [source.event, source.time, source.user, id_]
        key.append(f"CASE WHEN coalesce({id_}, '') = '' THEN {version} END")
        return (
            f"SELECT {', '.join(columns)}\nFROM {source.relation}{conditions(*chosen)}\n"
            f"GROUP BY {', '.join(key)}"
        )

    def segmented(
        self, events: str, on: Condition | tuple[Condition, ...], argument: str = "on"
    ) -> str:
        """Return the query of the same events with a column `segment`: the value of `on` as text.

        A missing value is "undefined", a JSON null "null"; a list is one text. Of several, the
        segment is a JSON list of their texts.

        :raises ConfigError: for a syntax error, with its position.
        """
        if isinstance(on, tuple):
            for number, each in enumerate(on):
                one = block(self.segmented(events, each, argument))
                events = f"SELECT * EXCLUDE (segment), segment AS segment{number}\nFROM {one}"
            texts = ", ".join(f"segment{number}" for number in range(len(on)))
            return f"SELECT *, to_json([{texts}])::VARCHAR AS segment\nFROM {block(events)}"
        json = None if isinstance(on, Compiled) else self._property(on, argument)
        if json is None:
            label = _label(self._compiled(on, argument).value)
            return f"SELECT *, {label} AS segment\nFROM {block(events)}"
        values = f"SELECT *, {json} AS value\nFROM {block(events)}"
        return f"SELECT * EXCLUDE (value), {LABEL_OF_JSON} AS segment\nFROM {block(values)}"

    # ---- expressions ----------------------------------------------------------------------------

    def condition(self, where: Condition, argument: str) -> str:
        """Return SQL that is true or false for each event.

        :raises ConfigError: for a syntax error, with its position.
        """
        return self._compiled(where, argument, is_condition=True).condition

    def json(self, on: Condition, argument: str = "on") -> str:
        """Return SQL of a property as JSON, NULL if it is missing.

        :raises ConfigError: for an expression that is not a property.
        """
        json = self._property(on, argument)
        if json is not None:
            return json
        value = self._compiled(on, argument).value
        columns = [each for each in (value.number, value.text, value.boolean) if each is not None]
        return f"coalesce({', '.join(f'to_json({each})' for each in columns)})"

    def _property(self, on: Condition, argument: str) -> str | None:
        """Return SQL of a JSON member; None for a property with its own column and expressions."""
        of, name = property_in(expression(on, argument)) or ("", "")
        names = self._names().get(of)
        if names is None or names.json is None or name in names.columns:
            return None
        self._expressions += 1
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")
        return f"json_extract({names.json}, {self.parameter(f'x{self._expressions}_', pointer)})"

    def number(self, on: Condition, argument: str = "on") -> str:
        """Return SQL of a number; NULL if the value is not a number.

        :raises ConfigError: for a syntax error, and an expression that is never a number.
        """
        value = self._compiled(on, argument).value
        if value.number is None:
            raise ConfigError(f"{argument}={on!r} is never a number: convert it by number({on})")
        return value.number

    def _compiled(self, text: Condition, argument: str, *, is_condition: bool = False) -> Compiled:
        if isinstance(text, Compiled):
            self.parameters |= text.parameters
            return text
        if isinstance(text, Expression):
            text = str(text)
        self._expressions += 1
        prefix = f"x{self._expressions}_"
        try:
            if is_condition:
                if not isinstance(text, str):
                    raise ConfigError(f"{argument}={text!r} must be the text of an expression")
                found = compile_condition(text, self._names(), prefix=prefix)
            else:
                found = compile_expression(expression(text, argument), self._names(), prefix=prefix)
        except compiler.ExpressionError as error:
            raise ExpressionError(
                f"{argument}={text!r}: {error.message}", position=error.position
            ) from error
        self.parameters |= found.parameters
        return found

    def _names(self) -> dict[str, Names]:
        names = {
            "properties": Names("properties", COLUMNS),
            "event": Names(columns={"$time": SECONDS, "$name": Value(text="event")}),
        }
        if self.source.profile is not None:
            names["user"] = Names("profile", {"$distinct_id": USER})
        return names


def expression(on: object, argument: str) -> str:
    """Return the text of an expression; the name of a property becomes one.

    :raises ConfigError: for anything but text, and for empty text.
    """
    if isinstance(on, Expression):
        return str(on)
    if isinstance(on, Compiled):
        return "expression"
    if isinstance(on, str) and _ACCESS.search(on):
        return on
    return accessor(on, argument)


def accessor(name: object, argument: str) -> str:
    """Return the expression of a property, with its name quoted.

    :raises ConfigError: for anything but text, and for empty text.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{argument}={name!r} must be the name of a property, or an expression")
    return f'properties["{_UNWRITABLE.sub(_escape, name)}"]'


def _escape(found: re.Match[str]) -> str:
    return "\\" + found[0] if found[0] in '\\"' else f"\\u{ord(found[0]):04x}"


def named(column: str, name: str) -> str:
    """Return the SQL of a column with an alias."""
    return column if column == name else f"{column} AS {name}"


def _label(value: Value) -> str:
    texts = [
        value.text,
        value.number and f"regexp_replace(({value.number})::VARCHAR, '\\.0$', '')",
        value.boolean and f"({value.boolean})::VARCHAR",
    ]
    return f"coalesce({', '.join([*filter(None, texts), repr('undefined')])})"
