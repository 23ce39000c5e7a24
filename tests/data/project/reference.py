"""Write the reference of `docs/project-data.md`: `python -m tests.data.project.reference`."""

from pathlib import Path

from mixpanel.data._project.resources import RESOURCES

PAGE = Path(__file__).parents[3] / "docs" / "project-data.md"
BEGIN, END = "<!-- reference -->\n", "<!-- end of the reference -->"


def arguments(endpoint):
    """Return the arguments of a method as it is called; those in brackets may be left out."""
    needed, optional = [], []
    for each in endpoint.arguments:
        if each.required and not each.env:
            needed.append(each.name if each.positional else f"{each.name}=…")
        else:
            optional.append(each.name)
    return ", ".join([*needed, *([f"[{', '.join(optional)}]"] if optional else [])])


def confirmation(endpoint):
    """Return when a method needs confirmation."""
    if isinstance(endpoint.danger, bool):
        return "*confirm*" if endpoint.danger else ""
    return f"*confirm* with {', '.join(f'`{each}`' for each in endpoint.danger)}"


def reference():
    """Return the reference."""
    parts = []
    for resource in RESOURCES:
        parts.append(f"### `ws.project.{resource.name}`\n")
        parts.append(f"{resource.summary} `mp project {resource.command}`.\n")
        lines = ["| method | what it does | |", "|---|---|---|"]
        lines += [
            f"| `{each.name}({arguments(each)})` | {each.summary} | {confirmation(each)} |"
            for each in resource
        ]
        parts.append("\n".join(lines).replace(" |  |", " | |") + "\n")
    return "\n".join(parts)


def page():
    """Return the page with the reference as it is now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{reference()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page())
