"""Make `help()` show what a generic method returns on the class that it is called on."""

from __future__ import annotations

import inspect
from types import FunctionType, NoneType
from typing import Any, TypeVar, get_args

__all__ = ["resolve_outcome"]

OUTCOME = "Outcome"  # the annotation of a method that is shared by async and sync classes


def resolve_outcome(cls: type) -> None:
    """Give a class its own copies of the shared methods, annotated with their return type.

    `class CustomerIO(SegmentMethods[None])` states that the methods return None, but they are
    defined once and annotated with the type variable `Outcome`. Type checkers resolve it;
    `help()` and `inspect.signature()` read the function, so each class needs one of its own.
    A copy shares the code of the original and costs nothing when it is called.
    """
    outcome = _outcome_of(cls)
    if outcome is None:
        return
    for name in sorted({name for base in cls.__mro__ for name in vars(base)}):
        method = inspect.getattr_static(cls, name)
        if name.startswith("_") or not isinstance(method, FunctionType):
            continue
        signature = inspect.signature(method)
        if signature.return_annotation == OUTCOME:
            setattr(cls, name, _copy(method, signature, outcome))


def _outcome_of(cls: type) -> Any:
    """Return the type argument that replaces `Outcome`; None if the class leaves it open."""
    arguments = (each for base in getattr(cls, "__orig_bases__", ()) for each in get_args(base))
    return next((each for each in arguments if not isinstance(each, TypeVar)), None)


def _copy(method: FunctionType, signature: inspect.Signature, outcome: Any) -> FunctionType:
    returned = None if outcome is NoneType else outcome
    copy = FunctionType(
        method.__code__,
        method.__globals__,
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )
    copy.__kwdefaults__ = method.__kwdefaults__
    copy.__dict__.update(method.__dict__)
    copy.__doc__ = method.__doc__
    copy.__module__ = method.__module__
    copy.__qualname__ = method.__qualname__
    copy.__annotations__ = {**method.__annotations__, "return": returned}
    copy.__signature__ = signature.replace(  # type: ignore[attr-defined] # read by inspect
        return_annotation=returned
    )
    return copy
