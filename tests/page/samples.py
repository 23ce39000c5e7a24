"""Requests of all kinds, for tests and pictures of the page."""

import contextlib
import json
import time

import httpx

from mixpanel.emulator import Fault

DAY = 24 * 3600
FLAG = {
    "id": "1",
    "key": "new-checkout",
    "name": "New checkout",
    "status": "enabled",
    "context": "distinct_id",
    "hash_salt": "0123456789abcdef",
    "ruleset": {
        "variants": [
            {"key": "control", "value": "off", "split": 0.5},
            {"key": "treatment", "value": "on", "split": 0.5},
        ],
        "rollout": [{"rollout_percentage": 0.5}],
    },
}
NAMES = ("Page Viewed", "Book Viewed", "Cart Opened", "Order Paid")


def event(name="Order Paid", who="u-17", number=[0], **properties):  # noqa: B006 - a counter
    """Return a valid event of now, with an id of its own."""
    number[0] += 1
    default = {"token": "T", "time": int(time.time()), "distinct_id": who, "mp_lib": "python"}
    added = {"$insert_id": f"i-{number[0]}"}
    return {"event": name, "properties": {**default, **added, **properties}}


def send(http, *events, path="/track", **options):
    """Send events, whatever becomes of them."""
    with contextlib.suppress(httpx.HTTPError):
        http.post(path, json=list(events), **options)


def send_a_bit_of_everything(emu):
    """Send to each lane, with each verdict and many problems; about 45 records."""
    emu.set_flags([FLAG])
    with httpx.Client(base_url=emu.url) as http:
        for n in range(24):
            send(http, event(NAMES[n % 7 % 4], f"u-{n * 7 % 30}", amount=n * 1.75, plan="pro"))
        same = event(amount=12.5)
        send(http, same)
        send(http, same)
        send(http, event(time=int(time.time()) - 6 * DAY, amount=3))
        send(http, event("Signed Up", "undefined"))
        send(http, event(amount="12.5", coupon="x" * 400))
        send(http, event("order_paid", amount=7))
        without = event("Newsletter Opened")
        del without["properties"]["$insert_id"]
        send(http, without)
        profile = {"$name": "Ada Lovelace", "plan": "pro", "city": "London"}
        send(http, {"$token": "T", "$distinct_id": "u-17", "$set": profile}, path="/engage")
        group = {"$group_key": "company", "$group_id": "acme"}
        send(http, {"$token": "T", **group, "$set": {"seats": 12}}, path="/groups")
        context = json.dumps({"distinct_id": "u-17"})
        http.get("/flags", params={"context": context}, auth=("T", ""))
        message = {"type": "track", "event": "Order Paid", "userId": "u-17", "messageId": "m"}
        http.post("/customerio/v1/track", json=message, auth=("KEY", ""))
        http.post("/customerio/v1/track", json={"type": "track", "event": "lost"}, auth=("K", ""))
        http.post("/hightouch/v1/track", json=message, auth=("KEY", ""))
        send(http, event(), path="/import")
        http.post("/track", content=b"{oops")
        http.get("/api/query/events/names", params={"project_id": "1"}, auth=("a", "b"))
        emu.play(Fault.status(503))
        send(http, event(amount=99))
        emu.play("429 retry-after 2 on /import 10%")
        shipping = {"city": "London", "zip": "N1"}
        send(http, event(amount=19.9, plan="pro", items=["book", "pen"], shipping=shipping))
