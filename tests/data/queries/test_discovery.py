"""Discovery: lists of names and definitions, their cache and their limits."""

import copy

import anyio
import pytest

from mixpanel.data._queries.cache import Cache
from mixpanel.data._queries.discovery_responses import similar
from mixpanel.data.discovery import BookmarkInfo, FunnelInfo, LimitedList, SavedCohort, TopEvent
from mixpanel.data.exceptions import (
    ConfigError,
    EventNotFoundError,
    PropertyNotFoundError,
    QueryError,
    ServerError,
)
from tests.data.queries.fake_mixpanel import NAMES, InTurn
from tests.data.queries.test_live import JAN, series

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_events_are_listed_alphabetically_over_the_whole_history(ws, server):
    """With the largest limit, as the server's default is 255."""
    names = await ws.list_events()
    assert names == ["Opened App", "Order Paid", "Signed Up"]
    assert (names.limit, names.limit_hit) == (5000, False)
    sent = server.last_of("events/names").query
    assert (sent["limit"], sent["from_date"], sent["type"]) == ("5000", "2000-01-01", "general")


async def test_a_truncated_list_has_limit_hit(ws):
    """So that it is not taken for the complete list."""
    names = await ws.list_events(limit=3)
    assert names.limit_hit
    assert (await ws.list_events(limit=4)).limit_hit is False


async def test_lists_are_cached_until_refreshed_or_cleared(ws, server):
    """A caller that changes its list does not change the cache."""
    (await ws.list_events()).append("mine")
    assert await ws.list_events() == sorted(NAMES)
    assert len(server.queries) == 1
    await ws.list_events(refresh=True)
    assert len(server.queries) == 2
    ws.clear_discovery_cache()
    await ws.list_events()
    assert len(server.queries) == 3


def test_cached_values_expire():
    """After their lifetime, and not before."""
    now = [0.0]
    cache = Cache(10, clock=lambda: now[0])
    cache.put("a", 1)
    now[0] = 9.9
    assert cache.get("a") == 1
    now[0] = 10.0
    assert cache.get("a", "gone") == "gone"


async def test_concurrent_calls_share_one_query(ws, server):
    """Also the lookup of the timezone; after a call that fails, the next one loads."""
    server["segmentation"] = series(Order_Paid={"2026-01-01": 1})
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ws.list_events)
            tasks.start_soon(lambda: ws.segmentation("Order Paid", **JAN))
    paths = [sent.path for sent in server.sent]
    assert paths.count("/api/query/events/names") == 1
    assert paths.count("/api/app/me") == 1
    assert paths.count("/api/query/segmentation") == 10
    server["funnels/list"] = InTurn((500, {"error": "broken"}), [])
    failed = []

    async def listing():
        try:
            await ws.list_funnels()
        except ServerError:
            failed.append(1)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(listing)
    assert failed == [1]
    assert len(ws._core.discovery_cache._loading) == 0


async def test_the_history_limit_of_a_plan_is_read_from_the_error_and_cached(ws, server):
    """A rejected query counts, so it is not repeated."""
    refusal = (403, {"error": "Date range exceeds 90 days into the past"})
    server["events/names"] = InTurn(refusal, NAMES)
    assert len(await ws.list_events()) == 3
    assert server.queries[1].query["from_date"] > "2000-01-01"
    await ws.list_events(refresh=True)
    assert len(server.queries) == 3
    server["events/names"] = (403, {"error": "no access"})
    with pytest.raises(QueryError, match="no access"):
        await ws.list_events(refresh=True)


async def test_properties_are_requested_with_a_limit(ws, server):
    """The server's default is ten."""
    server["events/properties/top"] = {"plan": {"count": 31}, "amount": {}}
    names = await ws.list_properties("Order Paid")
    assert names == ["amount", "plan"]
    assert server.last.query["limit"] == "5000"
    assert server.last.query["event"] == "Order Paid"


@pytest.mark.parametrize("response", [{}, (400, {"error": "invalid event"})])
async def test_properties_of_an_unknown_event_raise_with_similar_names(ws, server, response):
    """Whether the response is empty or an error."""
    server["events/properties/top"] = response
    with pytest.raises(EventNotFoundError, match="did you mean Order Paid"):
        await ws.list_properties("order_paid")
    for event in ("Signed Up", "$session_start"):
        if isinstance(response, dict):
            assert await ws.list_properties(event) == []
        else:
            with pytest.raises(QueryError):
                await ws.list_properties(event)


async def test_property_values_keep_the_order_of_the_server(ws, server):
    """The most frequent first; numbers are text."""
    server["events/properties/values"] = ["team", "free", 5]
    values = await ws.list_property_values("plan", "Order Paid", 100)
    assert values == ["team", "free", "5"]
    assert server.last.query == {
        "project_id": "4242", "event": "Order Paid", "name": "plan", "limit": "100",
    }  # fmt: skip
    assert (await ws.list_property_values("plan", limit=3)).limit_hit
    assert "event" not in server.last.query


async def test_values_of_an_unknown_property_raise_with_similar_names(ws, server):
    """A property without values has an empty list."""
    server["events/properties/values"] = []
    server["events/properties/top"] = {"plan": {"count": 1}}
    with pytest.raises(PropertyNotFoundError, match="did you mean plan"):
        await ws.list_property_values("Plan", event="Order Paid")
    assert await ws.list_property_values("plan", event="Order Paid") == []


async def test_events_with_properties_cost_one_query(ws, server):
    """Events and properties are sorted by name."""
    server["data_definitions/events"] = {
        "results": [
            {"name": "Order Paid", "properties": [{"name": "plan"}, {"name": "amount"}]},
            {"name": "Opened App", "properties": None},
        ]
    }
    found = await ws.list_events_with_properties()
    assert list(found.items()) == [("Opened App", []), ("Order Paid", ["amount", "plan"])]
    assert server.last.query["fetch_per_event_properties"] == "true"
    assert len(server.queries) == 1


async def test_funnels_and_cohorts_are_sorted_by_name(ws, server):
    """A funnel has its id under both names, `id` and `funnel_id`."""
    server["funnels/list"] = [{"funnel_id": 2, "name": "Z"}, {"funnel_id": 1, "name": "A"}]
    server["cohorts/list"] = [
        {"id": 5, "name": "Power", "count": 812, "description": "", "is_visible": 0,
         "created": "2025-11-02 09:00:00", "project_id": 4242},
    ]  # fmt: skip
    assert await ws.list_funnels() == [FunnelInfo(1, "A"), FunnelInfo(2, "Z")]
    assert (await ws.list_funnels())[0].id == 1
    [cohort] = await ws.list_cohorts()
    assert cohort == SavedCohort(5, "Power", 812, "", "2025-11-02 09:00:00", is_visible=False)
    assert server.last.method == "POST"


@pytest.mark.parametrize("envelopes", [1, 2])
async def test_listing_saved_reports_costs_no_query(ws, server, envelopes):
    """In one `results` object or two nested ones."""
    rows = [{"id": 9, "name": "Trend", "type": "insights", "params": {"sections": {}}}]
    response = {"results": rows}
    for _ in range(envelopes - 1):
        response = {"results": response}
    server["/api/app/projects/4242/bookmarks"] = response
    [report] = await ws.list_bookmarks("insights")
    assert report == BookmarkInfo(9, "Trend", "insights", params={"sections": {}})
    assert report.to_dict() == {"id": 9, "name": "Trend", "type": "insights"}
    assert server.sent[-1].query == {"v": "2", "type": "insights"}
    assert server.queries == []
    with pytest.raises(ConfigError, match="choose insights"):
        await ws.list_bookmarks("pie")


async def test_top_events_are_never_cached(ws, server):
    """They change all day."""
    server["events/top"] = {
        "type": "general",
        "events": [{"event": "Order Paid", "amount": 31, "percent_change": -0.12}],
    }
    for _ in range(2):
        assert await ws.top_events() == [TopEvent("Order Paid", 31, -0.12)]
    assert len(server.queries) == 2
    assert server.last.query["limit"] == "100"


SCHEMA = {
    "description": "A paid order",
    "properties": {"amount": {"type": "number", "metadata": {"com.mixpanel": {"hidden": True}}}},
    "metadata": {"com.mixpanel": {"displayName": "Paid", "tags": ["core"], "$source": "api"}},
}


async def test_lexicon_schemas_are_read_as_a_list_and_one_by_one(ws, server):
    """With and without an enclosing `results` object."""
    rows = [{"entityType": "event", "name": "Order Paid", "schemaJson": SCHEMA}]
    server["/api/app/projects/4242/schemas"] = {"status": "ok", "results": rows}
    server["/api/app/projects/4242/schemas/event"] = {"status": "ok", "results": rows}
    [entry] = await ws.lexicon_schemas()
    assert (entry.entity_type, entry.name) == ("event", "Order Paid")
    assert entry.schema_json.properties["amount"].metadata.hidden
    assert entry.schema_json.metadata.display_name == "Paid"
    for response in (SCHEMA, {"status": "ok", "results": SCHEMA}, {"results": rows}):
        server["/api/app/projects/4242/schemas/event/Order Paid"] = response
        found = await ws.lexicon_schema("event", "Order Paid", refresh=True)
        assert found == entry
    with pytest.raises(EventNotFoundError, match="did you mean Order Paid"):
        await ws.lexicon_schema("event", "order")
    with pytest.raises(ConfigError, match="choose event, profile"):
        await ws.lexicon_schema("user", "x")


@pytest.mark.parametrize("response", [5, {"a": 1}, None, {"results": 5}])
async def test_unexpected_responses_of_discovery_are_typed_errors(ws, server, response):
    """For each endpoint."""
    for path in ("events/names", "funnels/list", "cohorts/list", "data_definitions/events"):
        server[path] = response
    server["/api/app/projects/4242/bookmarks"] = response
    server["events/top"] = {"events": response}
    calls = [
        ws.list_events, ws.list_funnels, ws.list_cohorts, ws.list_events_with_properties,
        ws.list_bookmarks, ws.top_events,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ServerError, match="unexpected response"):
            await call()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("order paid", ["Order Paid", "Order Paid Late"]),
        ("Order", ["Order Paid", "Order Paid Late"]),
        ("Ordr Paid", ["Order Paid"]),
        ("app_opened", ["Opened App"]),
        ("zzz", []),
    ],
)
def test_similar_names_are_sorted_by_similarity(name, expected):
    """Another case, a part, a misspelling, the same words."""
    known = ["Order Paid Late", "Order Paid", "Opened App"]
    assert similar(name, known)[: len(expected)] == expected
    assert bool(similar(name, known)) == bool(expected)


def test_a_copy_of_a_limited_list_keeps_limit_hit():
    """The cache returns copies."""
    again = copy.deepcopy(LimitedList(["a"], limit=1))
    assert again == ["a"]
    assert again.limit_hit
    assert LimitedList(["a"]).limit_hit is False
