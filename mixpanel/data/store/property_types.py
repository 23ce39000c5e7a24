"""Infer the types of properties from all of their values, and convert values without loss.

A column gets a type only if the type can hold each of its values exactly: a DOUBLE would merge
integers beyond 2**53, so that big ids become HUGEINT, or DECIMAL if there are fractions too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duckdb import DuckDBPyConnection

__all__ = [
    "Found",
    "PropertyType",
    "collect",
    "column_names",
    "decide",
    "fits",
    "infer_value",
    "most_frequent",
    "typed",
]

MAX_OUTLIERS = 0.1  # of the values; with more, the property has no type of its own
MAX_DIGITS = 38  # of DuckDB's DECIMAL
SAFE_DIGITS = 15  # any integer or decimal of so many digits survives a DOUBLE
EXACT = 2**53  # up to here a DOUBLE holds every integer
BIGINT, HUGEINT = 2**63, 2**127

# Kinds of JSON values. SQL groups by their number, which is faster than by their name.
KINDS = (
    "text", "boolean", "null", "nested",
    "int", "long",  # integers, of at most SAFE_DIGITS characters and longer
    "fraction", "long fraction",  # numbers with a point; DuckDB may have rounded the latter
    "exponent",
    "other",  # not a finite number, or a fraction of which a DOUBLE would lose digits
)  # fmt: skip
(
    _TEXT, _BOOLEAN, _NULL, _NESTED, _INT, _LONG, _FRACTION, _LONG_FRACTION, _EXPONENT, _OTHER
) = range(len(KINDS))  # fmt: skip
_SIGNIFICANT = "strlen(ltrim(replace({v}, '.', ''), '-0'))"  # digits of a number with a point
# SQL for the kind of JSON text `v`. Its first character decides nearly all; comparing the texts
# finds it fastest. DuckDB also accepts NaN and infinity in any case, and keeps their text.
_KIND = f"""CASE
    WHEN v < '#' THEN CASE WHEN v >= '"' THEN {_TEXT} ELSE {_OTHER} END
    WHEN v < ':' THEN CASE
        WHEN v < '.' AND (v < '-' OR contains(v, 'n') OR contains(v, 'N')) THEN {_OTHER}
        WHEN contains(v, 'e') OR contains(v, 'E')
            THEN CASE WHEN isfinite(TRY_CAST(v AS DOUBLE)) THEN {_EXPONENT} ELSE {_OTHER} END
        WHEN contains(v, '.') THEN CASE
            WHEN strlen(v) > 19 AND CAST(TRY_CAST(v AS DOUBLE) AS VARCHAR) <> v
                AND strpos(v, '.') > {SAFE_DIGITS} THEN {_OTHER}
            WHEN strlen(v) > {SAFE_DIGITS} + 1 AND {_SIGNIFICANT.format(v="v")} > {SAFE_DIGITS}
                THEN {_LONG_FRACTION}
            ELSE {_FRACTION} END
        WHEN strlen(v) <= {SAFE_DIGITS} THEN {_INT}
        ELSE {_LONG} END
    WHEN v < '[' THEN {_OTHER}
    WHEN v < 'f' OR v >= '{{' THEN {_NESTED}
    WHEN v = 'null' THEN {_NULL}
    WHEN v IN ('true', 'false') THEN {_BOOLEAN}
    ELSE {_OTHER} END"""
_DIGITS = "strlen(v) - (ascii(v) = 45)::INTEGER"


@dataclass(frozen=True, slots=True)
class PropertyType:
    """The type of a property's column; `outliers` of its `values` do not fit, and are NULL there.

    `nulls` are explicit nulls, which are not values.
    """

    type: str
    values: int
    outliers: int
    nulls: int = 0


@dataclass(slots=True)
class Found:
    """How often each kind of value occurs, and the range of the numbers."""

    kinds: dict[str, int] = field(default_factory=dict)
    scale: int = 0
    whole_digits: int = 0
    low: int = 0
    high: int = 0
    beyond: int = 0  # integers beyond HUGEINT

    def count(self, *kinds: str) -> int:
        return sum(self.kinds.get(kind, 0) for kind in kinds)


def collect(connection: DuckDBPyConnection, source: str) -> dict[str, Found]:
    """Return the kinds of each property's values.

    `source` is SQL for FROM, with a JSON column `properties`.
    """
    return _collect(
        connection,
        "SELECT unnest(json_keys(properties)) AS k, "
        f"unnest(CAST(json_extract(properties, '$.*') AS VARCHAR[])) AS v FROM {source}",
    )


def infer_value(connection: DuckDBPyConnection, value: str, source: str) -> PropertyType:
    """Return the type of one JSON expression."""
    query = f"SELECT '' AS k, CAST({value} AS VARCHAR) AS v FROM {source}"
    return decide(_collect(connection, query).get("") or Found())


def _collect(connection: DuckDBPyConnection, pairs: str) -> dict[str, Found]:
    rows = connection.execute(f"""
        SELECT k, kind, count(*),
            max(CASE kind WHEN {_FRACTION} THEN strlen(v) - strpos(v, '.') END),
            max(CASE kind WHEN {_FRACTION} THEN strpos(v, '.') - 1 WHEN {_LONG} THEN {_DIGITS} END),
            min(CASE kind WHEN {_LONG} THEN TRY_CAST(v AS HUGEINT) END),
            max(CASE kind WHEN {_LONG} THEN TRY_CAST(v AS HUGEINT) END),
            count(CASE kind WHEN {_LONG} THEN TRY_CAST(v AS HUGEINT) END)
        FROM (SELECT k, v, {_KIND} AS kind FROM ({pairs}) WHERE v IS NOT NULL) GROUP BY k, kind
    """).fetchall()
    found: dict[str, Found] = {}
    for key, kind, number, scale, digits, low, high, in_range in rows:
        one = found.setdefault(key, Found())
        one.kinds[KINDS[kind]] = number
        one.scale = max(one.scale, scale or 0)
        one.whole_digits = max(one.whole_digits, digits or 0, SAFE_DIGITS)
        if kind == _LONG:
            one.low, one.high, one.beyond = low or 0, high or 0, number - in_range
    return found


def decide(found: Found) -> PropertyType:
    """Return the type that holds all values exactly, or nearly all; JSON if there is none."""
    nulls = found.count("null")
    values = sum(found.kinds.values()) - nulls
    if not values:
        return PropertyType("VARCHAR", 0, 0, nulls)
    number, misfits = _number(found)
    by_type = {
        "VARCHAR": found.count("text"),
        "BOOLEAN": found.count("boolean"),
        number: found.count("int", "long", "fraction", "long fraction", "exponent") - misfits,
    }
    type_ = max(by_type, key=lambda each: by_type[each])
    outliers = values - by_type[type_]
    if outliers > values * MAX_OUTLIERS:
        return PropertyType("JSON", values, 0, nulls)
    return PropertyType(type_, values, outliers, nulls)


def _number(found: Found) -> tuple[str, int]:
    """Return the type that holds most of the numbers exactly, and how many it does not hold."""
    long = found.count("long")
    fractions, exponents = found.count("fraction", "long fraction"), found.count("exponent")
    fits_bigint = found.low >= -BIGINT and found.high < BIGINT and not found.beyond
    integer = "BIGINT" if fits_bigint else "HUGEINT"
    if not fractions + exponents:
        return integer, found.beyond
    if not long or (found.low >= -EXACT and found.high <= EXACT and not found.beyond):
        return "DOUBLE", 0
    choices = {"DOUBLE": long, integer: fractions + exponents + found.beyond}
    if found.scale + found.whole_digits <= MAX_DIGITS:
        choices[f"DECIMAL({MAX_DIGITS},{found.scale})"] = exponents + found.count("long fraction")
    type_ = min(choices, key=lambda each: choices[each])
    return type_, choices[type_]


def fits(found: Found, type_: str) -> bool:
    """Return True if DuckDB converts each of the values to the type without loss."""
    kinds = {kind for kind, number in found.kinds.items() if number} - {"null"}
    if type_ in ("VARCHAR", "BOOLEAN"):
        return kinds <= {"text" if type_ == "VARCHAR" else "boolean"}
    if type_ in ("BIGINT", "HUGEINT"):
        bound = BIGINT if type_ == "BIGINT" else HUGEINT
        in_range = found.low >= -bound and found.high < bound and not found.beyond
        return kinds <= {"int", "long"} and in_range
    if type_ == "DOUBLE":
        exact = found.low >= -EXACT and found.high <= EXACT and not found.beyond
        return kinds <= {"int", "long", "fraction", "long fraction", "exponent"} and exact
    if type_.startswith("DECIMAL"):
        digits, scale = map(int, type_[8:-1].split(","))
        fine = found.scale <= scale and found.whole_digits + scale <= digits
        return kinds <= {"int", "long", "fraction"} and fine and not found.beyond
    return type_ == "JSON"


# ---- converting ---------------------------------------------------------------------------------


def typed(value: str, type_: str, *, as_text: bool = False) -> str:
    """Return SQL for a JSON value in a type; NULL if the type cannot hold it exactly.

    With `as_text` VARCHAR holds every value, as its text.
    """
    v = f"CAST({value} AS VARCHAR)"
    number = f"ascii({v}) BETWEEN 45 AND 57"
    if type_ == "JSON":
        return f"CASE WHEN {v} <> 'null' THEN {value} END"
    if type_ in ("DATE", "TIMESTAMP"):
        return _time(v, f"({value}->>'$')", type_)
    if type_ == "VARCHAR" and as_text:
        return f"({value}->>'$')"
    if type_ == "VARCHAR":
        return f"CASE WHEN ascii({v}) = 34 THEN {value}->>'$' END"
    if type_ == "BOOLEAN":
        return f"CASE {v} WHEN 'true' THEN true WHEN 'false' THEN false END"
    if type_ in ("BIGINT", "HUGEINT"):
        whole = f"{number} AND NOT regexp_matches({v}, '[.eE]')"
        return f"CASE WHEN {whole} THEN TRY_CAST({v} AS {type_}) END"
    if type_ == "DOUBLE":
        exact = f"coalesce(TRY_CAST({v} AS HUGEINT) BETWEEN -{EXACT} AND {EXACT}, false)"
        return (
            f"CASE WHEN {number} AND isfinite(TRY_CAST({v} AS DOUBLE)) AND (strlen({v}) <= "
            f"{SAFE_DIGITS} OR regexp_matches({v}, '[.eE]') OR {exact}) "
            f"THEN TRY_CAST({v} AS DOUBLE) END"
        )
    scale = int(type_.rstrip(")").partition(",")[2])
    return (
        f"CASE WHEN {number} AND NOT regexp_matches({v}, '[eE]|[.][0-9]{{{scale + 1}}}') "
        f"AND (NOT contains({v}, '.') OR {_SIGNIFICANT.format(v=v)} <= {SAFE_DIGITS}) "
        f"THEN TRY_CAST({v} AS {type_}) END"
    )


def _time(v: str, text: str, type_: str) -> str:
    """Return SQL for a date, or a time in UTC; NULL for a text that says more than that."""
    time = f"CAST(TRY_CAST({text} AS TIMESTAMPTZ) AS TIMESTAMP)"
    # Not "epoch" or "infinity", and no fraction of a microsecond.
    plain = (
        f"regexp_matches({text}, '^[0-9]') AND NOT regexp_matches({text}, '[.][0-9]{{6,}}[1-9]')"
    )
    if type_ == "DATE":
        plain += f" AND {time} = CAST({time} AS DATE)"
    return f"CASE WHEN ascii({v}) = 34 AND {plain} THEN CAST({time} AS {type_}) END"


# ---- names --------------------------------------------------------------------------------------


def most_frequent(found: Mapping[str, PropertyType], limit: int) -> dict[str, PropertyType]:
    """Return the properties with most values, at most `limit` of them."""
    keys = sorted(found, key=lambda key: (-found[key].values, key))
    return {key: found[key] for key in keys[:limit]}


def column_names(
    found: dict[str, PropertyType], taken: Iterable[str], known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return a column name for each property; names that differ only in case are made distinct.

    The spelling with most values keeps its name; the others get a number, as in `plan_2`. `known`
    are names of properties that are settled already.
    """
    names = dict(known or {})
    used = {name.lower() for name in (*taken, *names.values())}
    waiting = []
    for key in sorted(found, key=lambda key: (-found[key].values, key)):
        if key in names:
            continue
        name = key.replace("\x00", "") or "property"
        if name.lower() in used:
            waiting.append(key)
            continue
        used.add(name.lower())
        names[key] = name
    for key in waiting:  # last, so that no numbered name takes the name of a property
        name = key.replace("\x00", "") or "property"
        number = 2
        while f"{name}_{number}".lower() in used:
            number += 1
        names[key] = f"{name}_{number}"
        used.add(names[key].lower())
    return names
