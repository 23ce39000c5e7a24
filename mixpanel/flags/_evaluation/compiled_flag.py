"""Compile one flag into what evaluation reads.

Everything that does not depend on a user is decided here: integer thresholds, the variant of each
bucket, compiled rules, ready-made results.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from pydantic_core import to_json

from mixpanel.flags._evaluation.hashing import BUCKETS, MASK, Recent, Salt, state_of
from mixpanel.flags._rules.codegen import Branch, Decide, Taken, deciding, fallback, is_container
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
NOT_IN_SHARE: Final[Taken] = (None,)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRollout:
    """Hold one rollout: users whose bucket is below `threshold` take part.

    `variants` has the variant of each bucket that users are split into; `reason` says why only
    Mixpanel can decide it.
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
    def serves_one(self) -> bool:
        """Tell whether all users get the same variant."""
        return len(set(map(id, self.variants))) == 1


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """Hold one flag, compiled to `decide`; `shares` remembers in which rollouts recent users are.

    `revision` changes with the flag's text. `reachable` are the rollouts that can take anybody.
    """

    key: str
    context_key: str
    revision: str
    flag: ExperimentationFlag
    engine: Engine
    variants: tuple[SelectedVariant, ...]
    test_users: Mapping[str, SelectedVariant]
    rollouts: tuple[CompiledRollout, ...]
    reachable: tuple[int, ...]
    shares: Recent[str, Taken]
    decide: Decide
    diagnostics: tuple[Diagnostic, ...]
    size: Size

    @property
    def variant_salt(self) -> str:
        """Return the salt under which users are split among variants."""
        return f"{self.key}{self.flag.hash_salt or ''}variant"

    def rollout_salt(self, index: int) -> str:
        """Return the salt under which a rollout takes its share of users."""
        salt = self.flag.hash_salt
        return f"{self.key}rollout" if salt is None else f"{self.key}{salt}{index}"

    @property
    def is_partial(self) -> bool:
        """Tell whether a rollout exists that cannot be decided locally."""
        return any(rollout.reason is not None for rollout in self.rollouts)


class NoVariantsError(ValueError):
    """Say that a flag has nothing to serve."""


class FlagCompiler:
    """Compile flags that share a rule engine, hash states of users and salts."""

    def __init__(self, engine: Engine, remembered_users: int = REMEMBERED_USERS) -> None:
        self.engine = engine
        self._remembered_users = remembered_users
        self._states: Recent[str, int] = Recent(remembered_users, state_of)
        self._salts: dict[str, Salt] = {}

    def compile(self, raw: Any, previous: Definition | None = None) -> Definition:
        """Compile one flag, or return the previous definition if its text is the same.

        :raises ValueError: the flag is malformed, beyond a limit or has no variants.
        """
        revision = blake2b(to_json(raw), digest_size=8).hexdigest()
        if previous is not None and previous.revision == revision:
            return previous
        check_lengths(raw)
        flag = ExperimentationFlag.model_validate(raw)
        variants = sorted(flag.ruleset.variants, key=lambda variant: variant.key)
        if not variants:
            raise NoVariantsError("no variants: nothing to serve")
        selected = tuple(_selected(flag, variant, is_qa_tester=None) for variant in variants)
        prefix = Salt(flag.key + (flag.hash_salt or ""))
        rollouts = tuple(self._rollouts(flag, prefix, variants, selected))
        size = sum((rollout.size for rollout in rollouts), Size(rollouts=len(rollouts)))
        reachable = [index for index, rollout in enumerate(rollouts) if rollout.threshold]
        shares = Recent(
            self._remembered_users,
            self._shares(prefix, [rollouts[index] for index in reachable]),
        )
        test_users = _test_users(flag, variants)
        return Definition(
            key=flag.key,
            context_key=flag.context,
            revision=revision,
            flag=flag,
            engine=self.engine,
            variants=selected,
            test_users=test_users,
            rollouts=rollouts,
            reachable=tuple(reachable),
            shares=shares,
            decide=deciding(
                flag.context,
                test_users,
                [_branch(index, rollouts[index]) for index in reachable],
                shares,
                self.engine,
            ),
            diagnostics=tuple(_undecidable(flag, rollouts)),
            size=size,
        )

    def _rollouts(
        self,
        flag: ExperimentationFlag,
        prefix: Salt,
        variants: Sequence[Variant],
        selected: Sequence[SelectedVariant],
    ) -> Iterator[CompiledRollout]:
        """Compile the rollouts; without a hash_salt they share one salt, hence a user's bucket."""
        shared = prefix + self._salt("rollout")
        named = _positions(variants)
        # Most rollouts split their users alike, and what is alike is kept once.
        served: dict[tuple[int | None, tuple[float, ...]], tuple[SelectedVariant, ...]] = {}
        size = Size()
        for index, rollout in enumerate(flag.ruleset.rollout):
            test, reason, rule = self._test(rollout, index)
            size += rule
            check_flag(size)
            override = rollout.variant_override
            overridden = None if override is None else named.get(override.key.casefold())
            splits = rollout.variant_splits or {}
            alike = overridden, tuple(splits.get(each.key, each.split) for each in variants)
            if alike not in served:
                winners = (
                    [overridden] * BUCKETS
                    if overridden is not None
                    else winner_of_each_bucket(variants, splits)
                )
                served[alike] = tuple(selected[winner] for winner in winners)
            yield CompiledRollout(
                rollout=rollout,
                salt=shared if flag.hash_salt is None else prefix + self._salt(str(index)),
                threshold=threshold_of(rollout.rollout_percentage),
                test=test,
                reason=reason,
                override=None if overridden is None else selected[overridden],
                variants=served[alike],
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
            return test, FallbackReason("COHORT_ROLLOUT", f"rollout {index}: for a cohort"), size
        if rollout.runtime_event_rule:
            message = f"rollout {index}: depends on past events"
            return test, FallbackReason("RUNTIME_EVENT_ROLLOUT", message), size
        return test, None, size

    def _salt(self, suffix: str) -> Salt:
        return self._salts.setdefault(suffix, Salt(suffix))

    def _shares(self, prefix: Salt, rollouts: Sequence[CompiledRollout]) -> Callable[[str], Taken]:
        """Return what finds a user's variant in each rollout, None where the share has no user.

        After a rollout that is certain to take the user nothing matters, so all others are None.
        """
        states, mask = self._states, MASK
        variant = prefix + self._salt("variant")
        variant_power = variant.power
        count, last = len(rollouts), rollouts[-1:]
        served = {id(rollout.variants): rollout.variants for rollout in rollouts}
        tuples = {key: [(each,) for each in variants] for key, variants in served.items()}
        drawn = [
            (
                rollout.threshold,
                rollout.salt,
                rollout.salt.power,
                tuples[id(rollout.variants)],
                (rollout.variants[0],) if rollout.serves_one else None,
                rollout.test is None and rollout.reason is None and rollout not in last,
            )
            for rollout in rollouts
        ]

        # The formula of Salt.after is written out: a call costs as much as the hash itself.
        def shares_of(value: str) -> Taken:
            state = states[value]
            low = state & 0xFF
            hashed: Salt | None = None
            bucket, variant_bucket = 0, -1
            taken: Taken = ()
            for threshold, salt, power, variants, only, certain in drawn:
                if threshold < BUCKETS:
                    if salt is not hashed:
                        hashed = salt
                        bucket = (state * power + salt[low] & mask) % BUCKETS
                    if bucket >= threshold:
                        taken += NOT_IN_SHARE
                        continue
                if only is None:
                    if variant_bucket < 0:
                        variant_bucket = (state * variant_power + variant[low] & mask) % BUCKETS
                    taken += variants[variant_bucket]
                else:
                    taken += only
                if certain:
                    return taken + NOT_IN_SHARE * (count - len(taken))
            return taken

        return shares_of


def _branch(index: int, rollout: CompiledRollout) -> Branch:
    return Branch(
        index,
        rollout.test,
        None if rollout.reason is None else fallback(rollout.reason),
        any(map(is_container, {id(each): each for each in rollout.variants}.values())),
        rollout.size.operations,
    )


@lru_cache(maxsize=1024)
def threshold_of(rollout_percentage: float) -> int:
    """Return how many of the hundred buckets a rollout takes, by the official comparison."""
    return sum(bucket / BUCKETS < rollout_percentage for bucket in range(BUCKETS))


def winner_of_each_bucket(variants: Sequence[Variant], splits: Mapping[str, float]) -> list[int]:
    """Return the position of the variant that each bucket gets.

    Shares are added up as doubles, in the order of the keys, exactly as the official SDK does:
    0.01 + 0.05 covers bucket 6 as well. What the shares leave over goes to the last variant.
    """
    total, bounds = 0.0, []
    for variant in variants:
        total += splits.get(variant.key, variant.split)
        bounds.append(total)
    winners, winner = [], 0
    for bucket in range(BUCKETS):
        while winner < len(bounds) and not bucket / BUCKETS < bounds[winner]:
            winner += 1
        winners.append(min(winner, len(bounds) - 1))
    return winners


def named_variant(variants: Sequence[Variant], key: str) -> int | None:
    """Return the position of the first variant whose key is this one in another case, if any."""
    return _positions(variants).get(key.casefold())


def _positions(variants: Sequence[Variant]) -> dict[str, int]:
    """Return the position of each casefolded key, of those alike the first."""
    return {variants[at].key.casefold(): at for at in reversed(range(len(variants)))}


def _selected(
    flag: ExperimentationFlag, variant: Variant, *, is_qa_tester: bool | None
) -> SelectedVariant:
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
            message = f"variant {variant.key!r} is sticky: local evaluation always assigns anew"
            yield Diagnostic("sticky", flag.key, message)
