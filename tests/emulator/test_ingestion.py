"""The ingestion endpoints: what each one accepts, returns and stores."""

import base64
import gzip
import json
import socket

import httpx
import pytest

from mixpanel.emulator import Emulator

NOW = 1_764_000_000
ACCOUNT = ("robot", "s3cret")


@pytest.fixture
def emu():
    """An emulator whose clock stands still."""
    with Emulator(now=lambda: NOW) as emulator:
        yield emulator


@pytest.fixture
def http(emu):
    """A client that sends to the emulator."""
    with httpx.Client(base_url=emu.url) as client:
        yield client


def event(name="Order Paid", *, insert_id="a-1", **properties):
    required = {"token": "T", "time": NOW, "distinct_id": "u1", "$insert_id": insert_id}
    return {"event": name, "properties": {**required, **properties}}


def post_import(http, records, **params):
    query = {"strict": "1", "project_id": "42", **params}
    return http.post("/import", params=query, auth=ACCOUNT, json=records)


# POST /track


@pytest.mark.slow
@pytest.mark.parametrize("records", [event(), [event()]], ids=["object", "array"])
@pytest.mark.parametrize("form", ["json", "data", "base64", "gzip", "ndjson"])
def test_track_decodes_every_documented_body(emu, http, records, form):
    """JSON, form, old base64, gzip and lines: all the same events."""
    text = json.dumps(records)
    old = base64.b64encode(text.encode()).decode()
    lines = {"content-type": "application/x-ndjson"}
    zipped = {"content-encoding": "gzip", "content-type": "application/json"}
    response = {
        "json": lambda: http.post("/track", content=text),
        "data": lambda: http.post("/track", data={"data": text}),
        "base64": lambda: http.post("/track", data={"data": old}),
        "gzip": lambda: http.post("/track", content=gzip.compress(text.encode()), headers=zipped),
        "ndjson": lambda: http.post("/track", content=json.dumps(event()) + "\n\n", headers=lines),
    }[form]()
    assert (200, "1") == (response.status_code, response.text)
    assert [event()] == emu.events()


def test_one_valid_event_makes_a_valid_request(emu, http):
    """Without strict, invalid events are silently dropped."""
    response = http.post("/track", json=[event(), event(time="yesterday")])
    assert ("1", [event()]) == (response.text, emu.events())


@pytest.mark.parametrize("records", [[], [event(time="yesterday")]])
def test_track_without_a_valid_event_returns_0(http, records):
    """Plain 0, and still 200."""
    response = http.post("/track", json=records)
    assert (200, "0") == (response.status_code, response.text)


@pytest.mark.parametrize("where", ["query", "form"])
def test_verbose_track_returns_json(http, where):
    """`verbose` is read from the query, and from the form as old clients send it."""

    def send(*records):
        data, params = {"data": json.dumps(records)}, {}
        (params if where == "query" else data)["verbose"] = "1"
        return http.post("/track", params=params, data=data).json()

    assert {"status": 1, "error": None} == send(event())
    assert 0 == send(event(time=1))["status"]
    assert "five days" in send(event(time=1))["error"]


def test_strict_track_lists_the_rejected_records(http):
    """In the response with strict=1."""
    response = http.post("/track?strict=1", json=[event(), event(time=1)])
    response_body = response.json()
    assert (400, 0, 1) == (
        response.status_code,
        response_body["status"],
        response_body["num_good_events"],
    )
    assert [(1, "properties.time")] == [
        (x["index"], x["field"]) for x in response_body["failed_records"]
    ]


@pytest.mark.parametrize("path", ["/track", "/engage", "/groups"])
def test_no_token_is_unauthorized(http, path):
    """Without a token in any record the request is refused."""
    response = http.post(path, json=[{"event": "A", "properties": {}}])
    assert (401, "error") == (response.status_code, response.json()["status"])


def test_only_known_tokens_are_accepted():
    """With `tokens`, another token is refused."""
    with Emulator(tokens="T", now=lambda: NOW) as emulator:
        url = f"{emulator.url}/track"
        statuses = [
            httpx.post(url, json=[event(token=token)]).status_code for token in ("T", "t", "")
        ]
    assert [200, 401, 401] == statuses


def test_missing_key_fields_are_added(emu, http):
    """No time: receipt. No distinct_id: a hash of the address. No $insert_id: a new one each."""
    bare = {"event": "A", "properties": {"token": "T"}}
    http.post("/track", json=[bare, bare])
    first, second = (each["properties"] for each in emu.events())
    assert NOW == first["time"]
    assert first["distinct_id"] == second["distinct_id"] != ""
    assert first["$insert_id"] != second["$insert_id"]


# POST /import


def test_import_returns_the_count_of_stored_records(emu, http):
    """The documented response of success."""
    response = post_import(http, [event(), event("Other")])
    assert {"code": 200, "num_records_imported": 2, "status": "OK"} == response.json()
    assert 2 == len(emu.events())


def test_a_partly_valid_import_stores_the_valid_records(emu, http):
    """400 with failed_records is a partial success."""
    response = post_import(http, [event(), event("Other", insert_id="b-1", time=0)])
    assert 400 == response.status_code
    assert {
        "code": 400,
        "error": "some data points in the request failed validation",
        "status": "Bad Request",
        "num_records_imported": 1,
        "failed_records": [
            {
                "index": 1,
                "$insert_id": "b-1",
                "field": "properties.time",
                "message": "'properties.time' is invalid: before 1971-01-01",
            }
        ],
    } == response.json()
    assert [event()] == emu.events()


def test_a_lenient_import_silently_drops_invalid_records(emu, http):
    """strict=0 reports nothing."""
    response = post_import(http, [event(), event(time=0)], strict="0")
    assert (200, 1) == (response.status_code, response.json()["num_records_imported"])
    assert [event()] == emu.events()


def test_import_is_strict_by_default(http):
    """As documented."""
    response = http.post("/import?project_id=42", json=[event(time=0)], auth=ACCOUNT)
    assert 400 == response.status_code


def test_import_accepts_ndjson(emu, http):
    """One event per line, gzipped."""
    body = "\n".join(json.dumps(event(text="a\u2028b", insert_id=n)) for n in "ab")
    headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
    http.post("/import", content=gzip.compress(body.encode()), headers=headers, auth=("T", ""))
    assert 2 == len(emu.events())


def test_a_form_import_has_the_response_that_the_official_sdk_reads(http):
    """`status` is 1 or 0 if `data` and `verbose` are in a form."""

    def send(record):
        data = {"data": json.dumps(record), "verbose": 1, "ip": 0}
        return http.post("/import?project_id=42", data=data, auth=ACCOUNT).json()

    assert {"status": 1, "error": None} == send(event())
    assert (0, 1) == (
        (response_body := send(event(time=0)))["status"],
        len(response_body["failed_records"]),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("username", "password", "project_id", "status"),
    [
        ("robot", "s3cret", "42", 200),
        ("robot", "s3cret", None, 401),
        ("robot", "wrong", "42", 401),
        ("nobody", "s3cret", "42", 401),
        ("T", "", None, 200),
        ("secret", "", "42", 200),
        ("other", "", "42", 401),
    ],
)
def test_import_accepts_three_kinds_of_credentials(username, password, project_id, status):
    """Service account with project_id; token or API secret with an empty password."""
    query = {"project_id": project_id} if project_id else {}
    options = {"tokens": {"T"}, "api_secrets": ["secret"], "service_accounts": {"robot": "s3cret"}}
    with Emulator(now=lambda: NOW, **options) as emulator:
        response = httpx.post(
            f"{emulator.url}/import", params=query, json=[event()], auth=(username, password)
        )
    assert status == response.status_code


@pytest.mark.slow
@pytest.mark.parametrize("header", [None, "Bearer x", "Basic", "Basic !!", "Basic Og=="])
def test_import_without_credentials_is_401(emu, http, header):
    """And stores nothing."""
    headers = {"authorization": header} if header else {}
    response = http.post("/import", json=[event()], headers=headers)
    assert {
        "code": 401,
        "error": "Invalid credentials",
        "status": "Unauthorized",
    } == response.json()
    assert [] == emu.events()


# Profiles


def update(**operation):
    return {"$token": "T", "$distinct_id": "u1", **operation}


def test_an_add_that_comes_twice_adds_twice(emu, http):
    """Profile updates are not de-duplicated."""
    for _ in range(2):
        http.post("/engage", json=[update(**{"$add": {"credits": 5}})])
    assert {"u1": {"credits": 10}} == emu.profiles()


def test_a_batch_mixes_operations_and_profiles(emu, http):
    """In the order they were sent, deleted ones gone."""
    batch = [
        update(**{"$set": {"plan": "team", "seats": 1}}),
        update(**{"$add": {"seats": 2}}),
        {"$token": "T", "$distinct_id": "u2", "$set": {"plan": "free"}},
        {"$token": "T", "$distinct_id": "u2", "$delete": ""},
        update(**{"$unset": ["plan"]}),
    ]
    assert "1" == http.post("/engage", json=batch).text
    assert {"u1": {"seats": 3}} == emu.profiles()


def test_profiles_can_be_read_between_updates(emu, http):
    """Reading writes pending ones; the next update finds them."""
    for _ in range(3):
        http.post("/engage", json=[update(**{"$append": {"visits": "x"}})])
        emu.profiles()
    http.post("/engage", json=[update(**{"$delete": None})])
    assert {} == emu.profiles()


def test_invalid_updates_return_200_and_0(emu, http):
    """Clients have to read the body."""
    response = http.post("/engage?verbose=1", json=[update(**{"$add": {"credits": "five"}})])
    assert (200, 0) == (response.status_code, response.json()["status"])
    assert "number" in response.json()["error"]
    assert {} == emu.profiles()


def test_strict_updates_list_the_rejected_records(emu, http):
    """The valid ones are applied."""
    batch = [update(**{"$set": {"a": 1}}), update(**{"$set": 1})]
    response_body = http.post("/engage?strict=1", json=batch).json()
    assert ([1], 1) == (
        [x["index"] for x in response_body["failed_records"]],
        response_body["num_good_events"],
    )
    assert {"u1": {"a": 1}} == emu.profiles()


def test_groups_have_profiles_of_their_own(emu, http):
    """By group key and group id."""
    group = {"$token": "T", "$group_key": "company", "$group_id": "acme"}
    batch = [{**group, "$set": {"seats": 5}}, {**group, "$union": {"tags": ["a", "a"]}}]
    assert "1" == http.post("/groups", json=batch).text
    assert {("company", "acme"): {"seats": 5, "tags": ["a"]}} == emu.groups()
    assert {} == emu.profiles()


# Identity


def test_an_alias_resolves_to_its_user(emu, http):
    """Updates of the alias change the user's profile, into which the alias's is merged."""
    http.post("/engage", json=[update(**{"$distinct_id": "a1", "$set": {"a": 1, "b": 1}})])
    http.post("/engage", json=[update(**{"$set": {"b": 2}})])
    properties = {"distinct_id": "u1", "alias": "a1", "token": "T"}
    http.post("/track", json={"event": "$create_alias", "properties": properties})
    http.post("/engage", json=[update(**{"$distinct_id": "a1", "$set": {"c": 3}})])
    assert {"u1": {"a": 1, "b": 2, "c": 3}} == emu.profiles()
    assert 1 == len(emu.events("$create_alias"))


def test_deleting_an_alias_deletes_its_user_without_ignore_alias(emu, http):
    """`$ignore_alias` keeps the original profile."""
    properties = {"distinct_id": "u1", "alias": "a1", "token": "T"}
    http.post("/track", json={"event": "$create_alias", "properties": properties})
    http.post("/engage", json=[update(**{"$set": {"a": 1}})])
    spare = update(**{"$distinct_id": "a1", "$delete": "", "$ignore_alias": True})
    http.post("/engage", json=[spare])
    assert {"u1": {"a": 1}} == emu.profiles()
    http.post("/engage", json=[{**spare, "$ignore_alias": False}])
    assert {} == emu.profiles()


def test_identify_links_an_anonymous_id(emu, http):
    """It is sent to /track, and needs a UUIDv4."""
    anonymous = "7c1a5a4e-6b1f-4c6e-9a43-7e3b7f0a1b2c"
    properties = {"$identified_id": "u1", "$anon_id": anonymous, "token": "T"}
    record = {"event": "$identify", "properties": properties}
    http.post("/track", data={"data": json.dumps(record)})
    http.post("/engage", json=[update(**{"$distinct_id": anonymous, "$set": {"a": 1}})])
    assert {"u1": {"a": 1}} == emu.profiles()
    properties["$anon_id"] = "visitor-1"
    assert "0" == http.post("/track", json=record).text


@pytest.mark.parametrize(("ids", "status"), [(["u1", "u2"], 200), (["u1"], 400), ("u1", 400)])
def test_merge_requires_exactly_two_ids(emu, http, ids, status):
    """On /import, without time or $insert_id."""
    record = {"event": "$merge", "properties": {"$distinct_ids": ids}}
    assert status == post_import(http, [record]).status_code
    assert (status == 200) == bool(emu.events("$merge"))


def test_aliases_of_aliases_have_no_cycles(emu, http):
    """A cycle cannot be created."""
    for first, second in [("a", "b"), ("b", "c"), ("c", "a")]:
        record = {"event": "$merge", "properties": {"$distinct_ids": [first, second]}}
        post_import(http, [record])
    http.post("/engage", json=[update(**{"$distinct_id": "c", "$set": {"x": 1}})])
    assert {"a": {"x": 1}} == emu.profiles()


def test_simplified_ids_determine_the_distinct_id(emu, http):
    """The canonical id is $user_id, else $device:<id>; the first event with both links them."""
    bare = {"token": "T", "time": NOW}
    http.post(
        "/track",
        json=[
            {"event": "A", "properties": {**bare, "$device_id": "d1"}},
            {"event": "B", "properties": {**bare, "$device_id": "d1", "$user_id": "u1"}},
        ],
    )
    http.post("/engage", json=[update(**{"$distinct_id": "$device:d1", "$set": {"a": 1}})])
    assert ["$device:d1", "u1"] == [each["properties"]["distinct_id"] for each in emu.events()]
    assert {"u1": {"a": 1}} == emu.profiles()


# Limits


@pytest.mark.slow
def test_too_many_records_are_413(emu, http):
    """The limit itself is accepted."""
    events = [event(insert_id=str(number)) for number in range(2, 2003)]
    assert 413 == http.post("/track", json=events).status_code
    assert 413 == post_import(http, events).status_code
    assert 200 == http.post("/track", json=events[:2000]).status_code
    assert 2000 == len(emu.events())


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("size", [2_097_152, 8_000_000, 30_000_000])
def test_too_many_bytes_are_413(emu, http, encoding, size):
    """The limit is on the uncompressed size; a zip bomb is decompressed only up to it."""
    body = b'[{"event":"' + b"a" * size + b'"}]'
    headers = {"content-encoding": encoding}
    sent = gzip.compress(body, 1) if encoding == "gzip" else body
    response = http.post("/import", content=sent, headers=headers, auth=("T", ""))
    assert {
        "code": 413,
        "error": "request exceeds max limit of 2097152 bytes",
        "status": "Request Entity Too Large",
    } == response.json()
    assert 413 == http.post("/track", content=sent, headers=headers).status_code
    assert 200 == http.post("/track", json=[event()]).status_code


def test_a_rate_limit_holds_for_a_rolling_minute():
    """Events of /track and /import count together; above it, 429 until a minute has passed."""
    moments = [NOW]
    with (
        Emulator(rate_limit=3, now=lambda: moments[-1]) as emulator,
        httpx.Client(base_url=emulator.url) as http,
    ):
        two = [event(insert_id="a"), event(insert_id="b")]
        assert 200 == http.post("/track", json=two).status_code
        assert (429, "Too Many Requests") == (
            (response := post_import(http, two)).status_code,
            response.json()["status"],
        )
        moments.append(NOW + 60)
        assert 200 == post_import(http, two).status_code


def test_latency_delays_every_response():
    """The request is ingested first."""
    with Emulator(latency=0.1, now=lambda: NOW) as emulator:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{emulator.url}/track", json=[event()], timeout=0.05)
        assert [event()] == emulator.wait_for(1)
        assert "1" == httpx.post(f"{emulator.url}/track", json=[event()]).text


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/track", "/engage", "/groups", "/import"])
@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"NaN", b"\xff", b"data=%5B", b"[" * 9999])
def test_malformed_json_is_400(http, path, body):
    """Nothing is guessed."""
    assert 400 == http.post(path, content=body, auth=("T", "")).status_code


@pytest.mark.parametrize("body", [b"[]", gzip.compress(b"[]")[:-9]], ids=["plain", "cut"])
def test_broken_gzip_is_400(http, body):
    """The body must match its Content-Encoding."""
    headers = {"content-encoding": "gzip"}
    assert 400 == http.post("/track", content=body, headers=headers).status_code


@pytest.mark.parametrize("path", ["/engage", "/groups"])
def test_profiles_refuse_gzip(http, path):
    """Compression is for events."""
    body = gzip.compress(b"[]")
    assert 415 == http.post(path, content=body, headers={"content-encoding": "gzip"}).status_code


def test_an_unknown_path_is_404_and_a_wrong_method_405(http):
    """Both in JSON."""
    assert (404, "error") == ((r := http.get("/nope")).status_code, r.json()["status"])
    assert (405, "error") == ((r := http.get("/track")).status_code, r.json()["status"])


# ---- other forms of a response ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/track", "/engage", "/groups"])
def test_a_response_may_be_an_image_or_a_script(http, path):
    """For `img=1` one pixel; for `callback=` a script that calls the function with the response."""
    image = http.post(f"{path}?img=1", json=[])
    assert ("image/gif", b"GIF89a") == (image.headers["content-type"], image.content[:6])
    script = http.post(f"{path}?callback=app.done&verbose=1", json=[])
    assert 'app.done({"status":0,"error":"no data"});' == script.text
    assert script.headers["content-type"].startswith("text/javascript")
    assert "0" == http.post(f"{path}?callback=alert(1)//", json=[]).text


def test_the_target_of_a_request_may_be_a_whole_url(emu):
    """As RFC 9112 requires of servers; one of another host than the header's is not found."""
    host = emu.url.removeprefix("http://")
    for target, status in ((f"http://{host}/track?ip=0", 200), ("http://a.example/track", 404)):
        with socket.create_connection(host.split(":"), timeout=10) as connection:
            connection.sendall(
                f"POST {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
                "content-length: 2\r\ncontent-type: application/json\r\n\r\n[]".encode()
            )
            reply = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert "/track" == emu.requests()[0].path
