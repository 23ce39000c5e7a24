"""The setting `MIXPANEL` of a Django project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from mixpanel.exceptions import MixpanelException
from mixpanel.integrations._request import RequestSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixpanel.client import Mixpanel

__all__ = ["Configuration", "configuration"]

DEFAULT_IDENTIFY = "mixpanel.integrations.django.middleware.authenticated_user"
CALLBACKS = ("identify", "properties", "flag_context")


@dataclass(frozen=True)
class Configuration:
    """The checked items of `MIXPANEL`, whose names are in upper case there.

    - `TOKEN`: the project token; required without `CLIENT`.
    - `OPTIONS`: more keyword options of the client and of its `AsyncBufferedConsumer`, such as
      `{"region": "eu"}`.
    - `LOCAL_FLAGS`: True, or keyword options of `LocalFlagsConfig`.
    - `CLIENT`: instead of these, a `Mixpanel`, a function that returns one, or a dotted path.
    - `IDENTIFY`: called with the request, a function or a dotted path; None for no identity. By
      default the primary key of an authenticated user.
    - `PROPERTIES`, `FLAG_CONTEXT`: called with the request; return more properties, and more of the
      context of flags.
    - `REQUEST_PROPERTIES`, `CLIENT_IP`, `TRUSTED_PROXIES`: see
      `help(mixpanel.integrations.asgi.RequestOptions)`.
    - `FLUSH_ON_SIGNAL`: True calls `flush_on_signal()` when the project is set up, for servers
      that end without running exit handlers, such as uvicorn.
    """

    token: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    local_flags: bool | Mapping[str, Any] = False
    client: Any = None
    identify: Callable[[Any], Any] | None = None
    properties: Callable[[Any], Any] | None = None
    flag_context: Callable[[Any], Any] | None = None
    request_properties: bool = True
    client_ip: bool = False
    trusted_proxies: int = 0
    flush_on_signal: bool = False

    @property
    def request(self) -> RequestSettings:
        """The settings of request properties."""
        return RequestSettings(self.request_properties, self.client_ip, self.trusted_proxies)

    def make_client(self) -> Mixpanel:
        """Make the client of the project.

        :raises ImproperlyConfigured: for options that cannot work.
        """
        from mixpanel.client import ClientOptions, Mixpanel
        from mixpanel.consumers import AsyncBufferedConsumer, ConsumerOptions
        from mixpanel.flags.types import LocalFlagsConfig

        if self.client is not None:
            client = self.client
            if callable(client) and not isinstance(client, Mixpanel):
                client = client()
            if not isinstance(client, Mixpanel):
                raise ImproperlyConfigured(
                    f"MIXPANEL['CLIENT'] must be a Mixpanel, not {type(client).__name__}: its "
                    "calls never wait with an AsyncBufferedConsumer, also in async views"
                )
            return client
        own = ClientOptions.__optional_keys__ - ConsumerOptions.__optional_keys__ - {"api_host"}
        options: dict[str, Any] = {k: v for k, v in self.options.items() if k in own}
        consumer: dict[str, Any] = {k: v for k, v in self.options.items() if k not in own}
        credentials = consumer.get("credentials")
        try:
            if self.local_flags is not False:
                given = {} if self.local_flags is True else self.local_flags
                options["local_flags_config"] = LocalFlagsConfig(**given)
                options["credentials"] = credentials
            return Mixpanel(str(self.token), AsyncBufferedConsumer(**consumer), **options)
        except (MixpanelException, TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"MIXPANEL: {error}") from error


@cache
def configuration() -> Configuration:
    """Return the checked setting.

    :raises ImproperlyConfigured: for a setting that cannot work, with what to do.
    """
    found = getattr(settings, "MIXPANEL", None)
    if not isinstance(found, Mapping):
        raise ImproperlyConfigured(
            'MIXPANEL must be a dictionary in the settings, such as {"TOKEN": "..."}'
        )
    known = {each.name.upper() for each in fields(Configuration)}
    _refuse_unknown(found, known)
    given: dict[str, Any] = {str(name).lower(): value for name, value in found.items()}
    _check_client(given)
    for name in ("flush_on_signal",):
        if not isinstance(given.get(name, False), bool):
            raise ImproperlyConfigured(f"MIXPANEL[{name.upper()!r}] must be True or False")
    given.setdefault("identify", DEFAULT_IDENTIFY)
    for name in CALLBACKS:
        given[name] = _callback(name, given.get(name))
    if isinstance(given.get("client"), str):
        given["client"] = _imported("CLIENT", given["client"])
    made = Configuration(**given)
    try:
        _ = made.request
    except MixpanelException as error:
        name = str(error).partition("=")[0]
        raise ImproperlyConfigured(f"MIXPANEL[{name.upper()!r}]: {error}") from error
    return made


def _refuse_unknown(found: Mapping[Any, Any], known: set[str]) -> None:
    from difflib import get_close_matches

    for name in found:
        if name not in known:
            near = get_close_matches(str(name).upper(), known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else f": use {', '.join(sorted(known))}"
            raise ImproperlyConfigured(f"MIXPANEL has no item {name!r}{hint}")


def _check_client(given: Mapping[str, Any]) -> None:
    if given.get("client") is not None:
        clash = [name.upper() for name in ("token", "options", "local_flags") if name in given]
        if clash:
            raise ImproperlyConfigured(
                f"MIXPANEL has CLIENT and {', '.join(clash)}: pass these to that client instead"
            )
        return
    token = given.get("token")
    if not isinstance(token, str) or not token.strip():
        raise ImproperlyConfigured(
            "MIXPANEL['TOKEN'] must be the project token, from Settings > Access Keys"
        )
    if not isinstance(given.get("options", {}), Mapping):
        raise ImproperlyConfigured('MIXPANEL[\'OPTIONS\'] must be a dictionary: {"region": "eu"}')
    if not isinstance(given.get("local_flags", False), (bool, Mapping)):
        raise ImproperlyConfigured(
            "MIXPANEL['LOCAL_FLAGS'] must be True, or options of LocalFlagsConfig"
        )


def _callback(name: str, value: Any) -> Any:
    if isinstance(value, str):
        value = _imported(name.upper(), value)
    if value is not None and not callable(value):
        raise ImproperlyConfigured(
            f"MIXPANEL[{name.upper()!r}] must be a function or its dotted path, "
            f"not {type(value).__name__}"
        )
    return value


def _imported(name: str, path: str) -> Any:
    try:
        return import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"MIXPANEL[{name!r}]: {error}") from error


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "MIXPANEL":  # as in tests, with `override_settings`
        configuration.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mixpanel.configuration")
