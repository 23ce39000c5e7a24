"""Make the results of an evaluation: fallbacks with their reason, variants that a caller owns."""

from dataclasses import replace
from typing import Any

from mixpanel._records.values import is_missing
from mixpanel.flags._rules.budget import TooManyStepsError
from mixpanel.flags.types import FallbackReason, SelectedVariant, VariantSource


def fallback(reason: FallbackReason) -> SelectedVariant:
    """Return the result of an evaluation that selected no variant."""
    return SelectedVariant(None, variant_source=VariantSource.FALLBACK, fallback_reason=reason)


def rule_error(index: int, error: Exception) -> FallbackReason:
    """Return the reason for a rule that failed, without the property values that it read."""
    # The text of other errors may repeat a user's data, so only their type is named.
    text = str(error) if isinstance(error, TooManyStepsError) else f"raised {type(error).__name__}"
    return FallbackReason("RULE_ERROR", f"rollout {index}: the rule {text}")


class AssignmentError(TypeError):
    """The value that a flag is assigned by is not a single value."""


def assignment_text(value: Any) -> str:
    """Return the text that decides which variant a value is assigned.

    :raises AssignmentError: for a list, a dict or a set. Its text depends on how Python writes it,
        and a group in a list of others would not get the variant that it gets alone.
    """
    if isinstance(value, list | tuple | dict | set | frozenset):
        raise AssignmentError(f"the assignment value is a {type(value).__name__}: pass one id")
    if is_missing(value):
        raise AssignmentError("the assignment value is missing")
    return str(value)


def invalid_context(error: Exception) -> FallbackReason:
    """Return the reason for a context that cannot be read."""
    if isinstance(error, AssignmentError):
        return FallbackReason("INVALID_CONTEXT", str(error))
    return FallbackReason("INVALID_CONTEXT", f"reading the context raised {type(error).__name__}")


def has_mutable_value(selected: SelectedVariant) -> bool:
    """Return True if the variant's value is one that a caller could change."""
    return isinstance(selected.variant_value, dict | list)


def copy_variant(selected: SelectedVariant) -> SelectedVariant:
    """Return the variant with a value that the caller may change."""
    if has_mutable_value(selected):
        return replace(selected, variant_value=copy_json(selected.variant_value))
    return selected


def copy_json(value: Any) -> Any:
    """Copy dicts and lists, to any depth."""
    if isinstance(value, dict):
        return {key: copy_json(item) for key, item in value.items()}
    return [copy_json(item) for item in value] if isinstance(value, list) else value
