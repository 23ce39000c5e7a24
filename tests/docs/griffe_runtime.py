"""Document methods that are made at run time: an extension of griffe, which reads the source.

`@sync_twin(AsyncX.method)`, `events = list_events` and the copies of mix-ins have signature and
docstring only once the class exists, so they are taken from there.
"""

import inspect
from importlib import import_module
from types import FunctionType
from typing import Any

import griffe

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
            if member.is_alias:
                continue
            if member.is_module:
                self._visit(member)
            elif member.is_class and not member.path.startswith("mixpanel.cli."):
                self._complete(member)

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
