"""Send messages of the past: any number, several requests at once, on the engine of imports."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mixpanel._records.record import mapping
from mixpanel.bulk import ImportJob, import_rows
from mixpanel.cdp._segment.rows import FlatRows, dated, identified
from mixpanel.exceptions import ClosedError, ConfigurationError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mixpanel._delivery.sender import Sender
    from mixpanel.bulk import ImportProgress, ImportResult, Rows
    from mixpanel.cdp._segment.composer import Message, SegmentComposer
    from mixpanel.cdp._segment.dialect import Kind
    from mixpanel.cdp._segment.requests import SegmentApi
    from mixpanel.exceptions import RejectedRecord
    from mixpanel.settings import RetryPolicy

__all__ = ["AsyncBackfill", "past"]


def past(
    composer: SegmentComposer, api: SegmentApi, flat: FlatRows | None, *, disabled: bool = False
) -> Callable[[Any], Message | None]:
    """Return what makes a message of the past of a row, or raises ValidationError.

    `flat` knows the columns of flat rows; None: rows are messages of the wire's shape.
    """

    def composed(told: Mapping[str, Any]) -> Message:
        message = composer.wire(identified(dated(told)))
        excess = api.excess(message)
        if excess:
            raise ValidationError([f"{excess:,} bytes larger than {composer.dialect.name} takes"])
        return message

    def compose(row: Any) -> Message | None:
        told = mapping(row, "a message") if flat is None else flat.message(row)
        if not row:
            raise ValidationError(["the row is empty, or was no JSON"])
        try:
            message = composed(told)
        except ValidationError as error:
            error.record = dict(told)
            raise
        return None if disabled else message

    return compose


class AsyncBackfill:
    """Backfill a source."""

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
        """Send any number of messages of the past, and say what became of each.

        >>> await cio.backfill(rows, kind="track", columns={"user_id": "who"})  # doctest: +SKIP

        They go in batches of their own, as large as `limits` let them be, several at once and in
        no order, beside what the client sends otherwise; `stats()` does not count them, the result
        does.

        :param rows: an iterable or async iterable; it is read no faster than batches leave. Without
            `kind`, messages as `batch` takes them, `{"type": "track", "userId": …}`. What was done
            or seen needs its `timestamp`. A message without an id gets one made of its content:
            what is alike in everything counts once, and sending it again makes no copies.
        :param kind: what flat rows are, all of one kind: rows of a CSV file, of a table, of
            `frame.to_dict("records")`. Empty cells are left out.
        :param event: one name for every `track`, when no column holds it.
        :param columns: which column holds what, as in `{"user_id": "who", "timestamp": "at"}`; ""
            says that none does. The rest is looked for under its usual names, as `user_id`,
            `userId` or `User ID`; all other columns become properties, of `identify` and `group`
            traits.
        :param concurrency: requests in flight at the most; it starts lower and adapts.
        :param start_at: skip so many rows, to resume where `result.position` says.
        :param keep_rejected: how many refusals the result holds; `on_rejected` is told of each.
        :raises ImportInterrupted: when it cannot go on; it holds the result so far.
        :raises ConfigurationError: for a column that is missing, or `concurrency` not in 1 to 32.
        """
        if self._closed:
            raise ClosedError("the client is closed: nothing was sent")
        if kind is None and (event is not None or columns is not None):
            raise ConfigurationError("event= and columns= are for flat rows: give their kind= too")
        flat = None if kind is None else FlatRows(kind, event, columns)
        api = replace(self._api, direct=False)  # else a batch of one went to its kind's endpoint
        limits = self._sender.buffer.limits  # those given, where they are below the vendor's
        job = ImportJob(
            past(self._composer, api, flat, disabled=self._disabled),
            api,
            self._sender.connections,
            limits.max_batch_size,
            limits.max_batch_bytes - len("[]"),
            gzip=None if api.compress else False,
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
