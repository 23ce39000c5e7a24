"""The MCP server of `mp mcp`: the tools of `Toolbox` over stdio, or HTTP on this machine.

The only module that imports `mcp`, which takes more than a second.
"""

from __future__ import annotations

import hmac
import os
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio

from mixpanel._agents import documentation
from mixpanel._agents.errors import ToolFailure
from mixpanel._agents.results import json_text
from mixpanel._agents.tools import INSTRUCTIONS, Toolbox, available
from mixpanel._version import __version__
from mixpanel.data.exceptions import ConfigError, MixpanelDataError
from mixpanel.settings import is_loopback

try:
    import mcp.types as protocol
    import uvicorn
    from mcp import MCPError
    from mcp.server import Server
    from mcp.server.stdio import stdio_server
    from mcp.server.transport_security import TransportSecuritySettings
except ImportError as error:
    raise ImportError("mp mcp needs: pip install 'mixpanel-async[mcp]'") from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping

    from mixpanel.data._fetch.progress import Progress

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["create_server", "serve_http", "serve_stdio"]

NAME = "mixpanel"
REPORT_EVERY = 0.5  # seconds between two notifications of progress
NOT_FOUND = -32602
FAILED = -32603
LISTED_TABLES = 100
BACKLOG = 128


def create_server(toolbox: Toolbox) -> Server[Any]:
    """Return the MCP server of these tools, for any transport."""

    async def list_tools(_context: Any, _params: Any) -> protocol.ListToolsResult:
        offered = available(allow_writes=toolbox.allow_writes)
        return protocol.ListToolsResult(tools=[_to_protocol(each) for each in offered])

    async def call_tool(context: Any, params: Any) -> protocol.CallToolResult:
        try:
            async with _progress(context) as report:
                result = await toolbox.call(params.name, params.arguments or {}, report)
        except ToolFailure as failure:
            return protocol.CallToolResult(content=[_text(str(failure))], is_error=True)
        content: list[Any] = [_text(json_text(result))]
        if "resource" in result:
            name = str(result["resource"]).rpartition("/")[2]
            content.append(
                protocol.ResourceLink(type="resource_link", uri=result["resource"], name=name)
            )
        return protocol.CallToolResult(content=content)

    async def list_resources(_context: Any, _params: Any) -> protocol.ListResourcesResult:
        pages = [
            protocol.Resource(
                uri=f"mp://docs/{page.name}", name=page.name, title=page.title,
                mime_type="text/markdown",
            )
            for page in documentation.topics().values()
        ]  # fmt: skip
        tables = [
            protocol.Resource(
                uri=f"mp://table/{name}", name=name, title=f"Table {name}",
                mime_type="application/json",
            )
            for name in (await toolbox.tables())[:LISTED_TABLES]
        ]  # fmt: skip
        return protocol.ListResourcesResult(resources=[*tables, *pages])

    async def list_templates(_context: Any, _params: Any) -> protocol.ListResourceTemplatesResult:
        templates = [
            protocol.ResourceTemplate(
                uri_template="mp://table/{name}", name="table",
                description="Columns and five rows of a local table.",
                mime_type="application/json",
            ),
            protocol.ResourceTemplate(
                uri_template="mp://docs/{topic}", name="docs",
                description="A page of the documentation.", mime_type="text/markdown",
            ),
        ]  # fmt: skip
        return protocol.ListResourceTemplatesResult(resource_templates=templates)

    async def read_resource(_context: Any, params: Any) -> protocol.ReadResourceResult:
        uri = str(params.uri)
        try:
            text, kind = await _resource(toolbox, uri)
        except MixpanelDataError as error:
            missing = error.code in ("TABLE_NOT_FOUND", "TOPIC_NOT_FOUND", "DATABASE_NOT_FOUND")
            code = NOT_FOUND if missing else FAILED
            raise MCPError(code=code, message=error.message, data={"uri": uri}) from None
        contents = protocol.TextResourceContents(uri=params.uri, text=text, mime_type=kind)
        return protocol.ReadResourceResult(contents=[contents])

    return Server(
        NAME,
        version=__version__,
        title="Mixpanel: local SQL and reports",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )


def _to_protocol(tool: Any) -> protocol.Tool:
    return protocol.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.schema(),
        annotations=protocol.ToolAnnotations(
            read_only_hint=not tool.writes,
            destructive_hint=tool.writes,
            idempotent_hint=True,
            open_world_hint=tool.open_world,
        ),
    )


def _text(text: str) -> protocol.TextContent:
    return protocol.TextContent(type="text", text=text)


async def _resource(toolbox: Toolbox, uri: str) -> tuple[str, str]:
    """Return the text of a resource and its media type.

    :raises MixpanelDataError: if there is none.
    """
    if uri.startswith("mp://docs/"):
        page, section = documentation.find(unquote(uri.removeprefix("mp://docs/")))
        return (page.text if section is None else section.text), "text/markdown"
    if uri.startswith("mp://table/"):
        found = await toolbox.sample(unquote(uri.removeprefix("mp://table/")))
        return json_text(found), "application/json"
    raise MixpanelDataError(
        f"there is no resource {uri[:80]!r}: use mp://table/NAME or mp://docs/TOPIC",
        code="TABLE_NOT_FOUND",
    )


@asynccontextmanager
async def _progress(context: Any) -> AsyncIterator[Callable[[Progress], None]]:
    """Yield a callback that reports progress to the client, once in `REPORT_EVERY` seconds."""
    latest: list[Progress] = []

    async def notify() -> None:
        shown: Progress | None = None
        while True:
            await anyio.sleep(REPORT_EVERY)
            if latest and latest[0] is not shown:
                shown = latest[0]
                total = shown.steps or None
                await context.session.report_progress(shown.steps_done, total, str(shown))

    def report(progress: Progress) -> None:
        latest[:] = [progress]

    # Raised outside of the task group, which would wrap it in an ExceptionGroup.
    failure: ToolFailure | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(notify)
        try:
            yield report
        except ToolFailure as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


# ---- transports -------------------------------------------------------------------------------


async def serve_stdio(toolbox: Toolbox) -> None:
    """Serve on stdin and stdout until the client closes them."""
    server = create_server(toolbox)
    try:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        with anyio.CancelScope(shield=True):
            await toolbox.aclose()


async def serve_http(
    toolbox: Toolbox,
    *,
    host: str,
    port: int,
    token: str,
    started: Callable[[str], None],
) -> None:
    """Serve on `/mcp` of an address of this machine until Ctrl-C.

    `started` is called with the address. Each request needs the header `Authorization: Bearer`
    with the token, because other users of the machine, and web pages, could reach the port.

    :raises ConfigError: for an address that other machines can reach.
    :raises OSError: if the port is in use.
    """
    if not is_loopback(host):
        raise ConfigError(f"{host} can be reached by other machines: use 127.0.0.1, or stdio")
    shown = f"[{host}]" if ":" in host else host
    names = (f"{shown}:*", "127.0.0.1:*", "localhost:*", "[::1]:*")
    security = TransportSecuritySettings(
        allowed_hosts=list(names), allowed_origins=[f"http://{name}" for name in names]
    )
    app: Any = create_server(toolbox).streamable_http_app(host=host, transport_security=security)
    config = uvicorn.Config(_with_token(app, token), log_level="warning", access_log=False)
    with _listening(host, port) as listener:
        started(f"http://{shown}:{listener.getsockname()[1]}/mcp")
        try:
            await uvicorn.Server(config).serve(sockets=[listener])
        finally:
            with anyio.CancelScope(shield=True):
                await toolbox.aclose()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        yield listener


def _with_token(app: ASGIApp, token: str) -> ASGIApp:
    """Return an app that responds with 401 to requests without the token."""
    expected = f"Bearer {token}".encode()

    async def with_token(scope: Scope, receive: Receive, send: Send) -> None:
        header = dict(scope.get("headers") or ()).get(b"authorization", b"")
        if scope["type"] == "lifespan" or hmac.compare_digest(header, expected):
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        body = b"send the header Authorization: Bearer TOKEN, with the token that mp mcp printed\n"
        await send({"type": "http.response.body", "body": body})

    return with_token
