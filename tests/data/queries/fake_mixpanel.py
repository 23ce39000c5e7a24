"""A fake Mixpanel with the responses that a test sets; it records the requests."""

import json
from urllib.parse import parse_qs, urlsplit

import httpx

from mixpanel._http.proxies import TransportOptions
from mixpanel.data import AsyncWorkspace, Credentials
from mixpanel.data.api import AsyncAPI
from mixpanel.settings import RetryPolicy

ROBOT = Credentials(username="robot", secret="s3cr3t-words", project_id="4242")
ME = {"results": {"projects": {"4242": {"timezone": "Europe/Oslo"}}}}
VIEWS = {"results": [{"id": 77, "name": "All", "is_global": True}, {"id": 78, "is_default": True}]}
NAMES = ["Order Paid", "Opened App", "Signed Up"]


class Sent:
    """One request, with its query, form or JSON read."""

    def __init__(self, request):
        self.method, self.path = request.method, request.url.path
        self.query = {k: v[0] for k, v in parse_qs(urlsplit(str(request.url)).query).items()}
        body = request.content
        kind = request.headers.get("content-type", "")
        self.json = json.loads(body) if "json" in kind else None
        self.form = {k: v[0] for k, v in parse_qs(body.decode()).items()} if "form" in kind else {}
        self.deadline = request.extensions.get("timeout")


class FakeMixpanel:
    """Responds to each path with a value, values in turn, or the result of a function."""

    def __init__(self):
        self.routes = {
            "/api/app/me": ME,
            "/api/app/projects/4242/workspaces/public": VIEWS,
            "/api/query/events/names": NAMES,
        }
        self.sent = []

    def __setitem__(self, path, response):
        self.routes[path if path.startswith("/api/") else f"/api/query/{path}"] = response

    @property
    def queries(self):
        """The requests that cost one of the hourly queries."""
        return [each for each in self.sent if each.path.startswith("/api/query")]

    @property
    def last(self):
        """The last query that is not a list of names."""
        return [each for each in self.queries if each.path != "/api/query/events/names"][-1]

    def last_of(self, path):
        """The last request for a path of the Query API."""
        return [each for each in self.sent if each.path == f"/api/query/{path}"][-1]

    def __call__(self, request):
        sent = Sent(request)
        self.sent.append(sent)
        response = self.routes.get(sent.path, httpx.Response(404, json={"error": "not found"}))
        if isinstance(response, InTurn):
            response = response.next()
        if callable(response):
            response = response(sent)
        if isinstance(response, tuple):
            status, body = response
            text = body if isinstance(body, str) else json.dumps(body)
            return httpx.Response(status, text=text)
        return (
            response if isinstance(response, httpx.Response) else httpx.Response(200, json=response)
        )

    def workspace(self, **options):
        """Return a workspace whose calls this fake receives."""
        workspace = AsyncWorkspace(credentials=ROBOT, path="unused.db", **options)
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))

        async def no_sleep(_seconds):
            return None

        workspace._core._api = AsyncAPI(
            ROBOT,
            transport=TransportOptions(client=client),
            retry=RetryPolicy(attempts=3),
            sleep=no_sleep,
        )
        return workspace


def response(body, status=200, headers=None):
    """Return one response with its own headers."""
    return httpx.Response(status, json=body, headers=headers)


class InTurn:
    """Several responses in turn; the last is repeated."""

    def __init__(self, *responses):
        self._responses = list(responses)

    def next(self):
        return self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
