"""What only a query in progress needs, loaded by the first query.

Both workspaces inherit the methods of this package, so `import mixpanel.data.workspace` loads it.
"""

from typing import TYPE_CHECKING

from mixpanel._lazy import load_lazily

if TYPE_CHECKING or not load_lazily(__name__):
    from mixpanel.data._queries import (
        bookmarks,
        discovery_responses,
        funnel_responses,
        requests,
        responses,
        retention_responses,
    )

__all__ = [
    "bookmarks",
    "discovery_responses",
    "funnel_responses",
    "requests",
    "responses",
    "retention_responses",
]
