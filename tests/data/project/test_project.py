"""`ws.project` before the emulator: create, read, change, delete, and what is refused."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import pytest

from mixpanel.data import (
    AsyncWorkspace,
    ConfigError,
    ConflictError,
    Credentials,
    ObjectNotFoundError,
    QueryError,
    TokenCredentials,
    Workspace,
)
from mixpanel.emulator import Emulator

pytestmark = pytest.mark.anyio
SEEDS = Path(__file__).parent / "seeds.json"
ROBOT = Credentials(username="robot", secret="s3cr3t-words", project_id="4242")
CSV = "sku,title\nA1,Green tea\nB2,Black tea\n"


@pytest.fixture
def anyio_backend():
    """One event loop is enough: the calls are the same."""
    return "asyncio"


@pytest.fixture
def emu():
    with Emulator() as emulator:
        emulator.seed(SEEDS)
        yield emulator


@pytest.fixture
async def ws(emu):
    async with AsyncWorkspace.memory(credentials=ROBOT, base_url=emu.url) as workspace:
        yield workspace


def sent(emu):
    """Return the requests so far, as method and path."""
    paths = [each.path.removeprefix("/api/app/").rstrip("/") for each in emu.requests()]
    return [(each.method, path) for each, path in zip(emu.requests(), paths, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_board_is_created_read_changed_and_deleted(emu, ws):
    """Each call is one request, and returns the object."""
    boards = ws.project.dashboards
    made = await boards.create(title="Monthly", description="Once a month")
    assert ("Monthly", "Once a month") == (made.title, made.description)
    assert "Monthly" == (await boards.get(made.id)).title
    assert "Yearly" == (await boards.update(made.id, title="Yearly")).title
    assert ["Weekly", "Yearly"] == [each.title for each in await boards.list()]
    assert await boards.delete(made.id, confirm=True) is None
    with pytest.raises(ObjectNotFoundError, match=f"there is no dashboard {made.id}"):
        await boards.get(made.id)
    path = f"projects/4242/dashboards/{made.id}"
    assert [("POST", "projects/4242/dashboards"), ("GET", path), ("PATCH", path)] == sent(emu)[:3]


async def test_a_pinned_data_view_is_the_scope(emu):
    """Of what a view has; flags are below project and view in any case."""
    async with AsyncWorkspace.memory(
        credentials=ROBOT, base_url=emu.url, workspace_id=78
    ) as pinned:
        await pinned.project.cohorts.list()
        await pinned.project.feature_flags.list()
    flags = ("GET", "projects/4242/workspaces/78/feature-flags")
    assert [("GET", "workspaces/78/cohorts"), flags] == sent(emu)


async def test_discovery_sees_what_was_changed(ws):
    """At once, although it remembers lists for ten minutes."""
    assert ["Trend"] == [each.name for each in await ws.list_bookmarks()]
    await ws.project.reports.create(name="Second", type="insights", params={})
    assert {"Trend", "Second"} == {each.name for each in await ws.list_bookmarks()}
    assert ["Buyers"] == [each.name for each in await ws.list_cohorts()]
    await ws.project.cohorts.delete(1003, confirm=True)
    assert [] == await ws.list_cohorts()


async def test_what_cannot_be_undone_needs_confirmation(emu, ws):
    """Nothing is sent without it; a plan shows what would be."""
    with pytest.raises(ConfigError, match="cannot be undone: pass confirm=True"):
        await ws.project.dashboards.delete(1002)
    with pytest.raises(ConfigError, match="confirm=1 must be True or False"):
        await ws.project.dashboards.delete(1002, confirm=1)
    with pytest.raises(ConfigError, match=r"events.update cannot be undone"):
        await ws.project.events.update("Order Paid", dropped=True)
    with pytest.raises(ConfigError, match=r"schemas.bulk_create cannot be undone"):
        await ws.project.schemas.bulk_create([], truncate=True)
    assert [] == sent(emu)
    plan = await ws.project.dashboards.plan("delete", 1002)
    assert "PlannedCall(DELETE /api/app/projects/4242/dashboards/1002)" == repr(plan)
    assert plan.needs_confirmation
    assert [] == sent(emu)
    await ws.project.events.update("Order Paid", dropped=False)  # this can be undone


async def test_a_plan_shows_the_body_without_passwords(ws):
    """And the query without the project token."""
    plan = await ws.project.webhooks.plan(
        "create", name="Sync", url="https://example.org", auth_type="basic", password="pa55"
    )
    assert {
        "name": "Sync",
        "url": "https://example.org",
        "auth_type": "basic",
        "password": "***",
    } == (plan.body)
    plan = await ws.project.deletions.plan("create", ["u-1"], token="t0ken-of-mine")
    assert ({"token": "***"}, {"distinct_ids": ["u-1"]}) == (plan.params, plan.body)


async def test_a_flag_keeps_what_is_not_named(ws):
    """Although the server replaces it as a whole."""
    flag = await ws.project.feature_flags.update(1009, status="enabled")
    assert ("enabled", "cart", ["shop"]) == (flag.status, flag.key, flag.tags)
    assert {"variants": []} == flag.ruleset
    with pytest.raises(ConfigError, match="cannot be undone"):
        await ws.project.feature_flags.update(1009, reset_hash_salt=True)
    await ws.project.feature_flags.archive(1009)
    assert [] == await ws.project.feature_flags.list()
    assert ["archived"] == [
        each.status for each in await ws.project.feature_flags.list(include_archived=True)
    ]
    assert "disabled" == (await ws.project.feature_flags.restore(1009)).status


async def test_the_lexicon_is_changed_by_name(ws):
    """Names have any characters, a slash too."""
    changed = await ws.project.events.update("Order Paid", description="Paid", tags=["shop"])
    assert ("Order", "Paid") == (changed.display_name, changed.description)
    await ws.project.schemas.create("event", "A/B & C?", definition={"description": "Odd"})
    found = await ws.project.schemas.list_of_type("event")
    assert {"Order Paid", "A/B & C?"} == {each.name for each in found}
    odd = await ws.project.schemas.get("event", "A/B & C?")
    assert "Odd" == odd.to_dict()["description"]
    both = await ws.project.events.list(names=["Order Paid", "Unknown"])
    assert ["Order Paid"] == [each.name for each in both]
    with pytest.raises(ObjectNotFoundError, match="there is no event 'Unknown'"):
        await ws.project.events.get("Unknown")
    await ws.project.tags.delete("shop", confirm=True)
    assert [] == await ws.project.tags.list()


async def test_changes_that_return_a_list_return_the_object(ws):
    """As drop filters and deletions do."""
    made = await ws.project.drop_filters.create(event_name="Noise", filters=[], confirm=True)
    assert ("Noise", True) == (made.event_name, made.active)
    changed = await ws.project.drop_filters.update(made.id, active=False)
    assert (made.id, False) == (changed.id, changed.active)
    await ws.project.drop_filters.delete(made.id, confirm=True)
    assert [1013] == [each.id for each in await ws.project.drop_filters.list()]
    asked = await ws.project.event_deletions.create(
        event_name="Noise", from_date=date(2026, 1, 1), to_date="2026-01-02", confirm=True
    )
    assert ("Noise", "2026-01-01") == (asked.event_name, asked.from_date)
    cancelled = await ws.project.event_deletions.cancel(asked.id)
    assert "Cancelled" == cancelled.status


@pytest.mark.slow
async def test_a_lookup_table_is_created_replaced_and_downloaded(emu, ws):
    """By an address that gets no credentials."""
    made = await ws.project.lookup_tables.upload("Products", CSV)
    assert "Products" == made.name
    assert CSV == await ws.project.lookup_tables.download(made.id)
    with pytest.raises(ConfigError, match="cannot be undone"):
        await ws.project.lookup_tables.upload("Products", CSV, id=made.id)
    one = "sku,title\nC3,White tea\n"
    again = await ws.project.lookup_tables.upload("Products", one, id=made.id, confirm=True)
    assert made.id == again.id
    assert one == await ws.project.lookup_tables.download(made.id)
    assert [{"sku": "C3", "title": "White tea"}] == emu.lookup_tables[made.token]["rows"]
    moved = [each for each in emu.requests() if each.path.startswith("/storage/")]
    assert ["PUT", "GET", "PUT", "GET"] == [each.method for each in moved]
    assert not any("authorization" in each.headers for each in moved)
    with pytest.raises(QueryError, match="not unique"):
        await ws.project.lookup_tables.upload("Twice", "sku\nA\nA\n")


@pytest.mark.slow
async def test_a_large_lookup_table_is_waited_for(ws):
    """Mixpanel reads files from 5 MB on after it has answered."""
    rows = "".join(f"{n},{'x' * 90}\n" for n in range(56_000))
    made = await ws.project.lookup_tables.upload("Large", f"sku,title\n{rows}")
    assert "Large" == (await ws.project.lookup_tables.get(made.id)).name


async def test_a_service_account_has_its_secret_once(emu, ws):
    """In the response to its creation, and not in its repr."""
    made = await ws.project.service_accounts.create(
        username="robot", role="analyst", expires=datetime(2027, 1, 1, tzinfo=UTC)
    )
    assert made.token
    assert made.token not in repr(made)
    assert made.token == made.to_dict()["token"]
    found = await ws.project.service_accounts.get(made.id)
    assert ("robot", None) == (found.username, found.token)
    projects = [{"id": 4242, "role": "analyst"}]
    await ws.project.service_accounts.add_to_project(ids=[made.id], projects=projects)
    assert {"reader", "robot"} == {
        each.username for each in await ws.project.service_accounts.in_project()
    }
    await ws.project.service_accounts.list(organization_id=1)
    assert ("GET", "organizations/1/service-accounts") == sent(emu)[-1]


async def test_requests_of_people_need_a_token_and_are_read_in_both_shapes(emu, ws, monkeypatch):
    """The reply to their creation is an object, or a list of one."""
    people = ws.project.retrievals
    monkeypatch.delenv("MP_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"retrievals.create needs token=... \(or MP_TOKEN\)"):
        await people.create(["u-1"])
    monkeypatch.setenv("MP_TOKEN", "T")
    with pytest.raises(Exception, match="401") as refused:
        await people.create(["u-1"])
    assert ["this API accepts OAuth tokens only: set MP_OAUTH_TOKEN"] == refused.value.__notes__
    token = TokenCredentials(token="t0ken", project_id="4242")
    async with AsyncWorkspace.memory(credentials=token, base_url=emu.url) as bearer:
        people, deletions = bearer.project.retrievals, bearer.project.deletions
        made = await people.create(["u-1", "u-2"], compliance_type="CCPA")
        found = await people.get(made.id)
        assert ("SUCCESS", ["u-1", "u-2"]) == (found.status, found.distinct_ids)
        assert found.result not in repr(found)
        async with httpx.AsyncClient() as http:
            assert (await http.get(found.result)).content.startswith(b"PK")
        with pytest.raises(ConfigError, match="send 1,999 at once"):
            await deletions.create([f"u-{n}" for n in range(2000)], confirm=True)
        deletion = await deletions.create("u-1", confirm=True)
        assert "STAGING" == (await deletions.get(deletion.id)).status
        await deletions.cancel(deletion.id)
        assert "REVOKED" == (await deletions.get(deletion.id)).status
        with pytest.raises(QueryError, match="405"):
            await deletions.cancel(deletion.id)


async def test_a_second_metric_of_one_name_is_a_conflict(ws):
    """Metrics come as mappings by id, one of them too."""
    metrics = ws.project.metrics
    made = await metrics.create(name="Orders", definition={"type": "simple"})
    assert {"Paid", "Orders"} == {each.name for each in await metrics.list()}
    assert "Orders" == (await metrics.get(made.id)).name
    with pytest.raises(ConflictError, match="409"):
        await metrics.create(name="Orders", definition={})
    await metrics.delete(made.id, confirm=True)
    assert ["Paid"] == [each.name for each in await metrics.list()]


async def test_who_and_where(ws):
    """Projects, views and organizations, of `/me` and besides."""
    me = await ws.project.me()
    assert ("robot", ["4242"]) == (me.user_name, [*me.projects])
    assert [(4242, "UTC")] == [
        (each.id, each.timezone) for each in await ws.project.projects.list()
    ]
    assert [77] == [each.id for each in await ws.project.views.list()]
    assert "Emulator" == (await ws.project.organizations.get(1)).name
    context = await ws.project.business_context.update("A tea shop", confirm=True)
    assert "A tea shop" == context.content
    both = await ws.project.business_context.both()
    assert ["Sells things", "A tea shop"] == [*both.values()]


async def test_annotations_take_days_and_times(ws):
    """But none with a timezone: they are in the project's."""
    notes = ws.project.annotations
    made = await notes.create(date=datetime(2026, 1, 31, 9, 30), description="x", tags=[1022])
    assert ("2026-01-31 09:30:00", ["event"]) == (made.date, [each["name"] for each in made.tags])
    assert "2026-02-01 00:00:00" == (await notes.create(date="2026-02-01", description="y")).date
    found = await notes.list(from_date="2026-01-31", to_date=date(2026, 1, 31))
    assert ["x"] == [each.description for each in found]
    with pytest.raises(ConfigError, match="must have no timezone"):
        await notes.create(date=datetime(2026, 1, 1, tzinfo=UTC), description="z")


async def test_lists_are_tables_too(ws):
    """As a DataFrame, and in notebooks."""
    boards = await ws.project.dashboards.list()
    assert "<td>Weekly</td>" in boards._repr_html_()
    pytest.importorskip("pandas")
    assert ["Weekly"] == [*boards.df["title"]]


def test_the_sync_twin_has_the_same_methods(emu):
    """With the same results, signatures and errors."""
    with Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws:
        made = ws.project.dashboards.create(title="Monthly")
        assert "Monthly" == ws.project.dashboards.get(made.id).title
        ws.project.dashboards.pin(made.id)
        assert ws.project.dashboards.get(made.id).pinned_date
        assert "Yearly" == ws.project.dashboards.update(made.id, title="Yearly").title
        ws.project.dashboards.delete(made.id, confirm=True)
        with pytest.raises(ObjectNotFoundError):
            ws.project.dashboards.get(made.id)
        plan = ws.project.dashboards.plan("create", title="x")
        assert {"title": "x"} == plan.body
        assert "robot" == ws.project.me().user_name
        assert "pin(id, *, extra=None)" in repr(ws.project.dashboards)
        assert "dashboards" in repr(ws.project)
        assert "Pin a board" in ws.project.dashboards.pin.__doc__
        assert "pin" in dir(ws.project.dashboards)
        with pytest.raises(AttributeError, match="dashboards has no 'pim'"):
            ws.project.dashboards.pim(1)


async def test_the_sync_twin_refuses_to_block_an_event_loop(emu):
    """With the name of what to use instead."""
    with (
        Workspace.memory(credentials=ROBOT, base_url=emu.url) as ws,
        pytest.raises(RuntimeError, match="AsyncWorkspace"),
    ):
        ws.project.dashboards.list()


def test_seeds_are_a_file_or_a_mapping(tmp_path):
    """With ids of their own, or new ones; what is invalid is refused before anything is saved."""
    emu = Emulator()
    assert 2 == emu.seed({"tags": [{"name": "a"}, {"name": "b"}]})
    with pytest.raises(ValueError, match="'boards' is no kind"):
        emu.seed({"boards": []})
    with pytest.raises(ValueError, match="tags must be a list of objects"):
        emu.seed({"tags": ["a"]})
    with pytest.raises(ValueError, match="id='x' must be a whole number"):
        emu.seed({"tags": [{"id": "x"}]})
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json"):
        emu.seed(broken)
    with pytest.raises(OSError, match=r"none\.json"):
        emu.seed(tmp_path / "none.json")
    assert len(json.loads(SEEDS.read_text())) <= emu.seed(SEEDS)


def test_seeds_may_be_yaml(tmp_path):
    """If PyYAML is there."""
    pytest.importorskip("yaml")
    file = tmp_path / "seeds.yaml"
    file.write_text("tags:\n  - name: core\n")
    assert 1 == Emulator().seed(file)
