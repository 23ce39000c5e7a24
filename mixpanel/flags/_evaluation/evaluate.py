"""Decide which variant a user gets: a pure function, without locks, that never raises.

The order is the official one: assignment value, test users, rollouts, splits. A rollout that only
Mixpanel's servers can decide is skipped; it becomes the reason if no other serves a variant.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from mixpanel.flags._evaluation.compiled_flag import CompiledFlag
from mixpanel.flags._evaluation.definitions import Definitions
from mixpanel.flags._results import copy_json, fallback
from mixpanel.flags.types import FallbackReason, SelectedVariant

Context = Mapping[str, Any]

FLAG_NOT_FOUND: Final = fallback(FallbackReason.flag_not_found())


def evaluate(flag: CompiledFlag, context: Context) -> SelectedVariant:
    """Return the variant that the context's user gets, or a fallback (value None) and its reason.

    The context holds the assignment value under the flag's context key, and `custom_properties`
    for runtime rules. A missing or falsy assignment value, 0 included, is MISSING_CONTEXT_KEY.
    """
    return flag.decide(context)


def evaluate_flag(definitions: Definitions, flag_key: str, context: Context) -> SelectedVariant:
    """Evaluate a flag by its key, which may be unknown or belong to a malformed definition."""
    flag = definitions.flags.get(flag_key)
    if flag is not None:
        return flag.decide(context)
    return definitions.unusable.get(flag_key, FLAG_NOT_FOUND)


class Snapshot:
    """Flags for one user, from definitions that no longer change; each is evaluated once.

    Make one per request: all checks in it see the same definitions, context and variants, and share
    the user's hash. The context is copied: later changes to it have no effect.
    """

    __slots__ = ("_context", "_definitions", "_evaluated")

    def __init__(
        self,
        definitions: Definitions,
        context: Context,
        overrides: Mapping[str, SelectedVariant] | None = None,
    ) -> None:
        self._definitions = definitions
        self._context = _copy_context(context)
        self._evaluated: dict[str, SelectedVariant] = dict(overrides or {})

    def get_variant(
        self, flag_key: str, fallback_value: SelectedVariant | None = None
    ) -> SelectedVariant:
        """Return the variant of a flag, or the fallback with the reason."""
        selected = self._evaluated.get(flag_key)
        if selected is None:
            selected = evaluate_flag(self._definitions, flag_key, self._context)
            self._evaluated[flag_key] = selected
        return selected if fallback_value is None else selected.with_fallback(fallback_value)

    def get_variant_value(self, flag_key: str, fallback_value: Any) -> Any:
        """Return the value of a flag's variant, or the fallback."""
        selected = self.get_variant(flag_key)
        return fallback_value if selected.fallback_reason is not None else selected.variant_value

    def is_enabled(self, flag_key: str) -> bool:
        """Return True if the flag's value is exactly true."""
        return self.get_variant(flag_key).variant_value is True

    def get_all(self, flag_keys: Iterable[str] | None = None) -> dict[str, SelectedVariant]:
        """Return the variants that rollouts or test users chose; fallbacks are left out."""
        definitions, evaluated, context = self._definitions.flags, self._evaluated, self._context
        keys = definitions if flag_keys is None else list(flag_keys)
        for key in keys:
            if key not in evaluated and key in definitions:
                decide = definitions[
                    key
                ].decide  # calling it as an attribute would take twice as long
                evaluated[key] = decide(context)
        known = (
            evaluated.items()
            if flag_keys is None
            else [(key, evaluated[key]) for key in keys if key in evaluated]
        )
        return {key: selected for key, selected in known if selected.fallback_reason is None}

    def bootstrap(self, flag_keys: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the variants in the format of remote evaluation, to initialize a front end.

        Reports no exposures: the front end reports those of the variants that it shows.
        """
        return {
            key: {
                "variant_key": selected.variant_key,
                "variant_value": selected.variant_value,
                "experiment_id": selected.experiment_id,
                "is_experiment_active": selected.is_experiment_active,
                "is_qa_tester": selected.is_qa_tester,
            }
            for key, selected in self.get_all(flag_keys).items()
        }


def _copy_context(context: Context) -> Context:
    """Copy a context, nested values included; an invalid one is returned as it is."""
    try:
        return {key: copy_json(value) for key, value in context.items()}
    except Exception:
        return context
