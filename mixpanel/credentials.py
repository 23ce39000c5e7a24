"""Credentials: service accounts, project tokens, and secrets with a masked repr.

Three kinds of objects can be pickled with their secrets, as a pool of spawned processes needs it:
clients, consumers, and the credentials that a program creates itself. All others, such as a lone
`Secret`, a request, a result, an error or a setting, hold no secret or cannot be pickled.
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
    "authority_of",
    "checked_text",
]


def checked_text(value: object, name: str, *, what: str = "") -> str:
    """Return a setting without surrounding white space; errors never show the value.

    :raises ConfigurationError: if it is not a string, is empty, or contains a character that is not
        printable, such as a line break, NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise ConfigurationTypeError(f"{name} must be a string, not {type(value).__name__}")
    text = value.strip()
    if not text:
        raise ConfigurationError(f"{name} must not be empty" + what)
    if not text.isprintable():
        raise ConfigurationError(
            f"{name} contains a line break or another character that is not printable" + what
        )
    return text


@hide_init_arguments
class Secret:
    """A string that no repr, log, traceback or dump of attributes shows.

    Copying returns the same object; a secret cannot be pickled.

    >>> Secret("hunter2")
    Secret('***')
    """

    __slots__ = ("_reveal",)

    def __init__(self, value: str) -> None:
        # A closure, so that not even a dump of the attributes shows the value.
        self._reveal: Callable[[], str] = lambda: value

    def reveal(self) -> str:
        """Return the string itself, for code that sends it."""
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
        raise TypeError("a Secret cannot be pickled: pass it to each process separately")


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


@hide_init_arguments
class ServiceAccountCredentials:
    """A service account of a project, for `/import` and all APIs that read data.

    Create one under Organization Settings > Service Accounts; importing needs the role Owner or
    Admin. Surrounding white space is removed. A pickle contains the secret in clear, for processes
    of your own; nothing else shows it.

    :raises ConfigurationError: if an argument is empty, not a string (then it is a `TypeError`,
        too) or not printable, or if the user name contains a colon.
    """

    __slots__ = ("_secret", "project_id", "username")

    def __init__(self, username: str, secret: str, project_id: str) -> None:
        self.username: str = checked_text(username, "username")
        if ":" in self.username:
            raise ConfigurationError(
                "username must not contain a colon: in HTTP Basic the name ends there"
            )
        self._secret = Secret(checked_text(secret, "secret"))
        self.project_id: str = checked_text(project_id, "project_id")

    @property
    def secret(self) -> str:
        """Return the secret itself, for code that sends it."""
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
    """The API secret of a project, a legacy credential that Mixpanel turns off on 2027-03-03.

    It is for calls written for the official client, `import_data(api_key, …)` and `merge`. It
    cannot be pickled.

    :raises ConfigurationError: if the secret is empty, not a string, or not printable.
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
def authority_of(authority: list[Any], token: str) -> Authority:
    """Return the credential in `[key, secret]` or `[(key, secret), None]`, else the token.

    The list is emptied, so that no frame above holds the secret in a local variable. A key without
    a secret authorizes nothing; it is kept for consumers of the user's own.
    """
    api_key, api_secret = authority
    authority.clear()
    if isinstance(api_key, tuple):
        if len(api_key) != 2:
            raise ConfigurationError("api_key must be a string, or a tuple of key and secret")
        api_key, api_secret = api_key
    if api_secret is not None:
        return ApiSecret(api_secret, api_key)
    return ProjectToken(token, api_key)


class ProjectToken:
    """The token of a project, which `/import` also accepts. A token is not secret.

    `api_key` is the legacy key of a call without a secret. It is not sent.
    """

    __slots__ = ("api_key", "token")

    def __init__(self, token: str, api_key: Any = None) -> None:
        self.token: str = token
        self.api_key: Any = api_key

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        return _basic(self.token, "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProjectToken) and self.token == other.token

    def __hash__(self) -> int:
        return hash(self.token)


Authority = ApiSecret | ProjectToken
