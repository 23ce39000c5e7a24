"""The errors of reading a project and of the local database, in one tree.

MixpanelDataError (MixpanelException)      UNKNOWN_ERROR
├── ConfigError (ConfigurationError)       CONFIG_ERROR          an invalid argument or setting
│   ├── AccountNotFoundError               ACCOUNT_NOT_FOUND
│   ├── AccountExistsError                 ACCOUNT_EXISTS
│   ├── RequestLimitError                  REQUEST_LIMIT         a fetch needs too many requests
│   ├── DateRangeTooLargeError             DATE_RANGE_TOO_LARGE  never raised, see `_compatibility`
│   └── ExpressionError                    EXPRESSION_ERROR      a `where` or `on` that is invalid
├── APIError                               API_ERROR             a failed call
│   ├── AuthenticationError                AUTH_FAILED           401
│   │   ├── LoginRequiredError             LOGIN_REQUIRED        a login has expired or ended
│   │   └── LoginError                     LOGIN_FAILED          logging in was not possible
│   ├── PlanError                          PLAN_LIMIT            402: not in the project's plan
│   ├── RateLimitError                     RATE_LIMITED          429
│   ├── QueryError                         QUERY_FAILED          400, 403, 404, 405, 422
│   │   ├── ObjectNotFoundError            OBJECT_NOT_FOUND      404 of an object of `ws.project`
│   │   ├── PermissionDeniedError          PERMISSION_DENIED     403 of `ws.project`
│   │   ├── ConflictError                  CONFLICT              409 of `ws.project`
│   │   ├── JQLSyntaxError                 JQL_SYNTAX_ERROR      412
│   │   └── SQLError                       SQL_ERROR             a mistake in SQL run locally
│   │       └── UnsafeSQLError             UNSAFE_SQL            a statement that may write
│   ├── ServerError                        SERVER_ERROR          5xx, or no response
│   ├── TruncatedError                     EXPORT_TRUNCATED      200, but the export is cut off
│   └── UnreadablePartError                EXPORT_UNREADABLE     200, but DuckDB cannot load it
├── EventNotFoundError                     EVENT_NOT_FOUND
├── PropertyNotFoundError                  PROPERTY_NOT_FOUND
├── ReportNotFoundError                    REPORT_NOT_FOUND      a funnel or another saved report
├── TableExistsError                       TABLE_EXISTS
├── TableNotFoundError                     TABLE_NOT_FOUND
├── DatabaseLockedError                    DATABASE_LOCKED
├── DatabaseNotFoundError                  DATABASE_NOT_FOUND
└── InterruptedFetchError                  FETCH_INCOMPLETE      some days could not be fetched

`AuthenticationError`, `RateLimitError` and `ServerError` are subclasses of the errors of the same
names in `mixpanel`, which sending raises, so that one `except` serves both; so is `PlanError` of
`mixpanel.AuthenticationError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mixpanel import exceptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path

__all__ = [
    "APIError",
    "AccountExistsError",
    "AccountNotFoundError",
    "AuthenticationError",
    "ConfigError",
    "ConflictError",
    "DatabaseLockedError",
    "DatabaseNotFoundError",
    "DateRangeTooLargeError",
    "EventNotFoundError",
    "ExpressionError",
    "IncompleteTableWarning",
    "InterruptedFetchError",
    "JQLDeprecationWarning",
    "JQLSyntaxError",
    "LoginError",
    "LoginRequiredError",
    "MemoryLimitError",
    "MixpanelDataError",
    "ObjectNotFoundError",
    "PermissionDeniedError",
    "PlanError",
    "PropertyNotFoundError",
    "QueryError",
    "RateLimitError",
    "ReportNotFoundError",
    "RequestLimitError",
    "SQLError",
    "ServerError",
    "TableExistsError",
    "TableNotFoundError",
    "TruncatedError",
    "UnreadablePartError",
    "UnsafeSQLError",
]


class MixpanelDataError(exceptions.MixpanelException):
    """Base class of the errors of `mixpanel.data`.

    `code` is stable between versions; `details` can be written as JSON.
    """

    default_code: ClassVar[str] = "UNKNOWN_ERROR"

    def __init__(
        self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message: str = message
        self.code: str = code or self.default_code
        self.details: dict[str, Any] = dict(details or {})

    def to_dict(self) -> dict[str, Any]:
        """Return code, message and details as values that JSON can represent."""
        return {"code": self.code, "message": self.message, "details": self.details}


# ---- arguments and settings ----------------------------------------------------------------------


class ConfigError(MixpanelDataError, exceptions.ConfigurationError):
    """An account, a setting or an argument is invalid."""

    default_code = "CONFIG_ERROR"


class AccountNotFoundError(ConfigError):
    """There is no account of that name; `available_accounts` has the existing names."""

    default_code = "ACCOUNT_NOT_FOUND"

    def __init__(self, account_name: str, available_accounts: Iterable[str] = ()) -> None:
        self.account_name = account_name
        self.available_accounts: list[str] = list(available_accounts)
        known = ", ".join(self.available_accounts)
        known = f"there are: {known}" if known else "add one with `mp auth add`"
        super().__init__(
            f"there is no account {account_name!r}; {known}",
            details={"account_name": account_name, "available_accounts": self.available_accounts},
        )


class AccountExistsError(ConfigError):
    """An account of that name exists already."""

    default_code = "ACCOUNT_EXISTS"

    def __init__(self, account_name: str) -> None:
        self.account_name = account_name
        super().__init__(
            f"account {account_name!r} already exists; remove it or choose another name",
            details={"account_name": account_name},
        )


class DateRangeTooLargeError(ConfigError):
    """A range of dates has more than `max_days` days.

    Never raised: ranges of any length are divided into calls. See `mixpanel.data._compatibility`.
    """

    default_code = "DATE_RANGE_TOO_LARGE"

    def __init__(self, from_date: date, to_date: date, max_days: int) -> None:
        self.from_date: date = from_date
        self.to_date: date = to_date
        self.max_days: int = max_days
        self.days_requested: int = (to_date - from_date).days + 1
        super().__init__(
            f"{from_date} to {to_date} is {self.days_requested} days; the maximum is {max_days}",
            details={
                "from_date": str(from_date),
                "to_date": str(to_date),
                "days_requested": self.days_requested,
                "max_days": max_days,
            },
        )


class RequestLimitError(ConfigError):
    """A fetch would need more requests than its `max_requests`; none was sent."""

    default_code = "REQUEST_LIMIT"

    def __init__(self, table_name: str, requests: int, max_requests: int) -> None:
        self.table_name: str = table_name
        self.requests: int = requests
        self.max_requests: int = max_requests
        super().__init__(
            f"{table_name} needs {requests} requests, more than max_requests={max_requests}: allow "
            "more, or fetch fewer days",
            details={
                "table_name": table_name, "requests": requests, "max_requests": max_requests,
            },
        )  # fmt: skip


class ExpressionError(ConfigError):
    """A `where` or `on` is invalid; `position` is the character, counted from 1, if known."""

    default_code = "EXPRESSION_ERROR"

    def __init__(self, message: str, *, position: int | None = None) -> None:
        self.position = position
        where = "" if position is None else f" (at character {position})"
        details = {} if position is None else {"position": position}
        super().__init__(message + where, details=details)


# ---- calls to Mixpanel ---------------------------------------------------------------------------


class APIError(MixpanelDataError):
    """A call to Mixpanel failed.

    `status_code` is the HTTP status, 0 without a response; `request_url` has no query.
    `response_body` is the beginning of the response, and `request_params` are the parameters: both
    may contain personal data, so only `to_dict(full=True)` includes them.
    """

    default_code = "API_ERROR"

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 0,
        response_body: str | None = None,
        request_method: str | None = None,
        request_url: str | None = None,
        request_params: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response_body = response_body
        self.request_method = request_method
        self.request_url = request_url
        self.request_params: dict[str, Any] = dict(request_params or {})
        self.retry_after = retry_after
        # The attributes of the errors of sending, as one `except` may serve both.
        self.endpoint: str | None = request_url
        self.status: int | None = status_code or None
        self.rejected_records: tuple[exceptions.RejectedRecord, ...] = ()
        known: dict[str, Any] = {
            "status_code": status_code,
            "request_method": request_method,
            "request_url": request_url,
            "retry_after": retry_after,
        }
        known = {name: value for name, value in known.items() if value is not None}
        self.details: dict[str, Any] = known | dict(details or {})

    def to_dict(self, *, full: bool = False) -> dict[str, Any]:
        """Return code, message and details; `full` adds the parameters and the response."""
        data = super().to_dict()
        if full:
            data["details"] |= {
                "response_body": self.response_body,
                "request_params": self.request_params,
            }
        return data


class AuthenticationError(APIError, exceptions.AuthenticationError):
    """Mixpanel does not accept these credentials."""

    default_code = "AUTH_FAILED"


class LoginRequiredError(AuthenticationError):
    """The login of an account has expired, was revoked, or ended: log in again.

    `account_name` is the account, for `mp auth login NAME`.
    """

    default_code = "LOGIN_REQUIRED"

    def __init__(self, message: str, *, account_name: str, **known: Any) -> None:
        self.account_name = account_name
        super().__init__(
            f"{message}: log in again with `mp auth login {account_name}`",
            details={"account_name": account_name},
            **known,
        )


class LoginError(AuthenticationError):
    """Logging in failed; `reason` is the error code of OAuth, such as `access_denied`, if any."""

    default_code = "LOGIN_FAILED"

    def __init__(self, message: str, *, reason: str | None = None, **known: Any) -> None:
        self.reason = reason
        super().__init__(message, details={} if reason is None else {"reason": reason}, **known)


class PlanError(APIError, exceptions.AuthenticationError):
    """The project's plan does not include this API."""

    default_code = "PLAN_LIMIT"


class RateLimitError(APIError, exceptions.RateLimitError):
    """A rate limit of the project is exceeded; `retry_after` is in seconds, if known.

    `sent` is False for a call that was not sent, and so cost nothing. `next_slot_at` is when
    the next call may start, aware and in UTC. `limit` calls are allowed in `window_seconds`, of
    which `used` are known here. Each is None where it is not known.
    """

    default_code = "RATE_LIMITED"

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        next_slot_at: datetime | None = None,
        limit: int | None = None,
        used: int | None = None,
        window_seconds: int | None = None,
        **known: Any,
    ) -> None:
        super().__init__(message, **known)
        self.sent: bool = sent
        self.next_slot_at: datetime | None = next_slot_at
        self.limit: int | None = limit
        self.used: int | None = used
        self.window_seconds: int | None = window_seconds
        when = None if next_slot_at is None else next_slot_at.isoformat()
        known_limits = {"next_slot_at": when, "limit": limit, "used": used}
        known_limits["window_seconds"] = window_seconds
        self.details.update({"sent": sent})
        self.details.update({k: v for k, v in known_limits.items() if v is not None})


class QueryError(APIError):
    """Mixpanel rejects the call: a parameter is wrong, or names something unknown."""

    default_code = "QUERY_FAILED"


class ObjectNotFoundError(QueryError):
    """The project has no object of this kind and id, or the credentials may not see it."""

    default_code = "OBJECT_NOT_FOUND"

    def __init__(self, resource: str, kind: str, object_id: object, **known: Any) -> None:
        self.resource: str = resource
        self.object_id: object = object_id
        super().__init__(
            f"there is no {kind} {object_id!r}, or the credentials may not see it; list the "
            f"{resource.replace('_', ' ')} to see which there are",
            details={"resource": resource, "object_id": object_id},
            **{"status_code": 404, **known},
        )


class PermissionDeniedError(QueryError):
    """The credentials are valid, but lack the permission for this call."""

    default_code = "PERMISSION_DENIED"


class ConflictError(QueryError):
    """The call contradicts what the project has, as a second object of one name."""

    default_code = "CONFLICT"


class JQLSyntaxError(QueryError):
    """Mixpanel cannot run a JQL script; `script` is its text."""

    default_code = "JQL_SYNTAX_ERROR"

    def __init__(self, message: str, *, script: str = "", **known: Any) -> None:
        super().__init__(message, **known)
        self.script = script


class SQLError(QueryError):
    """The local database cannot run a SQL statement."""

    default_code = "SQL_ERROR"


class ServerError(APIError, exceptions.ServerError):
    """Mixpanel failed, or there was no response."""

    default_code = "SERVER_ERROR"


class TruncatedError(APIError):
    """An export is incomplete; `tail` is its end, which may have the server's reason."""

    default_code = "EXPORT_TRUNCATED"

    def __init__(self, message: str, *, tail: str = "", **known: Any) -> None:
        super().__init__(message, **known)
        self.tail = tail


class UnreadablePartError(APIError):
    """An export was downloaded twice, and could not be loaded into the local database."""

    default_code = "EXPORT_UNREADABLE"


class EventNotFoundError(MixpanelDataError):
    """The project has no event of that name; `similar_events` are similar names."""

    default_code = "EVENT_NOT_FOUND"

    def __init__(self, event_name: str, similar_events: Iterable[str] = ()) -> None:
        self.event_name = event_name
        self.similar_events: list[str] = list(similar_events)
        hint = f"; did you mean {', '.join(self.similar_events)}?" if self.similar_events else ""
        super().__init__(
            f"there is no event {event_name!r}{hint}",
            details={"event_name": event_name, "similar_events": self.similar_events},
        )


class PropertyNotFoundError(MixpanelDataError):
    """The event has no property of that name; `similar_properties` are similar names."""

    default_code = "PROPERTY_NOT_FOUND"

    def __init__(
        self, property_name: str, event_name: str | None, similar_properties: Iterable[str] = ()
    ) -> None:
        self.property_name: str = property_name
        self.event_name: str | None = event_name
        self.similar_properties: list[str] = list(similar_properties)
        of = "" if event_name is None else f" of {event_name!r}"
        names = ", ".join(self.similar_properties)
        hint = f"; did you mean {names}?" if names else ""
        super().__init__(
            f"there is no property {property_name!r}{of}{hint}",
            details={
                "property_name": property_name,
                "event_name": event_name,
                "similar_properties": self.similar_properties,
            },
        )


class ReportNotFoundError(MixpanelDataError):
    """The project has no saved funnel or report with that id; `available` maps ids to names."""

    default_code = "REPORT_NOT_FOUND"

    def __init__(self, kind: str, report_id: int, available: Mapping[int, str]) -> None:
        self.kind: str = kind
        self.report_id: int = report_id
        self.available: dict[int, str] = dict(available)
        some = [f"{number} ({name})" for number, name in list(self.available.items())[:5]]
        more = f" and {len(self.available) - 5} more" if len(self.available) > 5 else ""
        hint = f"there are {', '.join(some)}{more}" if some else "the project has none"
        super().__init__(
            f"there is no {kind} {report_id}; {hint}",
            details={"kind": kind, "report_id": report_id, "available": self.available},
        )


class JQLDeprecationWarning(DeprecationWarning):
    """JQL is in maintenance mode at Mixpanel, and may be switched off."""


# ---- the local database --------------------------------------------------------------------------


class TableExistsError(MixpanelDataError):
    """A table of that name exists already."""

    default_code = "TABLE_EXISTS"

    def __init__(self, table_name: str) -> None:
        self.table_name = table_name
        super().__init__(
            f"table {table_name!r} already exists: fetch with replace=True to replace it or "
            "append=True to add to it, or choose another name",
            details={"table_name": table_name},
        )


class TableNotFoundError(MixpanelDataError):
    """There is no table of that name; `available_tables` has the existing names."""

    default_code = "TABLE_NOT_FOUND"

    def __init__(self, table_name: str, available_tables: Iterable[str] = ()) -> None:
        self.table_name = table_name
        self.available_tables: list[str] = list(available_tables)
        known = ", ".join(self.available_tables)
        known = f"there are: {known}" if known else "nothing has been fetched yet"
        super().__init__(
            f"there is no table {table_name!r}; {known}",
            details={"table_name": table_name, "available_tables": self.available_tables},
        )


class DatabaseLockedError(MixpanelDataError):
    """Another process has the database file open; `holding_pid` is its id, if known."""

    default_code = "DATABASE_LOCKED"

    def __init__(self, db_path: Path | str, holding_pid: int | None = None) -> None:
        self.db_path: str = str(db_path)
        self.holding_pid: int | None = holding_pid
        holder = f"process {holding_pid}" if holding_pid else "another process"
        super().__init__(
            f"{db_path} is open in {holder}: wait until it ends, or use another path",
            details={"db_path": self.db_path, "holding_pid": holding_pid},
        )


class DatabaseNotFoundError(MixpanelDataError):
    """There is no database file at that path."""

    default_code = "DATABASE_NOT_FOUND"

    def __init__(self, db_path: Path | str) -> None:
        self.db_path: str = str(db_path)
        super().__init__(
            f"there is no database {db_path}: fetch something first, as with `mp fetch events`",
            details={"db_path": self.db_path},
        )


class MemoryLimitError(MixpanelDataError):
    """The local database needs more memory than its limit."""

    default_code = "OUT_OF_MEMORY"


class UnsafeSQLError(SQLError):
    """SQL that writes, or uses files or extensions, where that is not allowed."""

    default_code = "UNSAFE_SQL"


class InterruptedFetchError(MixpanelDataError):
    """Some days could not be fetched; the others are kept, and the same call fetches the rest.

    `failed_date_ranges` are pairs of first and last day; `__cause__` is the first day's error.
    """

    default_code = "FETCH_INCOMPLETE"

    def __init__(
        self,
        table_name: str,
        failed_date_ranges: Iterable[tuple[str, str]],
        reason: str,
        hint: str = "repeat the fetch, which continues with the missing days",
    ) -> None:
        self.table_name = table_name
        self.failed_date_ranges: list[tuple[str, str]] = list(failed_date_ranges)
        ranges = ", ".join(
            first if first == last else f"{first} to {last}"
            for first, last in self.failed_date_ranges
        )
        super().__init__(
            f"{table_name}: {ranges} could not be fetched ({reason}); {hint}",
            details={"table_name": table_name, "failed_date_ranges": self.failed_date_ranges},
        )


class IncompleteTableWarning(UserWarning):
    """A report covers days that its table lacks, so its numbers are too low.

    `table_name` is the table, and `missing` the first and last day of each run of such days.
    """

    def __init__(
        self,
        message: str,
        table_name: str | None = None,
        missing: Sequence[tuple[date, date]] = (),
    ) -> None:
        super().__init__(message)
        self.table_name = table_name
        self.missing = tuple(missing)
