"""Parse flag definitions, each flag separately: a malformed one affects no other."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from mixpanel.flags._evaluation.compiled_flag import (
    REMEMBERED_USERS,
    CompiledFlag,
    FlagCompiler,
    NoVariantsError,
)
from mixpanel.flags._results import fallback
from mixpanel.flags._rules.engines import engine
from mixpanel.flags._rules.limits import MAX_FLAGS, Size, TooLargeError, check_total
from mixpanel.flags.diagnostics import Diagnostic, DiagnosticKind
from mixpanel.flags.types import FallbackReason, RuleEngine, SelectedVariant

MAX_LISTED_ERRORS: Final = 5  # of one malformed flag, in its diagnostic


@dataclass(frozen=True, slots=True, eq=False)
class Definitions:
    """All flags of one response; immutable, a new response replaces it as a whole.

    `problem` is why the response cannot be used at all: it is an error page, say, or has too many
    flags. `received` counts the flags in it; `unusable` has the fallback for each flag that could
    not be parsed.
    """

    flags: Mapping[str, CompiledFlag] = field(default_factory=dict)
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
    """Parse the decoded response of the definitions endpoint, each flag separately.

    Flags that `previous` has in the same revision are reused, with their cached users; one that is
    malformed now and was not then stays as it was. Of two flags with the same key the last one
    wins. No payload raises an error: read `problem` and `diagnostics`.

    :raises RuleEngineError: the rule engine cannot be used.
    """
    compiler = previous.compiler if previous is not None else None
    if compiler is None or compiler.engine.name != rule_engine:
        previous, compiler = None, FlagCompiler(engine(rule_engine), remembered_users)
    raws = payload.get("flags") if isinstance(payload, Mapping) else None
    if not isinstance(raws, list):
        return _refused('not an object with a list of "flags"', compiler)
    if len(raws) > MAX_FLAGS:
        return _refused(f"{len(raws):,} flags (limit: {MAX_FLAGS:,})", compiler, len(raws))
    known = previous.flags if previous is not None else {}
    total = Size()
    flags: dict[str, CompiledFlag] = {}
    unusable: dict[str, SelectedVariant] = {}
    diagnostics: list[Diagnostic] = []
    for position, raw in enumerate(raws):
        key = _key_of(raw)
        if key in flags:
            diagnostics.append(Diagnostic("duplicate_key", key, "defined twice: the last one wins"))
        try:
            flag = compiler.compile(raw, known.get(key) if key is not None else None)
        except Exception as error:
            kind, message = _describe(error)
            place = message if key is not None else f"flag number {position}: {message}"
            diagnostics.append(Diagnostic(kind, key, place))
            if key is not None and key not in flags:
                _keep_previous(key, message, known, flags, unusable)
            continue
        if flag is not known.get(flag.key):
            time.sleep(0)  # compiling is slow: release the GIL for the event loops that wait for it
        total += flag.size
        try:
            check_total(total)
        except TooLargeError as error:
            return _refused(str(error), compiler, len(raws))
        flags[flag.key] = flag
        unusable.pop(flag.key, None)
    diagnostics += [found for flag in flags.values() for found in flag.diagnostics]
    return Definitions(flags, unusable, tuple(diagnostics), len(raws), None, compiler)


def _keep_previous(
    key: str,
    message: str,
    known: Mapping[str, CompiledFlag],
    flags: dict[str, CompiledFlag],
    unusable: dict[str, SelectedVariant],
) -> None:
    """Keep the previous version of a flag that cannot be parsed, or else a fallback for it."""
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


def _describe(error: Exception) -> tuple[DiagnosticKind, str]:
    """Return what is wrong with a flag, without repeating its contents."""
    if isinstance(error, NoVariantsError):
        return "no_variants", str(error)
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in found[:MAX_LISTED_ERRORS]
        ]
        if len(found) > MAX_LISTED_ERRORS:
            places.append(f"and {len(found) - MAX_LISTED_ERRORS:,} more")
        return "malformed", "; ".join(places)
    if isinstance(error, TooLargeError):
        return "too_large", str(error)
    return "malformed", f"{type(error).__name__}: {error}"
