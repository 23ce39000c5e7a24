"""What hatchling cannot say in pyproject.toml: the bill of materials of a wheel, and its links.

The bill of materials is CycloneDX JSON, made from pyproject.toml. It lists what the wheel requires,
with the bounds that pyproject.toml gives, and lies in `<name>-<version>.dist-info/sboms/` (PEP
770). It holds neither a time nor a random serial number, so the same tree builds the same bytes.

`PROJECT_URL`, which the release workflow sets to the address of the repository, gives the package
its links, and the README absolute ones: a package index cannot follow those that are relative.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from packaging.specifiers import SpecifierSet

FILE_NAME = "mixpanel-async.cdx.json"
COMPARATORS = (">=", "<=", ">", "<", "!=")


LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)\s]+)(?=\))")


class LinksHook(MetadataHookInterface):
    """Set the README and the links of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add `readme` and `urls`, which pyproject.toml calls dynamic."""
        url = os.environ.get("PROJECT_URL", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        urls = dict(self.config["urls"])
        if url:
            text = with_absolute_links(text, f"{url}/blob/v{metadata['version']}")
            urls = project_urls(url) | urls
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls


def project_urls(url: str) -> dict[str, str]:
    """Return the links of a project on GitHub, under the names that package indexes know.

    :raises ValueError: for an address that is not https.
    """
    if not re.fullmatch(r"https://[^\s/]+/\S+", url):
        raise ValueError(f"PROJECT_URL={url!r} must be the https address of the repository")
    return {
        "Homepage": url,
        "Documentation": f"{url}/blob/main/docs/start.md",
        "Source": url,
        "Issues": f"{url}/issues",
        "Changelog": f"{url}/blob/main/CHANGELOG.md",
    }


def with_absolute_links(text: str, base: str) -> str:
    """Return Markdown whose relative links begin with `base`; anchors are those of the README."""
    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for at in range(0, len(blocks), 2):  # between fenced blocks
        blocks[at] = LINK.sub(
            lambda link: f"{base}/{'README.md' if link[1].startswith('#') else ''}{link[1]}",
            blocks[at],
        )
    return "".join(blocks)


class BillOfMaterialsHook(BuildHookInterface):
    """Write the bill of materials beside the build, and hand it to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Make the file before the wheel is built, an editable one too."""
        core = self.metadata.core
        bill = bill_of_materials(
            core.raw_name,
            self.metadata.version,
            core.license_expression,
            core.dependencies,
            core.optional_dependencies,
        )
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / FILE_NAME
        path.write_text(json.dumps(bill, indent=2, ensure_ascii=True) + "\n", encoding="ascii")
        build_data["sbom_files"].append(str(path))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the file: the wheel holds its copy."""
        self._folder.cleanup()


def bill_of_materials(
    name: str,
    version: str,
    license_expression: str,
    required: Sequence[str],
    optional: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return a CycloneDX 1.7 document: a component for each requirement, sorted by name.

    The components are external: an installer chooses their versions, within `versionRange`. The
    extras of this package that bring a component in are properties of it.

    :raises ValueError: for a requirement whose bounds the format cannot express.
    """
    extras: dict[str, set[str]] = {line: set() for line in required}
    for extra in optional:
        for line in _resolved(extra, canonicalize_name(name), optional):
            extras.setdefault(line, set()).add(extra)
    lines = sorted(extras, key=lambda line: (canonicalize_name(Requirement(line).name), line))
    root = f"{_purl(name)}@{version}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": "library",
                "bom-ref": root,
                "name": name,
                "version": version,
                "licenses": [{"expression": license_expression}],
                "purl": root,
            },
        },
        "components": [_component(line, extras[line], required=line in required) for line in lines],
        "dependencies": [{"ref": root, "dependsOn": lines}, *({"ref": line} for line in lines)],
    }


def _resolved(
    extra: str, name: str, optional: Mapping[str, Sequence[str]], seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield what an extra requires; extras of this package itself are followed."""
    for line in optional[extra]:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) != name:
            yield line
            continue
        for other in requirement.extras - seen - {extra}:
            yield from _resolved(other, name, optional, seen | {extra})


def _component(line: str, extras: set[str], *, required: bool) -> dict[str, Any]:
    requirement = Requirement(line)
    component = {
        "type": "library",
        "bom-ref": line,
        "name": canonicalize_name(requirement.name),
        "scope": "required" if required else "optional",
        "isExternal": True,
        "purl": _purl(requirement.name),
    }
    exact = _exact(requirement.specifier)
    if exact:
        component |= {"version": exact, "purl": f"{component['purl']}@{quote(exact)}"}
    elif requirement.specifier:
        component["versionRange"] = _version_range(requirement.specifier)
    properties = [
        *(("cdx:python:package:required-extra", extra) for extra in sorted(requirement.extras)),
        *(("mixpanel-async:extra", extra) for extra in sorted(extras)),
    ]
    if requirement.marker is not None:
        properties.append(("mixpanel-async:marker", str(requirement.marker)))
    if properties:
        component["properties"] = [{"name": key, "value": value} for key, value in properties]
    return component


def _purl(name: str) -> str:
    return f"pkg:pypi/{canonicalize_name(name)}"


def _exact(specifiers: SpecifierSet) -> str | None:
    """Return the one version that is admitted, or None when there may be several."""
    exact = [s.version for s in specifiers if s.operator == "==" and not s.version.endswith(".*")]
    return exact[0] if exact else None


def _version_range(specifiers: SpecifierSet) -> str:
    """Return the bounds as a `vers` range, its constraints in the order of their versions."""
    for specifier in specifiers:
        if specifier.operator not in COMPARATORS or specifier.version.endswith(".*"):
            raise ValueError(
                f"{specifier} cannot be expressed in the bill of materials: "
                f"write it with {', '.join(COMPARATORS)} and whole versions"
            )
    ordered = sorted(specifiers, key=lambda s: (Version(s.version), s.operator))
    return "vers:pypi/" + "|".join(f"{s.operator}{quote(s.version)}" for s in ordered)
