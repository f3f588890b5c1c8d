"""What an earlier run wrote as JSON and a later one reads: of the form that it should have, or a
sentence, since others may have changed it."""

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tlmtool.failure import Failure, NotLoadable
from tlmtool.files import read_text
from tlmtool.report import SCHEMA_VERSION, Report

LARGEST = 2**28  # bytes of a file; a report of a hundred thousand sites has 50 MB


class Form(BaseModel):
    """Of an object: the keys that are read, each of its type; others may be there too."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Report(Form):
    schema_version: int
    verb: str
    model: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    recipe: dict[str, Any]
    warnings: list[str] | None = None


def read(file: Path, form: Any, not_so: str, advice: str) -> Any:
    """The JSON of a file, of a form (a type, as pydantic takes them).

    Raises NotLoadable: '<file> <not so> (<why>): <advice>'."""
    try:
        found = json.loads(read_text(file, LARGEST))
        TypeAdapter(form).validate_python(found)
        return found
    except NotLoadable:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        told = f"{place}{': ' if place else ''}{first['msg'][:1].lower()}{first['msg'][1:]}"
    except OSError as error:
        told = error.strerror or str(error)
    except RecursionError:
        told = "it nests too deep"
    except ValueError as error:  # no JSON, no UTF-8
        told = str(error)
    raise NotLoadable(f"{file} {not_so} ({told[:200]}): {advice}")


def report(file: Path, verb: str) -> Report:
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
