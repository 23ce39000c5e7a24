"""A drop-in for Hightouch's module: to migrate, change one import.

    from mixpanel.cdp import htevents          # was: import hightouch.htevents as htevents

    htevents.write_key = "WRITE_KEY"
    htevents.track("u-17", "Order Paid", {"amount": 12.5})
    htevents.shutdown()

Names and parameters are those of Hightouch's own library. A call returns whether the message was
accepted, and the message. The settings below are read at the first call, and again at the first
one after `shutdown`. Messages that are pending at the end of the process are sent then. For several
sources use `htevents.Client`, one for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mixpanel._runtime.redaction import hide_init_arguments
from mixpanel._version import __version__
from mixpanel.cdp._segment.composer import SegmentComposer
from mixpanel.cdp._segment.drop_in import MAX_AGE, DropInClient, DropInModule
from mixpanel.cdp.hightouch import Hightouch

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from mixpanel.cdp._hightouch.oauth import HightouchOAuth

__all__ = [
    "Client",
    "__version__",
    "alias",
    "flush",
    "group",
    "identify",
    "join",
    "page",
    "screen",
    "shutdown",
    "track",
]

SERVER = "https://oauth2.hightouch.io"
SCOPE = "tracking_api:write"


@hide_init_arguments
class Client(DropInClient):
    """A client of one source, with the parameters of `hightouch.htevents.client.Client`.

    Its calls return `(success, message)`; see `DropInClient` for the parameters.

    :raises ConfigurationError: for an invalid setting.
    """

    def __init__(
        self,
        write_key: str | None = None,
        host: str | None = None,
        debug: bool = False,  # noqa: FBT001, FBT002 - the vendor's parameters
        max_queue_size: int = 10_000,
        send: bool = True,  # noqa: FBT001, FBT002
        on_error: Callable[[Exception, list[dict[str, Any]]], object] | None = None,
        gzip: bool = False,  # noqa: FBT001, FBT002
        max_retries: int = 10,
        sync_mode: bool = False,  # noqa: FBT001, FBT002
        timeout: float = 15,
        proxies: Mapping[str, str] | None = None,
        thread: int = 1,
        upload_size: int = 100,
        upload_interval: float = 0.5,
        log_handler: logging.Handler | None = None,
        oauth_client_id: str | None = None,
        oauth_client_key: str | None = None,
        oauth_key_id: str | None = None,
        oauth_auth_server: str = SERVER,
        oauth_scope: str = SCOPE,
        *,
        max_age: float = MAX_AGE,
    ) -> None:
        oauth: HightouchOAuth | None = None
        if oauth_client_id and oauth_client_key and oauth_key_id:
            from mixpanel.cdp._hightouch.oauth import HightouchOAuth

            oauth = HightouchOAuth(
                oauth_client_id, oauth_client_key, oauth_key_id, oauth_auth_server, oauth_scope
            )
        super().__init__(
            write_key, host, debug, max_queue_size, send, on_error, gzip, max_retries, sync_mode,
            timeout, proxies, thread, upload_size, upload_interval, log_handler, max_age=max_age,
            oauth=oauth,
        )  # fmt: skip

    def _new_client(self, write_key: str, **options: Any) -> Hightouch:
        return Hightouch(write_key, **options)


write_key: str | None = None
host: str | None = None
"""The origin of your region, such as `https://eu-west-1.hightouch-events.com`. Default:
`MP_HIGHTOUCH_BASE_URL`, else the first region."""
on_error: Callable[[Exception, list[dict[str, Any]]], object] | None = None
"""Called with an error and the messages that were lost by it; and without messages, at once, with
an error that only a person can mend, such as a wrong write key. Both are logged, too."""
debug = False
"""True: log each request, without its content; to stderr unless logging is configured."""
send = True
"""False: validate and count messages, but send nothing."""
sync_mode = False
"""True: each call sends its message immediately and raises errors."""
max_queue_size = 10_000
gzip = False
timeout: float = 15
"""The time limit of one request, in seconds."""
max_retries = 10
"""Retries in `sync_mode`; in the background a message is retried until it is `max_age` old."""
max_age: float = MAX_AGE
"""Seconds for which a message is kept and tried again in an outage."""
log_handler: logging.Handler | None = None
oauth_client_id: str | None = None
oauth_client_key: str | None = None
"""A private key as PEM text."""
oauth_key_id: str | None = None
oauth_auth_server = SERVER
oauth_scope = SCOPE

default_client: Client | None = None

_module = DropInModule(globals(), Client)

identify: Final = _module.function(SegmentComposer.identify)
track: Final = _module.function(SegmentComposer.track)
page: Final = _module.function(SegmentComposer.page)
screen: Final = _module.function(SegmentComposer.screen)
group: Final = _module.function(SegmentComposer.group)
alias: Final = _module.function(SegmentComposer.alias)
flush: Final = _module.flush
shutdown: Final = _module.shutdown
join: Final = _module.join
