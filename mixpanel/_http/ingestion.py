"""Requests to Mixpanel's ingestion API: URLs, headers, gzip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from mixpanel._http.compression import compress
from mixpanel._http.request import (
    USER_AGENT,
    Request,
)
from mixpanel._http.responses import (
    classify_response,
)
from mixpanel._records.record import join_bodies
from mixpanel.credentials import ApiSecret, Secret, ServiceAccountCredentials

if TYPE_CHECKING:
    from typing import NoReturn

    from mixpanel._http.request import Send
    from mixpanel._http.responses import (
        Classification,
        Response,
        TransportFailure,
    )
    from mixpanel._records.record import Record
    from mixpanel.credentials import Authority
    from mixpanel.settings import Endpoints

__all__ = ["IngestionApi"]


@lru_cache(maxsize=4)
def _query(*, geolocate: bool, strict: bool) -> str:
    query = {"ip": "1" if geolocate else "0", "verbose": "1"}
    if strict:
        query["strict"] = "1"
    return urlencode(query)


@dataclass(frozen=True, slots=True)
class IngestionApi:
    """Requests to `/track`, `/engage`, `/groups` and `/import`.

    `/track` and `/import` accept gzip, the others do not. `geolocate` makes Mixpanel derive city
    and country from the address of the sender, which is right on a device and wrong on a server.
    """

    endpoints: Endpoints
    credentials: ServiceAccountCredentials | None = None
    geolocate: bool = False

    @property
    def guard(self) -> None:
        """Return None: requests are sent at once."""
        return

    def request(self, step: Send) -> Request:
        """Return the request that carries these records."""
        endpoint = step.records[0].endpoint
        body = join_bodies(b"[", step.records, b"]")
        headers: dict[str, str | Secret] = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
        }
        if step.gzip and self.takes_gzip(endpoint):
            body = compress(body)
            headers["Content-Encoding"] = "gzip"
        query = _query(geolocate=self.geolocate, strict=endpoint != "events")
        if endpoint == "imports":
            further: dict[str, str] = {}
            authorization = self.authorize(further, step.records[0].auth)
            if authorization is not None:
                headers["Authorization"] = authorization
            if further:
                query = f"{query}&{urlencode(further)}"
        return Request("POST", f"{self.endpoints.url(endpoint)}?{query}", headers, body)

    def classify(
        self, response: Response | TransportFailure, records: list[Record]
    ) -> Classification:
        """Return what a response means for the records that were sent."""
        return classify_response(response, records)

    def takes_gzip(self, endpoint: str) -> bool:
        """Return True if request bodies for an endpoint may be compressed."""
        return endpoint in ("events", "imports")

    def captured_as(self, endpoint: str) -> str:
        """Return the name under which `mixpanel.testing.capture` keeps an endpoint's messages."""
        return endpoint

    def authorize(self, query: dict[str, str], auth: Authority | None = None) -> Secret | None:
        """Return the `Authorization` header, and add the query parameters that go with it."""
        if self.credentials is not None:
            query["project_id"] = self.credentials.project_id
            return Secret(self.credentials.authorization())
        if isinstance(auth, ApiSecret) and auth.api_key:
            query["api_key"] = auth.api_key
        return None if auth is None else Secret(auth.authorization())

    def __reduce__(self) -> NoReturn:
        raise TypeError("an IngestionApi cannot be pickled: it may hold credentials")
