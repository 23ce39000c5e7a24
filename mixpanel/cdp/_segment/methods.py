"""The calls of the Segment spec: made of a composer's methods, whatever their outcome."""

from __future__ import annotations

import functools
import inspect
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from mixpanel._records.record import Properties, mapping
from mixpanel.cdp._segment.composer import Message, SegmentComposer
from mixpanel.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["SegmentMethods", "sent"]

Outcome = TypeVar("Outcome")
P = ParamSpec("P")


class Verb(Protocol[P]):
    """A method that has the parameters of a composer's and the outcome of its client."""

    @overload
    def __get__(
        self, client: SegmentMethods[Outcome], owner: Any = None, /
    ) -> Callable[P, Outcome]: ...
    @overload
    def __get__(self, client: None, owner: Any, /) -> Callable[Concatenate[Any, P], Any]: ...


def sent(compose: Callable[Concatenate[Any, P], Message]) -> Verb[P]:
    """Make the verb that composes a message and delivers it; it keeps name, signature and docs.

    It is written out with its parameters: to pass on `*args` and `**kwargs` would cost each call
    a tenth of what it takes to compose a message.
    """
    taken, given = ["client"], ["client._composer"]
    _, *parameters = inspect.signature(compose).parameters.values()
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and "*" not in taken:
            taken.append("*")
        stars = "**" if each.kind is each.VAR_KEYWORD else ""
        taken.append(stars + each.name)
        named = each.kind is each.KEYWORD_ONLY
        given.append(f"{each.name}={each.name}" if named else stars + each.name)
    source = (
        f"def verb({', '.join(taken)}):\n"
        f"    return client._deliver_one(compose({', '.join(given)}))"
    )
    made: dict[str, Any] = {"compose": compose}
    exec(compile(source, f"<{compose.__qualname__}>", "exec"), made)  # noqa: S102
    verb = made["verb"]
    verb.__defaults__, verb.__kwdefaults__ = compose.__defaults__, compose.__kwdefaults__
    return cast("Verb[P]", functools.wraps(compose)(verb))


class SegmentMethods(Generic[Outcome]):
    """Identify people and groups, and track what they do.

    Every method takes its message at once: it is composed, checked and serialised before the call
    returns, and later changes to the given dicts are not seen.

    :raises ValidationError: for what no server would keep.
    :raises QueueFullError: with `when_full="raise"`, when the buffer is full.
    :raises ClosedError: after the client was closed.
    :raises DeliveryError: only with `direct`.
    """

    _composes: type[SegmentComposer] = SegmentComposer
    _composer: SegmentComposer

    def _deliver(self, messages: list[Message]) -> Outcome:
        raise NotImplementedError

    def _deliver_one(self, message: Message) -> Outcome:
        return self._deliver([message])

    def _deliver_all(self, messages: list[Message]) -> Outcome:
        return self._deliver(messages)

    identify: Final = sent(SegmentComposer.identify)
    track: Final = sent(SegmentComposer.track)
    page: Final = sent(SegmentComposer.page)
    screen: Final = sent(SegmentComposer.screen)
    group: Final = sent(SegmentComposer.group)
    alias: Final = sent(SegmentComposer.alias)

    def batch(
        self,
        messages: Iterable[Mapping[str, Any]],
        context: Properties | None = None,
        integrations: Properties | None = None,
    ) -> Outcome:
        """Send many messages that have the wire's shape, `{"type": "track", "userId": …}`.

        Id, time and context are added where they are missing. All are checked before the first is
        sent. They keep their order, and may come in any number: requests are filled to the limits.

        :param context: stands under that of each message, name by name; so do `integrations`.
        :raises ValidationError: when one is none, naming its index, or when there are none at all;
            then none is sent.
        """
        given = {"context": context, "integrations": integrations}
        shared = {name: mapping(value, name) for name, value in given.items() if value is not None}
        composed = []
        for index, message in enumerate(messages):
            try:
                composed.append(self._composer.wire(_under(message, shared) if shared else message))
            except ValidationError as error:
                problems = [f"message {index}: {problem}" for problem in error.problems]
                raise ValidationError(problems) from error
        if not composed:
            raise ValidationError(["the batch is empty: there is nothing to send"])
        return self._deliver_all(composed)


def _under(message: Mapping[str, Any], shared: Mapping[str, Properties]) -> dict[str, Any]:
    own = mapping(message, "a message")
    join_bodies = {
        name: {**below, **mapping(own.get(name) or {}, name)} for name, below in shared.items()
    }
    return {**own, **join_bodies}
