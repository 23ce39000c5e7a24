"""Evaluate feature flags for an agent, with definitions from a file or from Mixpanel."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from mixpanel._agents.errors import ToolFailure
from mixpanel._agents.results import MAX_CELL, cut, json_value
from mixpanel._runtime.checked_files import read_at_most
from mixpanel._version import __version__
from mixpanel.data._queries.discovery_responses import similar
from mixpanel.data.exceptions import ConfigError
from mixpanel.flags import FlagsError
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from mixpanel.flags.types import LocalFlagsConfig

if TYPE_CHECKING:
    from pathlib import Path

    from mixpanel.credentials import ServiceAccountCredentials
    from mixpanel.settings import Region

__all__ = ["FlagSource"]

LIFETIME = 300.0  # seconds; Mixpanel bills each fetch of definitions
MAX_FILE_BYTES = 64 * 1024 * 1024


class FlagSource:
    """Flag definitions: from a file, read for each call, or fetched once in five minutes."""

    def __init__(
        self,
        *,
        file: Path | None = None,
        credentials: ServiceAccountCredentials | None = None,
        region: Region = "us",
        base_url: str | None = None,
    ) -> None:
        self._file, self._credentials = file, credentials
        self._region: Region = region
        self._base_url = base_url
        self._provider: LocalFeatureFlagsProvider | None = None
        self._loaded_at = 0.0
        self._lock = anyio.Lock()

    async def evaluate(
        self, key: str, distinct_id: str, attributes: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the variant of a user and the reason, without tracking an exposure.

        :raises ToolFailure: for an unknown key, naming similar ones.
        :raises FlagsError: if the definitions cannot be fetched.
        """
        async with self._lock:
            return await anyio.to_thread.run_sync(self._evaluate, key, distinct_id, attributes)

    def _evaluate(self, key: str, distinct_id: str, attributes: dict[str, Any]) -> dict[str, Any]:
        provider = self._current()
        definitions = provider.definitions
        if key not in definitions.flags and key not in definitions.unusable:
            keys = sorted({*definitions.flags, *definitions.unusable})
            close = similar(key, keys) or keys[:20]
            raise ToolFailure(
                "FLAG_NOT_FOUND",
                f"there is no flag {key[:80]!r} among {len(keys)} definitions",
                f"use one of: {', '.join(close)}" if close else "the project has no flags",
            )
        user = {"distinct_id": distinct_id, "custom_properties": attributes}
        trace = provider.explain(key, user)
        selected = trace.selected
        reason = selected.fallback_reason
        explanation, _ = cut(str(trace), 2 * MAX_CELL)
        return {
            "flag": key,
            "variant": selected.variant_key,
            "value": cut(json_value(selected.variant_value))[0],
            "reason": None if reason is None else reason.kind,
            "message": None if reason is None else reason.message,
            "explanation": explanation,
        }

    def _current(self) -> LocalFeatureFlagsProvider:
        if self._provider is not None and time.monotonic() - self._loaded_at < self._lifetime:
            return self._provider
        config = LocalFlagsConfig(enable_polling=False)
        token = "none"  # noqa: S105 - not used: the definitions come from a file or with a service account
        if self._file is not None:
            config.bootstrap, config.offline = _definitions(self._file), True
        else:
            assert self._credentials is not None
            config.region, config.base_url = self._region, self._base_url
            token = self._credentials.project_id
        provider = LocalFeatureFlagsProvider(
            token, config, __version__, lambda *_: None, self._credentials
        )
        try:
            provider.start_polling_for_definitions()
            if not provider.are_flags_ready():
                error = provider.last_error
                why = f"the definitions cannot be fetched: {error or 'no response in time'}"
                raise FlagsError(why, getattr(error, "status", None)) from error
        finally:
            provider.shutdown()
        self._provider, self._loaded_at = provider, time.monotonic()
        return provider

    @property
    def _lifetime(self) -> float:
        return LIFETIME if self._file is None else 0.0


def _definitions(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_at_most(file, MAX_FILE_BYTES).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the flags of {file.name} cannot be read: {error}") from None
    payload = {"flags": found} if isinstance(found, list) else found
    if not isinstance(payload, dict) or not isinstance(payload.get("flags"), list):
        raise ConfigError(f'{file.name} must contain {{"flags": [...]}} or a list of flags')
    return payload
