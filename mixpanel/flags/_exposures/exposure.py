"""The exposure event of a user and a variant, and whether it was reported recently."""

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from mixpanel._runtime import native_threads
from mixpanel.flags.types import SelectedVariant, VariantSource

EXPOSURE_EVENT: Final = "$experiment_started"

Exposure = tuple[str, str | None, str]
"""The keys of a flag and a variant, and the user to whom it was shown."""


def exposed_distinct_id(variant: SelectedVariant, context: Mapping[str, Any]) -> Any | None:
    """Return the distinct_id to report; None for a fallback, or for a context without one."""
    if variant.variant_source == VariantSource.FALLBACK:
        return None
    return context.get("distinct_id") or None


def exposure_properties(
    flag_key: str,
    variant: SelectedVariant,
    *,
    mode: Literal["local", "remote"] = "local",
    latency_in_seconds: float | None = None,
    started: datetime | None = None,
    completed: datetime | None = None,
) -> dict[str, Any]:
    """Return the properties of the exposure event, by the official names.

    Local exposures include the experiment. Remote ones instead include the times at which the
    request started and completed (unchanged: the official SDK passes naive local time).
    """
    properties: dict[str, Any] = {
        "Experiment name": flag_key,
        "Variant name": variant.variant_key,
        "$experiment_type": "feature_flag",
        "Flag evaluation mode": mode,
    }
    if mode == "local":
        properties |= {
            "$experiment_id": variant.experiment_id,
            "$is_experiment_active": variant.is_experiment_active,
            "$is_qa_tester": variant.is_qa_tester,
        }
    else:
        if started is not None:
            properties["Variant fetch start time"] = started.isoformat()
        if completed is not None:
            properties["Variant fetch complete time"] = completed.isoformat()
    if latency_in_seconds is not None:
        properties["Variant fetch latency (ms)"] = latency_in_seconds * 1000
    return properties


class RecentExposures:
    """Remember recent exposures, so that not every evaluation reports one.

    At most `limit` are remembered, the most recently seen ones, each for `time_to_live` seconds
    since it was reported. Thread-safe; the caller supplies the time.
    """

    def __init__(self, limit: int = 10_000, time_to_live: float = 3600.0) -> None:
        self._limit = limit
        self._time_to_live = time_to_live
        self._reported: OrderedDict[Exposure, float] = OrderedDict()
        self._lock = native_threads.new_rlock()

    def __len__(self) -> int:
        """Return how many exposures are remembered."""
        return len(self._reported)

    def is_new(self, exposure: Exposure, now: float) -> bool:
        """Return True if this exposure is to be reported, and remember it as reported.

        `now` is in seconds, of a monotonic clock.
        """
        with self._lock:
            reported = self._reported.get(exposure)
            if reported is not None and now - reported < self._time_to_live:
                self._reported.move_to_end(exposure)
                return False
            self._reported[exposure] = now
            self._reported.move_to_end(exposure)
            while len(self._reported) > self._limit:
                self._reported.popitem(last=False)
            return True

    def forget(self, exposure: Exposure) -> None:
        """Forget an exposure that was not reported after all."""
        with self._lock:
            self._reported.pop(exposure, None)

    def clear(self) -> None:
        """Forget all exposures."""
        with self._lock:
            self._reported.clear()
