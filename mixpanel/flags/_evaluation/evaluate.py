"""Decide which variant a user gets: pure, without a lock, and it never raises.

The order is the official one: assignment value, test users, rollouts, splits. A rollout that only
Mixpanel's servers can decide is passed over, and becomes the reason if no other takes the user.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from mixpanel.flags._evaluation.compiled_flag import Definition
from mixpanel.flags._evaluation.definitions import Definitions
from mixpanel.flags._rules.codegen import copied, fallback
from mixpanel.flags.types import FallbackReason, SelectedVariant

Context = Mapping[str, Any]

FLAG_NOT_FOUND: Final = fallback(FallbackReason.flag_not_found())


def evaluate(definition: Definition, context: Context) -> SelectedVariant:
    """Return the variant that the context's user gets, or a fallback (value None) and its reason.

    The context holds the assignment value under the flag's context key, and `custom_properties`
    for runtime rules. A missing or falsy assignment value, 0 included, is MISSING_CONTEXT_KEY.
    """
    return definition.decide(context)


def evaluate_flag(definitions: Definitions, flag_key: str, context: Context) -> SelectedVariant:
    """Return what `evaluate` says about a flag, which may be unknown or unusable."""
    definition = definitions.flags.get(flag_key)
    if definition is not None:
        return definition.decide(context)
    return definitions.unusable.get(flag_key, FLAG_NOT_FOUND)


class Snapshot:
    """Answer for one user from definitions that no longer change: once for each flag.

    Make one for a request: every check in it sees the same definitions, context and answers, and
    they share the user's hash. The context is copied, so later changes to it are not seen.
    """

    __slots__ = ("_answers", "_context", "_definitions")

    def __init__(
        self,
        definitions: Definitions,
        context: Context,
        overrides: Mapping[str, SelectedVariant] | None = None,
    ) -> None:
        self._definitions = definitions
        self._context = _frozen(context)
        self._answers: dict[str, SelectedVariant] = dict(overrides or {})

    def get_variant(
        self, flag_key: str, fallback_value: SelectedVariant | None = None
    ) -> SelectedVariant:
        """Return the variant of a flag, or the fallback with the reason."""
        selected = self._answers.get(flag_key)
        if selected is None:
            selected = evaluate_flag(self._definitions, flag_key, self._context)
            self._answers[flag_key] = selected
        return selected if fallback_value is None else selected.or_fallback(fallback_value)

    def get_variant_value(self, flag_key: str, fallback_value: Any) -> Any:
        """Return the value of a flag's variant, or the fallback."""
        selected = self.get_variant(flag_key)
        return fallback_value if selected.fallback_reason is not None else selected.variant_value

    def is_enabled(self, flag_key: str) -> bool:
        """Tell whether the flag's value is exactly true."""
        return self.get_variant(flag_key).variant_value is True

    def get_all(self, flag_keys: Iterable[str] | None = None) -> dict[str, SelectedVariant]:
        """Return the variants that rollouts or test users chose; fallbacks are left out."""
        definitions, answers, context = self._definitions.flags, self._answers, self._context
        asked = definitions if flag_keys is None else list(flag_keys)
        for key in asked:
            if key not in answers and key in definitions:
                decide = definitions[key].decide  # looked up as a method it would cost twice
                answers[key] = decide(context)
        known = (
            answers.items()
            if flag_keys is None
            else [(key, answers[key]) for key in asked if key in answers]
        )
        return {key: selected for key, selected in known if selected.fallback_reason is None}

    def bootstrap(self, flag_keys: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return what remote evaluation would answer, for a front end to start with.

        The front end reports the exposures of what it shows; making this reports none.
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


def _frozen(context: Context) -> Context:
    """Copy a context deeply enough that nobody else can change it; one that is none stays as is."""
    try:
        return {key: copied(value) for key, value in context.items()}
    except Exception:
        return context
