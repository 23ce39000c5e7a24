"""Report exposures: without blocking an evaluation, raising into it, or repeating themselves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._runtime.safe_logging import logger
from mixpanel.flags._exposures.exposure import (
    EXPOSURE_EVENT,
    RecentExposures,
    exposed_distinct_id,
    exposure_properties,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from datetime import datetime

    from mixpanel.flags.types import FlagsConfig, SelectedVariant

    Tracker = Callable[[Any, str, dict[str, Any]], object]

__all__ = ["ExposureReporter"]


class ExposureReporter:
    """Pass exposures to a tracker, `tracker(distinct_id, event_name, properties)`.

    A client's tracker only enqueues. One that blocks should run on an `exposure_executor`.
    """

    def __init__(
        self, tracker: Tracker, config: FlagsConfig, mode: Literal["local", "remote"]
    ) -> None:
        self._tracker = tracker
        self._executor: Executor | None = config.exposure_executor
        self._mode: Literal["local", "remote"] = mode
        self._recent: RecentExposures | None = None
        if config.exposure_time_to_live > 0:
            self._recent = RecentExposures(
                config.remembered_exposures, config.exposure_time_to_live
            )
        self._last_logged = -3600.0

    def report_evaluation(
        self,
        flag_key: str,
        variant: SelectedVariant,
        context: Mapping[str, Any],
        assignment: Any,
        latency: float,
        started: datetime | None = None,
        completed: datetime | None = None,
    ) -> None:
        """Report the exposure of an evaluation, unless the same one was reported recently."""
        try:
            recent = self._recent
            if recent is not None and not recent.is_new(
                flag_key, variant.variant_key, assignment, time.monotonic()
            ):
                return
            self._send(
                flag_key, variant, context, latency=latency, started=started, completed=completed
            )
        except Exception as error:
            self._log_failure(error)

    def report_explicit(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report an exposure on the caller's request, even a repeated one."""
        try:
            self._send(flag_key, variant, context)
        except Exception as error:
            self._log_failure(error)

    def _send(
        self,
        flag_key: str,
        variant: SelectedVariant,
        context: Mapping[str, Any],
        *,
        latency: float | None = None,
        started: datetime | None = None,
        completed: datetime | None = None,
    ) -> None:
        distinct_id = exposed_distinct_id(variant, context)
        if distinct_id is None:
            return
        properties = exposure_properties(
            flag_key,
            variant,
            mode=self._mode,
            latency_in_seconds=latency,
            started=started,
            completed=completed,
        )
        if self._executor is not None:
            self._executor.submit(self._call_tracker, distinct_id, properties)
        else:
            self._tracker(distinct_id, EXPOSURE_EVENT, properties)

    def _call_tracker(self, distinct_id: Any, properties: dict[str, Any]) -> None:
        try:
            self._tracker(distinct_id, EXPOSURE_EVENT, properties)
        except Exception as error:
            self._log_failure(error)

    def _log_failure(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._last_logged >= 60:
            self._last_logged = now
            logger.error("exposure not reported: the tracker failed", exc_info=error)
