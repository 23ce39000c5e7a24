"""One entry in full: its properties, its request with masked secrets, and how to repeat it.

Does no I/O. Values are formatted as text here, because a browser would round large integers.
"""

from __future__ import annotations

import json
import keyword
import re
import shlex
from ast import literal_eval
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from mixpanel._page.entries import CDP_LANES, json_type, summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mixpanel._page.entries import Entry

__all__ = ["as_assertion", "as_curl", "details", "masked_headers", "pretty_json"]

MAX_VALUE = 20_000  # characters of one value; a browser lays out longer text slowly
MAX_RAW = 200_000
MAX_MEMBERS = 500
MAX_COPIED = 100_000
MASK = "••••"
SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"}
)
SECRET_WORDS = ("secret", "password", "api_key", "access_token", "assertion")
DEFAULT_NAMES = frozenset({
    "token", "time", "distinct_id", "$insert_id", "mp_lib", "$lib_version", "ip", "$ip",
})  # fmt: skip


def details(entry: Entry, origin: str) -> dict[str, Any]:
    """Return an entry with all its details; `origin` is the address that it was sent to."""
    exchange = entry.exchange
    raw, members = pretty_json(entry.record), _members(entry)
    return {
        **summary(entry),
        "properties": [
            _property(name, value, entry.notes)
            for name, value in islice(members.items(), MAX_MEMBERS)
        ],
        "properties_left_out": max(0, len(members) - MAX_MEMBERS),
        "reason": entry.reason,
        "findings": [{"kind": kind, "text": text} for kind, text in entry.notes],
        "raw": raw[:MAX_RAW],
        "raw_length": len(raw),
        "request": {
            "method": exchange.method,
            "path": exchange.path,
            "query": [[name, _masked(name, value)] for name, value in exchange.query.items()],
            "headers": masked_headers(exchange.headers),
            "received_at": exchange.received_at,
            "bytes": len(exchange.body),
            "status": entry.status,
            "response": exchange.response_body[:MAX_VALUE].decode(errors="replace"),
        },
        "curl": as_curl(entry, origin),
        "assertion": as_assertion(entry),
    }


def masked_headers(headers: Mapping[str, str]) -> list[list[str]]:
    """Return headers as pairs, with the secrets replaced."""
    return [[name, _masked_header(name, value)] for name, value in headers.items()]


def pretty_json(value: Any) -> str:
    """Return a value as indented JSON text."""
    if value is None:
        return ""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def as_curl(entry: Entry, origin: str) -> str:
    """Return a shell command that sends this record again, with variables for secrets."""
    exchange = entry.exchange
    query = {name: value for name, value in exchange.query.items() if not _is_secret(name)}
    if exchange.path.startswith("("):  # it is waiting, or was never sent
        return ""
    if exchange.path.startswith(("http://", "https://")):  # a program sent it to another server
        origin = ""
    url = shlex.quote(origin + exchange.path + (f"?{urlencode(query)}" if query else ""))
    # Only a variable is in double quotes: the rest is from the sender, and must not be expanded.
    for name in exchange.query.keys() - query.keys():
        variable = re.sub(r"\W", "_", name.upper(), flags=re.ASCII)
        url += shlex.quote(f"{'?' if '?' not in url else '&'}{quote(name)}=") + f'"${variable}"'
    parts = [f"curl -X {shlex.quote(exchange.method)} {url}"]
    if any(name.lower() == "authorization" for name in exchange.headers):
        given = {name.lower(): value for name, value in exchange.headers.items()}
        scheme = given["authorization"].partition(" ")[0].lower()
        parts.append(
            '-H "Authorization: Bearer $MP_OAUTH_TOKEN"'
            if scheme == "bearer"
            else '-u "$MP_USERNAME:$MP_SECRET"'
        )
    if exchange.method in ("POST", "PUT") and entry.record is not None:
        record = {"batch": [entry.record]} if exchange.path.endswith("/batch") else entry.record
        if entry.lane in ("events", "imports", "profiles", "groups"):
            record = [entry.record]
        parts.append("-H 'Content-Type: application/json'")
        # In ASCII, since lone surrogates cannot be pasted into a shell.
        text = json.dumps(record, default=str)
        parts.append(
            f"--data-raw {shlex.quote(text)}"
            if len(text) <= MAX_COPIED
            else "--data-binary @record.json  # the record is too long for a command line"
        )
    kept = (name for name in exchange.headers if name.lower().startswith("x-strict"))
    parts += [f"-H {shlex.quote(f'{name}: {exchange.headers[name]}')}" for name in kept]
    return " \\\n  ".join(parts)


def as_assertion(entry: Entry) -> str:
    """Return a line of Python that asserts in a test that this entry arrives."""
    if entry.verdict == "rejected":
        conditions = f"lane={entry.lane!r}, verdict='rejected'"
        conditions += f", event={entry.event!r}" if entry.event else ""
        return f'assert emu.live({conditions})[-1]["reason"] == {entry.reason!r}'
    if entry.lane in ("events", "imports", *CDP_LANES) and entry.event:
        given: dict[str, Any] = {"lane": entry.lane} if entry.lane in CDP_LANES else {}
        given |= {"distinct_id": entry.distinct_id} if entry.distinct_id else {}
        given |= {
            name: value
            for name, value in entry.properties.items()
            if name not in DEFAULT_NAMES and len(repr(value)) <= MAX_VALUE and _is_equal(value)
        }
        return f"emu.wait_for({', '.join([repr(entry.event), *filter(None, [_arguments(given)])])})"
    record = entry.record if isinstance(entry.record, dict) else {}
    values = {
        name: value
        for name, value in entry.properties.items()
        if entry.event == "$set" and _is_equal(value)
    }
    if entry.lane == "profiles":
        found = f"emu.profiles()[{record.get('$distinct_id')!r}]"
    elif entry.lane == "groups":
        key = (record.get("$group_key"), record.get("$group_id"))
        found = f"emu.groups()[{key!r}]"
    else:
        return f"assert emu.requests({entry.exchange.path!r})"
    if not values:
        return f"assert {found}"
    return f"assert {found}.items() >= {values!r}.items()"


def _members(entry: Entry) -> Mapping[str, Any]:
    """Return the rows of an entry's table: its properties, or all fields of the record."""
    record = entry.record
    if not isinstance(record, dict):
        return {} if record is None else {"(record)": record}
    if entry.lane in ("events", "imports"):
        others = {name: record[name] for name in record if name not in ("event", "properties")}
        return {**others, **entry.properties}
    return record


def _property(name: str, value: Any, notes: list[tuple[str, str]]) -> dict[str, Any]:
    text = value if isinstance(value, str) else pretty_json(value) if value is not None else "null"
    shown = name[:MAX_VALUE]
    return {
        "name": shown,
        "type": json_type(value) or "null",
        "text": text[:MAX_VALUE],
        "length": len(text),
        "default": name in DEFAULT_NAMES or name.startswith(("$", "mp_")),
        "notes": [note for _, note in notes if note.startswith(f"{shown[:60]} ")],
    }


def _arguments(values: Mapping[str, Any]) -> str:
    """Return values as the keyword arguments of a call."""
    plain = {name: value for name, value in values.items() if _is_argument(name)}
    other = {name: value for name, value in values.items() if not _is_argument(name)}
    parts = [f"{name}={value!r}" for name, value in plain.items()]
    return ", ".join([*parts, *([f"**{other!r}"] if other else [])])


def _is_equal(value: Any) -> bool:
    """Return True if a value equals what its repr evaluates to, which NaN and infinity do not."""
    try:
        return bool(literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _is_argument(name: str) -> bool:
    taken = ("event", "timeout", "self")
    return name.isidentifier() and not keyword.iskeyword(name) and name not in taken


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in SECRET_WORDS)


def _masked(name: str, value: str) -> str:
    return MASK if _is_secret(name) else value[:MAX_VALUE]


def _masked_header(name: str, value: str) -> str:
    if name.lower() in SECRET_HEADERS or _is_secret(name):
        scheme, space, _ = value.partition(" ")
        return f"{scheme} {MASK}" if space and name.lower() == "authorization" else MASK
    return value[:MAX_VALUE]
