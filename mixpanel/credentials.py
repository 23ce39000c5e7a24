"""Who is asking: service accounts, project tokens, and secrets that never print."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, NoReturn

from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ApiSecret", "Authority", "ProjectToken", "Secret", "ServiceAccountCredentials"]


class Secret:
    """Hold a string that appears in no repr, log, traceback, pickle or copied dict.

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

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; give it to each process on its own")


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


class ServiceAccountCredentials:
    """Identify a service account of a project, for `/import` and everything that reads.

    Create one under Organization Settings > Service Accounts; importing needs the role Owner or
    Admin. All three are strings; surrounding white space is taken off.

    :raises TypeError: when one is not a string.
    :raises ValueError: when one is empty.
    """

    __slots__ = ("_secret", "project_id", "username")

    def __init__(self, username: str, secret: str, project_id: str) -> None:
        for name, value in (("username", username), ("secret", secret), ("project_id", project_id)):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be a string, not {type(value).__name__}")
            if not value.strip():
                raise ConfigurationError(f"{name} must not be empty")
        self.username = username.strip()
        self._secret = Secret(secret.strip())
        self.project_id = project_id.strip()

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

    def _key(self) -> tuple[Any, ...]:
        return self.username, self._secret, self.project_id


class ApiSecret:
    """Identify a project by its old API secret, which Mixpanel switches off on 2027-03-03.

    It exists for calls written for the official client, `import_data(api_key, ...)` and `merge`.
    """

    __slots__ = ("_secret", "api_key")

    def __init__(self, api_secret: str, api_key: str | None = None) -> None:
        self._secret = Secret(api_secret)
        self.api_key = api_key

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        return _basic(self._secret.reveal(), "")

    def __repr__(self) -> str:
        return "ApiSecret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiSecret) and self._secret == other._secret

    def __hash__(self) -> int:
        return hash(self._secret)


class ProjectToken:
    """Identify a project by its token, which `/import` also takes. A token is no secret."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        self.token = token

    def authorization(self) -> str:
        """Return the value of the `Authorization` header."""
        return _basic(self.token, "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProjectToken) and self.token == other.token

    def __hash__(self) -> int:
        return hash(self.token)


Authority = ApiSecret | ProjectToken
