"""What an earlier run wrote as JSON and a later one reads: of the form that it should have, or a
sentence, since others may have changed it."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text

LARGEST = 2**28  # bytes of a file; a report of a hundred thousand sites has 50 MB


class Kept(BaseModel):
    """Of an object: the keys that are read, each of its type; others may be there too."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


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
