"""Print the public names of whichever `mixpanel` is installed, with signatures and base classes."""

import importlib
import inspect
import json

MODULES = (
    "mixpanel",
    "mixpanel.credentials",
    "mixpanel.flags",
    "mixpanel.flags.custom_operators",
    "mixpanel.flags.local_feature_flags",
    "mixpanel.flags.remote_feature_flags",
    "mixpanel.flags.types",
    "mixpanel.flags.utils",
)
WITH_CONSTANTS = ("mixpanel.flags.types", "mixpanel.flags.utils")
DUNDERS = ("__enter__", "__exit__", "__aenter__", "__aexit__")
HOOKS = ("_now", "_make_insert_id", "_flush_endpoint", "_write_request")


def parameters(function):
    """Return names and defaults of the parameters, as far as defaults are JSON."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [
        [each.name, each.default if isinstance(each.default, (str, int, float, bool)) else None]
        for each in found
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]


def members(kind):
    """Return the public members of a class: whether each is async, and its parameters."""
    found = {}
    for name in dir(kind):
        if name.startswith("_") and name not in DUNDERS + HOOKS:
            continue
        member = getattr(kind, name)
        if inspect.isroutine(member):
            found[name] = [inspect.iscoroutinefunction(member), parameters(member)]
        else:
            found[name] = None
    return found


def surface(name):
    """Return what a module defines or offers of this package."""
    module = importlib.import_module(name)
    found = {}
    for key in dir(module):
        value = getattr(module, key)
        if key.startswith("_"):
            continue
        # What a module only imports for itself is no name that it offers.
        is_own = name == "mixpanel" or getattr(value, "__module__", name) == name
        if not is_own and key not in getattr(module, "__all__", ()):
            continue
        if inspect.isclass(value) and value.__module__.startswith("mixpanel"):
            bases = [base.__name__ for base in value.__mro__ if base is not object]
            fields = getattr(value, "model_fields", None)
            init = parameters(value) if fields is None else [[name, None] for name in fields]
            found[key] = {"bases": bases, "init": init, "members": members(value)}
        elif inspect.isfunction(value) and value.__module__.startswith("mixpanel"):
            found[key] = {"parameters": parameters(value)}
        elif inspect.ismodule(value):
            if value.__name__.startswith("mixpanel") and not name.endswith("_flags"):
                found[key] = {}
        elif key == "logger" or (key.isupper() and name in WITH_CONSTANTS):
            found[key] = {}
    return found


if __name__ == "__main__":
    print(json.dumps({name: surface(name) for name in MODULES}))
