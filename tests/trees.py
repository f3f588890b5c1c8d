"""The content of a finished folder, without what was measured on the way: times and memory."""

import json
from pathlib import Path
from typing import Any

MEASURED = ("seconds", "forecast", "peak_memory_bytes", "peak_rss_bytes")
WRITTEN_OUT = ("README.md", "page.html")  # they show times; what they show stands in report.json


def unmeasured(value: Any) -> Any:
    """Plain values without the keys of times and of memory."""
    if isinstance(value, dict):
        return {key: unmeasured(each) for key, each in value.items() if key not in MEASURED}
    return [unmeasured(each) for each in value] if isinstance(value, list) else value


def made(folder: Path) -> dict[str, object]:
    """{path: content} of a finished folder."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes() if path.is_file() else None
        if path.name == "report.json":
            found[name] = unmeasured(json.loads(path.read_text()))
        elif path.name in WRITTEN_OUT:
            found[name] = None
    return found
