"""Programs show no secrets: in reprs, copies, errors, logs and frames."""

import base64
import contextlib
import copy
import dataclasses
import functools
import importlib
import json
import logging
import pickle
import pkgutil
import re
import socket
import struct
import tempfile
import threading
import time
import traceback
import types
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from pydantic import BaseModel
from typer.testing import CliRunner

import mixpanel
from mixpanel import (
    AsyncBufferedConsumer,
    AsyncConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    ConfigurationError,
    Consumer,
    Mixpanel,
    MixpanelException,
    RetryPolicy,
    ServiceAccountCredentials,
)
from mixpanel._http.proxies import (
    Proxy,
    TransportOptions,
)
from mixpanel._http.request import (
    Request,
)
from mixpanel._http.responses import (
    Response,
)
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncFanOut,
    AsyncSegmentClient,
    CustomerIO,
    FanOut,
    Hightouch,
    HightouchOAuth,
    SegmentClient,
    Sink,
    htevents,
    webhooks,
)
from mixpanel.cdp._segment.drop_in import DropInClient
from mixpanel.cdp._segment.oauth import AccessTokens
from mixpanel.consumers import AnyConsumer
from mixpanel.credentials import ApiSecret, Secret
from mixpanel.data import (
    AsyncAPI,
    AsyncWorkspace,
    Config,
    Credentials,
    LoginCredentials,
    TokenCredentials,
    Workspace,
)
from mixpanel.data._api.download import StreamingConnections
from mixpanel.data._oauth.login import LoginAttempt
from mixpanel.data._oauth.server import AuthorizationServer
from mixpanel.data._oauth.tokens import TokenFile, Tokens
from mixpanel.data._workspace.core import WorkspaceCore
from mixpanel.data.project import ProjectObject
from mixpanel.flags.types import LocalFlagsConfig, RemoteFlagsConfig
from tests.cdp.test_oauth import key_pair

pytestmark = pytest.mark.slow

ACCOUNT, API, KEY, TOKEN = "canary-account", "canary-api", "canary-write-key", "canary-token"
WEBHOOK, PROXY = "canary-webhook", "canary-proxy"
BEARER, ACCESS, REFRESH = "canary-bearer", "canary-access", "canary-refresh"
NAMES = {
    "account": ACCOUNT, "api": API, "key": KEY, "token": TOKEN, "hook": WEBHOOK, "p": PROXY,
    "bearer": BEARER, "access": ACCESS, "refresh": REFRESH,
}  # fmt: skip


def encoded(pair):
    return base64.b64encode(pair.encode()).decode().rstrip("=")


@functools.cache
def needles():
    """Return every secret, and what it looks like in a header."""
    pem_line = key_pair()[0].splitlines()[5]
    pairs = (f"me:{ACCOUNT}", f"{API}:", f"{KEY}:", f"user:{PROXY}")
    return (*NAMES.values(), pem_line, *map(encoded, pairs))


def shown(text):
    """Return which secrets a text shows; bytes too, however they are escaped."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    return [needle for needle in needles() if needle in text]


def account():
    return ServiceAccountCredentials("me", ACCOUNT, "42")


def oauth(server="http://127.0.0.1:9"):
    return HightouchOAuth("client", key_pair()[0], "key-1", server=server)


def bearer():
    return TokenCredentials(token=BEARER, project_id="42")


def tokens(server="http://127.0.0.1:9", **changes):
    return Tokens(
        **{
            "server": server, "client_id": "c", "access_token": Secret(ACCESS),
            "refresh_token": Secret(REFRESH), **changes,
        }
    )  # fmt: skip


def login(url, folder, **changes):
    """Store the tokens of a login, and return its credentials."""
    path = folder / "me.json"
    TokenFile(path).write(tokens(url, **changes))
    return LoginCredentials(project_id="42", account="me", tokens_path=path)


def proxied(port=9):
    return f"http://user:{PROXY}@127.0.0.1:{port}"


def in_frames(error):
    """Return the secrets that a crash reporter would send with the locals, and whose frames."""
    for one in chain(error, set()):
        one.__traceback__ = without_this_file(one.__traceback__)
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    held = [f"{one!r} {one} {vars(one)!r}" for one in chain(error, set())]
    return shown("".join(captured.format(chain=True))) + shown("".join(held + hidden(error)))


def hidden(error):
    """Return the frames that `from None` hides, too."""
    return [
        f"{frame.f_code.co_name}: {name}={value!r}"
        for one in chain(error, set())
        for frame, _ in traceback.walk_tb(one.__traceback__)
        for name, value in frame.f_locals.items()
    ]


def chain(error, seen):
    """Yield an exception and each that led to it."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    for cause in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        yield from chain(cause, seen)


def without_this_file(frames):
    """Leave out the frames of the tests, which hold what they passed."""
    kept = []
    while frames is not None:
        kept += [frames] if frames.tb_frame.f_code.co_filename != __file__ else []
        frames = frames.tb_next
    rebuilt = None
    for each in reversed(kept):
        rebuilt = types.TracebackType(rebuilt, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return rebuilt


# ---- objects ------------------------------------------------------------------------------------


def holders():
    """Make one object of every kind that is passed a secret."""
    proxy, everything = proxied(), {"credentials": account(), "proxy": proxied()}
    access = AccessTokens(oauth())
    access._store(json.dumps({"access_token": TOKEN, "expires_in": 60}).encode())
    consumer = Consumer(**everything)
    local, remote = LocalFlagsConfig(enable_polling=False), RemoteFlagsConfig()
    hightouch = Hightouch(KEY, oauth=oauth(), proxy=proxy)
    hightouch._api.guard.token_source._store(json.dumps({"access_token": TOKEN}).encode())
    given = Credentials(username="me", secret=ACCOUNT, project_id="42")
    workspace = AsyncWorkspace(credentials=given, base_url="http://127.0.0.1:9")
    workspace._core.unexpanded_path = None  # in memory: looking at all attributes opens it
    assert workspace.api is not None
    with_token = AsyncWorkspace(credentials=bearer(), base_url="http://127.0.0.1:9")
    with_token._core.unexpanded_path = None
    assert with_token.api is not None
    person = LoginCredentials(project_id="42", account="me", tokens_path="/nonexistent/me.json")
    with_login = AsyncAPI(person, base_url="http://127.0.0.1:9")
    with_login._authorization._header(tokens())
    attempt = LoginAttempt(with_login._authorization._server, "http://localhost:1/callback")
    attempt._verifier = Secret(ACCESS)
    made = [
        account(), ApiSecret(API, "k"), Secret(ACCOUNT), given, oauth(), Proxy(proxy),
        TransportOptions(proxy=proxy), access, consumer, BufferedConsumer(**everything),
        AsyncConsumer(**everything), AsyncBufferedConsumer(**everything),
        Mixpanel("T", consumer, local_flags_config=local, remote_flags_config=remote),
        AsyncMixpanel("T", local_flags_config=local, remote_flags_config=remote, **everything),
        CustomerIO(KEY, proxy=proxy), AsyncCustomerIO(KEY, proxy=proxy), hightouch, workspace,
        Response(200, {"x": TOKEN}, TOKEN.encode()), bearer(), with_token, tokens(), person,
        with_login, attempt, FanOut(one=Sink(CustomerIO(KEY, proxy=proxy))),
        AsyncFanOut(one=Sink(AsyncCustomerIO(KEY, proxy=proxy))),
        htevents.Client(KEY, proxies={"https": proxy}),
    ]  # fmt: skip
    made += [step_request(consumer._sender.api), step_request(hightouch._api, "batch")]
    return made


def step_request(api, endpoint="imports"):
    from mixpanel._http.request import Send
    from mixpanel._records.record import Record

    if endpoint == "imports":
        records = [Record("imports", b"{}", auth=ApiSecret(API))]
    else:
        records = [Hightouch(KEY)._composer.track("u", "e")]
    return api.request(Send(records, gzip=False))


def reached(root):
    """Yield everything of this package that an object refers to, and the texts in between."""
    seen, remaining = {}, [(type(root).__name__, root)]
    while remaining:
        place, one = remaining.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        yield place, one
        if isinstance(one, dict):
            remaining += [(f"{place}[{k!r}]", v) for k, v in list(one.items())]
            remaining += [(f"{place} key", k) for k in list(one)]
        elif isinstance(one, (list, tuple, set, frozenset)):
            remaining += [(f"{place}[]", each) for each in one]
        elif type(one).__module__.partition(".")[0] == "mixpanel":
            remaining += [(f"{place}.{k}", v) for k, v in attributes(one).items()]


def attributes(one):
    """Return an object's attributes, those in slots too."""
    slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    held = {name: getattr(one, name) for name in slots if hasattr(one, name)}
    return {**held, **getattr(one, "__dict__", {})}


# In these a pickle holds the secret: a program makes them itself, and a pool of processes that
# are spawned needs them. Requests and responses are bytes in transit: nothing shows them.
PICKLED = (ServiceAccountCredentials, HightouchOAuth, Credentials, TokenCredentials)
CLIENTS = (
    *(AnyConsumer, Mixpanel, AsyncMixpanel, SegmentClient, AsyncSegmentClient, DropInClient),
    *(FanOut, AsyncFanOut, Workspace, AsyncWorkspace, WorkspaceCore),
)
BYTES = {"content", "body"}


@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support:DeprecationWarning")
def test_no_object_shows_a_secret():
    """Neither as a whole, nor in an attribute, a copy, a dict or a pickle."""
    found, visited, hidden = [], set(), []
    for place, one in (pair for root in holders() for pair in reached(root)):
        visited.add(type(one))
        if place.rpartition(".")[2] in BYTES or ".headers" in place:
            hidden.append(place)  # of a response or a request
            continue
        for way, show in WAYS.items():
            with contextlib.suppress(
                TypeError, AttributeError, pickle.PicklingError, RecursionError
            ):
                text = show(one)
                if shown(text):
                    found.append((place, way, shown(text)))
    assert "\n".join(map(str, found)) == ""
    assert hidden
    assert {Secret, Proxy, TransportOptions, Request, HightouchOAuth, Credentials} <= visited
    assert {TokenCredentials, LoginCredentials, Tokens, LoginAttempt} <= visited


WAYS = {
    "repr": repr,
    "str": str,
    "format": format,
    "vars": lambda one: repr(without_bytes(attributes(one))) if is_ours(one) else "",
    "asdict": lambda one: repr(without_bytes(dataclasses.asdict(one))),
    "model_dump": lambda one: f"{one.model_dump()!r} {one.model_dump_json()}",
    "copy": lambda one: repr(copy.copy(one)),
    "deepcopy": lambda one: repr(copy.deepcopy(one)),
    "pickle": lambda one: (
        b"" if isinstance(one, CLIENTS) or not is_ours(one)
        else pickle.dumps(one) + pickle.dumps(one, 0)
    ),
}  # fmt: skip


def is_ours(one):
    kind = type(one)
    return kind.__module__.partition(".")[0] == "mixpanel" and not isinstance(
        one, (*PICKLED, Secret)
    )


def without_bytes(made):
    return {name: value for name, value in made.items() if name not in BYTES | {"headers"}}


@pytest.mark.parametrize(
    "made", [account, oauth, bearer], ids=["service account", "oauth", "access token"]
)
def test_credentials_survive_a_pickle_for_another_process(made):
    """They can be passed to a pool of spawned processes."""
    before = made()
    after = pickle.loads(pickle.dumps(before))
    assert before == after
    assert shown(repr(after)) == []


@pytest.mark.parametrize(
    "made",
    [
        lambda: Secret(ACCOUNT),
        lambda: ApiSecret(API),
        lambda: TransportOptions(proxy=proxied()),
        lambda: Consumer(credentials=account())._sender.api,
        lambda: step_request(Consumer(credentials=account())._sender.api),
        lambda: CustomerIO(KEY)._api,
        tokens,
    ],
    ids=["secret", "api secret", "transport", "route", "request", "write key's route", "login"],
)
def test_requests_and_settings_with_a_secret_do_not_pickle(made):
    """No pickle is better than one that is written to a disk unnoticed."""
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(made())


def modules():
    for module in pkgutil.walk_packages(mixpanel.__path__, "mixpanel."):
        # Django's parts cannot be imported without the settings of a project.
        with contextlib.suppress(ImportError, ImproperlyConfigured):
            yield importlib.import_module(module.name)


NAMED = re.compile(
    r"(.*_)?(secrets?|password|private_key|write_key|authorization|(access|refresh)_token|token)$"
)


# The token of a project is in every web page that tracks.
PUBLIC = {"Configuration.token: str | None"}


def test_every_field_named_as_a_secret_has_a_type_that_hides_it():
    """New classes are checked, too: fields of dataclasses and models, by their names.

    What Mixpanel sent about a project has them as text, for its caller, but not in its repr.
    """
    plain, looked_at = [], 0
    for module in modules():
        if module.__name__.startswith("mixpanel.emulator"):
            continue  # it plays the server, whose keys are made up
        for kind in vars(module).values():
            # Not `isinstance`: that would look into Django's settings, which do not exist here.
            if not issubclass(type(kind), type) or kind.__module__ != module.__name__:
                continue
            for name, hint in fields_of(kind):
                if NAMED.match(name) and hint not in {"bool", str(bool)}:
                    looked_at += 1
                    if issubclass(kind, ProjectObject):
                        assert "canary" not in repr(kind.read({name: "canary"}))
                    elif "Secret" not in hint and "WriteKey" not in hint:
                        plain.append(f"{kind.__qualname__}.{name}: {hint}")
    assert set(plain) == PUBLIC, "\n".join(plain)
    assert looked_at >= 4


def fields_of(kind):
    if dataclasses.is_dataclass(kind):
        return [(each.name, str(each.type)) for each in dataclasses.fields(kind)]
    if issubclass(kind, BaseModel):
        return [(name, str(each.annotation)) for name, each in kind.model_fields.items()]
    return []


# ---- settings that cannot work ------------------------------------------------------------------

WRONG = {
    "account": lambda: ServiceAccountCredentials("me", ACCOUNT, ""),
    "account with a surrogate": lambda: ServiceAccountCredentials("me", ACCOUNT + "\udc80", "4"),
    "account with a line break": lambda: ServiceAccountCredentials("me", ACCOUNT + "\r\nx", "4"),
    "account with a colon": lambda: ServiceAccountCredentials("m:e", ACCOUNT, "4"),
    "api secret": lambda: ApiSecret(API, "\0"),
    "api secret of a call": lambda: Mixpanel("T").import_data(
        "k\0", "u", "E", 1_600_000_000, api_secret=API
    ),
    "write key": lambda: CustomerIO(KEY + "\n" + KEY),
    "write key with a region": lambda: CustomerIO(KEY, region="mars"),
    "write key with a bad URL": lambda: Hightouch(KEY, base_url="https://user:pw@h"),
    "private key": lambda: HightouchOAuth("c", key_pair()[0][:900], "k"),
    "private key and server": lambda: HightouchOAuth("c", key_pair()[0], "k", "http://x.example"),
    "proxy": lambda: Consumer(proxy=f"ftp://user:{PROXY}@h"),
    "proxy and host": lambda: BufferedConsumer(proxy=proxied(), base_url="nonsense://"),
    "proxy of a client": lambda: Mixpanel("T", proxy=proxied(), when_full="never"),
    "proxy and token": lambda: AsyncMixpanel("", proxy=proxied()),
    "proxy with a bad port": lambda: TransportOptions(proxy=f"http://user:{PROXY}@h:1x"),
    "proxy with a surrogate": lambda: AsyncConsumer(proxy=f"http://user:{PROXY}\udc80@h"),
    "proxy of a vendor": lambda: CustomerIO("k", proxy=proxied(), when_full="never"),
    "password in a URL": lambda: Consumer(base_url=f"https://user:{PROXY}@h:{PROXY}"),
    "account of the data half": lambda: Config("/nonexistent/config").add_account(
        "a", username="m:e", secret=ACCOUNT, project_id="4"
    ),
    "workspace": lambda: Workspace(credentials=account(), project_id="../x"),
    "workspace with an access token": lambda: Workspace(credentials=bearer(), project_id="../x"),
    "redirect of another login": lambda: LoginAttempt(None, "http://localhost:1/").code_in(
        f"?code={ACCESS}&state=x"
    ),
    "webhook": lambda: webhooks.verify(b"{}", {}, WEBHOOK, now=0.0),
    "webhook with a surrogate": lambda: webhooks.sign(b"{}", WEBHOOK + "\udc80", 0),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_an_invalid_setting_leaves_no_secret_in_its_traceback(make, tmp_path, monkeypatch):
    """Nor in the context that `from None` hides."""
    monkeypatch.setenv("MP_CONFIG_PATH", str(tmp_path / "config.toml"))
    with pytest.raises(MixpanelException) as caught:
        make()
    error = caught.value
    assert shown(str(error)) == []
    assert in_frames(error) == []


def test_the_error_that_a_caller_was_handling_keeps_its_traceback():
    """It is the caller's: only the later error is stripped of frames."""
    theirs = LookupError("theirs")
    with pytest.raises(ConfigurationError) as caught:
        try:
            raise theirs
        except LookupError:
            ServiceAccountCredentials("me", ACCOUNT, "")
    assert caught.value.__context__ is theirs
    assert theirs.__traceback__ is not None


# ---- requests that fail -------------------------------------------------------------------------

PATIENCE = RetryPolicy(attempts=2, first_wait=0.0)
TIMEOUT = SimpleNamespace(seconds=10)  # of a request; one that hangs ends soon
REFUSES = (
    b'HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 18\r\n'
    b'connection: close\r\n\r\n{"error": "denied"}'[:-1]
)  # fmt: skip


@contextlib.contextmanager
def server(fault):
    """Listen on a port where every connection meets a fault."""
    TIMEOUT.seconds = 0.1 if fault == "hangs" else 10
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, held = listener.getsockname()[1], []

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    meet(fault, connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def meet(fault, connection):
    if fault in ("hangs", "cancelled"):
        return
    connection.recv(65536)
    if fault == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif fault == "half a response":
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    elif fault == "no HTTP":
        connection.sendall(b"\x00\x01garbage\r\n\r\n")
    elif fault == "401":
        connection.sendall(REFUSES)
    elif fault == "broken TLS":
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.close()


FAULTS = [
    "refused", "reset", "half a response", "no HTTP", "401", "hangs", "cancelled", "broken TLS",
]  # fmt: skip
EVENT = '{"event":"E","properties":{"token":"T","time":1}}'


def options(url, proxy):
    return {
        "base_url": url, "request_timeout": TIMEOUT.seconds, "retry": PATIENCE,
        **({"proxy": proxy} if proxy else {}),
    }  # fmt: skip


async def with_consumer(url, proxy):
    consumer = AsyncConsumer(credentials=account(), **options(url, proxy))
    await consumer.send("imports", EVENT)


async def with_an_api_secret(url, proxy):
    await AsyncConsumer(**options(url, proxy)).send("imports", EVENT, ("key", API))


async def with_an_api_secret_by_name(url, proxy):
    consumer = AsyncConsumer(**options(url, proxy))
    await AsyncMixpanel("T", consumer).import_data("k", "u", "E", 1_600_000_000, api_secret=API)


async def with_lookup_tables(url, proxy):
    consumer = AsyncConsumer(credentials=account(), **options(url, proxy))
    await AsyncMixpanel("T", consumer).lookup_tables()


async def with_an_import(url, proxy):
    mp = AsyncMixpanel("T", AsyncConsumer(credentials=account(), **options(url, proxy)))
    row = {"event": "E", "properties": {"time": 1_600_000_000, "distinct_id": "u"}}
    await mp.import_events([row], retry=PATIENCE)


async def with_a_buffer(url, proxy):
    consumer = AsyncBufferedConsumer(credentials=account(), **options(url, proxy))
    try:
        await consumer.send("imports", EVENT)
        result = await consumer.flush(3)
        raise result.errors[0]
    finally:
        await consumer.aclose(0)


async def with_remote_flags(url, proxy):
    consumer = AsyncConsumer(credentials=account(), **options(url, proxy))
    config = RemoteFlagsConfig(request_timeout_in_seconds=TIMEOUT.seconds)
    mp = AsyncMixpanel("T", consumer, remote_flags_config=config)
    await mp.remote_flags.aget_variant_value("f", None, {"distinct_id": "u"})
    raise mp.remote_flags.last_error


async def with_local_flags(url, proxy):
    consumer = AsyncConsumer(credentials=account(), **options(url, proxy))
    config = LocalFlagsConfig(enable_polling=False, request_timeout_in_seconds=TIMEOUT.seconds)
    mp = AsyncMixpanel("T", consumer, local_flags_config=config)
    await mp.local_flags.astart_polling_for_definitions()
    try:
        raise mp.local_flags.last_error
    finally:
        await mp.local_flags.astop_polling_for_definitions()


async def with_the_query_api(url, proxy):
    given = Credentials(username="me", secret=ACCOUNT, project_id="42")
    transport = TransportOptions(proxy=proxy)
    api = AsyncAPI(
        given, base_url=url, retry=PATIENCE, transport=transport, timeout=TIMEOUT.seconds
    )
    try:
        await api.query("events/names", params={"limit": 1})
    finally:
        await api.aclose()


async def with_an_access_token(url, proxy):
    transport = TransportOptions(proxy=proxy)
    api = AsyncAPI(bearer(), base_url=url, retry=PATIENCE, transport=transport, timeout=0.3)
    try:
        await api.query("events/names", params={"limit": 1})
    finally:
        await api.aclose()


async def with_a_login(url, proxy):
    with tempfile.TemporaryDirectory() as folder:
        given = login(url, Path(folder))
        transport = TransportOptions(proxy=proxy)
        api = AsyncAPI(given, base_url=url, retry=PATIENCE, transport=transport, timeout=0.3)
        try:
            await api.query("events/names", params={"limit": 1})
        finally:
            await api.aclose()


async def with_an_expired_login(url, proxy):
    with tempfile.TemporaryDirectory() as folder:
        given = login(url, Path(folder), expires_at=0.0, renew_at=0.0)
        api = AsyncAPI(given, base_url=url, transport=TransportOptions(proxy=proxy))
        try:
            await api.check()
        finally:
            await api.aclose()


async def with_a_code(url, proxy):
    connections = StreamingConnections(TransportOptions(proxy=proxy))
    attempt = LoginAttempt(AuthorizationServer(url, connections), "http://localhost:1/callback")
    attempt._verifier = Secret(REFRESH)
    try:
        await attempt.finish(Secret(ACCESS))
    finally:
        await connections.aclose()


async def with_customerio(url, proxy):
    kept = options(url, proxy)
    kept["limits"] = mixpanel.Limits(request_timeout=kept.pop("request_timeout"))
    await AsyncCustomerIO(KEY, send_immediately=True, **kept).track("u", "E")


async def with_oauth(url, proxy):
    from mixpanel.cdp import AsyncHightouch

    kept = options(url, proxy)
    kept["limits"] = mixpanel.Limits(request_timeout=kept.pop("request_timeout"))
    client = AsyncHightouch(KEY, oauth=oauth(url), send_immediately=True, **kept)
    access = client._api.guard.token_source
    access._store(json.dumps({"access_token": TOKEN, "expires_in": 600}).encode())
    await client.track("u", "E")


ASYNC = [
    with_consumer, with_an_api_secret, with_an_api_secret_by_name, with_lookup_tables,
    with_an_import, with_a_buffer, with_remote_flags, with_local_flags, with_the_query_api,
    with_customerio, with_oauth, with_an_access_token, with_a_login, with_an_expired_login,
    with_a_code,
]  # fmt: skip


def without_a_loop(url, proxy):
    Consumer(credentials=account(), **options(url, proxy)).send("imports", EVENT)


def without_a_loop_by_api_secret(url, proxy):
    Consumer(**options(url, proxy)).send("imports", EVENT, ("key", API))


def without_a_loop_by_import_data(url, proxy):
    mp = Mixpanel("T", Consumer(**options(url, proxy)))
    mp.import_data("k", "u", "E", 1_600_000_000, api_secret=API)


def without_a_loop_buffered(url, proxy):
    consumer = BufferedConsumer(credentials=account(), **options(url, proxy))
    consumer.send("imports", EVENT)
    try:
        raise consumer.flush(3).errors[0]
    finally:
        consumer.close(0)


def without_a_loop_remote_flags(url, proxy):
    consumer = Consumer(credentials=account(), **options(url, proxy))
    config = RemoteFlagsConfig(request_timeout_in_seconds=TIMEOUT.seconds)
    flags = Mixpanel("T", consumer, remote_flags_config=config).remote_flags
    flags.get_variant_value("f", None, {"distinct_id": "u"})
    raise flags.last_error


def without_a_loop_customerio(url, proxy):
    kept = options(url, proxy)
    kept["limits"] = mixpanel.Limits(request_timeout=kept.pop("request_timeout"))
    CustomerIO(KEY, send_immediately=True, **kept).track("u", "E")


def without_a_loop_lookup_tables(url, proxy):
    consumer = Consumer(credentials=account(), **options(url, proxy))
    Mixpanel("T", consumer).lookup_tables()


SYNC = [
    without_a_loop, without_a_loop_by_api_secret, without_a_loop_by_import_data,
    without_a_loop_buffered, without_a_loop_remote_flags, without_a_loop_customerio,
    without_a_loop_lookup_tables,
]  # fmt: skip


@pytest.fixture
def logs(caplog):
    """Collect everything that is logged, down to DEBUG."""
    with caplog.at_level(logging.DEBUG):
        for name in ("httpx", "httpcore", "asyncio", "mixpanel", "hpack", "h11"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield lambda: "\n".join(
            f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records
        )
    for name in ("httpx", "httpcore", "asyncio", "mixpanel", "hpack", "h11"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(params=[False, True], ids=["direct", "through a proxy"])
def addressed(request):
    """Return where a request is sent and through which proxy, given the port of the fault."""

    def place(fault, port):
        scheme = "https" if fault == "broken TLS" else "http"
        if request.param:
            return f"{scheme}://127.0.0.1:{port}", proxied(port)
        return f"{scheme}://127.0.0.1:{port}", None

    return place


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Repeat without delay what is repeated."""
    monkeypatch.setattr("mixpanel.lookup_tables.RETRY", PATIENCE)
    monkeypatch.setattr("mixpanel.data._oauth.server.TIMEOUT", 0.3)
    monkeypatch.setattr("mixpanel.data._oauth.authorization.SETTLE", 0.1)


@contextlib.contextmanager
def faulty(fault):
    if fault == "refused":
        TIMEOUT.seconds = 10
        with socket.socket() as taken:  # bound, and nobody listens
            taken.bind(("127.0.0.1", 0))
            yield taken.getsockname()[1]
    else:
        with server(fault) as port:
            yield port


def ends(error, fault):
    """Check one failure: it is typed unless it was cancelled, and shows no secret."""
    assert error is not None
    assert fault == "cancelled" or isinstance(error, MixpanelException)
    assert in_frames(error) == []


@pytest.mark.parametrize(
    ("backend", "addressed"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    indirect=["addressed"],
    ids=["asyncio", "trio", "through a proxy"],
)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("face", ASYNC, ids=lambda face: face.__name__)
def test_no_failure_carries_a_secret(face, fault, backend, addressed, logs):
    """Not in its text, its causes, the locals of any frame, or a log."""
    caught = []

    async def attempt(url, proxy):
        try:
            with anyio.fail_after(0.05 if fault == "cancelled" else 60):
                await face(url, proxy)
        except Exception as error:
            caught.append(error)
        await anyio.lowlevel.checkpoint()

    with faulty(fault) as port:
        anyio.run(attempt, *addressed(fault, port), backend=backend)
    [error] = caught
    ends(error, fault)
    assert shown(logs()) == []


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "cancelled"])
@pytest.mark.parametrize("face", SYNC, ids=lambda face: face.__name__)
def test_no_failure_of_a_sync_call_carries_a_secret(face, fault, addressed, logs):
    """Also when the request is sent by the calling thread."""
    with faulty(fault) as port, pytest.raises(Exception) as caught:
        face(*addressed(fault, port))
    ends(caught.value, fault)
    assert shown(logs()) == []


def test_ctrl_c_while_a_sync_request_waits_carries_no_secret(monkeypatch):
    """It comes from below the HTTP library, whose frames hold the bytes that were sent."""
    import httpcore

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with server("hangs") as port:
        consumer = Consumer(credentials=account(), base_url=f"http://127.0.0.1:{port}")
        from httpcore._backends.sync import SyncStream

        monkeypatch.setattr(SyncStream, "read", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            consumer.send("imports", EVENT)
    assert httpcore is not None
    assert in_frames(caught.value) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_error_in_the_users_http_client_keeps_only_their_frames(backend):
    """They look for their own mistake; the library's frames between hold headers."""

    def broken_by_them(request):
        raise ZeroDivisionError("theirs")

    async def attempt():
        transport = httpx.MockTransport(broken_by_them)
        async with httpx.AsyncClient(transport=transport) as client:
            consumer = AsyncConsumer(credentials=account(), http_client=client, retry=PATIENCE)
            with pytest.raises(mixpanel.TransportError) as caught:
                await consumer.send("imports", EVENT)
            return caught.value

    error = anyio.run(attempt, backend=backend)
    cause = error.__cause__
    assert isinstance(cause, ZeroDivisionError)
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(cause.__traceback__)]
    assert "broken_by_them" in frames
    assert in_frames(error) == []


def test_the_cause_of_a_failure_keeps_type_and_text():
    """Only its frames are removed."""
    with faulty("refused") as port:
        consumer = Consumer(credentials=account(), **options(f"http://127.0.0.1:{port}", None))
        with pytest.raises(mixpanel.TransportError) as caught:
            consumer.send("imports", EVENT)
    cause = caught.value.__cause__
    assert type(cause).__name__ == "ConnectError"
    assert "refused" in str(cause)


def test_an_invalid_header_is_not_quoted():
    """h11 quotes the value in its error, which is therefore not chained."""

    class Lax(Secret):
        pass

    request = Request("GET", "http://127.0.0.1:9/", {"Authorization": Lax(f"Bearer {TOKEN}\n")})
    from mixpanel._http.async_transport import (
        AsyncTransport,
    )
    from mixpanel._http.sync_transport import (
        SyncTransport,
    )

    options = TransportOptions()
    with server("hangs") as port:
        request = dataclasses.replace(request, url=f"http://127.0.0.1:{port}/")

        async def attempt():
            transport = AsyncTransport(options, deadline=5.0, max_response_bytes=100)
            try:
                return await transport.send(request)
            finally:
                await transport.aclose()

        blocking = SyncTransport(options, max_response_bytes=100)
        replies = [anyio.run(attempt), blocking.send(request, end=time.monotonic() + 5)]
        blocking.close()
    for reply in replies:
        assert "not valid in HTTP" in str(reply.error)
        assert in_frames(reply.error) == []


@pytest.mark.parametrize("proxied_too", [False, True], ids=["direct", "through a proxy"])
@pytest.mark.parametrize("face", [with_remote_flags, without_a_loop_remote_flags])
def test_no_log_shows_a_token_or_a_context_from_a_url(face, proxied_too, logs):
    """Flags are requested with both in the query, which httpx's client would log."""
    with server("401") as port:
        url, proxy = f"http://127.0.0.1:{port}", proxied(port) if proxied_too else None
        with pytest.raises(MixpanelException):
            if face is with_remote_flags:
                anyio.run(face, url, proxy)
            else:
                face(url, proxy)
    assert "send_request_headers" in logs()
    assert "token=" not in logs()
    assert "context=" not in logs()


def test_the_command_line_shows_no_secret(tmp_path, logs):
    """Neither on stdout nor on stderr, whatever fails."""
    from mixpanel.cli.app import app

    path = tmp_path / "events.ndjson"
    path.write_text('{"event":"E","properties":{"time":1600000000,"distinct_id":"u"}}\n')
    environment = {
        "MP_USERNAME": "me", "MP_SECRET": ACCOUNT, "MP_PROJECT_ID": "42", "MP_TOKEN": "T",
        "MP_CDP_WRITE_KEY": KEY, "MP_CUSTOMERIO_WRITE_KEY": KEY,
        "MP_CONFIG_PATH": str(tmp_path / "config.toml"), "MP_DB": str(tmp_path / "shop.db"),
        "NO_COLOR": "1",
    }  # fmt: skip
    with_token = {"MP_USERNAME": None, "MP_SECRET": None, "MP_OAUTH_TOKEN": BEARER}
    for arguments, changes in (
        (["import", "events", str(path)], {}),
        (["auth", "test"], {}),
        (["auth", "test"], with_token),
        (["inspect", "events"], with_token),
        (["fetch", "events", "--from", "2026-01-01", "--to", "2026-01-01"], {}),
        (["cdp", "track", "u", "E", "--to", "customerio"], {}),
    ):
        with server("401") as port:
            url = f"http://127.0.0.1:{port}"
            runner = CliRunner(
                env={
                    **environment,
                    **changes,
                    "MP_BASE_URL": url,
                    "MP_CUSTOMERIO_BASE_URL": url,
                }
            )
            ended = runner.invoke(app, arguments)
        assert ended.exit_code != 0, arguments
        assert shown(ended.output + ended.stderr) == []
        if ended.exception is not None:
            assert in_frames(ended.exception) == []
    assert shown(logs()) == []
