"""The table of resources: complete, free of contradictions, and what the faces offer."""

import inspect
import typing

import pytest

from mixpanel.data import project
from mixpanel.data._project import faces
from mixpanel.data._project.resources import RESOURCES
from mixpanel.data._project.table import KNOWN_PLACEHOLDERS, PLACEHOLDER

ENDPOINTS = [(resource, endpoint) for resource in RESOURCES for endpoint in resource]
NAMES = [f"{resource.name}.{endpoint.name}" for resource, endpoint in ENDPOINTS]


@pytest.mark.parametrize("face", [faces.AsyncProject, faces.Project])
def test_both_faces_have_an_attribute_for_each_resource(face):
    """With its model as type, and no other."""
    scope = {**vars(faces), "project": project}
    hints = typing.get_type_hints(face, scope)
    expected = {each.name: each.model for each in RESOURCES}
    assert expected == {name: typing.get_args(hint)[0] for name, hint in hints.items()}
    assert [each.name for each in RESOURCES] == list(hints)


def test_names_are_used_once():
    """In a resource and among resources."""
    assert len(set(NAMES)) == len(NAMES)
    assert len({each.name for each in RESOURCES}) == len(RESOURCES)


@pytest.mark.slow
@pytest.mark.parametrize(("resource", "endpoint"), ENDPOINTS, ids=NAMES)
def test_an_endpoint_is_described(resource, endpoint):
    """Each has a summary, arguments with help, and paths that its arguments fill."""
    assert endpoint.summary.endswith(".")
    names = [each.name for each in endpoint.arguments]
    assert len(set(names)) == len(names)
    assert all(each.help.endswith(".") for each in endpoint.arguments)
    assert set(PLACEHOLDER.findall(endpoint.path)) - KNOWN_PLACEHOLDERS <= set(names)
    if endpoint.method == "DELETE" and endpoint.name.startswith("delete"):
        assert endpoint.danger is True
    if endpoint.danger not in (True, False):
        assert set(endpoint.danger) <= set(names)
    if endpoint.merge:
        assert resource.find("get") is not None
    signature = faces._signature(endpoint)
    assert names == [name for name in signature.parameters if name not in ("confirm", "extra")]
    assert ("confirm" in signature.parameters) == bool(endpoint.danger)
    assert endpoint.summary in faces._documentation(endpoint)


def test_every_model_is_used_and_public():
    """And none is only declared."""
    used = {each.model for each in RESOURCES}
    used |= {endpoint.model for _, endpoint in ENDPOINTS if endpoint.model} | {project.Me}
    models = {
        value
        for value in vars(project).values()
        if inspect.isclass(value) and issubclass(value, project.ProjectObject)
    } - {project.ProjectObject}
    assert models == used
    assert {each.__name__ for each in models} <= set(project.__all__)
