"""Feature flags for the user of a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from mixpanel._records import context as contexts
from mixpanel.flags import overrides
from mixpanel.integrations._request import call_safely, mapping_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mixpanel.client import AsyncMixpanel, Mixpanel
    from mixpanel.flags import Flag, SelectedVariant, Snapshot

__all__ = ["RequestFlags"]

T = TypeVar("T")


class RequestFlags:
    """The local flags of a request's user: a snapshot, whose checks report their exposures.

    All checks of one request see the same definitions, until the user changes, as by a login. The
    exposure of a variant is reported as by `LocalFeatureFlagsProvider.get_variant`: once per user
    and hour. An integration makes the object; the snapshot is made at the first check.

    :param flag_context: returns more of the context, such as `custom_properties` or a group's key.
    :raises MixpanelException: at a check, if the client has no local flags.
    """

    def __init__(
        self,
        client: AsyncMixpanel | Mixpanel,
        flag_context: Callable[[], Mapping[str, Any] | None] | None = None,
    ) -> None:
        self._client = client
        self._flag_context = flag_context
        self._user: tuple[Any, ...] | None = None
        self._snapshot: Snapshot
        self._context: dict[str, Any] = {}

    def _current(self) -> Snapshot:
        scope = contexts.current()
        user = (scope.distinct_id, scope.device_id, scope.user_id) if scope else (None, None, None)
        # Compared at each check: code anywhere in the request may change the user, as a login does.
        if user != self._user:
            distinct_id, device_id, user_id = user
            given = {"distinct_id": distinct_id or user_id, "device_id": device_id}
            self._context = {key: value for key, value in given.items() if value is not None}
            more = call_safely(self._flag_context, convert=mapping_of)
            self._context.update(more or {})
            self._snapshot = self._client.local_flags.snapshot(self._context)
            self._user = user
        return self._snapshot

    def get_variant(
        self, flag_key: str, fallback_value: SelectedVariant | None = None
    ) -> SelectedVariant:
        """Return the variant of a flag, or the fallback with the reason; report its exposure."""
        start = time.perf_counter()
        snapshot = self._current()
        selected = snapshot.get_variant(flag_key)
        if selected.fallback_reason is not None:
            return selected if fallback_value is None else selected.with_fallback(fallback_value)
        flag = snapshot._definitions.flags.get(flag_key)
        if flag is not None and flag_key not in (overrides.current() or ()):
            self._client.local_flags._reporter.report_evaluation(
                flag_key,
                selected,
                self._context,
                self._context.get(flag.context_key),
                time.perf_counter() - start,
            )
        return selected

    def get_variant_value(self, flag_key: str, fallback_value: Any) -> Any:
        """Return the value of a flag's variant, or the fallback; report its exposure."""
        selected = self.get_variant(flag_key)
        return fallback_value if selected.fallback_reason is not None else selected.variant_value

    def value(self, flag: Flag[T]) -> T:
        """Return the value of a declared flag, or its default; report its exposure."""
        return flag.accept(self.get_variant_value(flag.key, flag.default))

    def is_enabled(self, flag_key: str) -> bool:
        """Return True if the flag's value is exactly true; report its exposure."""
        return self.get_variant_value(flag_key, None) is True

    def bootstrap(self, flag_keys: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the variants to initialize a front end, which reports their exposures itself."""
        return self._current().bootstrap(flag_keys)
