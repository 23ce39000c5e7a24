"""A Django project in one file, and requests to it; prints what was tracked as JSON.

The sessions are in a database, so that looking up a user in an async view would be an error.
"""

import asyncio
import json
import sys
import tempfile
import threading
from pathlib import Path

import django
from django.conf import settings

from mixpanel import LocalFlagsConfig, Mixpanel
from mixpanel.testing import MemoryConsumer

folder = tempfile.TemporaryDirectory()


def identify(request):
    """Return the user that the request names in a header; needs the session, for no reason."""
    request.session.get("any")
    return {"device_id": request.headers["X-User"]} if "X-User" in request.headers else None


async def identify_async(request):
    """Do the same without waiting."""
    return request.headers.get("X-User")


def broken(_request):
    """Fail."""
    raise LookupError("no such session")


DEFINITIONS = Path(__file__).parents[3] / "examples" / "data" / "flags.json"
client = Mixpanel(
    "t",
    MemoryConsumer(),
    local_flags_config=LocalFlagsConfig(
        enable_polling=False, bootstrap=json.loads(DEFINITIONS.read_text())
    ),
)

settings.configure(
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only-a-test",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(folder.name) / "shop.sqlite3",
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "mixpanel.integrations.django",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "mixpanel.integrations.django.MixpanelMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "mixpanel.integrations.django.context_processors.flags",
                ]
            },
        }
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    LOGGING_CONFIG=None,
    MIXPANEL={"CLIENT": client},
)
django.setup()

from django.contrib.auth import alogin, get_user_model, login, logout  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # noqa: E402
from django.template import engines  # noqa: E402
from django.test import AsyncClient, Client, override_settings  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import sync_only_middleware  # noqa: E402

from mixpanel.integrations.django import MixpanelMiddleware, get_client, get_flags  # noqa: E402
from mixpanel.integrations.django.configuration import configuration  # noqa: E402


def page(request):
    """Track."""
    client.track(None, "Opened")
    return HttpResponse("ok")


def quiet(request):
    """Track nothing."""
    return HttpResponse("ok")


async def async_page(request):
    """Track from an async view."""
    client.track(None, "Opened")
    return HttpResponse("ok")


def log_in(request):
    """Log in, and out again, and track between."""
    user = get_user_model().objects.get()
    client.track(None, "Before")
    login(request, user)
    client.track(None, "After")
    logout(request)
    client.track(None, "Out")
    return HttpResponse("ok")


async def async_log_in(request):
    """Log in from an async view."""
    user = await get_user_model().objects.aget()
    client.track(None, "Before")
    await alogin(request, user)
    client.track(None, "After")
    return HttpResponse("ok")


def fail(request):
    """Fail after an event."""
    client.track(None, "Opened")
    raise LookupError


def stream(request):
    """Track from the pieces of a body, and from its end."""

    def body():
        try:
            for piece in "ab":
                client.track(None, "Piece")
                yield piece
        finally:
            client.track(None, "End")

    return StreamingHttpResponse(body())


async def async_stream(request):
    """Do the same from an async view."""

    async def body():
        for piece in "ab":
            client.track(None, "Piece")
            yield piece

    return StreamingHttpResponse(body())


TEMPLATE = """{% load mixpanel_flags %}{% flag "new-checkout" as new %}{% if new %}new{% endif %}
{% flag "missing" "grey" %} {{ flags.missing }}"""


def template(request):
    """Render a template with flags."""
    get_flags(request).is_enabled("new-checkout")
    return HttpResponse(engines["django"].from_string(TEMPLATE).render({}, request))


async def upload(request):
    """Count the bytes of a body."""
    size = len(request.read())
    client.track(None, "Uploaded", {"size": size})
    return HttpResponse(str(size))


urlpatterns = [
    path("page", page),
    path("quiet", quiet),
    path("async-page", async_page),
    path("login", log_in),
    path("async-login", async_log_in),
    path("fail", fail),
    path("stream", stream),
    path("async-stream", async_stream),
    path("template", template),
    path("upload", upload),
]


@sync_only_middleware
def old_middleware(get_response):
    """Force the handlers above it to be sync."""
    return get_response


def tracked():
    """Return the events since the last call, as lists of name and properties."""
    client.flush(10)  # exposures are passed on by another thread
    events = [(event["event"], event["properties"]) for event in client.consumer.events]
    client.consumer.clear()
    return events


def sync_requests(user):
    """Make requests in the stack of a WSGI server."""
    found = {}
    browser = Client(raise_request_exception=False, HTTP_HOST="shop")
    found["quiet"] = [browser.get("/quiet").headers.get("Vary"), tracked()]
    browser.get("/page?token=secret", headers={"Cookie": "sessionid=secret"})
    found["anonymous"] = tracked()
    browser.get("/login")
    found["login"] = tracked()
    browser.force_login(user)
    for name in ("page", "async-page", "fail", "template"):
        response = browser.get(f"/{name}")
        found[name] = [response.status_code, response.content.decode(), tracked()]
    response = browser.get("/stream")
    found["stream"] = [b"".join(response.streaming_content).decode(), response.close(), tracked()]
    with override_settings(MIXPANEL={**settings.MIXPANEL, "IDENTIFY": None}):
        Client().get("/page")
        found["no identity"] = tracked()
    with override_settings(MIXPANEL={**settings.MIXPANEL, "IDENTIFY": f"{__name__}.broken"}):
        status = Client().get("/page").status_code
        found["broken"] = [status, tracked()]
    more = {"PROPERTIES": lambda _: {"plan": "team"}, "CLIENT_IP": True, "TRUSTED_PROXIES": 1}
    with override_settings(MIXPANEL={**settings.MIXPANEL, **more}):
        Client().get("/page", headers={"X-Forwarded-For": "6.6.6.6, 198.51.100.1"})
        found["properties"] = tracked()
    return found


async def async_requests(user):
    """Make requests in the stack of an ASGI server."""
    found = {}
    browser = AsyncClient(raise_request_exception=False)
    await browser.get("/async-login")
    found["login"] = tracked()
    await browser.aforce_login(user)
    for name in ("page", "async-page", "fail"):
        response = await browser.get(f"/{name}")
        found[name] = [response.status_code, response.content.decode(), tracked()]
    response = await browser.get("/async-stream")
    text = b"".join([piece async for piece in response.streaming_content]).decode()
    found["stream"] = [text, tracked()]
    response = await browser.post("/upload", b"x" * 2_000_000, content_type="text/plain")
    found["upload"] = [response.content.decode(), tracked()]
    for function in ("identify", "identify_async", "broken"):
        with override_settings(
            MIXPANEL={**settings.MIXPANEL, "IDENTIFY": f"{__name__}.{function}"}
        ):
            response = await AsyncClient().get("/async-page", headers={"X-User": "u-7"})
            found[function] = [response.status_code, tracked()]
    middleware = [*settings.MIDDLEWARE, f"{__name__}.old_middleware"]
    with override_settings(MIDDLEWARE=middleware):
        for name in ("page", "async-page"):
            browser = AsyncClient()
            await browser.aforce_login(user)
            response = await browser.get(f"/{name}")
            found[f"{name} above sync middleware"] = [response.status_code, tracked()]
    return found


def served(user):
    """Make requests to a real server."""
    import httpx
    import uvicorn
    from django.core.asgi import get_asgi_application

    config = uvicorn.Config(get_asgi_application(), port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    session = Client()
    session.force_login(user)
    cookies = {"sessionid": session.cookies["sessionid"].value}
    found = {}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", cookies=cookies) as browser:
        for name in ("async-page", "page", "fail", "async-stream"):
            found[name] = [browser.get(f"/{name}").status_code, tracked()]
    server.should_exit = True
    thread.join()
    return found


SETTINGS = [
    None,
    {},
    {"TOKEN": " "},
    {"TOKEN": "t", "TOKN": 1},
    {"TOKEN": "t", "token": 1},
    {"TOKEN": "t", "IDENTIFY": "nowhere.user"},
    {"TOKEN": "t", "PROPERTIES": 7},
    {"TOKEN": "t", "CLIENT_IP": "yes"},
    {"TOKEN": "t", "OPTIONS": {"region": "moon"}},
    {"TOKEN": "t", "OPTIONS": {"regio": "eu"}},
    {"TOKEN": "t", "OPTIONS": "eu"},
    {"TOKEN": "t", "LOCAL_FLAGS": {"polling": 1}},
    {"TOKEN": "t", "LOCAL_FLAGS": "yes"},
    {"TOKEN": "t", "CLIENT": client},
    {"CLIENT": "TOKEN"},
    {"CLIENT": object},
    {"TOKEN": "t", "FLUSH_ON_SIGNAL": 1},
]


def errors():
    """Return the error of each setting that cannot work."""
    found = []
    for each in SETTINGS:
        with override_settings(MIXPANEL=each):
            try:
                configuration()
                get_client()
            except ImproperlyConfigured as error:
                found.append(str(error))
            else:
                found.append("none")
    with override_settings(MIXPANEL={"TOKEN": "t", "LOCAL_FLAGS": True, "OPTIONS": {}}):
        made = get_client()
        found.append(f"{made.consumer} {made is get_client()} {made.local_flags is not None}")
        made.close()
    return found


if __name__ == "__main__":
    sys.modules["django_shop"] = sys.modules["__main__"]
    call_command("migrate", verbosity=0)
    someone = get_user_model().objects.create_user("ada")
    result = {
        "user": str(someone.pk),
        "coroutines": [
            asyncio.iscoroutinefunction(MixpanelMiddleware(view)) for view in (page, async_page)
        ],
        "sync": sync_requests(someone),
        "async": asyncio.run(async_requests(someone)),
        "served": served(someone),
        "errors": errors(),
    }
    json.dump(result, sys.stdout)
    folder.cleanup()
