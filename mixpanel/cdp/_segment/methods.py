"""The calls of the Segment spec, shared by async and sync clients."""

# What `send_method` decorates is a declaration, so it has no body:
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import functools
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    cast,
)

from mixpanel._records.record import Properties, checked_mapping
from mixpanel._runtime.signatures import named_like
from mixpanel.cdp._segment.composer import SegmentComposer
from mixpanel.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mixpanel.cdp._segment.message import Message

__all__ = ["SegmentMethods", "send_method"]

Outcome = TypeVar("Outcome")
Client = TypeVar("Client")
P = ParamSpec("P")


def send_method(
    compose: Callable[Concatenate[Any, P], Message],
    spelled_out: Callable[..., Any] | None = None,
) -> Callable[[Callable[[Client], Outcome]], Callable[Concatenate[Client, P], Outcome]]:
    """Return a decorator that makes a method compose a message and deliver it.

    The declaration gives the name and the outcome; parameters and documentation are those of
    `compose`. Like `sync_twin`, it is not an assignment, so that subclasses may override it.
    `spelled_out` does the same with each parameter passed by name or position, for methods whose
    speed matters.
    """

    def decorate(
        declared: Callable[[Client], Outcome],
    ) -> Callable[Concatenate[Client, P], Outcome]:
        def passed_on(client: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
            message = compose(client._composer, *args, **kwargs)
            if kwargs and kwargs.get("durable"):
                return client._deliver_durably([message])
            return client._deliver_one(message)

        method = functools.wraps(compose)(spelled_out or passed_on)
        # For `returning`, which puts what each class returns in the place of `Outcome`.
        method.__annotations__ = {**compose.__annotations__, "return": "Outcome"}
        return cast("Callable[Concatenate[Client, P], Outcome]", named_like(declared, method))

    return decorate


# Its parameters are those of `SegmentComposer.track`, in the same order.
def _track(
    client: Any,
    user_id: Any = None,
    event: Any = None,
    properties: Any = None,
    context: Any = None,
    timestamp: Any = None,
    anonymous_id: Any = None,
    integrations: Any = None,
    message_id: Any = None,
    *,
    group_id: Any = None,
    schema_version: Any = None,
    durable: Any = False,
) -> Any:
    # Applications call this far more often than all the others, and passing on `*args` and
    # `**kwargs` takes a tenth of the call.
    deliver = client._deliver_durably_one if durable else client._deliver_one
    return deliver(
        client._composer.track(
            user_id,
            event,
            properties,
            context,
            timestamp,
            anonymous_id,
            integrations,
            message_id,
            group_id=group_id,
            schema_version=schema_version,
        )
    )


class SegmentMethods(Generic[Outcome]):
    """Identify people and groups, and track what they do.

    A message is composed, validated and serialised before the method returns; later changes to the
    arguments have no effect.

    :raises ValidationError: for a message that no server would accept.
    :raises QueueFullError: with `when_full="raise"`, when the buffer is full.
    :raises ClosedError: after the client was closed.
    :raises DeliveryError: only with `send_immediately`, and `SpoolError` with `durable=True` if the
        disk failed.
    """

    _composes: type[SegmentComposer] = SegmentComposer
    _composer: SegmentComposer

    def _deliver(self, messages: list[Message]) -> Outcome:
        raise NotImplementedError

    def _deliver_one(self, message: Message) -> Outcome:
        return self._deliver([message])

    def _deliver_all(self, messages: list[Message]) -> Outcome:
        return self._deliver(messages)

    def _deliver_durably(self, messages: list[Message]) -> Outcome:
        raise NotImplementedError

    def _deliver_durably_one(self, message: Message) -> Outcome:
        return self._deliver_durably([message])

    @send_method(SegmentComposer.identify)
    def identify(self) -> Outcome: ...
    @send_method(SegmentComposer.track, _track)
    def track(self) -> Outcome: ...
    @send_method(SegmentComposer.page)
    def page(self) -> Outcome: ...
    @send_method(SegmentComposer.screen)
    def screen(self) -> Outcome: ...
    @send_method(SegmentComposer.group)
    def group(self) -> Outcome: ...
    @send_method(SegmentComposer.alias)
    def alias(self) -> Outcome: ...

    def batch(
        self,
        messages: Iterable[Mapping[str, Any]],
        context: Properties | None = None,
        integrations: Properties | None = None,
        *,
        durable: bool = False,
    ) -> Outcome:
        """Send many messages given as dicts of the spec, `{"type": "track", "userId": …}`.

        Missing ids, timestamps and context are added. All messages are validated before the first
        is sent. They keep their order and may be any number: they are split into as many requests
        as the limits need.

        :param context: defaults for the `context` of each message, key by key.
        :param integrations: defaults for the `integrations` of each message.
        :param durable: wait until all messages are on disk.
        :raises ValidationError: for an invalid message, naming its index, or an empty batch;
            nothing is sent then.
        """
        given = {"context": context, "integrations": integrations}
        defaults = {
            name: checked_mapping(value, name) for name, value in given.items() if value is not None
        }
        composed = []
        for index, message in enumerate(messages):
            try:
                complete = _with_defaults(message, defaults) if defaults else message
                composed.append(self._composer.from_dict(complete))
            except ValidationError as error:
                problems = [f"message {index}: {problem}" for problem in error.problems]
                raise ValidationError(problems) from error
        if not composed:
            raise ValidationError(["the batch is empty: there is nothing to send"])
        return self._deliver_durably(composed) if durable else self._deliver_all(composed)


def _with_defaults(
    message: Mapping[str, Any], defaults: Mapping[str, Properties]
) -> dict[str, Any]:
    own = checked_mapping(message, "a message")
    merged = {
        name: {**default, **checked_mapping(own.get(name) or {}, name)}
        for name, default in defaults.items()
    }
    return {**own, **merged}
