"""The operators that Mixpanel adds to JsonLogic, under the official module's names."""

from mixpanel.flags._rules.comparisons import datetime_compare, semver_compare

__all__ = ["datetime_compare", "semver_compare"]
