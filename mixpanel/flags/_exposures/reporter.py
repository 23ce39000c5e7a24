"""Report exposures: without blocking an evaluation, raising into it, or repeating themselves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from mixpanel._runtime.safe_logging import logger
from mixpanel.flags._exposures.exposure import (
    EXPOSURE_EVENT,
    Exposure,
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
        """Report the exposure of an evaluation, unless the same one was reported recently.

        `assignment` is the value of the flag's context key: the user, or the user's company.
        """
        exposure: Exposure | None = None
        try:
            distinct_id = context.get("distinct_id")
            if not distinct_id:  # nobody was exposed
                return
            if self._recent is not None:
                user = str(distinct_id)
                if assignment is not distinct_id:
                    user = f"{user}\x00{assignment}"
                exposure = (flag_key, variant.variant_key, user)
                if not self._recent.is_new(exposure, time.monotonic()):
                    return
            self._send(
                flag_key, variant, context, exposure, latency=latency, started=started,
                completed=completed,
            )  # fmt: skip
        except Exception as error:
            self._fail(error, exposure)

    def report_explicit(
        self, flag_key: str, variant: SelectedVariant, context: Mapping[str, Any]
    ) -> None:
        """Report an exposure on the caller's request, even a repeated one."""
        try:
            self._send(flag_key, variant, context)
        except Exception as error:
            self._fail(error)

    def _send(
        self,
        flag_key: str,
        variant: SelectedVariant,
        context: Mapping[str, Any],
        exposure: Exposure | None = None,
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
        if self._executor is None:
            self._tracker(distinct_id, EXPOSURE_EVENT, properties)
            return

        def track() -> None:
            try:
                self._tracker(distinct_id, EXPOSURE_EVENT, properties)
            except Exception as error:
                self._fail(error, exposure)

        self._executor.submit(track)

    def _fail(self, error: Exception, exposure: Exposure | None = None) -> None:
        """Let the next evaluation report the exposure, and log why this one could not."""
        if exposure is not None and self._recent is not None:
            self._recent.forget(exposure)
        now = time.monotonic()
        if now - self._last_logged >= 60:
            self._last_logged = now
            logger.error("exposure not reported: the tracker failed", exc_info=error)
