"""The front matter of a checkpoint's model card: the YAML at the top of its README.md."""

import logging
from pathlib import Path
from typing import Any

from tlmtool.failure import Usage
from tlmtool.files import notation
from tlmtool.files.reading import regular
from tlmtool.models.guarding import inside

LONGEST = 64 * 2**10  # bytes of a card that are read; front matter that ends later is ignored
log = logging.getLogger("tlmtool")


def front_matter(folder: Path) -> dict[str, Any]:
    """The front matter of a model card; empty where there is none that can be read.

    `license` is a name or a list of names; anything else there becomes None.
    """
    file = folder / "README.md"
    if not (file.exists() and inside(file, folder)):
        return {}
    with regular(file).open("rb") as opened:
        parts = opened.read(LONGEST).decode("utf-8", "replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = notation.parse(parts[1], f"the front matter of {file}")
    except Usage as refused:
        log.warning("warning: %s; nothing is taken from it", refused)
        return {}
    kept = found if isinstance(found, dict) else {}
    licence = kept.get("license")
    several = licence if isinstance(licence, list) else [licence]
    return kept | {"license": licence if all(isinstance(x, str) for x in several) else None}
