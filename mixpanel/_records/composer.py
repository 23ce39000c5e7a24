"""Compose records from calls: add token, time and ids, validate, and serialize to JSON."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mixpanel._records import context
from mixpanel._records.copies import deep_copy
from mixpanel._records.json_encoding import DatetimeSerializer, dumps, dumps_plain, plain_depth
from mixpanel._records.record import (
    BeforeSend,
    Note,
    Properties,
    Record,
    Time,
    Validation,
    checked_mapping,
    checked_text,
    deterministic_id,
    is_repeatable,
    sample_position,
)
from mixpanel._records.validation import event_problems, update_problems
from mixpanel._records.values import is_missing, plain_id, serial_date, to_api_time
from mixpanel._runtime.safe_logging import logger
from mixpanel.credentials import ProjectToken
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError, ValidationError
from mixpanel.settings import check_number, check_type, checked_callback

if TYPE_CHECKING:
    import json

    from mixpanel.credentials import Authority
    from mixpanel.settings import Endpoint

__all__ = ["Composer"]

_NO_PROPERTIES: Properties = {}


DEDUPE_KEY_NEEDS_TIME = "dedupe_key needs time=: the server de-duplicates by time and $insert_id"


def _split_event(event: Any) -> tuple[str, Mapping[str, Any], dict[str, Any] | None]:
    if type(event) is not dict or "event" not in event:
        from mixpanel._records.rows import UnreadableRow, event_of_table_row

        if isinstance(event, UnreadableRow):
            error = ValidationError([event.problem])
            error.record = event.record
            raise error
        if isinstance(event, Mapping) and "event" not in event:
            event = event_of_table_row(event) or event
    name = event.get("event") if isinstance(event, Mapping) else None
    properties = event.get("properties") if isinstance(event, Mapping) else None
    if not isinstance(name, str) or not isinstance(properties, Mapping):
        raise ValidationError(['an event must look like {"event": name, "properties": {...}}'])
    return name, properties, {k: v for k, v in event.items() if k not in ("event", "properties")}


def _user_text(distinct_id: Any) -> str:
    """Return the user that a deterministic id is derived from."""
    return "None" if is_missing(distinct_id) else plain_id(distinct_id, "distinct_id")[0]


def _imported_time(time: Any) -> Any:
    """Return the time of an imported event, None if it is missing.

    :raises ValidationError: for the serial date of a spreadsheet, which would be in 1970.
    """
    at = to_api_time(time)
    looks_like = serial_date(at)
    if looks_like:
        raise ValidationError([f"time {looks_like}"])
    return at


class Composer:
    """Compose records. The clock and the ids are passed in; all else is a pure function."""

    def __init__(
        self,
        token: str,
        *,
        now: Callable[[], float],
        new_id: Callable[[], str],
        library: Mapping[str, str],
        serializer: type[json.JSONEncoder] = DatetimeSerializer,
        validation: Validation = "warn",
        super_properties: Properties | None = None,
        before_send: BeforeSend | None = None,
        sample_rate: float = 1.0,
        sample_weight: str = "$sample_weight",
        note: Note = lambda _kind, _text: None,
    ) -> None:
        check_number(sample_rate, "sample_rate")
        check_type(sample_weight, "sample_weight", str, "the name of a property")
        check_type(super_properties, "super_properties", Mapping, "a dict")
        if serializer is not None and not callable(serializer):  # None: json's own, as officially
            raise ConfigurationTypeError(
                f"serializer must be a json.JSONEncoder class, not {type(serializer).__name__}"
            )
        if not 0.0 < sample_rate <= 1.0:
            raise ConfigurationError(f"sample_rate={sample_rate!r} must lie in (0, 1]")
        if validation not in ("off", "warn", "raise"):
            raise ConfigurationError(f"validation={validation!r} must be 'off', 'warn' or 'raise'")
        checked_callback(before_send, "before_send")
        self.token = token
        self._project = ProjectToken(token)
        self.super_properties: dict[str, Any] = dict(super_properties or {})
        self._now = now
        self._new_id = new_id
        self._library = dict(library)
        # Without `ip`, `/import` would derive the user's city from the address of this machine.
        self._library_without_location = {"ip": 0, **library}
        self._serializer = serializer
        self._uses_default_serializer = serializer is DatetimeSerializer
        self._validation = validation
        self._before_send = before_send
        self._in_hook: set[int] = set()  # threads, or greenlets where gevent has patched them
        self._sample_rate = sample_rate
        self._sample_weight = sample_weight
        self._note = note

    # ---- events -----------------------------------------------------------------------------

    def event(  # noqa: C901
        self,
        distinct_id: str | None,
        event_name: str,
        properties: Properties | None = None,
        meta: Properties | None = None,
        *,
        time: Time | None = None,
        insert_id: str | None = None,
        dedupe_key: str | None = None,
        ip: str | int | None = None,
        device_id: str | None = None,
        user_id: str | None = None,
        endpoint: Endpoint = "events",
    ) -> Record | None:
        """Compose an event for `track`; return None if sampling or `before_send` drops it."""
        scope = context.current()
        if scope is not None:
            if distinct_id is None:
                distinct_id, device, user = scope.distinct_id, scope.device_id, scope.user_id
            else:
                device, user = scope.ids_of(distinct_id)
            device_id = device if device_id is None else device_id
            user_id = user if user_id is None else user_id
        now = self._now()
        new_id = checked_text(insert_id, "insert_id") if insert_id else self._new_id()
        if type(properties) is dict:  # nearly always: the check of a mapping takes longer
            given = properties.copy()
        else:
            given = {} if properties is None else dict(checked_mapping(properties))
        explicit: dict[str, Any] = {}
        if device_id is not None:
            self._add_id(explicit, "$device_id", device_id)
        if user_id is not None:
            self._add_id(explicit, "$user_id", user_id)
        if ip is not None:
            explicit["ip"] = ip
        # One dict display: every further `update` call would cost as much as all of this.
        merged: dict[str, Any] = {
            "token": self.token,
            "distinct_id": distinct_id,
            "time": now if time is None or (at := to_api_time(time)) is None else at,
            "$insert_id": new_id,
            **(self._library if endpoint == "events" else self._library_without_location),
            **self.super_properties,
            **(scope.properties if scope is not None else _NO_PROPERTIES),
            **explicit,
            **given,
        }
        if "token" in given:
            self._note("token", "properties override the client's token")
        if dedupe_key is not None:
            key = checked_text(dedupe_key, "dedupe_key")
            user = _user_text(merged["distinct_id"])
            merged["$insert_id"] = deterministic_id(event_name, user, key)
            if time is None and "time" not in given:
                self._report([], [DEDUPE_KEY_NEEDS_TIME])
        if type(merged["distinct_id"]) is not str:
            self._normalize_distinct_id(merged)
        if self._sample_rate < 1.0 and not self._is_sampled(merged):
            return None
        record = {"event": event_name, "properties": merged}
        if meta is not None:
            record.update(checked_mapping(meta, "meta"))
        if merged["time"] is now and merged["$insert_id"] is new_id and insert_id is None:
            # The common case: time and id are our own, so only the caller's properties are checked.
            only_given = scope is None and not explicit and not self.super_properties
            return self._finish_event(endpoint, record, unchecked=given if only_given else merged)
        if type(merged["time"]) is not int:
            at = to_api_time(merged["time"])
            merged["time"] = now if at is None else at
        return self._finish_event(endpoint, record)

    def import_data_event(
        self,
        distinct_id: str | None,
        event_name: str,
        timestamp: Time,
        properties: Properties | None = None,
        meta: Properties | None = None,
        *,
        insert_id: str | None = None,
        dedupe_key: str | None = None,
        auth: Authority | None = None,
    ) -> Record | None:
        """Compose an event for `/import`, as the official `import_data` does."""
        if dedupe_key is not None:
            key, user = (
                checked_text(dedupe_key, "dedupe_key"),
                _user_text(distinct_id),
            )
            insert_id = deterministic_id(event_name, user, key)
        merged = {
            "token": self.token,
            "distinct_id": distinct_id,
            "time": _imported_time(timestamp),
            "$insert_id": checked_text(insert_id, "insert_id") if insert_id else self._new_id(),
            **self._library,
            **checked_mapping(properties or {}),
        }
        self._normalize_distinct_id(merged)
        # `meta` may replace the properties as a whole, as in the official client.
        record = {"event": event_name, "properties": merged, **checked_mapping(meta or {}, "meta")}
        return self._finish_event("imports", record, auth)

    def complete_event(
        self, event: Mapping[str, Any], endpoint: Endpoint = "events"
    ) -> Record | None:
        """Complete an event in Mixpanel's form, `{"event": …, "properties": {…}}`.

        :raises ValidationError: without a name or properties, in every validation mode.
        """
        name, properties, meta = _split_event(event)
        return self.event(
            properties.get("distinct_id"), name, properties, meta or None, endpoint=endpoint
        )

    def import_event(self, event: Mapping[str, Any]) -> Record | None:
        """Complete a historical event in Mixpanel's form, for a bulk import.

        Super properties and `context` are not added, as they belong to the present. A missing
        `$insert_id` is derived from the content, so that importing an event again makes no copy.

        :raises ValidationError: without a name, properties or a time, in every validation mode.
        """
        name, properties, meta = _split_event(event)
        merged = {"ip": 0, **properties}
        merged["time"] = _imported_time(merged.get("time"))
        if merged["time"] is None:
            raise ValidationError(["an imported event needs its time"])
        merged.setdefault("distinct_id", None)
        self._normalize_distinct_id(merged)
        if not merged.get("$insert_id"):
            content, _ = dumps({"event": name, "properties": merged})
            merged["$insert_id"] = hashlib.sha256(content).hexdigest()[:36]
        return self._finish_event("imports", {"event": name, "properties": merged, **(meta or {})})

    def identity(
        self, event_name: str, properties: dict[str, Any], meta: Properties | None,
        endpoint: Endpoint = "events", auth: Authority | None = None,
    ) -> Record | None:  # fmt: skip
        """Compose `$identify`, `$create_alias` or `$merge`: no time, no id, no library."""
        notes: list[str] = []
        for name, value in properties.items():
            ids = value if name == "$distinct_ids" else [value]
            if any(type(each) is not str for each in ids):
                plain = [self._plain_id(each, name, notes) for each in ids]
                properties[name] = plain if ids is value else plain[0]
        self._report(notes, [])
        record = {"event": event_name, "properties": {**properties, "token": self.token}}
        record.update(checked_mapping(meta or {}, "meta"))
        return self._finish_event(endpoint, record, auth)

    # ---- profiles and groups ----------------------------------------------------------------

    def update(
        self,
        endpoint: Endpoint,
        message: Mapping[str, Any],
        meta: Properties | None = None,
        *,
        ip: str | int | None = None,
        time: Time | None = None,
        ignore_time: bool | None = None,
        ignore_alias: bool | None = None,
    ) -> Record | None:
        """Compose a profile or group update."""
        record: dict[str, Any] = {"$token": self.token, "$time": self._now()}
        record.update(checked_mapping(message, "an update"))
        if ip is not None:
            record["$ip"] = ip
        if time is not None and (at := to_api_time(time)) is not None:
            record["$time"] = at
        if ignore_time is not None:
            record["$ignore_time"] = ignore_time
        if ignore_alias is not None:
            record["$ignore_alias"] = ignore_alias
        if meta is not None:
            record.update(checked_mapping(meta, "meta"))
        changed = self._apply_before_send(endpoint, record)
        if changed is None:
            return None
        own_id = changed.get("$distinct_id" if endpoint == "people" else "$group_id")
        id_notes = None if type(own_id) is str else self._convert_own_id(changed, endpoint)
        body, notes = self._serialize(changed)
        if id_notes is not None:
            notes = id_notes + notes
        problems = [] if self._validation == "off" else update_problems(changed, len(body))
        self._report(notes, problems)
        return Record(endpoint, body, repeatable=is_repeatable(changed))

    # ---- shared by all ----------------------------------------------------------------------

    def _normalize_distinct_id(self, properties: dict[str, Any]) -> None:
        distinct_id = properties["distinct_id"]
        if distinct_id is None:
            if "$device_id" in properties or "$user_id" in properties:
                # With Simplified ID Merge the server derives distinct_id; null would be a user.
                del properties["distinct_id"]
            else:
                properties["distinct_id"] = ""
        else:
            notes: list[str] = []
            text = self._plain_id(distinct_id, "distinct_id", notes)
            self._report(notes, [])
            properties["distinct_id"] = text
            if not text and ("$device_id" in properties or "$user_id" in properties):
                del properties["distinct_id"]

    def _plain_id(self, value: Any, name: str, notes: list[str]) -> str:
        text, note = plain_id(value, name)
        if note:
            notes.append(note)
        return text

    def _convert_own_id(self, update: dict[str, Any], endpoint: Endpoint) -> list[str]:
        """Make the id of a profile or group text; return the notes about it."""
        key, notes = "$distinct_id" if endpoint == "people" else "$group_id", list[str]()
        given = update.get(key)
        if key in update and not isinstance(given, (list, tuple, set, dict)):
            with suppress(ValidationError):  # without a text: it becomes null when it is serialized
                update[key] = self._plain_id(given, key, notes)
        return notes

    def _add_id(self, properties: dict[str, Any], name: str, value: Any) -> None:
        """Set an id of Simplified ID Merge, unless it is a missing value."""
        notes: list[str] = []
        text = value if type(value) in (str, int) else self._plain_id(value, name, notes)
        self._report(notes, [])
        if text != "" or type(value) is str:
            properties[name] = text

    def _is_sampled(self, properties: dict[str, Any]) -> bool:
        # By user, not by event, so that the funnels of sampled users are complete.
        user = properties.get("distinct_id") or properties.get("$user_id")
        user = user or properties.get("$device_id") or properties["$insert_id"]
        if sample_position(str(user)) >= self._sample_rate:
            self._note("sampled", "")
            return False
        properties.setdefault(self._sample_weight, 1.0 / self._sample_rate)
        return True

    def _finish_event(
        self,
        endpoint: Endpoint,
        record: dict[str, Any],
        auth: Authority | None = None,
        *,
        unchecked: dict[str, Any] | None = None,
    ) -> Record | None:
        # `unchecked` are the properties to validate; with it, time and `$insert_id` are our own.
        if self._before_send is not None:
            changed = self._apply_before_send(endpoint, record)
            if changed is None:
                return None
            record, unchecked = changed, None
        name, properties = record.get("event"), record.get("properties")
        if type(name) is not str or type(properties) is not dict:
            if not isinstance(name, str):
                raise ValidationError([f"the event name must be text, not {type(name).__name__}"])
            record["properties"] = properties = dict(checked_mapping(properties))
        checked = properties if unchecked is None else unchecked
        # Nearly every event is plain JSON data, which one pass over its values shows.
        depth = plain_depth(checked) if self._uses_default_serializer and len(record) == 2 else 0
        body = dumps_plain(record) if depth else None
        notes: list[str] = []
        if body is None:
            body, notes = self._serialize(record)
        importing = endpoint == "imports"
        if self._validation != "off":
            problems = event_problems(
                name, properties, len(body), self._now() if unchecked is None else None,
                importing=importing, flat=checked if depth == 1 else None,
            )  # fmt: skip
            if problems or notes:
                self._report(notes, problems)
        elif notes:
            self._report(notes, [])
        if importing and auth is None:
            auth = self._project
        return Record(endpoint, body, auth=auth)

    def _apply_before_send(
        self, endpoint: Endpoint, record: dict[str, Any]
    ) -> dict[str, Any] | None:
        # Events that the hook itself tracks are not passed to it, or it would never return.
        if self._before_send is None:
            return record
        thread = threading.get_ident()
        if thread in self._in_hook:
            return record
        self._in_hook.add(thread)
        try:
            # A copy: lists and dicts in it are the caller's, and the client's super properties.
            changed: object = self._before_send(endpoint, deep_copy(record))
        except Exception:
            # The hook may exist to remove private data: what it failed on is not sent.
            logger.exception("before_send raised an exception; the message was dropped")
            self._note("before_send_error", "")
            return None
        finally:
            self._in_hook.discard(thread)
        if isinstance(changed, dict):
            return changed
        if changed is not None:
            logger.error("before_send must return a dict or None; the message was dropped")
        self._note("before_send" if changed is None else "before_send_error", "")
        return None

    def _serialize(self, record: dict[str, Any]) -> tuple[bytes, list[str]]:
        try:
            return dumps(record, self._serializer)
        except Exception as error:
            # Only the caller's own serializer can fail.
            raise ValidationError([f"the serializer failed: {error}"]) from error

    def _report(self, notes: list[str], problems: list[str]) -> None:
        if self._validation == "raise" and (problems or notes):
            raise ValidationError(notes + problems)
        for problem in problems:
            self._note("invalid", problem)
        for note in notes:
            self._note("coerced", note)
