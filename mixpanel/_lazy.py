"""Load the public names of a module when they are first used (PEP 562).

A module writes the imports behind its public names once, in a block that only type checkers run:

    if TYPE_CHECKING or not load_lazily(__name__):
        from mixpanel.client import AsyncMixpanel, Mixpanel

At run time `load_lazily` reads that block from the source, and imports `mixpanel.client` when
`Mixpanel` is first used. Without a source, as in a frozen program, the block runs as usual.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["load_lazily"]


def load_lazily(module_name: str) -> bool:
    """Defer the imports of the block it is the condition of; return False if they have to run.

    The block holds nothing but `from … import …`. `dir()` lists `__all__`, too.
    """
    module = sys.modules[module_name]
    path, get_data = str(module.__file__), getattr(module.__loader__, "get_data", None)
    if not path.endswith(".py") or get_data is None:
        return False
    try:
        source: bytes = get_data(path)
    except OSError:
        return False

    @cache  # parsed at the first use, so that importing the module stays cheap
    def origins() -> dict[str, tuple[str, str]]:
        return _imported_names(source)

    def __getattr__(name: str) -> Any:  # noqa: N807 - PEP 562
        if name.startswith("__") or name not in origins():
            raise AttributeError(f"module {module_name!r} has no attribute {name!r}")
        parent, attribute = origins()[name]
        if parent != module_name and hasattr(import_module(parent), attribute):
            value: Any = getattr(import_module(parent), attribute)
        else:  # a submodule that is not loaded yet
            value = import_module(f"{parent}.{attribute}")
        setattr(module, name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807 - PEP 562
        return sorted({*vars(module), *vars(module)["__all__"]})  # pytest finds fixtures by `dir`

    vars(module).update(__getattr__=__getattr__, __dir__=__dir__)
    return True


def _imported_names(source: bytes) -> dict[str, tuple[str, str]]:
    """Return module and attribute of each name that the `if TYPE_CHECKING or …` block imports."""
    import ast

    return {
        alias.asname or alias.name: (statement.module, alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.BoolOp)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
