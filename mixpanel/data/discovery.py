"""The contents of a project: events, properties, saved reports, cohorts and lexicon entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mixpanel.data._result import Result

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BookmarkInfo",
    "BookmarkType",
    "EntityType",
    "FunnelInfo",
    "LexiconDefinition",
    "LexiconMetadata",
    "LexiconProperty",
    "LexiconSchema",
    "LimitedList",
    "SavedCohort",
    "TopEvent",
]

BookmarkType = Literal["insights", "funnels", "retention", "flows", "launch-analysis"]
EntityType = Literal["event", "profile"]
T = TypeVar("T")


class LimitedList(list[T]):
    """A list with the `limit` that was sent, and `limit_hit`: True if it may be cut off."""

    def __init__(self, values: Iterable[T] = (), *, limit: int | None = None) -> None:
        super().__init__(values)
        self.limit: int | None = limit
        self.limit_hit: bool = limit is not None and len(self) >= limit


@dataclass(frozen=True, slots=True, repr=False)
class FunnelInfo(Result):
    """A saved funnel."""

    funnel_id: int
    name: str

    @property
    def id(self) -> int:
        """The same as `funnel_id`."""
        return self.funnel_id


@dataclass(frozen=True, slots=True, repr=False)
class SavedCohort(Result):
    """A saved cohort, and how many users it had when it was last computed."""

    id: int
    name: str
    count: int
    description: str = ""
    created: str | None = None
    is_visible: bool = True


@dataclass(frozen=True, slots=True, repr=False)
class BookmarkInfo(Result):
    """A saved report; `params` describe what it computes."""

    id: int
    name: str
    type: str
    project_id: int | None = None
    created: str | None = None
    modified: str | None = None
    workspace_id: int | None = None
    dashboard_id: int | None = None
    description: str | None = None
    creator_id: int | None = None
    creator_name: str | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the known fields except `params` as values that JSON can represent."""
        known = Result.to_dict(self)
        return {k: v for k, v in known.items() if v is not None and k != "params"}


@dataclass(frozen=True, slots=True, repr=False)
class TopEvent(Result):
    """How often an event happened today, and its change from yesterday (0.1 is 10 % more)."""

    event: str
    count: int
    percent_change: float


@dataclass(frozen=True, slots=True, repr=False)
class LexiconMetadata(Result):
    """The metadata of an event or property in the lexicon."""

    source: str | None = None
    display_name: str | None = None
    tags: tuple[str, ...] = ()
    hidden: bool = False
    dropped: bool = False
    contacts: tuple[str, ...] = ()
    team_contacts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class LexiconProperty(Result):
    """The lexicon's description of a property; `type` is a JSON Schema type."""

    type: str | None = None
    description: str | None = None
    metadata: LexiconMetadata | None = None


@dataclass(frozen=True, slots=True, repr=False)
class LexiconDefinition(Result):
    """A description and the properties of an event or profile."""

    description: str | None = None
    properties: dict[str, LexiconProperty] = field(default_factory=dict)
    metadata: LexiconMetadata | None = None


@dataclass(frozen=True, slots=True, repr=False)
class LexiconSchema(Result):
    """The lexicon's entry of an event, or of profiles; `schema_json` is its content."""

    entity_type: str
    name: str
    schema_json: LexiconDefinition
