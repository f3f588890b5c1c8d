"""One command at work: its stages and their seconds, its warnings, its report, what it writes."""

import importlib
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tlmtool.commands.limits import limit_of
from tlmtool.compression.fits import Limit as Fits
from tlmtool.compression.forecasting import Forecast
from tlmtool.compression.sharing import Shared
from tlmtool.failure import note_kept
from tlmtool.files.claims import claim
from tlmtool.files.places import check_place, path_of
from tlmtool.measuring.profiling import peak_rss
from tlmtool.models import checkpoint
from tlmtool.models.finding import cached
from tlmtool.models.folder import Folder
from tlmtool.models.packing import Packed
from tlmtool.models.quantized import refusal
from tlmtool.models.replacing import check_out
from tlmtool.models.saving import save
from tlmtool.models.streaming import streamed
from tlmtool.recipe import building as recipes
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.inputs import reads_of
from tlmtool.report.course import about
from tlmtool.report.figures import human
from tlmtool.report.layout import Part
from tlmtool.report.parts.costs import FileBytes, Parameters, WeightBytes
from tlmtool.report.parts.ending import Ending, Files
from tlmtool.report.parts.forecast import Forecast as Forecasted
from tlmtool.report.parts.forecast import StageTime
from tlmtool.report.pictures import draw_card
from tlmtool.report.progress import Bars
from tlmtool.report.report import Report

log = logging.getLogger("tlmtool")
READERS = ("evaluate", "export", "generate", "merge", "profile", "repair")  # of quantized ones
WRITTEN = {"report.json", "README.md", "recipe.yaml"}  # beside a checkpoint, by `Run.save`


class Run(AbstractContextManager):
    """One command at work: its recipe, its bars, the seconds of its stages. `shared`: what it and
    other compressions of the model measure once."""

    def __init__(self, recipe: Recipe, shared: Shared | None = None):
        anew = replace(recipe.training, resume=False)  # a resumed run has the same result
        self.recipe, self.bars, self.seconds = replace(recipe, training=anew), Bars(), {}
        self.forecast: Forecast | None = None
        self.warnings: list[str] = []  # of the checkpoints read, in every report
        self.kept: Callable[[], str] = str  # what is done, in words, where --resume goes on with it
        self.limit, self.streamed = limit_of(recipe), False  # whether weights stay in their files
        self.shared = shared or Shared()
        self.target: str | None = None  # a budget of the whole model, and what it became
        self.fits: Fits | None = None  # the most bytes of files in few bits
        torch.manual_seed(recipe.seed)

    def __enter__(self) -> "Run":
        self.bars.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.bars.__exit__(kind, error, trace)
        note_kept(error, self.kept())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def expect(self, forecast: Forecast) -> None:
        """Show what the rest of the run will take, and hold its progress and its report to it."""
        self.forecast = forecast
        told = f"{about(forecast.seconds)} and {human(forecast.bytes, 'B')} of memory"
        self.bars.line(f"forecast: {told}, on this machine as it is now")
        self.bars.expect(forecast.stages)

    def load(self, folder: Folder, dtype: str | None = None, **more: Any) -> Any:
        """The model of a folder, under the name that the user gave. `more`: a head and changes of
        its config, as `checkpoint.load` takes them."""
        self._takes(folder)
        settings = {"dtype": dtype or self.recipe.dtype, "warn": self.warn}
        if self.limit is not None and self.limit.streams(folder, settings["dtype"]):
            settings["room"] = self.limit.weights
        self.bars("loading", 0, 1)
        with self.stage("load"):
            model = checkpoint.load(folder, **settings, device=self.recipe.device, **more)
        model.name_or_path = folder.asked
        self.streamed = self.streamed or streamed(model) is not None
        return model

    def empty(self, folder: Folder) -> Any:
        """The model of a folder without its weights, in the dtype of the recipe."""
        self._takes(folder)
        return checkpoint.empty(folder, self.recipe.dtype, self.warn)

    def _takes(self, folder: Folder) -> None:
        """Raises NotLoadable for a quantized checkpoint, where the verb would change its weights:
        its error would stay in the result."""
        if folder.quantized and self.recipe.verb not in READERS:
            raise refusal(folder.path, folder.quantized, self.recipe.verb)

    def warn(self, text: str) -> None:
        """Keep a warning for the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def report(
        self, parts: Iterable[Part], warnings: Iterable[str] = (), peak: int | None = None
    ) -> Report:
        """The report of these parts and of the run. `peak`: bytes of `PeakMemory`."""
        names = ("torch", "transformers", "safetensors")
        versions = {"tlm": version("tlmtool"), "python": platform.python_version()}
        versions |= {name: importlib.import_module(name).__version__ for name in names}
        if not log.isEnabledFor(logging.INFO):  # -q: no table will show them
            for text in self.warnings:
                log.warning("warning: %s", text)
        ending = Ending(
            warnings=(*self.warnings, *warnings),
            peak_memory_bytes=peak,
            peak_memory_kind=None if peak is None else self._memory_kind(),
            peak_rss_bytes=peak_rss(),
            streamed=self.streamed or None,
            seconds=dict(self.seconds),
            seed=self.recipe.seed,
            versions=versions,
            recipe=recipes.to_dict(self.recipe),
        )
        return Report(self.recipe.verb, [*parts, *self._forecast(), ending])

    def _forecast(self) -> list[Part]:
        """The forecast, beside what was measured unless this is a dry run."""
        if self.forecast is None:
            return []
        done, course = not self.recipe.output.dry_run, self.bars.course
        expected = dict[str, float]()
        for name, seconds in self.forecast.stages:
            expected[name] = expected.get(name, 0.0) + seconds
        spent = course.spent() if done else {}
        stages = {
            name: StageTime(
                seconds=expected.get(name, 0.0), actual=spent.get(name, 0.0) if done else None
            )
            for name in dict.fromkeys([*expected, *spent])
        }
        return [
            Forecasted(
                seconds=self.forecast.seconds,
                actual_seconds=course.seconds if done else None,
                memory_bytes=self.forecast.bytes,
                stages=stages,
            )
        ]

    def _memory_kind(self) -> str:
        return "cuda" if checkpoint.device_of(self.recipe.device).type == "cuda" else "rss"

    def save(
        self,
        model: Any,
        source: Folder,
        out: Path,
        parts: Iterable[Part],
        warnings: Iterable[str] = (),
        peak: int | None = None,
        packed: Packed | None = None,
    ) -> Report:
        """Write the checkpoint with its report, card and recipe; returns the report. `packed`: its
        weights in few bits, as `pack` has rounded them."""
        made: list[Report] = []
        for text in source.beside[1]:
            self.warn(text)
        started = time.perf_counter()
        self.bars("saving", 0, 1)

        def texts(folder: Path) -> dict[str, str]:
            self.seconds["save"] = time.perf_counter() - started
            before = source.file_bytes if self.recipe.model else None
            files = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
            every = _beside(parts, FileBytes(before=before, after=Folder(folder).file_bytes))
            files |= WRITTEN | draw_card(Report(self.recipe.verb, every), folder)
            written = Files(files=tuple(sorted(files)), sums=Folder(folder).marks)
            made.append(self.report([*every, written], warnings, peak))
            return {
                "report.json": made[0].to_json() + "\n",
                "README.md": made[0].card(out.name),
                "recipe.yaml": recipes.dump(self.recipe),
            }

        output = self.recipe.output
        save(
            model,
            out,
            source=source,
            overwrite=output.overwrite,
            max_shard_size=output.max_shard_size,
            texts=texts,
            packed=packed,
        )
        return made[0]


def bits_per_weight(size: int | None, parameters: int) -> float | None:
    """Bits of files of this size in bytes for each parameter; None for a size that is not known."""
    return None if size is None or not parameters else 8 * size / parameters


def sizes(folder: Folder, parameters: int) -> dict[str, Any]:
    """The size on disk of a model with so many parameters, as reports have it."""
    size = folder.file_bytes
    return {"file_bytes": size, "bits_per_weight": bits_per_weight(size, parameters)}


def _beside(parts: Iterable[Part], size: FileBytes) -> list[Part]:
    """The parts, with the size of the files right after the other sizes."""
    found = list(parts)
    if counted := next((part for part in found if isinstance(part, Parameters)), None):
        before = bits_per_weight(size.before, counted.before)
        after = bits_per_weight(size.after, counted.after)
        size = replace(size, bits_per_weight_before=before, bits_per_weight_after=after)
    sizes = [i for i, part in enumerate(found) if isinstance(part, Parameters | WeightBytes)]
    found.insert(max(sizes, default=len(found)) + 1, size)
    return found


def place_of(recipe: Recipe, suffix: str, name: str | None = None) -> Path:
    """`--out`, or `out/<model>-<suffix>`. `name`: the name of a new model."""
    model = name or Path(recipe.model).name or "model"
    return path_of(recipe.output.out or f"out/{model}-{suffix}")


def out_folder(recipe: Recipe, suffix: str, name: str | None = None, foreign: Any = None) -> Path:
    """The folder to write, which is claimed. Raises Usage at once where it is taken, as
    `check_out` with `foreign`."""
    out = place_of(recipe, suffix, name)
    if not recipe.output.dry_run:
        check_place(out, reads_of(recipe, cached))
        claim(out)
        check_out(out, recipe.output.overwrite, foreign)
    return out
