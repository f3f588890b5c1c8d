"""What a format is: which models it takes, and how one is written into a folder."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tlmtool.failure import MissingDependency
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import Recipe
from tlmtool.report.layout import Part
from tlmtool.report.parts.exported import Exported


@dataclass(frozen=True)
class Job:
    """One export at work.

    `model` is in evaluation mode, in the dtype of the target. `out` is a temporary folder that
    becomes the result once the target has returned. `stage` times a part of the work under a name
    of `report.timed.SECONDS`. `load` gives the model of another folder in that dtype. `bars` shows
    progress: `bars("exporting", 0, 1)`. A warning given to `warn` stands in the report.
    """

    model: Any
    source: Folder
    recipe: Recipe
    out: Path
    stage: Callable[[str], AbstractContextManager[None]]
    load: Callable[[Folder], Any]
    bars: Callable[[str, int, int], None]
    warn: Callable[[str], None]


class Target:
    """A format that other programs open. A subclass is a file of this folder."""

    extra: ClassVar[str] = ""  # the extra of tlm that installs what it needs
    packages: ClassVar[tuple[str, ...]] = ()  # modules that must be there
    dtype: ClassVar[str] = "auto"  # that the weights are loaded in, where --dtype is auto

    @property
    def name(self) -> str:
        """What `--to` takes: the name of the file."""
        return type(self).__module__.rpartition(".")[2]

    def check_installed(self) -> None:
        """Raises MissingDependency where a package is missing."""
        if missing := [each for each in self.packages if find_spec(each) is None]:
            raise MissingDependency(
                f"--to {self.name} needs {', '.join(missing)}: pip install 'tlmtool[{self.extra}]'"
            )

    def versions(self) -> dict[str, str]:
        """{package that must be there: its version}"""
        return {each: version(each) for each in self.packages}

    def expected(self, recipe: Recipe, source: Folder, empty: Any) -> Exported:
        """What will be written of this model, which has no weights yet. Raises Usage for whatever
        cannot be written, in one sentence with the way round."""
        raise NotImplementedError

    def write(self, job: Job, expected: Exported) -> list[Part]:
        """Write the files into `job.out`; returns the parts of the report on them, of which the
        first is an `Exported`. Raises CheckFailed where they compute something else."""
        raise NotImplementedError


def bytes_of(folder: Path, file: str) -> int:
    """Bytes of an exported file below a folder, with the files of weights beside it, whose names
    begin alike."""
    path = folder / file
    stem = path.name.partition(".")[0]
    return sum(each.stat().st_size for each in path.parent.glob(f"{stem}.*"))
