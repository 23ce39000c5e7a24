"""What `mp auth login`, `logout` and `status` do."""

import sys
from typing import TYPE_CHECKING, Any

import typer

from mixpanel.cli._browser import open_in_browser
from mixpanel.cli._output.terminal import ask, complain, say

if TYPE_CHECKING:
    from mixpanel.data._oauth.login import LoginAttempt
    from mixpanel.data._oauth.server import AuthorizationServer
    from mixpanel.data._oauth.tokens import Tokens
    from mixpanel.data.config import Config

PROJECTS_NAMED = 20  # in an error, where there are several to choose from


def authorization_server(region: Any, base_url: str | None) -> "AuthorizationServer":
    from mixpanel._http.proxies import TransportOptions
    from mixpanel.data._api.download import StreamingConnections
    from mixpanel.data._oauth.server import AuthorizationServer
    from mixpanel.settings import Origins

    origin = Origins.resolve(region=region, base_url=base_url).app
    return AuthorizationServer(origin, StreamingConnections(TransportOptions()))


def open_browser(url: str) -> None:
    """Open the browser if there is one, and print the link in any case."""
    if open_in_browser(url):
        say("allow the access in the browser; if it did not open, open this link:")
    else:
        say("open this link in a browser on this machine, and allow the access:")
    complain(url, "")


async def finish(
    server: "AuthorizationServer", attempt: "LoginAttempt", code: Any
) -> "tuple[Tokens, dict[str, Any]]":
    """Return the tokens of a login, and what Mixpanel says about the person."""
    from dataclasses import replace

    tokens = await attempt.finish(code)
    person = await server.me(tokens)
    email = person.get("user_email")
    return replace(tokens, email=email if isinstance(email, str) else None), person


def chosen_project(person: dict[str, Any], wanted: str | None, region: str) -> str:
    """Return the project to use: the wanted one, the only one, or the one chosen on a terminal."""
    from mixpanel.data.exceptions import LoginError

    projects = person.get("projects")
    projects = projects if isinstance(projects, dict) else {}
    names = {str(each): (fields or {}).get("name", "") for each, fields in projects.items()}
    some = [f"{each} ({name})" if name else each for each, name in names.items()]
    more = f" and {len(some) - PROJECTS_NAMED} more" if len(some) > PROJECTS_NAMED else ""
    known = ", ".join(some[:PROJECTS_NAMED]) + more
    if not names:
        raise LoginError(
            f"this person can read no project in region {region}: log in with --region us, eu or in"
        )
    if wanted is not None and wanted in names:
        return wanted
    if wanted is not None:
        raise LoginError(f"this person cannot read project {wanted}; there are: {known}")
    if len(names) == 1:
        return next(iter(names))
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"choose a project with --project; there are: {known}")
    say(f"projects: {known}")
    while (chosen := ask("Project id")) not in names:
        say(f"{chosen!r} is none of them", "yellow")
    return chosen


async def revoke_tokens(server: "AuthorizationServer", tokens: "Tokens") -> bool:
    """Revoke tokens, and return whether the server has confirmed it."""
    from mixpanel.data.exceptions import APIError

    try:
        await server.revoke(tokens)
    except APIError:
        return False
    return True


def revoke(config: "Config", name: str) -> bool | None:
    """Revoke the tokens of a login; return None if there are none."""
    import asyncio

    from mixpanel._http.proxies import TransportOptions
    from mixpanel.data._api.download import StreamingConnections
    from mixpanel.data._oauth.server import AuthorizationServer
    from mixpanel.exceptions import ConfigurationError

    if config.account_info(name).type != "login":
        return None
    try:
        tokens = config.token_file(name).read()
    except ConfigurationError:  # a damaged file can still be deleted
        return False
    if tokens is None:
        return None
    server = AuthorizationServer(tokens.server, StreamingConnections(TransportOptions()))
    return asyncio.run(revoke_tokens(server, tokens))


def say_if_not_revoked(revoked: bool | None) -> None:
    if revoked is False:
        say(
            "the server did not confirm that the tokens are revoked: they are deleted here, and "
            "end by themselves",
            "yellow",
        )


def require_login(config: "Config", name: str) -> None:
    from mixpanel.data.exceptions import ConfigError

    if config.account_info(name).type != "login":
        raise ConfigError(f"account {name!r} is not a login: there is nothing to log out of")


def only_login(config: "Config") -> str:
    """Return the default account if it is a login, else the only login.

    :raises typer.BadParameter: if there is none, or several.
    """
    logins = [each for each in config.list_accounts() if each.type == "login"]
    chosen = [each.name for each in logins if each.is_default] or [each.name for each in logins]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(chosen)
    raise typer.BadParameter(
        f"NAME is missing: there are the logins {names}" if chosen else "there are no logins"
    )


def login_row(config: "Config", name: str, project_id: str | None, region: str) -> dict[str, Any]:
    import time
    from datetime import UTC, datetime

    tokens = config.token_file(name).read()
    row: dict[str, Any] = {"name": name, "state": "logged out", "email": None}
    row |= {"project_id": project_id, "region": region, "server": None, "expires_at": None}
    if tokens is None:
        return row
    if tokens.refresh_token is not None:
        row["state"] = "logged in"
    else:
        row["state"] = "logged in until it expires" if tokens.is_valid(time.time()) else "expired"
    if tokens.expires_at is not None:
        row["expires_at"] = f"{datetime.fromtimestamp(tokens.expires_at, UTC):%Y-%m-%d %H:%M}"
    return {**row, "email": tokens.email, "server": tokens.server}
