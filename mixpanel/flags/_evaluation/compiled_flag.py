"""Compile flag definitions: everything that does not depend on a user is computed here, once.

That is the number of buckets in each rollout, the variant of each bucket, the rules, the results
and the function that decides.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from pydantic_core import to_json

from mixpanel.flags._evaluation.hashing import BUCKETS, MASK, BoundedCache, Salt, state_of
from mixpanel.flags._results import fallback, has_mutable_value
from mixpanel.flags._rules.codegen import Assigned, Branch, Decide, compile_flag
from mixpanel.flags._rules.engines import Engine, Predicate, compile_legacy
from mixpanel.flags._rules.limits import (
    RuleError,
    Size,
    check_flag,
    check_lengths,
    legacy_size,
    rule_size,
)
from mixpanel.flags.diagnostics import Diagnostic, DiagnosticKind
from mixpanel.flags.types import (
    ExperimentationFlag,
    FallbackReason,
    Rollout,
    SelectedVariant,
    Variant,
    VariantSource,
)

REMEMBERED_USERS: Final = 1024
NOT_ASSIGNED: Final[Assigned] = (None,)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRollout:
    """One rollout: it includes the users whose bucket is below `threshold`.

    `variants` has the variant of each bucket that its users are split into. `reason` is why only
    Mixpanel's servers can decide it, if that is so.
    """

    rollout: Rollout
    salt: Salt
    threshold: int
    test: Predicate | None
    reason: FallbackReason | None
    override: SelectedVariant | None
    variants: tuple[SelectedVariant, ...]
    size: Size

    @property
    def has_one_variant(self) -> bool:
        """True if all its users get the same variant."""
        return len(set(map(id, self.variants))) == 1


@dataclass(frozen=True, slots=True, eq=False)
class CompiledFlag:
    """One flag, compiled to the function `decide`.

    `assignments` caches the variants of recent users, one for each of the `reachable` rollouts:
    those whose percentage includes any user. `revision` changes with the text of the definition.
    """

    key: str
    context_key: str
    revision: str
    definition: ExperimentationFlag
    engine: Engine
    variants: tuple[SelectedVariant, ...]
    test_users: Mapping[str, SelectedVariant]
    rollouts: tuple[CompiledRollout, ...]
    reachable: tuple[int, ...]
    assignments: BoundedCache[str, Assigned]
    decide: Decide
    diagnostics: tuple[Diagnostic, ...]
    size: Size

    @property
    def variant_salt(self) -> str:
        """The salt that splits users among variants."""
        return f"{self.key}{self.definition.hash_salt or ''}variant"

    def rollout_salt(self, index: int) -> str:
        """Return the salt that decides which users a rollout includes."""
        salt = self.definition.hash_salt
        return f"{self.key}rollout" if salt is None else f"{self.key}{salt}{index}"

    @property
    def is_partial(self) -> bool:
        """True if it has a rollout that cannot be decided locally."""
        return any(rollout.reason is not None for rollout in self.rollouts)


class NoVariantsError(ValueError):
    """A flag has no variants."""


class FlagCompiler:
    """Compile flags that share a rule engine, and the cached hashes of users and salts."""

    def __init__(self, engine: Engine, remembered_users: int = REMEMBERED_USERS) -> None:
        self.engine = engine
        self._remembered_users = remembered_users
        self._states: BoundedCache[str, int] = BoundedCache(remembered_users, state_of)
        self._salts: dict[str, Salt] = {}

    def compile(self, raw: Any, previous: CompiledFlag | None = None) -> CompiledFlag:
        """Compile one flag, or return `previous` if the text of the definition is the same.

        :raises ValueError: the flag is malformed, exceeds a limit or has no variants.
        """
        # Most polls change few flags. One that did not change keeps its function and its cache.
        revision = blake2b(to_json(raw), digest_size=8).hexdigest()
        if previous is not None and previous.revision == revision:
            return previous
        check_lengths(raw)
        ignored: list[str] = []
        flag = ExperimentationFlag.model_validate(raw, context=ignored)
        variants = sorted(flag.ruleset.variants, key=lambda variant: variant.key)
        if not variants:
            raise NoVariantsError("the flag has no variants")
        selected = tuple(_selected(flag, variant, is_qa_tester=None) for variant in variants)
        prefix = Salt(flag.key + (flag.hash_salt or ""))
        rollouts = tuple(self._rollouts(flag, prefix, variants, selected))
        size = sum((rollout.size for rollout in rollouts), Size(rollouts=len(rollouts)))
        reachable = [index for index, rollout in enumerate(rollouts) if rollout.threshold]
        assignments = BoundedCache(
            self._remembered_users,
            self._assignments(prefix, [rollouts[index] for index in reachable]),
        )
        test_users = _test_users(flag, variants)
        return CompiledFlag(
            key=flag.key,
            context_key=flag.context,
            revision=revision,
            definition=flag,
            engine=self.engine,
            variants=selected,
            test_users=test_users,
            rollouts=rollouts,
            reachable=tuple(reachable),
            assignments=assignments,
            decide=compile_flag(
                flag.context,
                test_users,
                [_branch(index, rollouts[index]) for index in reachable],
                assignments,
                prepare=self.engine.prepare,
                casefolded_names=self.engine.casefolded_names,
                bounds_small_flags=self.engine.bounds_small_flags,
            ),
            diagnostics=(*_undecidable(flag, rollouts), *_unusable_parts(flag, ignored)),
            size=size,
        )

    def _rollouts(
        self,
        flag: ExperimentationFlag,
        prefix: Salt,
        variants: Sequence[Variant],
        selected: Sequence[SelectedVariant],
    ) -> Iterator[CompiledRollout]:
        """Compile the rollouts; without a hash_salt all share one salt, hence a user's bucket."""
        shared_salt = prefix + self._salt("rollout")
        positions = _positions(variants)
        # Most rollouts of a flag split their users in the same way; they share one tuple.
        by_split: dict[tuple[int | None, tuple[float, ...]], tuple[SelectedVariant, ...]] = {}
        size = Size()
        for index, rollout in enumerate(flag.ruleset.rollout):
            test, reason, rule = self._test(rollout, index)
            size += rule
            check_flag(size)
            override = rollout.variant_override
            overridden = None if override is None else positions.get(override.key.casefold())
            splits = rollout.variant_splits or {}
            split = overridden, tuple(splits.get(each.key, each.split) for each in variants)
            if split not in by_split:
                of_bucket = (
                    [overridden] * BUCKETS
                    if overridden is not None
                    else variant_of_each_bucket(variants, splits)
                )
                by_split[split] = tuple(selected[position] for position in of_bucket)
            yield CompiledRollout(
                rollout=rollout,
                salt=shared_salt if flag.hash_salt is None else prefix + self._salt(str(index)),
                threshold=threshold_of(rollout.rollout_percentage),
                test=test,
                reason=reason,
                override=None if overridden is None else selected[overridden],
                variants=by_split[split],
                size=rule,
            )

    def _test(
        self, rollout: Rollout, index: int
    ) -> tuple[Predicate | None, FallbackReason | None, Size]:
        test: Predicate | None = None
        size = Size()
        try:
            if rollout.runtime_evaluation_rule:
                size = rule_size(rollout.runtime_evaluation_rule)
                test = self.engine.compile(rollout.runtime_evaluation_rule)
            elif rollout.runtime_evaluation_definition:
                size = legacy_size(rollout.runtime_evaluation_definition)
                test = compile_legacy(rollout.runtime_evaluation_definition)
        except (RuleError, RecursionError) as error:
            return None, FallbackReason("RULE_ERROR", f"rollout {index}: {error}"), size
        if rollout.cohort_hash:
            return (
                test,
                FallbackReason("COHORT_ROLLOUT", f"rollout {index}: for a cohort"),
                size,
            )
        if rollout.runtime_event_rule:
            message = f"rollout {index}: depends on past events"
            return test, FallbackReason("RUNTIME_EVENT_ROLLOUT", message), size
        return test, None, size

    def _salt(self, suffix: str) -> Salt:
        return self._salts.setdefault(suffix, Salt(suffix))

    def _assignments(
        self, prefix: Salt, rollouts: Sequence[CompiledRollout]
    ) -> Callable[[str], Assigned]:
        """Return a function that finds a user's variant in each rollout; None if not included.

        After a rollout that is certain to serve the user the others do not matter: they are None.
        """
        states, mask = self._states, MASK
        variant = prefix + self._salt("variant")
        variant_power = variant.power
        count, last = len(rollouts), rollouts[-1:]
        by_id = {id(rollout.variants): rollout.variants for rollout in rollouts}
        singles = {key: [(each,) for each in variants] for key, variants in by_id.items()}
        # Made once: the loop below runs for each user whose variants are not cached.
        steps = [
            (
                rollout.threshold,
                rollout.salt,
                rollout.salt.power,
                singles[id(rollout.variants)],
                (rollout.variants[0],) if rollout.has_one_variant else None,
                rollout.test is None and rollout.reason is None and rollout not in last,
            )
            for rollout in rollouts
        ]

        # The formula of Salt.after is written inline: a call costs as much as the hash itself.
        def assigned_to(value: str) -> Assigned:
            state = states[value]
            low = state & 0xFF
            hashed: Salt | None = None
            bucket, variant_bucket = 0, -1
            assigned: Assigned = ()
            for threshold, salt, power, variants, only, certain in steps:
                if threshold < BUCKETS:
                    # Rollouts with one salt share the bucket. All rollouts share the bucket of the
                    # variant, so that a user keeps the variant when another rollout comes to serve
                    # it.
                    if salt is not hashed:
                        hashed = salt
                        bucket = (state * power + salt[low] & mask) % BUCKETS
                    if bucket >= threshold:
                        assigned += NOT_ASSIGNED
                        continue
                if only is None:
                    if variant_bucket < 0:
                        variant_bucket = (state * variant_power + variant[low] & mask) % BUCKETS
                    assigned += variants[variant_bucket]
                else:
                    assigned += only
                if certain:
                    return assigned + NOT_ASSIGNED * (count - len(assigned))
            return assigned

        return assigned_to


def _branch(index: int, rollout: CompiledRollout) -> Branch:
    distinct_variants = {id(each): each for each in rollout.variants}.values()
    return Branch(
        index,
        rollout.test,
        undecidable=None if rollout.reason is None else fallback(rollout.reason),
        copies=any(map(has_mutable_value, distinct_variants)),
        operations=rollout.size.operations,
    )


@lru_cache(maxsize=1024)
def threshold_of(rollout_percentage: float) -> int:
    """Return how many of the hundred buckets a rollout includes.

    The comparison is that of the official SDK: 0.005 includes bucket 0, hence 1 % of all users.
    """
    return sum(bucket / BUCKETS < rollout_percentage for bucket in range(BUCKETS))


def variant_of_each_bucket(variants: Sequence[Variant], splits: Mapping[str, float]) -> list[int]:
    """Return the position of the variant that each bucket gets.

    Splits are added up as doubles, in the order of the keys, exactly as the official SDK does:
    0.01 + 0.05 covers bucket 6 as well. Buckets that the splits leave over get the last variant.
    """
    total, upper_bounds = 0.0, []
    for variant in variants:
        total += splits.get(variant.key, variant.split)
        upper_bounds.append(total)
    positions, position = [], 0
    for bucket in range(BUCKETS):
        while position < len(upper_bounds) and not bucket / BUCKETS < upper_bounds[position]:
            position += 1
        positions.append(min(position, len(upper_bounds) - 1))
    return positions


def _positions(variants: Sequence[Variant]) -> dict[str, int]:
    """Return the position of each key, casefolded; of keys that differ in case only, the first."""
    return {variants[at].key.casefold(): at for at in reversed(range(len(variants)))}


def _selected(
    flag: ExperimentationFlag, variant: Variant, *, is_qa_tester: bool | None
) -> SelectedVariant:
    if "value" not in variant.model_fields_set:
        # None would look like the value that was decided on.
        return fallback(FallbackReason("PARSE_ERROR", f"variant {variant.key!r} has no value"))
    return SelectedVariant(
        variant.value,
        variant.key,
        flag.experiment_id,
        flag.is_experiment_active,
        is_qa_tester,
        VariantSource.LOCAL,
    )


def _test_users(
    flag: ExperimentationFlag, variants: Sequence[Variant]
) -> Mapping[str, SelectedVariant]:
    users = flag.ruleset.test.users if flag.ruleset.test is not None else {}
    served = {
        key: _selected(flag, variants[position], is_qa_tester=True)
        for key, position in _positions(variants).items()
    }
    found = ((user, key.casefold()) for user, key in users.items())
    return {user: served[key] for user, key in found if key in served}


def _unusable_parts(flag: ExperimentationFlag, ignored: Sequence[str]) -> Iterator[Diagnostic]:
    if ignored:
        names = ", ".join(sorted(set(ignored)))
        yield Diagnostic("ignored_field", flag.key, f"of the wrong type, hence ignored: {names}")
    for variant in flag.ruleset.variants:
        if "value" not in variant.model_fields_set:
            message = f"variant {variant.key!r} has no value: its users get the fallback"
            yield Diagnostic("no_value", flag.key, message)


_KINDS: Final[dict[str, DiagnosticKind]] = {
    "RULE_ERROR": "rule",
    "COHORT_ROLLOUT": "cohort",
    "RUNTIME_EVENT_ROLLOUT": "runtime_event",
}


def _undecidable(
    flag: ExperimentationFlag, rollouts: Sequence[CompiledRollout]
) -> Iterator[Diagnostic]:
    for index, rollout in enumerate(rollouts):
        if rollout.reason is not None:
            message = (rollout.reason.message or "").removeprefix(f"rollout {index}: ")
            yield Diagnostic(_KINDS[rollout.reason.kind], flag.key, message, index)
    for variant in flag.ruleset.variants:
        if variant.is_sticky:
            message = f"variant {variant.key!r} is sticky: local evaluation ignores that"
            yield Diagnostic("sticky", flag.key, message)
