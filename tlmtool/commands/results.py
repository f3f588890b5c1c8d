"""The reports that runs of tlm have left in folders and files."""

import os
from collections.abc import Iterable
from pathlib import Path

from tlmtool.failure import NotLoadable
from tlmtool.files.kept import Kept, read
from tlmtool.report.layout import SCHEMA_VERSION
from tlmtool.report.parts.front import Front
from tlmtool.report.parts.points import Points
from tlmtool.report.report import Report

REPORT = "report.json"
WANTS = f"give folders in which a run of tlm has left its {REPORT}"


class _Report(Kept):
    schema_version: int
    verb: str


def reports_in(place: Path, seen: set[str] | None = None) -> dict[str, Report]:
    """{path: report} of a folder and of the folders in it, or of a file that `--json` was written
    to; none of a place that was seen. Raises NotLoadable where there is none."""
    seen = set[str]() if seen is None else seen
    real = os.path.realpath(place)
    if real in seen:  # given twice, or through a link
        return {}
    seen.add(real)
    if place.is_file():
        return {str(place): _read(place)}
    if not place.is_dir():
        raise NotLoadable(f"{place} does not exist: {WANTS}")
    found = dict[str, Report]()
    if (place / REPORT).is_file():
        found[str(place)] = _read(place / REPORT)
    inner = _inner(place, found.get(str(place)))
    for each in inner:
        found |= reports_in(each, seen)
    if not found and not inner:
        raise NotLoadable(f"{place} holds no {REPORT}, nor does a folder in it: {WANTS}")
    return found


def _inner(place: Path, report: Report | None) -> list[Path]:
    """The folders with a report in a folder; those of several budgets in their order."""
    front = report.part(Front) if report else None
    order = [Path(each.out).name for each in front.points if each.out] if front else []
    held = [each for each in sorted(place.iterdir()) if (each / REPORT).is_file()]
    held = [each for each in held if each.name[0] != "." and each.name not in _earlier(report)]
    return sorted(held, key=lambda p: order.index(p.name) if p.name in order else len(order))


def _earlier(report: Report | None) -> set[str]:
    """The folders that hold results of an earlier run, which the run of a report failed to
    replace."""
    front, points = (report.part(Front), report.part(Points)) if report else (None, None)
    budgets = {p.budget.replace(" ", "-") for p in front.points if p.failed} if front else set()
    return budgets | {p.name for p in points.points if p.earlier} if points else budgets


def short(places: Iterable[str]) -> dict[str, str]:
    """{path: the end of it that tells it from the others}"""
    places = list(places)
    above = os.path.commonpath([os.path.dirname(os.path.abspath(each)) for each in places])
    return {each: os.path.relpath(each, above) for each in places}


def _read(file: Path) -> Report:
    """A report of any verb. Raises NotLoadable for what is none of this version."""
    advice = f"leave it out, or {WANTS}"
    data = read(file, _Report, "is no report of tlm", advice)
    if data["schema_version"] != SCHEMA_VERSION:
        raise NotLoadable(f"{file} was written by another version of tlm: run its command again")
    try:
        return Report.read(data)
    except ValueError as error:
        raise NotLoadable(f"{file} is no report of this tlm ({error}): {advice}") from error
