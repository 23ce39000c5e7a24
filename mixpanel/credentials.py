"""Who is asking: service accounts, project tokens, and secrets that never print.

Three kinds of objects carry secrets through a pickle, as a pool of spawned processes needs it:
clients, consumers, and the credentials that a program makes itself. All else, such as a `Secret`
alone, a request, a result, an error or a setting, is refused by `pickle` or holds none.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, NoReturn

from mixpanel._runtime.redaction import hide_arguments, hide_init_arguments
from mixpanel.exceptions import ConfigurationError, ConfigurationTypeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = [
    "ApiSecret",
    "Authority",
    "ProjectToken",
    "Secret",
    "ServiceAccountCredentials",
    "api_secret_of",
    "checked_text",
]


def checked_text(value: object, name: str, *, what: str = "") -> str:
    """Return a setting without the white space around it; an error never shows the value.

    :raises ConfigurationError: when it is no string, empty, or holds a character that is not
        printable, such as a line break, NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise ConfigurationTypeError(f"{name} must be a string, not {type(value).__name__}")
    text = value.strip()
    if not text:
        raise ConfigurationError(f"{name} must not be empty" + what)
    if not text.isprintable():
        raise ConfigurationError(
            f"{name} holds a line break or another character that cannot be printed" + what
        )
    return text


@hide_init_arguments
class Secret:
    """Hold a string that appears in no repr, log, traceback, pickle or copied dict.

    A copy is the secret itself; `pickle` refuses it.

    >>> Secret("hunter2")
    Secret('***')
    """

    __slots__ = ("_reveal",)

    def __init__(self, value: str) -> None:
        # A closure: not even a debugger's dump of the attributes shows the value.
        self._reveal: Callable[[], str] = lambda: value

    def reveal(self) -> str:
        """Return the string itself, for the one place that sends it."""
        return self._reveal()

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.reveal() == other.reveal()

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; give it to each process on its own")


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


@hide_init_arguments
class ServiceAccountCredentials:
    """Identify a service account of a project, for `/import` and everything that reads.

    Create one under Organization Settings > Service Accounts; importing needs the role Owner or
    Admin. All three are strings; surrounding white space is taken off. A pickle of it holds the
    secret in clear, for processes of your own; nothing else shows it.

    :raises ConfigurationError: when one is empty, no string (then it is a `TypeError`, too), or
        cannot be printed, or when the user name holds a colon.
    """

    __slots__ = ("_secret", "project_id", "username")

    def __init__(self, username: str, secret: str, project_id: str) -> None:
        self.username: str = checked_text(username, "username")
        if ":" in self.username:
            raise ConfigurationError("username must not hold a colon: HTTP Basic ends it there")
        self._secret = Secret(checked_text(secret, "secret"))
        self.project_id: str = checked_text(project_id, "project_id")

    @property
    def secret(self) -> str:
        """Return the secret itself, for code that must send it."""
        return self._secret.reveal()

    def to_http_basic_auth(self) -> tuple[str, str]:
        """Return user name and password for HTTP Basic authentication."""
        return self.username, self.secret

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        return _basic(self.username, self.secret)

    def __repr__(self) -> str:
        return (
            f"ServiceAccountCredentials(username={self.username!r}, secret='***', "
            f"project_id={self.project_id!r})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ServiceAccountCredentials) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.username, self.secret, self.project_id)

    def _key(self) -> tuple[Any, ...]:
        return self.username, self._secret, self.project_id


@hide_init_arguments
class ApiSecret:
    """Identify a project by its old API secret, which Mixpanel switches off on 2027-03-03.

    It exists for calls written for the official client, `import_data(api_key, ...)` and `merge`.
    Records carry it, so `pickle` refuses it.

    :raises ConfigurationError: for a secret that is empty, no string, or cannot be printed.
    """

    __slots__ = ("_secret", "api_key")

    def __init__(self, api_secret: str | Secret, api_key: str | None = None) -> None:
        if isinstance(api_secret, Secret):
            api_secret = api_secret.reveal()
        self._secret = Secret(checked_text(api_secret, "api_secret"))
        self.api_key: str | None = checked_text(api_key, "api_key") if api_key else None

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        return _basic(self._secret.reveal(), "")

    def __repr__(self) -> str:
        return "ApiSecret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiSecret) and self._secret == other._secret

    def __hash__(self) -> int:
        return hash(self._secret)


@hide_arguments
def api_secret_of(authority: list[Any]) -> ApiSecret | None:
    """Return what a list of API key and secret identifies, or `((key, secret), None)`; empty it.

    None when there is no secret.
    """
    api_key, api_secret = authority
    authority.clear()
    if isinstance(api_key, tuple):
        if len(api_key) != 2:
            raise ConfigurationError("api_key must be a string, or a tuple of key and secret")
        api_key, api_secret = api_key
    return None if api_secret is None else ApiSecret(api_secret, api_key)


class ProjectToken:
    """Identify a project by its token, which `/import` also takes. A token is no secret."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        self.token: str = token

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        return _basic(self.token, "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProjectToken) and self.token == other.token

    def __hash__(self) -> int:
        return hash(self.token)


Authority = ApiSecret | ProjectToken
