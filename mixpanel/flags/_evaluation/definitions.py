"""Parse flag definitions, each flag by itself: a bad one harms no other, and is named."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from mixpanel.flags._evaluation.compiled_flag import (
    REMEMBERED_USERS,
    Definition,
    FlagCompiler,
    NoVariantsError,
)
from mixpanel.flags._rules.codegen import fallback
from mixpanel.flags._rules.engines import engine
from mixpanel.flags._rules.limits import MAX_FLAGS, Size, TooLargeError, check_total
from mixpanel.flags.diagnostics import Diagnostic, DiagnosticKind
from mixpanel.flags.types import FallbackReason, RuleEngine, SelectedVariant

NAMED: Final = 5  # mistakes of a malformed flag that are named


@dataclass(frozen=True, slots=True, eq=False)
class Definitions:
    """Hold all flags of one answer, never edited, only replaced.

    `problem` says why the answer cannot be used at all: an error page, say, or too many flags.
    `received` counts the flags in it, `unusable` has those that could not be parsed, with what to
    serve for them.
    """

    flags: Mapping[str, Definition] = field(default_factory=dict)
    unusable: Mapping[str, SelectedVariant] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()
    received: int = 0
    problem: str | None = None
    compiler: FlagCompiler | None = None


def parse_definitions(
    payload: Any,
    *,
    rule_engine: RuleEngine = "default",
    previous: Definitions | None = None,
    remembered_users: int = REMEMBERED_USERS,
) -> Definitions:
    """Parse the decoded answer of the definitions endpoint, each flag by itself.

    Flags that `previous` holds in the same revision are taken over, with what they remember of
    users; one that is malformed now and was not then stays as it was. Of two flags with the same
    key the last one wins. Nothing in the payload raises: read `problem` and `diagnostics`.

    :raises RuleEngineError: the rule engine cannot be used.
    """
    compiler = previous.compiler if previous is not None else None
    if compiler is None or compiler.engine.name != rule_engine:
        previous, compiler = None, FlagCompiler(engine(rule_engine), remembered_users)
    raws = payload.get("flags") if isinstance(payload, Mapping) else None
    if not isinstance(raws, list):
        return _refused('not an object with a list of "flags"', compiler)
    if len(raws) > MAX_FLAGS:
        return _refused(f"{len(raws):,} flags: at most {MAX_FLAGS:,}", compiler, len(raws))
    known = previous.flags if previous is not None else {}
    total = Size()
    flags: dict[str, Definition] = {}
    unusable: dict[str, SelectedVariant] = {}
    diagnostics: list[Diagnostic] = []
    for position, raw in enumerate(raws):
        key = _key_of(raw)
        if key in flags:
            diagnostics.append(Diagnostic("duplicate_key", key, "defined twice: the last one wins"))
        try:
            definition = compiler.compile(raw, known.get(key) if key is not None else None)
        except Exception as error:
            kind, message = _described(error)
            place = message if key is not None else f"flag number {position}: {message}"
            diagnostics.append(Diagnostic(kind, key, place))
            if key is not None and key not in flags:
                _set_aside(key, message, known, flags, unusable)
            continue
        if definition is not known.get(definition.key):
            time.sleep(0)  # hands the GIL to the event loops that wait for it
        total += definition.size
        try:
            check_total(total)
        except TooLargeError as error:
            return _refused(str(error), compiler, len(raws))
        flags[definition.key] = definition
        unusable.pop(definition.key, None)
    diagnostics += [found for definition in flags.values() for found in definition.diagnostics]
    return Definitions(flags, unusable, tuple(diagnostics), len(raws), None, compiler)


def _set_aside(
    key: str,
    message: str,
    known: Mapping[str, Definition],
    flags: dict[str, Definition],
    unusable: dict[str, SelectedVariant],
) -> None:
    """Keep a flag that cannot be used as it was before, or else its fallback."""
    if key in known:
        flags[key] = known[key]
    else:
        unusable[key] = fallback(FallbackReason("PARSE_ERROR", message))


def _refused(problem: str, compiler: FlagCompiler, received: int = 0) -> Definitions:
    return Definitions(
        diagnostics=(Diagnostic("payload", None, problem),),
        received=received,
        problem=problem,
        compiler=compiler,
    )


def _key_of(raw: Any) -> str | None:
    key = raw.get("key") if isinstance(raw, Mapping) else None
    return key if isinstance(key, str) else None


def _described(error: Exception) -> tuple[DiagnosticKind, str]:
    """Say what is wrong with a flag without repeating what is in it."""
    if isinstance(error, NoVariantsError):
        return "no_variants", str(error)
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:NAMED]]
        if len(found) > NAMED:
            places.append(f"and {len(found) - NAMED:,} more")
        return "malformed", "; ".join(places)
    if isinstance(error, TooLargeError):
        return "too_large", str(error)
    return "malformed", f"{type(error).__name__}: {error}"
