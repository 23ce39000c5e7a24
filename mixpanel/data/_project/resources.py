"""All resources of a project's data, in the order in which help and documentation list them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixpanel.data._project.administration import ADMINISTRATION, PROJECTS
from mixpanel.data._project.content import CONTENT
from mixpanel.data._project.flags import FLAGS
from mixpanel.data._project.lexicon import LEXICON

if TYPE_CHECKING:
    from mixpanel.data._project.table import Resource

__all__ = ["BY_NAME", "PROJECTS", "RESOURCES"]

RESOURCES: tuple[Resource, ...] = (*CONTENT, *FLAGS, *LEXICON, *ADMINISTRATION)
BY_NAME = {each.name: each for each in RESOURCES}
