"""Document methods that are made at run time: an extension of griffe, which reads the source.

`@sync_twin(AsyncX.method)`, `events = list_events` and the copies of mix-ins have signature and
docstring only once the class exists, so they are taken from there.
"""

import inspect
import re
from importlib import import_module
from types import FunctionType
from typing import Any

import griffe

SKIP = re.compile(r"\s*# doctest: \+\w+")
KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}


class RuntimeMethods(griffe.Extension):
    """Complete the classes of the package, once all of its source is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._visit(pkg)

    def _visit(self, scope: Any) -> None:
        for member in list(scope.members.values()):
            if member.is_alias or member.path.startswith("mixpanel.cli."):
                continue
            if member.is_class:
                self._complete(member)
            if member.is_class or member.is_module:
                self._visit(member)
            if member.docstring is not None:
                member.docstring.value = with_fences(member.docstring.value)

    def _complete(self, described: griffe.Class) -> None:
        try:
            owner = getattr(import_module(described.module.path), described.name)
        except (ImportError, AttributeError):  # a framework that is not installed
            return
        for name, value in list(vars(owner).items()):
            known = described.members.get(name)
            function = getattr(value, "__func__", value)
            if (
                name.startswith("_")
                or not isinstance(function, FunctionType)
                or not function.__doc__
            ):
                continue
            if known is None or known.is_attribute or not known.has_docstring:
                described.set_member(name, _function(name, function, described))


def with_fences(doc: str) -> str:
    """Return a docstring with its examples as blocks of code; in Markdown, `>>>` is a quotation."""
    lines: list[str] = []
    inside = False
    for line in doc.splitlines():
        if inside and not line.strip():
            lines.append("```")
            inside = False
        elif not inside and line.lstrip().startswith(">>>"):
            lines += ["", "```pycon"]
            inside = True
        lines.append(SKIP.sub("", line.strip()) if inside else line)
    return "\n".join([*lines, "```"] if inside else lines)


def _function(name: str, function: Any, parent: griffe.Class) -> griffe.Function:
    signature = inspect.signature(function)
    made = griffe.Function(
        name,
        parameters=griffe.Parameters(
            *(
                griffe.Parameter(
                    one.name,
                    annotation=_text(one.annotation),
                    kind=KINDS[one.kind],
                    default=None if one.default is one.empty else repr(one.default),
                )
                for one in signature.parameters.values()
            )
        ),
        returns=_text(signature.return_annotation),
        parent=parent,
    )
    if inspect.iscoroutinefunction(function):
        made.labels.add("async")
    made.docstring = griffe.Docstring(inspect.getdoc(function) or "", parent=made)
    return made


def _text(annotation: Any) -> str | None:
    if annotation is inspect.Parameter.empty:
        return None
    if isinstance(annotation, str):
        return annotation
    return "None" if annotation is None else getattr(annotation, "__name__", str(annotation))
