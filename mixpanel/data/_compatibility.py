"""What stays for code written for `mixpanel_data`, the package whose surface this one keeps.

None of it has an effect of its own. Everything that is kept for this reason is listed here:

- `parallel` and `batch_size` of `fetch_events` and `fetch_profiles`, and the options `--parallel`
  and `--batch-size` of `mp fetch`: accepted and ignored, as fetches are always concurrent and
  DuckDB loads whole files.
- The attributes of `FetchResult` below: that package had two more types of result, for fetches
  with `parallel=True`.
- `events`, `properties`, `property_values`, `funnels`, `cohorts`, `query_saved_report` and
  `clear_cache` of a workspace: other names of `list_events` and its kin, `saved_report` and
  `clear_discovery_cache`.
- `DateRangeTooLargeError`: never raised, as a range of any length is divided into calls.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ParallelResultNames"]


class ParallelResultNames:
    """The attributes of the results of parallel fetches, for `FetchResult`.

    A fetch that is incomplete raises `InterruptedFetchError`, which has `failed_date_ranges`;
    with `partial=True` the result has them.
    """

    rows: int
    chunks: int
    failed: tuple[Any, ...]  # of `FailedDays`

    @property
    def total_rows(self) -> int:
        """The same as `rows`."""
        return self.rows

    @property
    def successful_batches(self) -> int:
        """The same as `chunks`."""
        return self.chunks

    @property
    def successful_pages(self) -> int:
        """The same as `chunks`."""
        return self.chunks

    @property
    def failed_batches(self) -> int:
        """The number of ranges of days in `failed_date_ranges`."""
        return len(self.failed_date_ranges)

    @property
    def failed_pages(self) -> int:
        """Always 0."""
        return 0

    @property
    def failed_date_ranges(self) -> tuple[tuple[str, str], ...]:
        """First and last day of each range in `failed`, but for days that have not begun."""
        return tuple(
            (each.from_date, each.to_date) for each in self.failed if each.state != "future"
        )

    @property
    def failed_page_indices(self) -> tuple[int, ...]:
        """Always empty."""
        return ()

    @property
    def has_failures(self) -> bool:
        """True if days could not be fetched."""
        return bool(self.failed_date_ranges)
