"""`mp cdp`: one message at a time, and who it goes to."""

import json
import os
import pty
import shlex
import subprocess
import sys

import pytest
import typer

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.cli.app import app
from mixpanel.emulator import CustomerIORules, Emulator, Fault, HightouchRules, OAuthRules
from tests.cdp.run_clients import messages
from tests.cdp.test_oauth import key_pair
from tests.cli.cli_data import runner

EU_KEY = "sk_eu_" + "0" * 32 + "_000000"
TRACK = ("track", "Order Paid", "--user-id", "u-17")
ENDS = (("suppress", "u-9"), ("delete", "u-9"), ("object", "acme", "--delete"))


@pytest.fixture(scope="module")
def server():
    """Run one emulator for all."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emu(server):
    """Empty it; its faults go too."""
    server.clear()
    return server


@pytest.fixture(params=["customerio", "hightouch"])
def vendor(request):
    """Run a test against each vendor."""
    return request.param


def runner_for(emu, vendor="customerio", key="k", **env):
    """Return what runs `mp cdp` against a vendor of an emulator."""
    return for_env(
        {
            "MP_CDP_BASE_URL": getattr(emu, f"{vendor}_url"),
            f"MP_{vendor.upper()}_WRITE_KEY": key,
            **env,
        }
    )


def for_env(env):
    run = runner({"COLUMNS": "200", "NO_COLOR": "1", **env})
    return lambda *arguments, **more: run("cdp", *arguments, **more)


def sent(result):
    """Return what a command wrote on stdout, once it went well."""
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
    return json.loads(result.stdout)


# ---- the six kinds ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (
            ["identify", "--user-id", "u", "--anonymous-id", "a", "--traits", '{"plan": "team"}'],
            {"type": "identify", "userId": "u", "anonymousId": "a", "traits": {"plan": "team"}},
        ),
        (
            ["track", "Paid", "--user-id", "u", "--properties", '{"n": 1}', "--group-id", "g"],
            {"type": "track", "event": "Paid", "properties": {"n": 1}, "groupId": "g"},
        ),
        (
            ["page", "Pricing", "--user-id", "u", "--category", "Docs", "--properties", '{"n": 1}'],
            {"name": "Pricing", "category": "Docs", "properties": {"n": 1, "category": "Docs"}},
        ),
        (["screen", "--anonymous-id", "a"], {"type": "screen", "anonymousId": "a"}),
        (
            ["group", "acme", "--user-id", "u", "--traits", '{"plan": "team"}'],
            {"type": "group", "groupId": "acme", "userId": "u", "traits": {"plan": "team"}},
        ),
        (["alias", "old", "u"], {"type": "alias", "previousId": "old", "userId": "u"}),
    ],
)  # fmt: skip
def test_each_message_type_arrives(emu, vendor, arguments, fields):
    """At its own endpoint, with the fields that any message may have."""
    around = [
        "--context", '{"ip": "203.0.113.9"}', "--timestamp", "2026-01-31T12:00:00+01:00",
        "--integrations", '{"All": false}', "--message-id", "m-1",
    ]  # fmt: skip
    result = sent(runner_for(emu, vendor)(*arguments, *around))
    url = getattr(emu, f"{vendor}_url")
    assert {"kind": arguments[0], "message_id": "m-1", "sent_to": url} == result
    (kept,) = emu.cdp_messages(vendor)
    assert arguments[0] == kept["endpoint"]
    message = kept["message"]
    expected = {
        **fields, "timestamp": "2026-01-31T11:00:00.000Z", "integrations": {"All": False},
        "messageId": "m-1",
    }  # fmt: skip
    assert expected.items() <= message.items()
    assert "203.0.113.9" == message["context"]["ip"]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["1767268800", "1767268800000", "2026-01-01T12:00:00"])
def test_a_timestamp_may_be_a_number(emu, when):
    """Seconds, milliseconds, or ISO 8601, in UTC unless it has an offset."""
    sent(runner_for(emu)(*TRACK, "--timestamp", when))
    assert ["2026-01-01T12:00:00.000Z"] == [one["timestamp"] for one in messages(emu)]


def test_json_may_come_from_a_file_and_stdin(emu, tmp_path):
    """As `@FILE`, and as `-`."""
    file = tmp_path / "context.json"
    file.write_text('\ufeff{"ip": "203.0.113.9"}')
    result = runner_for(emu)(
        *TRACK, "--properties", "-", "--context", f"@{file}", given='{"amount": 12.5}'
    )
    sent(result)
    (message,) = messages(emu)
    assert ({"amount": 12.5}, "203.0.113.9") == (message["properties"], message["context"]["ip"])


@pytest.mark.slow
@pytest.mark.parametrize("to", ["segment", "rudderstack"])
def test_segment_and_rudderstack_are_vendors_too(emu, tmp_path, to):
    """By --to, or by the key in the environment; single messages, files and `ping`."""
    url = getattr(emu, f"{to}_url")
    run = for_env({f"MP_{to.upper()}_WRITE_KEY": "k", f"MP_{to.upper()}_BASE_URL": url})
    assert "track" == sent(run(*TRACK))["kind"]
    sent(run("identify", "--to", to, "--user-id", "u", "--traits", '{"plan": "team"}'))
    file = tmp_path / "messages.ndjson"
    file.write_text('{"type": "page", "userId": "u"}\n')
    assert 0 == run("batch", str(file)).exit_code
    tracked, identified, paged = messages(emu)
    assert ("track", "page") == (tracked["type"], paged["type"])
    where = identified["context"] if to == "rudderstack" else identified
    assert {"plan": "team"} == where["traits"]
    assert (to == "rudderstack") == ("channel" in tracked)
    ping = run("ping", "--to", to)
    assert 0 == ping.exit_code, ping.stderr
    for option, words in (
        (("--permissive",), "Customer.io only"),
        (("--oauth-client-id", "x"), "OAuth is for Hightouch only"),
        (("--schema-version", "1"), "has no contracts"),
    ):
        refused = run(*TRACK, *option)
        assert ExitCode.USAGE == refused.exit_code
        assert words in refused.stderr
    refused = run("suppress", "u", "--force")
    assert f"{'Segment' if to == 'segment' else 'RudderStack'} would store" in refused.stderr


def test_rudderstack_needs_the_url_of_the_data_plane():
    """It has no host that all customers share."""
    refused = for_env({"MP_RUDDERSTACK_WRITE_KEY": "k"})(*TRACK)
    assert refused.exit_code
    assert "pass --base-url or set MP_RUDDERSTACK_BASE_URL" in refused.stderr


def test_a_schema_version_is_for_hightouch(emu):
    """It is placed where Hightouch looks for it."""
    sent(runner_for(emu, "hightouch")(*TRACK, "--schema-version", "1.2.0"))
    (message,) = messages(emu)
    assert {"schemaVersion": "1.2.0"} == message["context"]["protocols"]
    refused = runner_for(emu)(*TRACK, "--schema-version", "1.2.0")
    assert ExitCode.USAGE == refused.exit_code
    assert "Customer.io has no contracts" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [("identify",), TRACK, ("page", "Docs"), ("screen", "Home"), ("group", "g")]
)
def test_the_place_of_the_schema_version_is_an_option(emu, kind):
    """It may be a property, or a trait."""
    person = () if "--user-id" in kind else ("--user-id", "u")
    version = ("--schema-version", "2", "--version-at", "properties.apiVersion")
    sent(runner_for(emu, "hightouch")(*kind, *person, *version))
    (message,) = messages(emu)
    assert (
        "2" == message["traits" if kind[0] in ("identify", "group") else "properties"]["apiVersion"]
    )
    refused = runner_for(emu, "hightouch")(*kind, *person, *version[:-1], "apiVersion")
    assert ExitCode.USAGE == refused.exit_code
    assert "must be a path in a message" in refused.stderr


def test_a_customerio_action_sent_to_hightouch_is_a_warning(emu):
    """Nobody would be deleted."""
    result = runner_for(emu, "hightouch")("track", "User Deleted", "--user-id", "u")
    assert ExitCode.OK == result.exit_code
    assert "'User Deleted' is an action of Customer.io" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["track", "Paid"], "--anonymous-id"),
        (["track", "--user-id", "u"], "EVENT is missing: give it, or --file"),
        (["track", " ", "--user-id", "u"], "the event name is empty"),
        (["group", "--user-id", "u"], "GROUP_ID is missing: give it, or --file"),
        (["alias", "old"], "PREVIOUS_ID and USER_ID are missing: give it, or --file"),
        (["alias", "u", "u"], "PREVIOUS_ID and USER_ID are the same"),
        (
            [*TRACK, "--properties", "{n: 1}"],
            "for '--properties': this is not valid JSON: Expecting",
        ),
        ([*TRACK, "--properties", "[1]"], 'this must be an object, such as {"plan": "team"}'),
        ([*TRACK, "--properties", "-"], "stdin is not valid JSON: Expecting value"),
        ([*TRACK, "--context", "@nowhere.json"], "cannot read nowhere.json: No such file"),
        ([*TRACK, "--properties", "[" * 100_000], "this is not valid JSON: maximum recursion"),
        ([*TRACK, "--timestamp", "soon"], "'soon' must be ISO 8601, or seconds or milliseconds"),
        ([*TRACK, "--properties", '{"x": "' + "x" * 32_000 + '"}'], "bytes larger than"),
        ([*TRACK, "--failed", "f"], "--failed needs --file"),
        ([*TRACK, "--start-at", "1"], "--start-at needs --file"),
        ([*TRACK, "--region", "moon"], "--region 'moon' is unknown; choose one of"),
    ],
)
def test_wrong_arguments_are_explained(emu, vendor, arguments, why):
    """The message says what to do, and nothing is sent."""
    env = {"MP_CDP_BASE_URL": None} if "--region" in arguments else {}
    result = runner_for(emu, vendor)(*arguments, **env)
    code = ExitCode.NOT_FOUND if "No such file" in why else ExitCode.USAGE
    assert (code, "") == (result.exit_code, result.stdout)
    assert why in " ".join(result.stderr.replace("│", "").split())
    assert [] == emu.requests()


# ---- Customer.io's own --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (
            ["device", "TOK", "--user-id", "u", "--platform", "ios", "--attributes", '{"x": 1}'],
            {"event": "Device Created or Updated", "userId": "u"},
        ),
        (
            ["device", "TOK", "--user-id", "u", "--delete"],
            {"event": "Device Deleted", "userId": "u"},
        ),
        (
            ["object", "acme", "--type", "2", "--traits", '{"plan": "team"}'],
            {"groupId": "acme", "traits": {"object_type_id": "2", "plan": "team"}},
        ),
        (
            ["object", "acme", "--relate", "u", "--relationship", '{"role": "admin"}'],
            {
                "groupId": "acme", "userId": "u",
                "traits": {"object_type_id": "1", "relationshipAttributes": {"role": "admin"}},
            },
        ),
        (
            ["object", "acme", "--type", "2", "--unrelate", "u"],
            {
                "event": "Relationship Deleted", "userId": "u",
                "properties": {"objectId": "acme", "objectTypeId": 2},
            },
        ),
        (
            ["object", "acme", "--type", "2", "--delete", "--force"],
            {"event": "Object Deleted", "properties": {"objectId": "acme", "objectTypeId": 2}},
        ),
        (["suppress", "u-9", "--force"], {"event": "User Suppressed", "userId": "u-9"}),
        (["suppress", "u-9", "--undo"], {"event": "User Unsuppressed", "userId": "u-9"}),
        (["delete", "u-9", "--force"], {"event": "User Deleted", "userId": "u-9"}),
    ],
)  # fmt: skip
def test_customerio_commands_send_its_own_messages(emu, arguments, fields):
    """In the shape that its API reads."""
    sent(runner_for(emu)(*arguments, "--message-id", "m-1"))
    (message,) = messages(emu)
    assert {**fields, "messageId": "m-1"}.items() <= message.items()
    if arguments[0] == "device":
        device = message["context"]["device"]
        assert "TOK" == device["token"]
        assert ("--delete" in arguments) is ("type" not in device)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["device", "TOK", "--user-id", "u"], "it must be ios or android"),
        (
            ["device", "TOK", "--user-id", "u", "--delete", "--platform", "ios"],
            "cannot be used together",
        ),
        (["object", "acme", "--relate", "u", "--delete"], "cannot be used together"),
        (["object", "acme", "--relationship", "{}"], "--relationship needs --relate"),
        (["object", "acme", "--type", "company"], "--type must be a whole number"),
        *[
            (arguments, "confirmation required, but stdin is not a terminal: add --force")
            for arguments in ENDS
        ],
    ],
)
def test_invalid_customerio_commands_are_refused(emu, arguments, why):
    """Also destructive ones without a terminal to confirm them on."""
    result = runner_for(emu)(*arguments)
    assert ExitCode.USAGE == result.exit_code
    assert why in " ".join(result.stderr.split())
    assert [] == emu.requests()


@pytest.mark.parametrize("arguments", [("device", "TOK", "--user-id", "u"), *ENDS])
def test_customerio_commands_are_refused_for_hightouch(emu, arguments):
    """It would store an event without any effect."""
    result = runner_for(emu, "hightouch")(*arguments)
    assert ExitCode.USAGE == result.exit_code
    assert f"mp cdp {arguments[0]} is for Customer.io only" in result.stderr
    assert [] == emu.requests()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("y", ExitCode.OK), ("n", ExitCode.ERROR)])
def test_suppress_asks_for_confirmation(emu, answer, code):
    """On a terminal; anything but yes cancels it."""
    env = {**os.environ, "MP_CDP_BASE_URL": emu.customerio_url, "MP_CUSTOMERIO_WRITE_KEY": "k"}
    command = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]
    master, slave = pty.openpty()
    os.write(master, f"{answer}\n".encode())
    done = subprocess.run(
        [*command, "cdp", "suppress", "u-9"],
        env=env, stdin=slave, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    os.close(slave)
    os.close(master)
    assert code == done.returncode
    assert f"Delete u-9 at {emu.customerio_url}, and refuse that id from now on?" in done.stderr
    assert (code == ExitCode.OK) is bool(messages(emu))


def test_help_of_suppress_explains_unsubscribing():
    """It shows the command for that."""
    result = " ".join(for_env({})("suppress", "--help").stdout.replace("│", "").split())
    assert "This is not how to stop mailings" in result
    assert """--traits '{"unsubscribed": true}'""" in result


@pytest.mark.slow
def test_every_example_of_cdp_can_be_parsed():
    """Help shows no option that does not exist."""
    for name, command in typer.main.get_command(app).commands["cdp"].commands.items():
        typed = [line for line in command.epilog.splitlines() if f"mp cdp {name} " in f"{line} "]
        assert typed, f"mp cdp {name} shows no example"
        for line in typed:
            words = shlex.split(line)
            command.make_context(name, words[words.index(name) + 1 :], resilient_parsing=True)


# ---- what is doubtful ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["track", "order_complete", "--user-id", "u"], "did you mean 'Order Completed'?"),
        ([*TRACK, "--properties", '{"x": NaN}'], "a number was not finite"),
    ],
)
def test_a_message_with_a_warning_is_sent(emu, arguments, why):
    """With --fail-on-warning it is refused."""
    result = runner_for(emu)(*arguments)
    assert ExitCode.OK == result.exit_code
    assert result.stderr.startswith("warning: ")
    assert why in result.stderr
    refused = runner_for(emu)(*arguments, "--fail-on-warning")
    assert (ExitCode.USAGE, "") == (refused.exit_code, refused.stdout)
    assert 1 == len(messages(emu))


# ---- a dry run ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [TRACK, ("identify", "--user-id", "u-17"), ("page",), *ENDS])
def test_a_dry_run_shows_the_message(emu, arguments):
    """It needs no key and no confirmation."""
    whom = ["--anonymous-id", "u-17"] if arguments == ("page",) else []
    result = runner_for(emu, key=None, MP_CDP_TO="customerio")(*arguments, *whom, "--dry-run")
    assert (ExitCode.OK, f"dry run: nothing was sent to {emu.customerio_url}\n") == (
        result.exit_code, result.stderr
    )  # fmt: skip
    message = json.loads(result.stdout)
    assert message["type"] in {*arguments, "track"}
    assert "mixpanel-async" == message["context"]["library"]["name"]
    assert [] == emu.requests()


def test_a_dry_run_refuses_a_message_that_is_too_large(emu):
    """As sending it would."""
    result = runner_for(emu)(*TRACK, "--properties", '{"x": "' + "x" * 32_000 + '"}', "--dry-run")
    assert ExitCode.USAGE == result.exit_code


# ---- who to send to -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_vendor_is_inferred_from_the_key_that_is_set(emu):
    """With both keys or none, `--to` or MP_CDP_TO is needed."""
    both = {"MP_CUSTOMERIO_WRITE_KEY": "c", "MP_HIGHTOUCH_WRITE_KEY": "h"}
    for env, why in ((both, "the keys of several are set"), ({}, "no write key is set")):
        result = for_env(env)(*TRACK)
        assert ExitCode.USAGE == result.exit_code
        assert why in " ".join(result.stderr.replace("│", "").split())
    mp = for_env({**both, "MP_CDP_BASE_URL": emu.hightouch_url, "MP_CDP_TO": "hightouch"})
    sent(mp(*TRACK))
    sent(mp(*TRACK, "--to", "customerio", "--base-url", emu.customerio_url))
    assert [("hightouch", "h"), ("customerio", "c")] == [
        (one["vendor"], one["key"]) for one in emu.cdp_messages()
    ]


def test_the_key_may_be_typed_or_read_from_a_file(emu, tmp_path):
    """A prefixed key names its vendor; another one needs `--to`."""
    file = tmp_path / "key"
    file.write_text(f"{EU_KEY}\n")
    mp = for_env({"MP_CDP_BASE_URL": emu.customerio_url, "MP_HIGHTOUCH_WRITE_KEY": "h"})
    sent(mp(*TRACK, "--write-key", f"@{file}"))
    assert [EU_KEY] == [one["key"] for one in emu.cdp_messages()]
    result = mp(*TRACK, "--write-key", "classic")
    assert ExitCode.USAGE == result.exit_code
    assert "--write-key may belong to any" in result.stderr


def test_without_a_key_nothing_is_sent(emu):
    """The error names the variable to set."""
    result = runner_for(emu, key=None, MP_CDP_TO="customerio")(*TRACK)
    assert ExitCode.USAGE == result.exit_code
    assert (
        "mp: the write key is missing: give --write-key, or set MP_CUSTOMERIO_WRITE_KEY\n"
        == result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "to"),
    [
        (["--to", "customerio"], "https://cdp.customer.io"),
        (["--to", "customerio", "--region", "eu"], "https://cdp-eu.customer.io"),
        (["--write-key", EU_KEY], "https://cdp-eu.customer.io"),
        (["--to", "hightouch"], "https://us-east-1.hightouch-events.com"),
        (
            ["--to", "hightouch", "--region", "eu-west-1"],
            "https://eu-west-1.hightouch-events.com",
        ),
    ],
)
def test_the_region_decides_the_host(arguments, to):
    """A prefixed key has its region."""
    result = for_env({})(*TRACK, *arguments, "--dry-run")
    assert (ExitCode.OK, f"dry run: nothing was sent to {to}\n") == (
        result.exit_code,
        result.stderr,
    )


def test_a_key_of_another_region_is_refused():
    """The server would answer 200 and drop the message."""
    result = for_env({})(*TRACK, "--write-key", EU_KEY, "--region", "us")
    assert ExitCode.USAGE == result.exit_code
    assert "the write key belongs to region 'eu'" in result.stderr
    assert EU_KEY not in result.output


def test_permissive_turns_strict_mode_off(emu):
    """Hightouch has no strict mode to turn off."""
    sent(runner_for(emu)(*TRACK, "--permissive"))
    assert "x-strict-mode" not in emu.cdp_messages()[0]["headers"]
    result = runner_for(emu, "hightouch")(*TRACK, "--permissive")
    assert ExitCode.USAGE == result.exit_code


def test_gzip_compresses_large_requests(emu, tmp_path):
    """Small ones would not get smaller."""
    file = tmp_path / "many.ndjson"
    file.write_text('{"userId": "u", "event": "Paid"}\n' * 50)
    sent(runner_for(emu)("track", "--file", file, "--gzip"))
    assert {"gzip"} == {one["headers"].get("content-encoding") for one in emu.cdp_messages()}


@pytest.mark.slow
def test_hightouch_accepts_oauth(tmp_path):
    """By options or by the environment; a part of it is a mistake."""
    pem = tmp_path / "key.pem"
    pem.write_text(key_pair()[0])
    rules = OAuthRules(clients=["c"], public_keys={"key-1": key_pair()[1]}, required=True)
    with Emulator(hightouch=HightouchRules(oauth=rules)) as emu:
        env = {
            "MP_HIGHTOUCH_OAUTH_CLIENT_ID": "c", "MP_HIGHTOUCH_OAUTH_KEY_ID": "key-1",
            "MP_HIGHTOUCH_OAUTH_KEY_FILE": str(pem),
            "MP_HIGHTOUCH_OAUTH_SERVER": emu.hightouch_oauth_url,
        }  # fmt: skip
        mp = runner_for(emu, "hightouch", **env)
        sent(mp(*TRACK))
        assert "granted" == json.loads(mp("ping").stdout)["access_token"]
        half = mp(*TRACK, MP_HIGHTOUCH_OAUTH_KEY_ID=None)
        assert ExitCode.USAGE == half.exit_code
        assert "OAuth needs --oauth-key-id too" in half.stderr
        other = mp(*TRACK, "--oauth-client-id", "stranger", "--retries", 0)
        assert ExitCode.AUTHENTICATION == other.exit_code
        assert 1 == len(messages(emu))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["client-id", "key-id", "key-file", "server", "scope"])
def test_oauth_options_are_refused_for_customerio(emu, option):
    """Variables for Hightouch in the environment are ignored."""
    mp = runner_for(emu, "customerio", MP_HIGHTOUCH_OAUTH_CLIENT_ID="c")
    sent(mp(*TRACK))
    result = mp(*TRACK, f"--oauth-{option}", __file__)
    assert ExitCode.USAGE == result.exit_code
    assert f"for --oauth-{option}: OAuth is for Hightouch only" in result.stderr
    assert 1 == len(messages(emu))


@pytest.mark.slow
def test_the_vendors_own_variable_sets_the_address(emu, vendor):
    """As for the clients; --base-url and MP_CDP_BASE_URL override it."""
    variable = f"MP_{vendor.upper()}_BASE_URL"
    url = getattr(emu, f"{vendor}_url")
    mp = runner_for(emu, vendor, MP_CDP_BASE_URL=None, **{variable: url})
    sent(mp(*TRACK, "--region", "nowhere"))
    assert None is json.loads(mp("ping").stdout)["region"]
    mp = runner_for(emu, vendor, **{variable: "http://127.0.0.1:9"})
    sent(mp(*TRACK))
    assert 2 == len([one for one in messages(emu, vendor) if one.get("event") == TRACK[1]])


# ---- what the server says -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.status(400), ExitCode.ERROR),
        (Fault.status(401), ExitCode.AUTHENTICATION),
        (Fault.status(404), ExitCode.NOT_FOUND),
        (Fault.status(429), ExitCode.RATE_LIMITED),
        (Fault.status(503), ExitCode.ERROR),
        (Fault.reset(), ExitCode.ERROR),
    ],
)
def test_the_response_decides_the_exit_code(emu, vendor, fault, code):
    """One line is on stderr, and nothing on stdout."""
    emu.play(fault)
    result = runner_for(emu, vendor)(*TRACK, "--retries", 0)
    assert (code, "", 1) == (result.exit_code, result.stdout, result.stderr.count("\n"))
    assert 1 == len(emu.requests())


@pytest.mark.slow
def test_transient_failures_are_retried(emu):
    """A few times by default."""
    emu.play(Fault.status(503))
    result = sent(runner_for(emu)(*TRACK))
    assert (2, result["message_id"]) == (len(emu.requests()), messages(emu)[0]["messageId"])


def test_a_wrong_key_is_never_shown(vendor):
    """The exit code says that the key was refused."""
    rules = {"customerio": CustomerIORules(keys=["right"]), "hightouch": HightouchRules(keys=["r"])}
    with Emulator(**rules) as emu:
        result = runner_for(emu, vendor, key="hunter2-hunter2")(*TRACK)
        assert (ExitCode.AUTHENTICATION, "") == (result.exit_code, result.stdout)
        assert "hunter2" not in result.stderr


def test_errors_of_cdp_may_be_json(emu):
    """Nothing else is on stderr then."""
    emu.play(Fault.status(429, headers={"retry-after": "7"}))
    result = runner_for(emu, MP_ERROR_FORMAT="json")(*TRACK, "--retries", 0)
    error = json.loads(result.stderr)
    assert ("RATE_LIMIT", 429) == (error["code"], error["details"]["status"])
    wrong = runner_for(emu, MP_ERROR_FORMAT="json")("track", "order_complete")
    assert "USAGE" == json.loads(wrong.stderr)["code"]


def test_the_result_of_cdp_may_be_filtered(emu):
    """By `--jq`, as that of any command."""
    result = runner_for(emu)(*TRACK, "--jq", ".kind")
    assert '"track"\n' == result.stdout
    assert ExitCode.USAGE == runner_for(emu)(*TRACK, "--jq", ".", "-f", "table").exit_code


# ---- ping ---------------------------------------------------------------------------------------


def test_ping_proves_a_key_of_customerio(emu):
    """Nothing is stored, and nothing is dropped silently."""
    result = runner_for(emu)("ping")
    assert ExitCode.OK == result.exit_code
    answer = json.loads(result.stdout)
    assert ("customerio", "accepted", None) == (answer["to"], answer["key"], answer["region"])
    assert emu.customerio_url == answer["origin"]
    assert 0 <= answer["seconds"] < 60
    assert "the key is valid" in result.stderr
    assert [] == emu.cdp_messages()


@pytest.mark.parametrize("arguments", [["customerio", "--permissive"], ["hightouch"]])
def test_ping_does_not_take_200_for_a_valid_key(emu, arguments):
    """The connection works, the key is not proven."""
    result = runner_for(emu, arguments[0])("ping", *arguments[1:])
    assert (ExitCode.OK, "not proven") == (result.exit_code, json.loads(result.stdout)["key"])
    assert "the connection works, but" in result.stderr
    assert [] == emu.cdp_messages()


def test_ping_finds_a_wrong_key_and_a_wrong_region():
    """A wrong key gets 401, a wrong region 200, which a strict Customer.io never gives."""
    with Emulator(customerio=CustomerIORules(keys=["k", EU_KEY], region="us")) as emu:
        wrong = runner_for(emu, key="x")("ping")
        assert (ExitCode.AUTHENTICATION, "") == (wrong.exit_code, wrong.stdout)
        foreign = runner_for(emu, key=EU_KEY)("ping")
        assert ExitCode.ERROR == foreign.exit_code
        assert "not proven" == json.loads(foreign.stdout)["key"]
        assert "the key belongs to this --region" in foreign.stderr


def test_ping_makes_one_attempt(emu):
    """The answer is needed now."""
    emu.play(Fault.status(503).forever())
    assert ExitCode.ERROR == runner_for(emu)("ping").exit_code
    assert 1 == len(emu.requests())
