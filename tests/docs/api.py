"""The reference of the public names: its pages, made from each module's `__all__`."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tests.docs.pages import ROOT

PACKAGE = ROOT / "mixpanel"


class Section(NamedTuple):
    """One page of the reference, and the modules whose names it documents."""

    page: str
    title: str
    text: str
    modules: tuple[str, ...]
    priority: int = 0


SECTIONS = (
    Section(
        "clients",
        "Clients and consumers",
        "Track events, update profiles, import history. `Mixpanel` has the methods of "
        "`AsyncMixpanel`, without `await`.",
        (
            "mixpanel",
            "mixpanel.client",
            "mixpanel.consumers",
            "mixpanel.settings",
            "mixpanel.credentials",
            "mixpanel.bulk",
            "mixpanel.lookup_tables",
            "mixpanel.signals",
        ),
    ),
    Section(
        "flags",
        "Feature flags",
        "Evaluate flags in this process or at Mixpanel, explain and check them.",
        (
            "mixpanel.flags",
            "mixpanel.flags.types",
            "mixpanel.flags.diagnostics",
            "mixpanel.flags.custom_operators",
            "mixpanel.flags.utils",
            "mixpanel.flags.openfeature",
        ),
    ),
    Section(
        "workspaces",
        "Workspaces and results",
        "Fetch a project into a local database, query it with SQL or at Mixpanel. "
        "`Workspace` has the methods of `AsyncWorkspace`, without `await`.",
        (
            "mixpanel.data.workspace",
            "mixpanel.data.results",
            "mixpanel.data.query_results",
            "mixpanel.data.exploration_results",
            "mixpanel.data.inline_queries",
            "mixpanel.data.expressions",
            "mixpanel.data.discovery",
            "mixpanel.data.config",
            "mixpanel.data.credentials",
            "mixpanel.data.api",
            "mixpanel.data.readers",
            "mixpanel.data",
        ),
    ),
    Section(
        "project-objects",
        "Objects of a project",
        "What `ws.project` returns: boards, cohorts, alerts, the lexicon and the rest.",
        ("mixpanel.data.project",),
        priority=1,
    ),
    Section(
        "cdp",
        "Customer.io, Hightouch, Segment, RudderStack",
        "Clients of customer data platforms, fan-outs, and signed webhooks.",
        (
            "mixpanel.cdp",
            "mixpanel.cdp.fanout",
            "mixpanel.cdp.customerio",
            "mixpanel.cdp.hightouch",
            "mixpanel.cdp.segment",
            "mixpanel.cdp.rudderstack",
            "mixpanel.cdp.webhooks",
            "mixpanel.cdp.htevents",
            "mixpanel.cdp.analytics",
        ),
    ),
    Section(
        "semantic-events",
        "Semantic events",
        "The events that Customer.io and Segment know, with types.",
        ("mixpanel.cdp.semantic",),
    ),
    Section(
        "integrations",
        "Integrations",
        "Web frameworks, task queues, functions as a service and notebooks; each module imports "
        "its own framework only.",
        (
            "mixpanel.integrations.asgi",
            "mixpanel.integrations.fastapi",
            "mixpanel.integrations.wsgi",
            "mixpanel.integrations.flask",
            "mixpanel.integrations.django",
            "mixpanel.integrations.django.context_processors",
            "mixpanel.integrations.django.templatetags.mixpanel_flags",
            "mixpanel.integrations.celery",
            "mixpanel.integrations.dramatiq",
            "mixpanel.integrations.rq",
            "mixpanel.integrations.serverless",
            "mixpanel.integrations.ipython",
            "mixpanel.integrations.flags",
        ),
    ),
    Section(
        "testing",
        "Testing and the emulator",
        "Capture what your tests send, or run a local Mixpanel with scripted faults.",
        ("mixpanel.testing", "mixpanel.emulator", "mixpanel.emulator.faults"),
    ),
    Section(
        "exceptions",
        "Exceptions",
        "Each error with what to do is listed in [Errors](../docs/errors.md).",
        ("mixpanel.exceptions", "mixpanel.data.exceptions"),
        priority=1,
    ),
)
# What a reader looks for comes first on its page; the rest is in the order of `__all__`.
FIRST = (
    "AsyncMixpanel",
    "Mixpanel",
    "AsyncWorkspace",
    "Workspace",
    "LocalFeatureFlagsProvider",
    "RemoteFeatureFlagsProvider",
    "AsyncCustomerIO",
    "AsyncHightouch",
    "AsyncFanOut",
    "Emulator",
    "Fault",
    "capture",
)
# Public by name, as they have no underscore, but made for this package: they may change with any
# version. Where they hold something for users, a module of the sections above has it too.
INTERNAL = (
    "mixpanel.cli",
    "mixpanel.data.analysis",
    "mixpanel.data.store",
    "mixpanel.data.readers.",
    "mixpanel.emulator.emulator",
    "mixpanel.flags.",
    "mixpanel.integrations.django.",
)


@cache
def public_modules() -> dict[str, list[str]]:
    """Return the names in `__all__` of each module whose path has no underscore."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names = _listed(path)
            if names:
                found[".".join(parts)] = names
    return found


def _listed(path: Path) -> list[str]:
    """Return the `__all__` of a module; what is added to it by code is not seen."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            try:
                return list(ast.literal_eval(node.value))
            except ValueError:
                return []
    return []


def undocumented_modules() -> list[str]:
    """Return the public modules that no section has, and that are not internal."""
    known = {name for section in SECTIONS for name in section.modules}
    return [
        name
        for name in public_modules()
        if name not in known
        and not any(name.startswith(each) or name == each.rstrip(".") for each in INTERNAL)
    ]


def _names(module_name: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each public name of a module, without modules."""
    module = import_module(module_name)
    listed = public_modules().get(module_name) or getattr(module, "__all__", ())
    for name in sorted(listed, key=lambda each: FIRST.index(each) if each in FIRST else len(FIRST)):
        value = getattr(module, name)
        if not inspect.ismodule(value):
            yield name, value


def _is_unique(value: Any) -> bool:
    """Return True for what several modules may have under one name: a class or a function."""
    return inspect.isclass(value) or inspect.isroutine(value)


@cache
def all_names() -> dict[str, dict[str, dict[str, Any]]]:
    """Return {page: {module: {path: value}}}; each object is documented once.

    Its path is the shortest of those that it can be imported from.
    """
    paths: dict[Any, str] = {}
    for section in SECTIONS:
        for module_name in section.modules:
            for name, value in _names(module_name):
                key = id(value) if _is_unique(value) else name
                path = f"{module_name}.{name}"
                paths[key] = min(paths.get(key, path), path, key=lambda p: (p.count("."), p))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    seen = set()
    for section in sorted(SECTIONS, key=lambda each: -each.priority):
        for module_name in section.modules:
            for name, value in _names(module_name):
                key = id(value) if _is_unique(value) else name
                if key not in seen:
                    seen.add(key)
                    found.setdefault(section.page, {}).setdefault(module_name, {})[paths[key]] = (
                        value
                    )
    return found


def methods_of(owner: type) -> list[str]:
    """Return the public methods and properties of a class, its own and those of our bases."""
    found = {}
    for base in owner.__mro__:
        if base.__module__.startswith("mixpanel"):
            for name, value in vars(base).items():
                if not name.startswith(("_", "model_")) and (
                    inspect.isroutine(value) or isinstance(value, property | classmethod)
                ):
                    found.setdefault(name, value)
    return [name for name, value in found.items() if getattr(value, "__doc__", None)]


def page_of(section: Section) -> str:
    """Return a page with a block of mkdocstrings for each name."""
    lines = [f"# {section.title}", "", section.text, ""]
    for module_name, names in all_names()[section.page].items():
        lines += [f"## {module_name}", "", f"{_heading(module_name)}.", ""]
        for path in names:
            lines += [f"::: {path}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def as_text(section: Section) -> str:
    """Return the same page as plain Markdown: signatures and docstrings, for `llms-full.txt`."""
    lines = [f"# {section.title}", "", section.text, ""]
    for names in all_names()[section.page].values():
        for path, value in names.items():
            doc = inspect.getdoc(value) if _is_unique(value) else ""
            lines += [f"## {path}{_signature(value)}", "", doc or "", ""]
            for name in methods_of(value) if inspect.isclass(value) else ():
                method = getattr(value, name, None)
                first = (inspect.getdoc(method) or "").partition("\n\n")[0].replace("\n", " ")
                lines.append(f"- `{name}{_signature(method)}`: {first}")
    return "\n".join(lines)


def _heading(module_name: str) -> str:
    """Return the first sentence of a module's docstring."""
    doc = (inspect.getdoc(import_module(module_name)) or module_name).partition("\n\n")[0]
    return doc.replace("\n", " ").removesuffix(".")


def _signature(value: Any) -> str:
    try:
        return str(inspect.signature(value)).replace("'", "") if callable(value) else ""
    except (TypeError, ValueError):
        return ""
