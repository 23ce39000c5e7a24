"""Backfill a source: send any number of past messages in concurrent requests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mixpanel._records.record import checked_mapping
from mixpanel._records.rows import UnreadableRow
from mixpanel.bulk import ImportJob, import_rows
from mixpanel.cdp._segment.message import DroppedMessage
from mixpanel.cdp._segment.rows import (
    FlatRows,
    is_failed_message,
    require_timestamp,
    with_message_id,
)
from mixpanel.exceptions import ClosedError, ConfigurationError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel._delivery.sender import Sender
    from mixpanel.bulk import ImportProgress, ImportResult, Rows
    from mixpanel.cdp._segment.composer import SegmentComposer
    from mixpanel.cdp._segment.message import Kind, Message
    from mixpanel.cdp._segment.requests import SegmentApi
    from mixpanel.exceptions import RejectedRecord
    from mixpanel.settings import RetryPolicy

__all__ = ["AsyncBackfill", "past_message_composer"]


def past_message_composer(
    composer: SegmentComposer, api: SegmentApi, flat: FlatRows | None, *, disabled: bool = False
) -> Callable[[Any], Message | None]:
    """Return a function that composes the message of a row, or raises ValidationError.

    :param flat: the columns of flat rows; None if the rows are messages of the spec.
    :param disabled: validate rows but return no messages.
    """

    def composed(message_fields: Mapping[str, Any]) -> Message:
        message = composer.from_dict(with_message_id(require_timestamp(message_fields)))
        if api.excess_bytes(message):
            # Without the size of this message, which would make a reason of each.
            raise ValidationError([f"the message is larger than {composer.dialect.name} accepts"])
        return message

    def compose(row: Any) -> Message | None:
        if isinstance(row, UnreadableRow):
            unreadable = ValidationError([row.problem])
            unreadable.record = row.record
            raise unreadable
        is_message = flat is not None and is_failed_message(row, flat.kind)
        message_fields = (
            checked_mapping(row, "a message") if flat is None or is_message else flat.message(row)
        )
        if not row:
            raise ValidationError(["the row is empty or not valid JSON"])
        try:
            message = composed(message_fields)
        except ValidationError as error:
            error.record = dict(message_fields)
            raise
        if isinstance(message, DroppedMessage):
            if message.reason == "before_send_error":
                raise ValidationError(["before_send failed for this message; see the log"])
            return None
        return None if disabled else message

    return compose


class AsyncBackfill:
    """The `backfill` method of an async client."""

    _composer: SegmentComposer
    _api: SegmentApi
    _sender: Sender[SegmentApi]
    _closed: bool
    _disabled: bool

    async def backfill(
        self,
        rows: Rows,
        *,
        kind: Kind | None = None,
        event: str | None = None,
        columns: Mapping[str, str] | None = None,
        concurrency: int = 8,
        start_at: int = 0,
        keep_rejected: int = 1000,
        on_progress: Callable[[ImportProgress], object] | None = None,
        on_rejected: Callable[[RejectedRecord], object] | None = None,
        retry: RetryPolicy | None = None,
    ) -> ImportResult:
        """Send any number of past messages and return the result.

        >>> await cio.backfill(rows, kind="track", columns={"user_id": "id"})  # doctest: +SKIP

        The messages are sent in batches of their own, up to the size that `limits` allow,
        concurrently and in no particular order. They are counted in the result, not in `stats()`.

        :param rows: an iterable or async iterable, read only as fast as batches are sent. Without
            `kind`, messages as for `batch`: `{"type": "track", "userId": …}`. Events, pages and
            screens need a `timestamp`. A message without an id gets a hash of its content as id, so
            identical messages count once, and sending them again creates no duplicates.
        :param kind: the kind of all rows, if they are flat: rows of a CSV file, of a table, or of
            `frame.to_dict("records")`. Empty cells are left out.
        :param event: the event name for all rows, instead of a column.
        :param columns: the column of each argument, `{"user_id": "id", "timestamp": "at"}`; "" for
            none. Arguments that are not listed are found by their usual names: `user_id`, `userId`
            or `User ID`. All other columns become properties, or traits in `identify` and `group`
            messages.
        :param concurrency: the most requests in flight; it starts lower and adapts.
        :param start_at: the number of rows to skip, to resume at `result.position`.
        :param keep_rejected: the most rejected rows to keep in the result; `on_rejected` is called
            for each one.
        :raises ImportInterrupted: if it cannot continue; the error holds the result so far.
        :raises ConfigurationError: for a missing column, or a `concurrency` not in 1 to 32.
        """
        if self._closed:
            raise ClosedError("the client is closed: nothing was sent")
        if kind is None and (event is not None or columns is not None):
            raise ConfigurationError("event= and columns= are for flat rows: pass kind= as well")
        flat = None if kind is None else FlatRows(kind, event, columns)
        # Otherwise a batch of one message would go to the endpoint for single messages.
        api = replace(self._api, send_immediately=False)
        limits = self._sender.buffer.limits  # the user's limits, lowered to those of the vendor
        job = ImportJob(
            past_message_composer(self._composer, api, flat, disabled=self._disabled),
            api,
            self._sender.connections,
            limits.max_batch_size,
            limits.max_batch_bytes - len("[]"),
            gzip=None if api.compress else False,
            observer=self._sender.observer,
        )
        return await import_rows(
            rows,
            job,
            concurrency=concurrency,
            start_at=start_at,
            keep_rejected=keep_rejected,
            on_progress=on_progress,
            on_rejected=on_rejected,
            retry=retry,
        )
