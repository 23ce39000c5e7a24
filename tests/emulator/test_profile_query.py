"""The profile query of the emulator, over a socket."""

import json
import threading

import httpx
import pytest

from mixpanel.emulator import Emulator, Limits

NOW = 1_764_000_000
SEEN = "2025-11-24T16:00:00"
DAY = 24 * 3600
EVERYBODY = ["u1", "u2", "u3", "u4", "u5"]


@pytest.fixture
def emu():
    """An emulator with two profiles on a page."""
    with Emulator(now=lambda: NOW, page_size=2, service_accounts={"robot": "s3cret"}) as emulator:
        yield emulator


@pytest.fixture
def http(emu):
    with httpx.Client(base_url=emu.url, auth=("robot", "s3cret")) as client:
        yield client


@pytest.fixture
def people(http):
    """Five users: u1 to u5, every other one on the team plan; u1 and u4 have tags."""
    tags = {1: ["vip", "new"], 4: ["vip", 3]}
    for n in range(1, 6):
        plan = "team" if n % 2 else "free"
        tagged = {"tags": tags[n]} if n in tags else {}
        put(http, f"u{n}", plan=plan, seats=n, **{"$email": f"u{n}@example.org"}, **tagged)
    return http


def put(http, who, **properties):
    update = {"$token": "T", "$distinct_id": who, "$set": properties}
    http.post("/engage", json=[update]).raise_for_status()


def ask(http, **fields):
    """Send a query as a form, and return the response."""
    return http.post("/api/query/engage", params={"project_id": "42"}, data=fields)


def ids(response):
    assert (200, "") == (response.status_code, "" if response.is_success else response.text)
    return [each["$distinct_id"] for each in response.json()["results"]]


def everybody(http, **fields):
    """Read all pages of a query."""
    response = ask(http, **fields)
    found = ids(response)
    while len(ids(response)) == 2:
        body = response.json()
        response = ask(http, **fields, page=body["page"] + 1, session_id=body["session_id"])
        found += ids(response)
    return found


def test_a_page_has_the_documented_format(http):
    """With the total, and when each user was last seen."""
    put(http, "u1", plan="team")
    body = ask(http).json()
    session_id = body.pop("session_id")
    assert session_id
    profile = {"$distinct_id": "u1", "$properties": {"$last_seen": SEEN, "plan": "team"}}
    expected = {"page": 0, "page_size": 2, "status": "ok", "total": 1, "results": [profile]}
    assert expected == body


def test_pages_are_read_by_session(people):
    """Each profile once, `total` on the first page only, and in any order."""
    first = ask(people).json()
    assert 5 == first["total"]
    pages = {n: ask(people, session_id=first["session_id"], page=n).json() for n in (2, 1, 3)}
    assert all("total" not in page for page in pages.values())
    found = [
        [each["$distinct_id"] for each in page["results"]]
        for page in (first, pages[1], pages[2], pages[3])
    ]
    assert [["u1", "u2"], ["u3", "u4"], ["u5"], []] == found


def test_a_session_does_not_change(people):
    """A profile that is added later does not shift the pages."""
    first = ask(people).json()
    put(people, "a0", plan="team")
    assert ["u3", "u4"] == ids(ask(people, session_id=first["session_id"], page=1))


def test_later_pages_need_their_session(people):
    """An existing one."""
    assert 400 == ask(people, page=1).status_code
    body = ask(people, page=1, session_id="nonsense").json()
    assert {"error": "session_id is not known, or has expired", "status": "error"} == body


def test_the_page_size_is_a_thousand():
    """Unless a test configures another."""
    with Emulator(now=lambda: NOW) as emulator:
        body = httpx.post(
            f"{emulator.url}/api/query/engage", params={"project_id": "1"}, auth=("a", "b")
        ).json()
    assert (1000, 0, []) == (body["page_size"], body["total"], body["results"])


def test_a_query_may_be_a_get(people):
    """With its parameters in the URL, as mixpanel-utils sends them; errors are the same."""
    url, query = "/api/2.0/engage", {"project_id": "42", "where": 'properties["seats"] < 3'}
    response = people.get(url, params=query)
    assert ["u1", "u2"] == ids(response)
    page = {"page": 1, "session_id": response.json()["session_id"]}
    assert [] == ids(people.get(url, params={**query, **page}))
    assert 400 == people.get(url, params={**query, "where": "x"}).status_code
    assert 401 == people.get(url, params=query, auth=("robot", "wrong")).status_code


def test_json_bodies_are_accepted(people):
    """With the same fields, as JSON values or as JSON text."""
    fields = {"where": 'properties["plan"] == "free"', "output_properties": ["plan"]}
    url, query = "/api/query/engage", {"project_id": "42"}
    body = people.post(url, params=query, json=fields).json()
    expected = [{"$distinct_id": who, "$properties": {"plan": "free"}} for who in ("u2", "u4")]
    assert expected == body["results"]
    fields["output_properties"] = '["plan"]'
    assert expected == people.post(url, params=query, json=fields).json()["results"]


def test_properties_can_be_selected(people):
    """Others are omitted, including `$last_seen`."""
    body = ask(people, output_properties='["plan", "none"]', distinct_id="u1").json()
    assert [{"$distinct_id": "u1", "$properties": {"plan": "team"}}] == body["results"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('properties["plan"] == "team"', ["u1", "u3", "u5"]),
        ('user["seats"] >= 4', ["u4", "u5"]),
        ('"u2@" in properties["$email"]', ["u2"]),
        ('"vip" in properties["tags"]', ["u1", "u4"]),
        ('"vi" in properties["tags"] or 3 in properties["tags"]', ["u4"]),
        ('"vip" not in properties["tags"]', ["u2", "u3", "u5"]),
        (
            'properties["$last_seen"] > datetime("2025-11-24T15:59:59")',
            [f"u{n}" for n in range(1, 6)],
        ),
        ('properties["$last_seen"] > datetime("2025-11-24T16:00:00")', []),
        ('properties["$distinct_id"] in ["u1", "u9"]', ["u1"]),
        ("", EVERYBODY),
    ],
)
def test_profiles_are_filtered_by_condition(people, where, expected):
    """`where` reads profile properties."""
    assert expected == everybody(people, where=where)


def test_profiles_are_filtered_by_id(people):
    """One or several, and by an alias."""
    alias = {"event": "$create_alias", "properties": {"distinct_id": "u3", "alias": "a3"}}
    people.post("/import", params={"project_id": "42"}, json=[alias]).raise_for_status()
    assert ["u1"] == ids(ask(people, distinct_id="u1"))
    assert ["u2", "u3"] == ids(ask(people, distinct_ids='["u2", "a3", "nobody"]'))


@pytest.mark.slow
def test_profiles_are_filtered_by_cohort(emu, people):
    """Members without a profile are included, unless the query excludes them."""
    emu.set_cohorts({123: ["u2", "u1", "stranger"]})
    assert ["stranger", "u1", "u2"] == everybody(people, filter_by_cohort='{"id": 123}')
    cohort = {"filter_by_cohort": '{"id":123}', "include_all_users": "false"}
    assert ["u1", "u2"] == ids(ask(people, **cohort))
    (stranger, _) = ask(people, filter_by_cohort='{"id": 123}').json()["results"]
    assert {"$distinct_id": "stranger", "$properties": {}} == stranger


def test_group_profiles_can_be_queried(people):
    """By their group key."""
    for key, group_id in (("company", "c1"), ("company", "c2"), ("team", "t1")):
        group = {"$token": "T", "$group_key": key, "$group_id": group_id}
        people.post("/groups", json=[{**group, "$set": {"size": len(group_id)}}])
    assert ["c1", "c2"] == everybody(people, data_group_id="company")
    assert ["t1"] == ids(ask(people, data_group_id="team", where='properties["size"] == 2'))


@pytest.mark.slow
def test_profiles_are_filtered_by_behaviors(people):
    """Copies count once; windows end now, or at `as_of_timestamp`."""
    events = [
        {"event": name, "properties": {"time": time, "distinct_id": who, "$insert_id": which}}
        for name, time, who, which in (
            ("Order Paid", NOW - DAY, "u1", "a"),
            ("Order Paid", NOW - DAY, "u1", "a"),
            ("Order Paid", NOW - 2 * DAY, "u2", "b"),
            ("Order Paid", NOW - 3 * DAY, "u2", "c"),
            ("Order Paid", NOW - 40 * DAY, "u3", "d"),
            ("Visit", NOW - DAY, "u4", "e"),
        )
    ]
    people.post("/import", params={"project_id": "42"}, json=events).raise_for_status()

    def behaviors(window="30d", **selector):
        selectors = [{"event": "Order Paid", **selector}]
        return json.dumps([{"window": window, "name": "b1", "event_selectors": selectors}])

    def found(where, **fields):
        return everybody(people, where=where, **{"behaviors": behaviors(), **fields})

    assert ["u1", "u2"] == found('(behaviors["b1"] > 0)')
    assert ["u2"] == found('behaviors["b1"] == 2')
    assert ["u3", "u4", "u5"] == found('behaviors["b1"] == 0')
    assert ["u1"] == found('behaviors["b1"] > 0', behaviors=behaviors("36h"))
    assert ["u3"] == found('behaviors["b1"] > 0', as_of_timestamp=NOW - 30 * DAY)
    some = behaviors(selector='properties["$insert_id"] == "b"')
    assert ["u2"] == found('behaviors["b1"] > 0', behaviors=some)
    assert 400 == ask(people, behaviors=behaviors(), where='behaviors["b2"] > 0').status_code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filter_by_cohort": "123"}, 'filter_by_cohort must be an object, as {"id": 123}'),
        ({"filter_by_cohort": '{"id": 9}'}, "cohort 9 does not exist"),
        ({"filter_by_cohort": "{"}, "filter_by_cohort is not valid JSON"),
        ({"filter_by_cohort": "{}", "behaviors": "[]"}, "cannot be combined"),
        ({"behaviors": "30"}, "behaviors must be a list"),
        ({"behaviors": '[{"name": "b1"}]'}, "a behavior requires name"),
        (
            {"behaviors": '[{"name":"b","window":"long","event_selectors":[]}]'},
            "window must be like 30d, not 'long'",
        ),
        ({"output_properties": "plan"}, "output_properties is not valid JSON"),
        ({"distinct_ids": '"u1"'}, "distinct_ids must be a JSON array of strings"),
        ({"page": "two"}, "page must be an integer"),
        ({"page": "-1"}, "page must not be negative"),
        ({"where": "plan"}, "where: unknown name 'plan'"),
        ({"where": 'properties["plan"] and true'}, "where: `and` joins conditions"),
    ],
)
def test_invalid_queries_are_refused(people, fields, message):
    """400, in the format of the Query API."""
    response = ask(people, **fields)
    body = response.json()
    assert (400, "error") == (response.status_code, body["status"])
    assert message in body["error"]


@pytest.mark.slow
def test_pages_of_behaviors_need_a_fixed_time():
    """Above a thousand profiles, with the service's own message."""
    behaviors = json.dumps([{"window": "1d", "name": "b1", "event_selectors": [{"event": "a"}]}])
    fields = {"behaviors": behaviors, "where": 'behaviors["b1"] == 0'}
    with (
        Emulator(now=lambda: NOW) as emulator,
        httpx.Client(base_url=emulator.url, auth=("a", "b")) as http,
    ):
        updates = [
            {"$token": "T", "$distinct_id": f"u{n:04}", "$set": {"n": n}} for n in range(1001)
        ]
        http.post("/engage", json=updates).raise_for_status()
        first = ask(http, **fields).json()
        later = {"session_id": first["session_id"], "page": 1}
        refused = ask(http, **fields, **later).json()["error"]
        assert "request for page in uncached query for params" == refused
        first = ask(http, **fields, as_of_timestamp=NOW).json()
        later = {"session_id": first["session_id"], "page": 1}
        assert ["u1000"] == ids(ask(http, **fields, as_of_timestamp=NOW, **later))


@pytest.mark.parametrize("auth", [None, ("robot", "wrong"), ("T", "")])
def test_profile_queries_require_a_service_account(auth):
    """401, as JSON."""
    with Emulator(service_accounts={"robot": "s3cret"}, tokens="T") as emulator:
        response = httpx.post(
            f"{emulator.url}/api/query/engage", params={"project_id": "42"}, auth=auth
        )
    assert (401, {"error": "Invalid credentials", "status": "error"}) == (
        response.status_code,
        response.json(),
    )


def test_queries_are_rate_limited():
    """Pages after the first are free."""
    with (
        Emulator(now=lambda: NOW, query_limits=Limits(per_hour=2)) as emulator,
        httpx.Client(base_url=emulator.url, auth=("a", "b")) as http,
    ):
        first = ask(http).json()
        assert 200 == ask(http, page=1, session_id=first["session_id"]).status_code
        assert 200 == ask(http).status_code
        refused = ask(http)
        assert (429, "3600") == (refused.status_code, refused.headers["retry-after"])
        assert "error" == refused.json()["status"]
        emulator.clear()
        assert 200 == ask(http).status_code


def test_pages_may_be_read_concurrently(people):
    """From several threads."""
    session_id = ask(people).json()["session_id"]
    found = {}

    def read(page):
        found[page] = ids(ask(people, session_id=session_id, page=page))

    threads = [threading.Thread(target=read, args=(page,)) for page in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {1: ["u3", "u4"], 2: ["u5"]} == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sort_key": 'properties["seats"]', "sort_order": "descending", "limit": 2}, ["u5", "u4"]),
        ({"sort_key": 'properties["plan"]', "where": 'properties["seats"] < 4'}, ["u2", "u1"]),
        ({"sort_key": 'properties["none"]', "limit": 1}, ["u1"]),
        ({"search": "U3@EXAMPLE"}, ["u3"]),
    ],
)
def test_profiles_are_sorted_searched_and_limited(people, fields, expected):
    """`total` counts those beyond the limit too."""
    response = ask(people, **fields)
    assert expected == ids(response)
    assert len(expected) <= response.json()["total"]


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"sort_key": "seats"}, {"sort_key": "1", "sort_order": "up"}])
def test_what_cannot_be_sorted_by_is_refused(people, fields):
    """With 400, as everything malformed."""
    assert 400 == ask(people, **fields).status_code


def cohort(operator, *children, **behaviors):
    return {"selector": {"operator": operator, "children": list(children)}, "behaviors": behaviors}


def did(event, **when):
    count = {"event_selector": {"event": event, "selector": None}, "type": "absolute"}
    return {"count": count, **when}


TWO_DAYS = {"from_date": "2025-11-23", "to_date": "2025-11-24"}


def often(name, operator, operand):
    return {"property": "behaviors", "value": name, "operator": operator, "operand": operand}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (cohort("and", often("b", ">=", 2), b=did("A", window={"unit": "day", "value": 30})),
         ["u1"]),
        (cohort("and", often("b", "==", 0), b=did("A", **TWO_DAYS)),
         ["u3", "u4", "u5"]),
        (cohort("or", {"property": "user", "value": "seats", "operator": ">", "operand": "4",
                       "type": "number"},
                {"property": "user", "value": "plan", "operator": "in", "operand": "re"}),
         ["u2", "u4", "u5"]),
        (cohort("and", {"property": "user", "value": "tags", "operator": "defined", "operand": ""},
                {"property": "cohort", "value": 7, "operator": "not in"}),
         ["u4"]),
    ],
)  # fmt: skip
def test_a_cohort_may_be_defined_in_the_query(emu, people, definition, expected):
    """By what users did and how often, by properties, and by other cohorts."""
    emu.set_cohorts({7: ["u1"]})
    for n, who in enumerate(("u1", "u1", "u2")):
        fields = {"time": NOW - n * 3600, "distinct_id": who, "$insert_id": f"insert-{n}"}
        event = [{"event": "A", "properties": fields}]
        people.post("/import", params={"project_id": "42"}, json=event).raise_for_status()
    form = json.dumps({"raw_cohort": definition})
    assert expected == everybody(people, filter_by_cohort=form)


@pytest.mark.slow
@pytest.mark.parametrize(
    "definition",
    [
        5,
        {"behaviors": [1]},
        {"behaviors": {"b": {"count": {}}}},
        {"behaviors": {"b": did("A")}},
        {"selector": {"operator": "xor", "children": []}},
        cohort("and", {"property": "user", "value": "seats", "operator": "like", "operand": 1}),
        cohort("and", {"property": "cohort", "value": 99, "operator": "in"}),
    ],
)
def test_a_malformed_definition_is_refused(people, definition):
    """With 400 and a reason."""
    response = ask(people, filter_by_cohort=json.dumps({"raw_cohort": definition}))
    assert (400, "error") == (response.status_code, response.json()["status"])
