"""The settings of one spool."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from mixpanel._delivery.spool.folder import check_folder, check_versions, checked_path
from mixpanel._delivery.spool.store import Durability
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from mixpanel._delivery.spool.blocks import Codec
    from mixpanel._delivery.spool.folder import Destination
    from mixpanel.settings import Limits

__all__ = ["SpoolOptions", "checked_durability", "checked_folder"]


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """The settings of one spool.

    `has_credentials` is True if the sender authorizes `/import` itself, so that it can send
    messages whose own secret ended with their process. With `repeat_ambiguous`, updates that were
    being sent when their process ended are sent again.
    """

    folder: Path
    destination: Destination
    durability: Durability
    limits: Limits
    codec: Codec
    has_credentials: bool = False
    repeat_ambiguous: bool = False


def checked_durability(durability: Any) -> Durability:
    """Return a valid durability.

    :raises ConfigurationError: for any other value.
    """
    if durability not in get_args(Durability):
        known = " or ".join(map(repr, get_args(Durability)))
        raise ConfigurationError(f"durability={durability!r} must be {known}")
    return durability  # type: ignore[no-any-return]


def checked_folder(spool: Any, destination: Destination) -> Path:
    """Return the folder of a spool, after checks that create nothing.

    :raises ConfigurationError: if it cannot be used.
    """
    name = "MP_SPOOL" if spool is None else "spool"
    folder = checked_path(os.environ["MP_SPOOL"] if spool is None else spool, name)
    check_folder(folder, name)
    inner = folder / destination.folder_name
    check_folder(inner, name)
    check_versions(inner)
    return folder
