"""Certificate authorities: which are trusted, and what a certificate that is not accepted says."""

import os
import re
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import anyio
import pytest
import trustme

from mixpanel import AsyncConsumer, ConfigurationError, Consumer, MixpanelException
from mixpanel._http.tls import CA_VARIABLES, default_tls_context
from mixpanel.data.api import AsyncAPI
from mixpanel.data.credentials import Credentials
from mixpanel.settings import RetryPolicy

MESSAGE = '{"event":"E","properties":{"token":"t"}}'
ONCE = RetryPolicy(attempts=1)
BODY = b'{"status":1}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def url(authority):
    """Serve 200 to every request over TLS, with a certificate of the private authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(context) as port:
        yield f"https://127.0.0.1:{port}"


def receive(connection):
    """Read a whole request: closing a connection with unread bytes would reset it."""
    received, wanted = b"", None
    while wanted is None or len(received) < wanted:
        some = connection.recv(65536)
        if not some:
            raise ConnectionError("the client has gone")
        received += some
        head, ended, _ = received.partition(b"\r\n\r\n")
        if ended:
            length = re.search(rb"(?i)content-length: (\d+)", head)
            wanted = len(head + ended) + (int(length[1]) if length else 0)


@contextmanager
def serving(context):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with suppress(OSError), connection:
                    connection.settimeout(60)
                    with context.wrap_socket(connection, server_side=True) as secured:
                        receive(secured)
                        secured.sendall(RESPONSE)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def bundle(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def no_variables(monkeypatch):
    for variable in CA_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def with_consumer(url, **options):
    Consumer(base_url=url, retry=ONCE, **options).send("events", MESSAGE)


def with_async_consumer(url, **options):
    async def send():
        await AsyncConsumer(base_url=url, retry=ONCE, **options).send("events", MESSAGE)

    anyio.run(send)


def with_the_query_api(url):
    async def send():
        credentials = Credentials(username="me", secret="s", project_id="42")
        async with AsyncAPI(credentials, base_url=url, retry=ONCE) as api:
            await api.query("events/names")

    anyio.run(send)


FACES = [with_consumer, with_async_consumer, with_the_query_api]


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_each_variable_names_the_trusted_authorities(
    face, variable, url, bundle, no_variables, monkeypatch
):
    """Those of httpx, and those of requests and curl; sync and async, sending and reading."""
    with pytest.raises(MixpanelException):
        face(url)
    monkeypatch.setenv(variable, str(bundle))
    face(url)


def test_a_bundle_may_be_a_folder_of_hashed_certificates(tmp_path, no_variables, monkeypatch):
    """As for requests and curl."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert default_tls_context().cert_store_stats()["x509_ca"] == 0
    assert default_tls_context() is default_tls_context()


@pytest.mark.parametrize("first", range(4))
def test_the_first_variable_that_is_set_applies(first, tmp_path, monkeypatch):
    """OpenSSL's own before those of requests and curl, and an empty one is not set."""
    for variable in CA_VARIABLES[:first]:
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(CA_VARIABLES[first], str(tmp_path / "missing"))
    for variable in CA_VARIABLES[first + 1 :]:
        monkeypatch.setenv(variable, str(tmp_path / "other"))
    with pytest.raises(ConfigurationError) as caught:
        default_tls_context()
    assert f"{CA_VARIABLES[first]}={str(tmp_path / 'missing')!r}" in str(caught.value)


def test_a_bundle_without_certificates_is_a_configuration_error(
    url, tmp_path, no_variables, monkeypatch
):
    """It names the variable, the file and the remedies."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(empty))
    with pytest.raises(MixpanelException, match=r"CURL_CA_BUNDLE='.*empty\.pem'.*ssl_context="):
        with_consumer(url)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_a_certificate_that_is_not_accepted_names_the_remedies(face, url):
    """The variables and the argument, with OpenSSL's reason."""
    with pytest.raises(MixpanelException) as caught:
        face(url)
    text = str(caught.value)
    for word in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "ssl_context="):
        assert word in text
    assert "unable to get local issuer certificate" in text


@pytest.mark.parametrize("face", FACES[:2], ids=lambda face: face.__name__)
def test_an_ssl_context_comes_before_the_variables(face, authority, url, monkeypatch):
    """The argument is more specific than the environment."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    face(url, ssl_context=context)
