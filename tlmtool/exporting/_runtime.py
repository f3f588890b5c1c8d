"""Formats that hold what a model computes: the graph is written, checked, rounded and timed."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING

from tlmtool.exporting._inputs import Signature, signature
from tlmtool.exporting._running import (
    Ready,
    Runner,
    apart,
    checked,
    of_torch,
    timed,
    timed_example,
)
from tlmtool.exporting.base import Job, Target, bytes_of
from tlmtool.failure import Usage
from tlmtool.measuring.counting import count_parameters
from tlmtool.models.architectures import base_type
from tlmtool.models.beside import copy_side_files
from tlmtool.models.folder import Folder
from tlmtool.recipe.schema import Recipe
from tlmtool.report.layout import Part
from tlmtool.report.parts.exported import Exported
from tlmtool.report.parts.parity import Parity

OURS = ("tlm", "auto_map", "quantization_config")  # keys of config.json that a graph leaves behind
OUR_CLASSES = "Tlm"  # the names of our classes begin so
NO_CACHE = (
    "the graph keeps no cache, as kernels of attention have states of their own: for each new "
    "token the whole text is read again"
)
DAMAGED = 0.5  # of the largest number of an output: a rounded file beyond it gets a warning
WORK = ".work"  # a folder below the result for graphs that are measured and not kept


class Runtime(Target):
    """A format whose files a runtime executes. A subclass says how one is written and run."""

    dtype: ClassVar[str] = "float32"
    file: ClassVar[str]  # below the folder
    opens: ClassVar[str]
    program: ClassVar[str]  # the runtime, as rows of tables name it
    library: ClassVar[str]

    def graph(self, model: Any, made: Signature, file: Path) -> None:
        """Write the graph of a model in float32."""
        raise NotImplementedError

    def rounded(self, file: Path, to: Path) -> None:
        """Write a graph with its weights in 8 bits."""
        raise NotImplementedError

    def runner(self, file: Path) -> Runner:
        """What runs a file."""
        raise NotImplementedError

    def opening(self, folder: str, made: Signature) -> str:
        """A few lines of Python that open the file."""
        raise NotImplementedError

    def expected(self, recipe: Recipe, source: Folder, empty: Any) -> Exported:
        """What will be written. Raises Usage for a dtype, a number of bits or a model that a graph
        cannot hold."""
        if recipe.dtype not in ("auto", "float32"):
            raise Usage(
                f"--to {self.name} writes float32, or 8 bits with --bits 8: leave out --dtype "
                f"{recipe.dtype}"
            )
        if (bits := recipe.quantization.bits) not in (None, 8):
            raise Usage(f"--to {self.name} rounds to 8 bits: give --bits 8")
        made = signature(empty)
        if recipe.profiling.against is not None:
            Folder.of(recipe.profiling.against).check(weights=True)
        return Exported(
            to=self.name,
            file=self.file,
            opens=self.opens,
            library=self.library,
            example=self.opening(Path(recipe.output.out or "out").name, made),
            expected_bytes=count_parameters(empty) * (4 if bits is None else 1),
            bits=bits,
            inputs=made.inputs,
            outputs=made.outputs,
            cache=bool(made.cache),
            packages=self.versions(),
        )

    def write(self, job: Job, expected: Exported) -> list[Part]:
        """Write the graph, the config and the files beside the weights."""
        model, file, work = job.model.cpu(), job.out / self.file, job.out / WORK
        made = signature(model)
        if model.can_generate() and not made.cache:
            job.warn(NO_CACHE)
        held = file if expected.bits is None else work / "float" / file.name
        ready, parity = self._measured(job, job.source, model, held)
        if expected.bits is not None:
            with job.stage("round"):
                ready.append(self._round(job.source, ready[-1], held, file))
            rounding = apart(model, made, ready[-1].run, ready[-2].run)[1]
            parity = replace(parity, rounding=rounding)
            if not rounding <= DAMAGED:
                job.warn(
                    f"8 bits change an output by {rounding:.1f} of its largest number: measure the "
                    "quality of this file before using it, or export without --bits"
                )
        if (other := job.recipe.profiling.against) is not None:
            ready += self._against(job, Folder.of(other), work / "against" / file.name)
        with job.stage("measure"):
            job.bars("measuring", 0, 1)
            found = [expected, parity, timed(ready, job.recipe.profiling.runs)]
        shutil.rmtree(work, ignore_errors=True)
        copy_side_files(job.source.path, job.source.beside[0], job.out)
        (job.out / "config.json").write_text(_config(model), encoding="utf-8")
        return found

    def _measured(
        self, job: Job, source: Folder, model: Any, file: Path
    ) -> tuple[list[Ready], Parity]:
        """A model in torch and as a graph, which is written to `file` and checked."""
        made = signature(model)
        given = timed_example(model, made)
        with job.stage("export"):
            job.bars(f"exporting {_name(source)}", 0, 1)
            self.graph(model, made, file)
        ready = [
            Ready(f"{_name(source)} in torch", of_torch(model, made), source.file_bytes, given),
            Ready(self._row(source), self.runner(file), bytes_of(file.parent, file.name), given),
        ]
        with job.stage("check"):
            job.bars(f"checking {_name(source)}", 0, 1)
            parity = checked(model, made, ready[-1].run, f"the graph of {source.asked}")
        return ready, parity

    def _against(self, job: Job, source: Folder, file: Path) -> list[Ready]:
        """The model of `--against` in torch, as a graph, and as a rounded one."""
        found = self._measured(job, source, job.load(source).cpu(), file)[0]
        if job.recipe.quantization.bits is not None:
            rounded = file.with_name(f"rounded-{file.name}")
            found.append(self._round(source, found[-1], file, rounded))
        same = _name(source) == _name(job.source)
        return [replace(each, id=f"--against {each.id}") for each in found] if same else found

    def _round(self, source: Folder, plain: Ready, file: Path, to: Path) -> Ready:
        """The graph in a file with 8 bits, which is written to another one."""
        to.parent.mkdir(parents=True, exist_ok=True)
        self.rounded(file, to)
        return Ready(
            f"{self._row(source)} int8", self.runner(to), bytes_of(to.parent, to.name), plain.given
        )

    def _row(self, source: Folder) -> str:
        return f"{_name(source)} in {self.program}"


def _name(source: Folder) -> str:
    return Path(source.asked).name


def _config(model: Any) -> str:
    """The config.json of the plain type: the graph holds whatever is ours."""
    config, kind = copy.deepcopy(model.config), base_type(model.config.model_type)
    config.__class__ = CONFIG_MAPPING[kind]  # ours would note that it needs tlm
    for key in ("tlm", "model_type"):  # a config that was read from a file holds its type
        vars(config).pop(key, None)
    kept = {key: value for key, value in config.to_dict().items() if key not in OURS}
    kept["architectures"] = [type(model).__name__.removeprefix(OUR_CLASSES)]
    return json.dumps(kept, indent=2, sort_keys=True) + "\n"
