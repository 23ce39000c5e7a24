"""Limit the work of a check: rules that iterate could otherwise take unbounded time.

A step is one operation on one item of a list, or one item of a list that is read, copied, joined or
searched. Texts cost a step for every few hundred characters. Operations that a rule evaluates only
once cost nothing here: `limits` bounds their number when definitions load.
"""

import threading
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MAX_STEPS: Final = 100_000
"""Steps of one check, all rules of a flag together: some ten milliseconds."""

UNCOUNTED_OPERATIONS: Final = 64
"""A flag whose rules are plain comparisons, no more than this, runs without a budget."""

_COPY_SHIFT: Final = 8  # searching or copying a text, done in C, costs a step per 256 characters
_PARSE_SHIFT: Final = 4  # a regular expression, or splitting, costs a step per 16


class TooManyStepsError(Exception):
    """A check used up its budget of steps."""

    def __init__(self) -> None:
        super().__init__(f"takes more than {MAX_STEPS:,} steps: its lists are too long")


class Budget:
    """The steps left for one check."""

    __slots__ = ("left",)

    def __init__(self, steps: int | None = None) -> None:
        self.left = MAX_STEPS if steps is None else steps

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function within this budget.

        A check made while this one runs (by a signal handler or a finalizer) has a budget of its
        own; this one applies again afterwards.
        """
        outer, _current.budget = _current.budget, self
        try:
            return function(*args, **kwargs)
        finally:
            _current.budget = outer


class _Current(threading.local):
    """This thread's current budget; without one nothing is counted."""

    budget: Budget | None = None


_current: Final = _Current()


def charge(steps: int) -> None:
    """Take steps from the current budget.

    :raises TooManyStepsError: fewer are left.
    """
    budget = _current.budget
    if budget is not None:
        budget.left -= steps
        if budget.left < 0:
            raise TooManyStepsError


def charge_text(text: str) -> None:
    """Take the steps for searching or copying a text."""
    charge(len(text) >> _COPY_SHIFT)


def charge_parsing(text: str) -> None:
    """Take the steps for parsing a text."""
    charge(len(text) >> _PARSE_SHIFT)


def charge_items(value: Any) -> None:
    """Take the steps for walking through a value, lists and dicts in it included."""
    if isinstance(value, str):
        charge_text(value)
    elif isinstance(value, list | tuple):
        charge(len(value))
        for item in value:
            charge_items(item)
    elif isinstance(value, dict):
        charge(len(value))
        for item in value.values():
            charge_items(item)


def current_budget() -> Budget | None:
    """Return the budget of the check that this thread makes; None if nothing is counted."""
    return _current.budget
