"""What a folder of the package registers, read without importing it, as `--help` has to be fast."""

from functools import lru_cache
from pathlib import Path


@lru_cache
def registered(room: str) -> dict[str, str]:
    """{name: first line of its docstring} of the files of a folder, such as "decompositions"."""
    found = {}
    for file in sorted((Path(__file__).parents[1] / room).glob("[!_.]*.py")):
        if file.stem != "base":
            with file.open(encoding="utf-8") as lines:
                found[file.stem] = lines.readline().strip().strip('"')
    return found
