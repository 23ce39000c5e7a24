"""`ws.project` and responses of every shape: envelopes, odd fields, and each kind of error."""

import json

import httpx
import pytest

from mixpanel.data import (
    APIError,
    AuthenticationError,
    ConfigError,
    ConflictError,
    ObjectNotFoundError,
    PermissionDeniedError,
    PlanError,
    QueryError,
    RateLimitError,
    ServerError,
)
from tests.data.queries.fake_mixpanel import FakeMixpanel, InTurn

pytestmark = pytest.mark.anyio
PROJECT = "/api/app/projects/4242"
BOARDS = f"{PROJECT}/dashboards"
ROWS = [{"id": 7, "title": "Weekly"}]


@pytest.fixture
def anyio_backend():
    """One event loop is enough: the calls are the same."""
    return "asyncio"


@pytest.fixture
def fake():
    return FakeMixpanel()


@pytest.fixture
async def ws(fake):
    async with fake.workspace() as workspace:
        yield workspace


LISTS = [
    {"status": "ok", "results": ROWS},
    {"results": {"results": ROWS}},
    {"status": "ok", "results": {"7": {"id": 7, "title": "Weekly"}}},
    {"status": "ok", "results": {"7": {"title": "Weekly"}}},
    ROWS,
    {"results": ROWS, "pagination": {"next_cursor": None, "page_size": 100}},
]


@pytest.mark.slow
@pytest.mark.parametrize("response", LISTS, ids=lambda each: json.dumps(each)[:50])
async def test_a_list_is_read_from_every_envelope(fake, ws, response):
    """A list, a second envelope, a mapping by id, or no envelope at all."""
    fake[BOARDS] = response
    assert [(7, "Weekly")] == [(each.id, each.title) for each in await ws.project.dashboards.list()]


OBJECTS = [
    {"status": "ok", "results": {"id": 7, "title": "Weekly"}},
    {"id": 7, "title": "Weekly"},
    {"results": {"7": {"title": "Weekly"}}},
    {"results": [{"id": 7, "title": "Weekly"}]},
    {"results": {"title": "Weekly"}},
]


@pytest.mark.parametrize("response", OBJECTS, ids=lambda each: json.dumps(each)[:50])
async def test_an_object_is_read_from_every_envelope(fake, ws, response):
    """Its id is known from the call, if the response has none."""
    fake[f"{BOARDS}/7"] = response
    board = await ws.project.dashboards.get(7)
    assert (7, "Weekly") == (board.id, board.title)


async def test_unknown_and_odd_fields_are_kept(fake, ws):
    """An odd field does not cost the object, nor the others."""
    row = {"id": 7, "title": 12, "filters": "none", "brandNew": {"a": 1}, "creator_name": None}
    fake[BOARDS] = {"results": [row]}
    (board,) = await ws.project.dashboards.list()
    assert (12, "none", {"a": 1}, None) == (
        board.title, board.filters, board.brandNew, board.creator_name,
    )  # fmt: skip
    assert row == board.to_dict()
    with pytest.raises(ValueError, match="frozen"):
        board.title = "x"


async def test_names_are_read_in_both_spellings(fake, ws):
    """As the endpoints differ: camelCase and snake_case."""
    path = f"{PROJECT}/data-definitions/events/"
    for row in ({"name": "A", "displayName": "B"}, {"name": "A", "display_name": "B"}):
        fake[path] = {"results": [row]}
        assert ["B"] == [each.display_name for each in await ws.project.events.list()]


async def test_all_pages_of_a_list_are_read(fake, ws):
    """Until there is no cursor, and no further if a cursor repeats."""

    def page(sent):
        number = int(sent.query.get("cursor", 0))
        following = str(number + 1) if number < 2 else None
        return {"results": [{"id": number}], "pagination": {"next_cursor": following}}

    fake[BOARDS] = page
    assert [0, 1, 2] == [each.id for each in await ws.project.dashboards.list(ids=[1, 2])]
    assert ["1,2"] * 3 == [each.query["ids"] for each in fake.sent]
    fake[BOARDS] = {"results": [{"id": 1}], "pagination": {"next_cursor": "again"}}
    assert 2 == len(await ws.project.dashboards.list())


async def test_a_change_without_an_answer_is_read_again(fake, ws):
    """So that the result is the object, whatever was sent."""

    def board(sent):
        return httpx.Response(204) if sent.method == "PATCH" else {"results": ROWS[0]}

    fake[f"{BOARDS}/7"] = board
    assert "Weekly" == (await ws.project.dashboards.update(7, title="Weekly")).title


async def test_views_are_read_elsewhere_if_they_are_refused(fake, ws):
    """As for service accounts that may not list them."""
    fake[f"{PROJECT}/workspaces/public"] = (403, {"error": "no", "status": "error"})
    views = {"4242": {"id": 4242, "workspaces": [{"id": 77, "name": "All"}]}}
    fake["/api/app/projects/metadata/index"] = {"results": views}
    assert [(77, "All")] == [(each.id, each.name) for each in await ws.project.views.list()]
    del fake.routes["/api/app/projects/metadata/index"]
    with pytest.raises(PermissionDeniedError):
        await ws.project.views.list()


async def test_requests_of_people_are_read_in_both_shapes(fake, ws):
    """The id is `task_id`, or `tracking_id` in a list; the address has three names."""
    path = "/api/app/data-retrievals/v3.0"
    for response in ({"task_id": "176"}, [{"tracking_id": "176", "status": "PENDING"}]):
        fake[f"{path}/"] = (201, {"status": "ok", "results": response})
        assert "176" == (await ws.project.retrievals.create("u-1", token="T")).id
    for name in ("results", "result", "destination_url"):
        found = {"status": "SUCCESS", name: "https://example.org/x.zip", "distinct_ids": ["u-1"]}
        fake[f"{path}/176"] = {"status": "ok", "results": found}
        read = await ws.project.retrievals.get("176", token="T")
        assert ("176", "https://example.org/x.zip") == (read.id, read.result)


ERRORS = [
    (400, {"error": "bad title", "status": "error"}, QueryError, "bad title"),
    (401, {"error": "no"}, AuthenticationError, "rejects the credentials"),
    (402, {"error": "no"}, PlanError, "plan does not include"),
    (403, {"error": "no"}, PermissionDeniedError, "lack a permission"),
    (404, {"error": "no"}, ObjectNotFoundError, "no dashboard 7, or the credentials"),
    (409, {"error": "no"}, ConflictError, "of that name already"),
    (422, {"error": "no"}, QueryError, "HTTP 422"),
    (429, {"error": "no"}, RateLimitError, "429"),
    (500, {"error": "no"}, ServerError, "HTTP 500"),
    (503, "<html>Bad gateway</html>", ServerError, "an HTML page"),
    (200, "<html>Log in</html>", ServerError, "an HTML page that is not JSON"),
    (200, {"error": "bad board"}, QueryError, "HTTP 200: bad board"),
    (200, {"status": "error", "error": {"message": "bad board"}}, QueryError, "bad board"),
    (200, {"status": "error"}, QueryError, "an error without a reason"),
    (200, {"results": 12.5}, ServerError, "no known shape"),
    (302, "", ServerError, "redirects are not followed"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "kind", "text"), ERRORS, ids=[f"{e[0]}-{e[3]}"[:40] for e in ERRORS]
)
async def test_errors_are_typed_and_have_neither_payload_nor_secret(fake, status, body, kind, text):
    """They say what was wrong, and what was called."""
    fake[f"{BOARDS}/7"] = (status, body)
    async with fake.workspace() as ws:
        ws._core._api._max_wait = 0
        with pytest.raises(kind, match=text) as refused:
            await ws.project.dashboards.update(7, title="Salaries of staff")
    assert type(refused.value) is kind
    whole = f"{refused.value!r} {refused.value} {json.dumps(refused.value.to_dict())}"
    assert "Salaries" not in whole
    assert "s3cr3t" not in whole


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
async def test_a_change_is_sent_once(fake, ws, status):
    """It may have been applied, which the error says; what only reads is repeated."""
    fake[f"{BOARDS}/7"] = (status, {"error": "no"})
    for call in (
        ws.project.dashboards.update(7, title="x"),
        ws.project.dashboards.delete(7, confirm=True),
        ws.project.dashboards.pin(8),
        ws.project.experiments.conclude("e", confirm=True),
    ):
        fake[f"{BOARDS}/8/pin"] = fake[f"{PROJECT}/experiments/e/force_conclude"] = (status, {})
        fake.sent.clear()
        with pytest.raises(ServerError) as failed:
            await call
        assert 1 == len(fake.sent)
        assert "may have been applied" in failed.value.__notes__[0]
    fake.sent.clear()
    with pytest.raises(ServerError):
        await ws.project.dashboards.get(7)
    assert 3 == len(fake.sent)


@pytest.mark.slow
async def test_a_refused_rate_is_waited_for(fake, ws):
    """A change that got 429 was not applied, so it is sent again."""
    limited = httpx.Response(429, headers={"Retry-After": "0"}, json={"error": "slow down"})
    fake[f"{BOARDS}/7"] = InTurn(limited, {"results": ROWS[0]})
    assert "Weekly" == (await ws.project.dashboards.update(7, title="Weekly")).title
    assert 2 == len(fake.sent)


async def test_the_place_of_a_mistake_is_in_the_error(fake, ws):
    """Whose path Mixpanel writes with the last key first."""
    details = {"path": ["type", "definition"], "schema": {}, "data": 1}
    fake[f"{PROJECT}/metrics"] = (400, {"error": "invalid", "details": details, "status": "error"})
    with pytest.raises(QueryError, match=r"invalid \(at definition.type\)"):
        await ws.project.metrics.create(name="x", definition={"type": 1})


WRONG = [
    (lambda p: p.dashboards.create(), r"dashboards.create needs title=\.\.\."),
    (lambda p: p.dashboards.create(titel="x"), "no argument titel: did you mean title"),
    (lambda p: p.dashboards.create(colour="x", title="y"), r"extra=\{\.\.\.\}"),
    (lambda p: p.dashboards.create("Weekly"), "takes 0 positional arguments"),
    (lambda p: p.dashboards.get(), "needs id="),
    (lambda p: p.dashboards.get(7, 8), "takes 1 positional arguments"),
    (lambda p: p.dashboards.get(7, id=8), "id is passed twice"),
    (lambda p: p.dashboards.get(True), "must be an id"),
    (lambda p: p.dashboards.get(" "), "must not be empty"),
    (lambda p: p.dashboards.get(".."), "cannot be part of an address"),
    (lambda p: p.dashboards.get(-1), "must be an id"),
    (lambda p: p.dashboards.update(7, title=5), "title=5 must be text"),
    (lambda p: p.dashboards.update(7, is_private="no"), "must be True or False"),
    (lambda p: p.dashboards.update(7, filters="x"), "filters: the value must be a list"),
    (lambda p: p.dashboards.update(7, time_filter=[1]), "must be a JSON object"),
    (lambda p: p.dashboards.update(7, time_filter={"a": float("nan")}), "NaN"),
    (lambda p: p.dashboards.update(7, time_filter={"a": object()}), "must be JSON"),
    (lambda p: p.dashboards.update(7, extra=5), "extra must be a dict"),
    (lambda p: p.reports.list(type="chart"), "type='chart' is unknown: choose insights"),
    (lambda p: p.annotations.list(from_date="tomorrow"), "must be a day, as 2026-01-31, today"),
    (lambda p: p.annotations.list(from_date="2026-02-30"), "does not exist"),
    (lambda p: p.alerts.update(5, bookmark_id="x"), "must be a whole number"),
    (lambda p: p.reports.bulk_delete([], confirm=True), "must not be empty"),
    (lambda p: p.properties.list(resource_type="event"), "choose Event, User"),
    (lambda p: p.dashboards.plan("remove", 7), "has no method remove"),
    (lambda p: p.schemas.update("event", definition={}), "needs name="),
]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "text"), WRONG, ids=[each[1][:40] for each in WRONG])
async def test_wrong_arguments_are_refused_before_anything_is_sent(fake, ws, call, text):
    """With what is wrong, and what would be right."""
    with pytest.raises(ConfigError, match=text):
        await call(ws.project)
    assert [] == fake.sent


async def test_values_that_may_be_personal_are_not_in_errors(ws):
    """Nor passwords."""
    with pytest.raises(ConfigError) as wrong:
        await ws.project.cohorts.update(5, definition=["ann@example.org"])
    assert "ann@" not in str(wrong.value)
    with pytest.raises(ConfigError) as wrong:
        await ws.project.webhooks.update(5, password=12345)
    assert "12345" not in str(wrong.value)


async def test_extra_fields_are_sent_under_their_names(fake, ws):
    """In the body of a change, and in the query of what has none."""
    fake[BOARDS] = {"results": ROWS[0]}
    await ws.project.dashboards.create(title="x", extra={"brand_new": 1})
    assert {"title": "x", "brand_new": 1} == fake.sent[-1].json
    fake[BOARDS] = {"results": ROWS}
    await ws.project.dashboards.list(ids=[7], extra={"archived": True})
    assert {"ids": "7", "archived": "true"} == fake.sent[-1].query
    with pytest.raises(ConfigError, match="takes no extra"):
        await ws.project.lookup_tables.upload("T", "a\n1\n", extra={"a": 1})


async def test_forms_have_lists_as_json(fake, ws):
    """As custom events require."""
    fake[f"{PROJECT}/custom_events/"] = {"results": {"custom_event": {"id": 9, "name": "Any"}}}
    made = await ws.project.custom_events.create(name="Any", alternatives=["A", "B"])
    assert (9, "Any") == (made.id, made.name)
    assert '[{"event": "A"}, {"event": "B"}]' == fake.sent[-1].form["alternatives"]


async def test_a_signed_address_must_be_safe(fake, ws):
    """Nothing is sent in clear text to another host."""
    tables = f"{PROJECT}/data-definitions/lookup-tables/"
    fake[f"{tables}upload-url/"] = {
        "results": {"url": "http://evil.example/x", "path": "p", "key": "k"}
    }
    with pytest.raises(ServerError, match="not https"):
        await ws.project.lookup_tables.upload("T", "a\n1\n")
    assert 1 == len(fake.sent)


async def test_the_organization_is_asked_for_once(fake, ws):
    """And an error says what to pass if it is unknown."""
    with pytest.raises(ConfigError, match="pass organization_id"):
        await ws.project.service_accounts.list()
    fake["/api/app/me"] = {"results": {"projects": {"4242": {"organization_id": 3}}}}
    fake["/api/app/organizations/3/service-accounts"] = {"results": []}
    fake.sent.clear()
    for _ in range(2):
        assert [] == await ws.project.service_accounts.list()
    assert ["me"] == [each.path[9:] for each in fake.sent if each.path.endswith("/me")]


async def test_a_closed_workspace_says_so(fake):
    """Before it calls anything."""
    async with fake.workspace() as ws:
        project = ws.project
    with pytest.raises(Exception, match="the workspace is closed"):
        await project.dashboards.list()
    assert issubclass(ObjectNotFoundError, APIError)
