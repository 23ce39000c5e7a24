"""What can go wrong when reading a project or the local database, in one tree.

MixpanelDataError (MixpanelException)      UNKNOWN_ERROR
├── ConfigError (ConfigurationError)       CONFIG_ERROR          an account or option
│   ├── AccountNotFoundError               ACCOUNT_NOT_FOUND
│   ├── AccountExistsError                 ACCOUNT_EXISTS
│   ├── DateRangeTooLargeError             DATE_RANGE_TOO_LARGE
│   └── ExpressionError                    EXPRESSION_ERROR      a `where` or `on` that is invalid
├── APIError                               API_ERROR             an answer that is no success
│   ├── AuthenticationError                AUTH_FAILED           401
│   ├── PlanError                          PLAN_LIMIT            402: not in the project's plan
│   ├── RateLimitError                     RATE_LIMITED          429
│   ├── QueryError                         QUERY_FAILED          400, 403, 404, 405, 422
│   │   ├── JQLSyntaxError                 JQL_SYNTAX_ERROR      412
│   │   └── SQLError                       SQL_ERROR             a mistake in SQL run locally
│   │       └── UnsafeSQLError             UNSAFE_SQL            a statement that was not asked for
│   ├── ServerError                        SERVER_ERROR          5xx, or no answer at all
│   ├── TruncatedError                     EXPORT_TRUNCATED      200, but the body ended early
│   └── UnreadablePartError                EXPORT_UNREADABLE     200, but DuckDB cannot load it
├── EventNotFoundError                     EVENT_NOT_FOUND
├── PropertyNotFoundError                  PROPERTY_NOT_FOUND
├── ReportNotFoundError                    REPORT_NOT_FOUND      a funnel or another saved report
├── TableExistsError                       TABLE_EXISTS
├── TableNotFoundError                     TABLE_NOT_FOUND
├── DatabaseLockedError                    DATABASE_LOCKED
├── DatabaseNotFoundError                  DATABASE_NOT_FOUND
└── InterruptedFetchError                  FETCH_INCOMPLETE      some days could not be fetched

`AuthenticationError`, `PlanError`, `RateLimitError` and `ServerError` are also kinds of the errors
of those names that sending raises, so that one `except` serves both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mixpanel import exceptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime
    from pathlib import Path

__all__ = [
    "APIError",
    "AccountExistsError",
    "AccountNotFoundError",
    "AuthenticationError",
    "ConfigError",
    "DatabaseLockedError",
    "DatabaseNotFoundError",
    "DateRangeTooLargeError",
    "EventNotFoundError",
    "ExpressionError",
    "InterruptedFetchError",
    "JQLDeprecationWarning",
    "JQLSyntaxError",
    "MixpanelDataError",
    "PlanError",
    "PropertyNotFoundError",
    "QueryError",
    "RateLimitError",
    "ReportNotFoundError",
    "SQLError",
    "ServerError",
    "TableExistsError",
    "TableNotFoundError",
    "TruncatedError",
    "UnreadablePartError",
    "UnsafeSQLError",
]


class MixpanelDataError(exceptions.MixpanelException):
    """Any error of `mixpanel.data`; `code` is stable, `details` can be written as JSON."""

    default_code: ClassVar[str] = "UNKNOWN_ERROR"

    def __init__(
        self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message: str = message
        self.code: str = code or self.default_code
        self.details: dict[str, Any] = dict(details or {})

    def to_dict(self) -> dict[str, Any]:
        """Return code, message and details, for machines."""
        return {"code": self.code, "message": self.message, "details": self.details}


# ---- what was asked for --------------------------------------------------------------------------


class ConfigError(MixpanelDataError, exceptions.ConfigurationError):
    """An account, a setting or an argument that cannot work."""

    default_code = "CONFIG_ERROR"


class AccountNotFoundError(ConfigError):
    """There is no account of that name; `available_accounts` are those there are."""

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
    """An account of that name is there already."""

    default_code = "ACCOUNT_EXISTS"

    def __init__(self, account_name: str) -> None:
        self.account_name = account_name
        super().__init__(
            f"there is an account {account_name!r} already; remove it or choose another name",
            details={"account_name": account_name},
        )


class DateRangeTooLargeError(ConfigError):
    """More days were asked for than one call may cover."""

    default_code = "DATE_RANGE_TOO_LARGE"

    def __init__(self, from_date: date, to_date: date, max_days: int) -> None:
        self.from_date: date = from_date
        self.to_date: date = to_date
        self.max_days: int = max_days
        self.days_requested: int = (to_date - from_date).days + 1
        super().__init__(
            f"{from_date} to {to_date} are {self.days_requested} days, at most {max_days} fit",
            details={
                "from_date": str(from_date),
                "to_date": str(to_date),
                "days_requested": self.days_requested,
                "max_days": max_days,
            },
        )


class ExpressionError(ConfigError):
    """A `where` or `on` that is invalid; `position` is the character, counted from 1, if known."""

    default_code = "EXPRESSION_ERROR"

    def __init__(self, message: str, *, position: int | None = None) -> None:
        self.position = position
        where = "" if position is None else f" (at character {position})"
        details = {} if position is None else {"position": position}
        super().__init__(message + where, details=details)


# ---- what Mixpanel answered ----------------------------------------------------------------------


class APIError(MixpanelDataError):
    """Mixpanel answered with something that is no success.

    `status_code` is the HTTP status, 0 without an answer; `request_url` holds no query.
    `response_body` is the beginning of what the server said, and `request_params` what was asked
    for: both may hold personal data, so `to_dict()` leaves them out unless asked for.
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
        # What the errors of sending carry.
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
        """Return code, message and details; `full` adds what was asked and answered."""
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


class PlanError(APIError, exceptions.AuthenticationError):
    """The project's plan does not include this API."""

    default_code = "PLAN_LIMIT"


class RateLimitError(APIError, exceptions.RateLimitError):
    """The project's budget of calls is spent; `retry_after` says for how many seconds, if known.

    `sent` is False for a call that was held back here, and so cost nothing. `next_slot_at` is when
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
        budget = {"next_slot_at": when, "limit": limit, "used": used}
        budget["window_seconds"] = window_seconds
        self.details.update({"sent": sent})
        self.details.update({k: v for k, v in budget.items() if v is not None})


class QueryError(APIError):
    """What was asked cannot be answered: a wrong parameter, or nothing of that name."""

    default_code = "QUERY_FAILED"


class JQLSyntaxError(QueryError):
    """A JQL script that Mixpanel cannot run; `script` is the script."""

    default_code = "JQL_SYNTAX_ERROR"

    def __init__(self, message: str, *, script: str = "", **known: Any) -> None:
        super().__init__(message, **known)
        self.script = script


class SQLError(QueryError):
    """SQL that the local database cannot run."""

    default_code = "SQL_ERROR"


class ServerError(APIError, exceptions.ServerError):
    """Mixpanel failed, or no answer came."""

    default_code = "SERVER_ERROR"


class TruncatedError(APIError):
    """An export ended before it was whole; `tail` is what the server said at its end."""

    default_code = "EXPORT_TRUNCATED"

    def __init__(self, message: str, *, tail: str = "", **known: Any) -> None:
        super().__init__(message, **known)
        self.tail = tail


class UnreadablePartError(APIError):
    """An export that came twice, and neither time could be loaded into the local database."""

    default_code = "EXPORT_UNREADABLE"


class EventNotFoundError(MixpanelDataError):
    """The project has no event of that name; `similar_events` are what may be meant."""

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
    """The event has no property of that name; `similar_properties` are what may be meant."""

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
    """The project has no saved funnel or report of that number; `available` are those it has."""

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
    """A table of that name is there already."""

    default_code = "TABLE_EXISTS"

    def __init__(self, table_name: str) -> None:
        self.table_name = table_name
        super().__init__(
            f"there is a table {table_name!r} already: a fetch replaces it with replace=True and "
            "adds to it with append=True; or choose another name",
            details={"table_name": table_name},
        )


class TableNotFoundError(MixpanelDataError):
    """There is no table of that name; `available_tables` are those there are."""

    default_code = "TABLE_NOT_FOUND"

    def __init__(self, table_name: str, available_tables: Iterable[str] = ()) -> None:
        self.table_name = table_name
        self.available_tables: list[str] = list(available_tables)
        known = ", ".join(self.available_tables)
        known = f"there are: {known}" if known else "none was fetched yet"
        super().__init__(
            f"there is no table {table_name!r}; {known}",
            details={"table_name": table_name, "available_tables": self.available_tables},
        )


class DatabaseLockedError(MixpanelDataError):
    """Another process holds the database file; `holding_pid` is that process, if known."""

    default_code = "DATABASE_LOCKED"

    def __init__(self, db_path: Path | str, holding_pid: int | None = None) -> None:
        self.db_path: str = str(db_path)
        self.holding_pid: int | None = holding_pid
        holder = f"process {holding_pid}" if holding_pid else "another process"
        super().__init__(
            f"{db_path} is open in {holder}: wait until that has ended, or use another path",
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


class UnsafeSQLError(SQLError):
    """SQL that writes, or reaches files or extensions, without having been asked to."""

    default_code = "UNSAFE_SQL"


class InterruptedFetchError(MixpanelDataError):
    """Some days could not be fetched; what was fetched is kept, and the same call goes on from it.

    `failed_date_ranges` are pairs of first and last day; the first day's error is the cause.
    """

    default_code = "FETCH_INCOMPLETE"

    def __init__(
        self, table_name: str, failed_date_ranges: Iterable[tuple[str, str]], reason: str
    ) -> None:
        self.table_name = table_name
        self.failed_date_ranges: list[tuple[str, str]] = list(failed_date_ranges)
        ranges = ", ".join(
            first if first == last else f"{first} to {last}"
            for first, last in self.failed_date_ranges
        )
        super().__init__(
            f"{table_name}: {ranges} could not be fetched ({reason}); run the same fetch again "
            "and it goes on from what is there",
            details={"table_name": table_name, "failed_date_ranges": self.failed_date_ranges},
        )
