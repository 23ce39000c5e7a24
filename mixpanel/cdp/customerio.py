"""Send to Customer.io Data Pipelines: `AsyncCustomerIO`, and `CustomerIO` for sync code.

    async with AsyncCustomerIO("WRITE_KEY", region="eu") as cio:
        await cio.identify("u-17", {"email": "ada@example.com"})
        await cio.track("u-17", semantic.OrderCompleted(order_id="o-1", total=12.5))

By default Customer.io answers 200 to a wrong key, a missing id or a message that is too large, and
drops the message. The clients send `X-Strict-Mode`, which makes it report these errors.
"""

# What `send_method` decorates is a declaration, so it has no body:
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel._runtime.signatures import returning
from mixpanel.cdp._customerio.composer import CustomerIOComposer
from mixpanel.cdp._customerio.dialect import CUSTOMERIO, PERMISSIVE
from mixpanel.cdp._customerio.name_advice import advice
from mixpanel.cdp._segment.client import AsyncSegmentClient, SegmentClient
from mixpanel.cdp._segment.dialect import WriteKey
from mixpanel.cdp._segment.methods import SegmentMethods, send_method

if TYPE_CHECKING:
    from mixpanel.cdp._segment.dialect import Dialect
    from mixpanel.cdp._segment.options import SegmentOptions

__all__ = ["AsyncCustomerIO", "CustomerIO"]

Outcome = TypeVar("Outcome")


class _CustomerIOMethods(SegmentMethods[Outcome]):
    """Customer.io's own methods, in addition to those of the spec."""

    _composes = CustomerIOComposer

    @send_method(CustomerIOComposer.unsubscribe)
    def unsubscribe(self) -> Outcome: ...
    @send_method(CustomerIOComposer.resubscribe)
    def resubscribe(self) -> Outcome: ...
    @send_method(CustomerIOComposer.set_preferences)
    def set_preferences(self) -> Outcome: ...
    @send_method(CustomerIOComposer.delete_person)
    def delete_person(self) -> Outcome: ...
    @send_method(CustomerIOComposer.suppress_person)
    def suppress_person(self) -> Outcome: ...
    @send_method(CustomerIOComposer.unsuppress_person)
    def unsuppress_person(self) -> Outcome: ...
    @send_method(CustomerIOComposer.merge)
    def merge(self) -> Outcome: ...
    @send_method(CustomerIOComposer.register_device)
    def register_device(self) -> Outcome: ...
    @send_method(CustomerIOComposer.delete_device)
    def delete_device(self) -> Outcome: ...
    @send_method(CustomerIOComposer.set_object)
    def set_object(self) -> Outcome: ...
    @send_method(CustomerIOComposer.relate)
    def relate(self) -> Outcome: ...
    @send_method(CustomerIOComposer.unrelate)
    def unrelate(self) -> Outcome: ...
    @send_method(CustomerIOComposer.delete_object)
    def delete_object(self) -> Outcome: ...
    @send_method(CustomerIOComposer.report_delivery)
    def report_delivery(self) -> Outcome: ...
    @send_method(CustomerIOComposer.report_content)
    def report_content(self) -> Outcome: ...


def _client_options(strict: bool) -> dict[str, Any]:  # noqa: FBT001
    dialect: Dialect = CUSTOMERIO if strict else PERMISSIVE
    return {"dialect": dialect, "advice": advice}


@hide_init_arguments
@returning(Coroutine[Any, Any, None])
class AsyncCustomerIO(_CustomerIOMethods[Coroutine[Any, Any, None]], AsyncSegmentClient):
    """Send to a Customer.io source from async code, on asyncio or trio.

    >>> async with AsyncCustomerIO("WRITE_KEY", region="eu") as cio:  # doctest: +SKIP
    ...     await cio.identify("u-17", {"email": "ada@example.com"})
    ...     await cio.track("u-17", "Order Paid", {"amount": 12.5})

    :param write_key: the write key of the source; a prefixed one, as `sk_eu_…`, implies the region.
    :param strict: make Customer.io report invalid messages; if False it answers 200 to all.
    :param options: see `help(mixpanel.cdp.SegmentOptions)`.
    """

    def __init__(
        self, write_key: str, *, strict: bool = True, **options: Unpack[SegmentOptions]
    ) -> None:
        super().__init__(WriteKey(write_key), **_client_options(strict), **options)


@hide_init_arguments
@returning(None)
class CustomerIO(_CustomerIOMethods[None], SegmentClient):
    """Send to a Customer.io source from sync code; see `AsyncCustomerIO`.

    >>> with CustomerIO("WRITE_KEY", region="eu") as cio:  # doctest: +SKIP
    ...     cio.identify("u-17", {"email": "ada@example.com"})
    ...     cio.track("u-17", "Order Paid", {"amount": 12.5})
    """

    def __init__(
        self, write_key: str, *, strict: bool = True, **options: Unpack[SegmentOptions]
    ) -> None:
        super().__init__(WriteKey(write_key), **_client_options(strict), **options)
