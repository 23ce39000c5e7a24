"""What an editor and a type checker see of the typed events. Checked by mypy, never run."""

from decimal import Decimal
from typing import Any, assert_type

from mixpanel.cdp import (
    AsyncCustomerIO,
    CustomerIOComposer,
    Hightouch,
    Message,
    did_you_mean,
    htevents,
    semantic,
    webhooks,
)
from mixpanel.cdp.semantic import Product


def typed_events(cio: CustomerIOComposer) -> None:
    order = semantic.OrderCompleted(
        order_id=17, total=Decimal("12.5"), products=[Product(sku="a"), {"sku": "b", "mine": 1}]
    )
    assert_type(cio.track("u", order, {"gift": True}), Message)
    semantic.OrderCompleted(total="12.5")  # type: ignore[arg-type]
    semantic.OrderCompleted(totl=1)  # type: ignore[call-arg]
    semantic.DeviceCreatedOrUpdated(token="t")  # type: ignore[call-arg]
    semantic.DeviceCreatedOrUpdated(token="t", type="web")  # type: ignore[arg-type]
    order.total = 3  # type: ignore[misc]  # frozen
    cio.track("u", Product(sku="a"))  # type: ignore[arg-type]  # no event
    cio.suppress_person("u", timestamp="2026-01-31")
    cio.suppress_person("u", time=1)  # type: ignore[call-arg]
    assert_type(did_you_mean("Order Complete"), str | None)


def typed_webhooks(body: bytes, headers: dict[str, str]) -> None:
    event = webhooks.receive(body, headers, "key", now=0)
    assert_type(event, webhooks.WebhookEvent)
    if isinstance(event, webhooks.DeliveryEvent):
        assert_type(event.href, str | None)


async def typed_verbs(cio: AsyncCustomerIO, ht: Hightouch) -> None:
    assert_type(await cio.track("u", "Paid", {"amount": 1}), None)
    assert_type(await cio.register_device("u", "token", "ios"), None)
    assert_type(await cio.batch([{"type": "page", "userId": "u"}]), None)
    assert_type(ht.track("u", "Paid", schema_version="1"), None)
    assert_type(htevents.track("u", "Paid"), tuple[bool, dict[str, Any]])
    await cio.register_device("u", "token", "web")  # type: ignore[arg-type]
    ht.track("u", "Paid", time=1)  # type: ignore[call-arg]
    Hightouch("k", retrys=1)  # type: ignore[call-arg]
    Hightouch("k", on_delivery=lambda delivery: print(delivery.message_id, delivery.fate))
