"""Error messages of the library in the words of the shell: `--replace`, not `replace=True`."""

import re
from collections.abc import Mapping

SWITCHES = r"True|False|None|\.\.\.|…"
# The two texts of the library that explain how to map columns.
COLUMN_MAPPINGS = (
    (re.compile(r"(?:Columns\()(\w+)=\.\.\.\)"), r"--column \1=COLUMN"),
    (re.compile(r"columns=\{'(\w+)': …\}"), r"--column \1=COLUMN"),
)


def in_option_names(text: str, options: Mapping[str, str], *, switches_only: bool = False) -> str:
    """Return an error message with the options of a command for the arguments that they set.

    `options` maps arguments to options. `start_at=3` becomes `--start-at 3`, `replace=True` becomes
    `--replace`, and `mixed=None` becomes `no --mixed`. A bare name is replaced only if it has an
    underscore: `where` and `events` are words too. With `switches_only`, values and bare names stay
    as they are, for messages that quote SQL.
    """
    for pattern, replacement in COLUMN_MAPPINGS:
        text = pattern.sub(replacement, text)
    if not options:
        return text
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    before = r"(?<![\w'\"$.-])(?<!--column )"
    text = re.sub(
        rf"{before}({names})=({SWITCHES})(?!\w)",
        lambda found: ("no " if found[2] in ("None", "False") else "") + options[found[1]],
        text,
    )
    if switches_only:
        return text
    text = re.sub(rf"{before}({names})=(?=\S)", lambda found: f"{options[found[1]]} ", text)
    text = re.sub(rf"{before}({names})=(?!\w)", lambda found: options[found[1]], text)
    long_names = "|".join(name for name in names.split("|") if "_" in name)
    if not long_names:
        return text
    return re.sub(rf"{before}({long_names})\b(?!')", lambda found: options[found[1]], text)
