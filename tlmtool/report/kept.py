"""Reports of earlier runs, read back from `report.json`."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

from tlmtool.failure import Failure, NotLoadable
from tlmtool.files.kept import Kept, read
from tlmtool.report.report import SCHEMA_VERSION, Report


class _Report(Kept):
    schema_version: int
    verb: str
    model: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    recipe: dict[str, Any]
    warnings: list[str] | None = None


def read_report(file: Path, verb: str) -> Report:
    """The report of a result that is done, which can be shown and checked as a new one can.

    Raises NotLoadable for one that others wrote, or changed so that it cannot."""
    told = (f"is no report of tlm {verb}", "remove its folder, or --overwrite replaces it")
    data = read(file, _Report, *told)
    if data["verb"] != verb or data["schema_version"] != SCHEMA_VERSION:
        raise NotLoadable(f"{file} {': '.join(told)}")
    found = Report(verb, data)
    try:  # there are many parts, and every view reads others: what none can show is none
        _show(found)
        _show(Report("run", {"stages": [data | {"name": "x"}]}))
    except Exception as error:
        raise NotLoadable(f"{file} {': '.join(told)}") from error
    return found


def _show(found: Report) -> None:
    from rich.console import Console

    nowhere = Console(file=io.StringIO(), width=100)
    for full in (False, True):
        found.table(nowhere, full=full)
    found.to_json()
    with suppress(Failure):
        found.check("score>0")
