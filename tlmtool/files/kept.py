"""Reads JSON of an earlier run, and checks its keys and types: a user may have edited it."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tlmtool.failure import Failure, NotLoadable
from tlmtool.files.reading import read_text

LARGEST = 2**28  # the most bytes of a file; the report of a hundred thousand sites has 50 MB


class Kept(BaseModel):
    """The keys of a JSON object that are read, each with its type. Other keys are allowed."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


def has_keys(file: Path, *keys: str) -> bool:
    """Whether a file is a JSON object with these keys, as one of any version of tlm is."""
    try:
        found = json.loads(read_text(file, LARGEST))
    except (OSError, ValueError, RecursionError, Failure):
        return False
    return isinstance(found, dict) and {*keys} <= {*found}


def read(file: Path, kind: Any, not_so: str, advice: str) -> Any:
    """The JSON of a file, which must fit `kind`: a `Kept` class or any type that pydantic takes.

    Raises NotLoadable: '<file> <not so> (<why>): <advice>'.
    """
    try:
        found = json.loads(read_text(file, LARGEST))
        TypeAdapter(kind).validate_python(found)
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
