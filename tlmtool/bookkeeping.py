"""What every command notes down: seconds of its stages, costs before and after, provenance."""

import importlib
import logging
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tlmtool.data import tasks
from tlmtool.data.language import held_out
from tlmtool.failure import Failure, NotLoadable
from tlmtool.files.claims import claim
from tlmtool.files.places import check_place, path_of, reads_of
from tlmtool.measuring.counting import CONVENTION, count_bytes, count_parameters, forward_flops
from tlmtool.measuring.inputs import named
from tlmtool.measuring.outputs import position_limit
from tlmtool.models import checkpoint
from tlmtool.models.architectures import ALIASES
from tlmtool.models.beside import side_files
from tlmtool.models.factorized import shape
from tlmtool.models.folder import MINILM
from tlmtool.models.front import front_matter
from tlmtool.models.replacing import check_out
from tlmtool.models.saving import save
from tlmtool.models.surgery import plan_of, sites
from tlmtool.models.weights import sha256, weight_files
from tlmtool.recipe import building as recipes
from tlmtool.recipe.building import Recipe
from tlmtool.report.progress import Bars
from tlmtool.report.report import Report

log = logging.getLogger("tlmtool")
WRITTEN = {"report.json", "README.md", "recipe.yaml"}  # beside a checkpoint, by `Run.save`
LENGTH = 128  # tokens of the forward pass whose FLOPs a report counts


class Run(AbstractContextManager):
    """One command at work: its recipe, its bars, the seconds of its stages."""

    def __init__(self, recipe: Recipe):
        anew = replace(recipe.training, resume=False)  # a result that was gone on with is the same
        self.recipe, self.bars, self.seconds = replace(recipe, training=anew), Bars(), {}
        self.warnings: list[str] = []  # of the checkpoints read, in every report
        torch.manual_seed(recipe.seed)

    def __enter__(self) -> "Run":
        self.bars.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bars.__exit__(*error)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def load(self, name: str, dtype: str | None = None, **more: Any) -> Any:
        """The model of a name, under that name; MODEL at the revision asked for. `more`: a head
        and changes of its config, as `checkpoint.load` takes them."""
        revision = self.recipe.revision if name == self.recipe.model else None
        settings = {"revision": revision, "dtype": dtype or self.recipe.dtype, "warn": self.warn}
        with self.stage("load"):
            model = checkpoint.load(name, **settings, device=self.recipe.device, **more)
        model.name_or_path = name
        return model

    def empty(self, folder: Path) -> Any:
        """The model of a folder without its weights, in the dtype asked for."""
        return checkpoint.empty(folder, self.recipe.dtype, self.warn)

    def warn(self, text: str) -> None:
        """Keeps it for the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def report(self, data: dict[str, Any]) -> Report:
        """The report of `data`, with what every report ends with."""
        names = ("torch", "transformers", "safetensors")
        versions = {"tlm": version("tlmtool"), "python": platform.python_version()}
        versions |= {name: importlib.import_module(name).__version__ for name in names}
        common = {"seconds": dict(self.seconds), "seed": self.recipe.seed, "versions": versions}
        if self.warnings:
            if not log.isEnabledFor(logging.INFO):  # -q: no table will show them
                for text in self.warnings:
                    log.warning("warning: %s", text)
            common["warnings"] = [*self.warnings, *(data.get("warnings") or [])]
        return Report(self.recipe.verb, data | common | {"recipe": recipes.to_dict(self.recipe)})

    def save(self, model: Any, source: Path, out: Path, data: dict[str, Any]) -> Report:
        """Write the checkpoint with its report, card and recipe; the report."""
        made: list[Report] = []
        for text in side_files(source)[1]:
            self.warn(text)
        started = time.perf_counter()

        def texts(folder: Path) -> dict[str, str]:
            self.seconds["save"] = time.perf_counter() - started
            before = weight_bytes(source) if self.recipe.model else None
            data["bytes"] = {"before": before, "after": weight_bytes(folder)}
            files = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
            data["files"] = sorted(files | WRITTEN)  # those that --overwrite may replace
            made.append(self.report(data))
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
        )
        return made[0]


class Costs:
    """Parameters and FLOPs of a model before a change, and beside them those after it, at the same
    length: `longest` is what the model will take after the change.

    Raises NotLoadable for a model that cannot run: its config is not one that ever ran.
    """

    def __init__(self, model: Any, longest: int | None = None):
        self.longest = min(LENGTH, longest or LENGTH)
        try:
            self.before = self._counted(model)
        except Failure:
            raise
        except Exception as error:  # whatever a family's own code says
            name, first = named(model), (str(error).splitlines() or [type(error).__name__])[0]
            raise NotLoadable(f"{name} cannot run with its config.json: {first}") from error

    def _counted(self, model: Any) -> dict[str, Any]:
        base, held = model.base_model, plan_of(model)
        parameters = {}
        for site, role in sites(model).items():
            o, i = shape(base.get_submodule(site))
            size = held[site].parameters(o, i) if site in held else o * i
            parameters[site] = (role, size)
        length = min(self.longest, position_limit(model) or LENGTH)
        flops = forward_flops(model, length, 1, sites(model))
        return {
            "total": count_parameters(model),
            "bytes": count_bytes(model),
            "sites": parameters,
            "flops": flops["total"],
            "length": length,
        }

    def and_after(self, model: Any, chosen: Iterable[str] | None = None) -> dict[str, Any]:
        """The parts `parameters` and `flops` of a report; of `chosen` sites the share kept."""
        before, after = self.before, self._counted(model)
        parameters: dict[str, Any] = {"before": before["total"], "after": after["total"]}
        if chosen is not None:
            by_role: dict[str, dict[str, int]] = {}
            for site in chosen:
                role, size = before["sites"][site]
                part = by_role.setdefault(role, {"sites": 0, "before": 0, "after": 0})
                part["sites"] += 1
                part["before"] += size
                part["after"] += after["sites"][site][1]
            held, left = (sum(p[k] for p in by_role.values()) for k in ("before", "after"))
            share = "growth" if left > held else "keep"
            parameters |= {"sites_before": held, "sites_after": left, share: left / held}
            parameters["by_role"] = by_role
        flops = {"note": f"one forward pass of {before['length']} tokens; {CONVENTION}"}
        return {
            "parameters": parameters,
            "flops": flops | {"before": before["flops"], "after": after["flops"]},
            "bytes": {"before": before["bytes"], "after": after["bytes"]},
        }


def provenance(recipe: Recipe, folder: Path, model: Any, out: Path | None) -> dict[str, Any]:
    """The part `model` of a report: which files, of what type, and what they were made from."""
    config, front = checkpoint.read_config(folder), front_matter(folder)
    common = {
        "type": config["model_type"],
        "class": type(model).__name__,
        "out": None if out is None else str(out),
    }
    if recipe.model is None:
        files = [folder / name for name in ("config.json", "tokenizer.json")]
        sums = {f.name: sha256(f) for f in files if f.exists()}
        common |= {"type": model.config.model_type, "sha256": sums}
        return {"id": f"a new {folder.name}", "new": True} | common
    base = front.get("base_model") if config.get("tlm") else None
    here = Path(recipe.model).expanduser().is_dir()
    named = folder.resolve().name if here else ALIASES.get(recipe.model, recipe.model)
    named = MINILM if recipe.model == "minilm" else named
    return {
        "id": recipe.model,
        "sha256": {str(f.relative_to(folder)): sha256(f) for f in weight_files(folder)},
        "base_model": base if isinstance(base, str) else named,
        "license": front.get("license"),
        **common,
    }


def weight_bytes(folder: Path) -> int:
    """Bytes of the files of weights."""
    return sum(file.stat().st_size for file in weight_files(folder))


def calibration_of(recipe: Recipe) -> tuple[list[str], list[str], dict[str, Any]]:
    """(texts to calibrate on, held-out texts, the part `calibration` of a report).

    Where nothing is said, what a recovery is taught on calibrates too."""
    wanted, taught = recipe.calibration, recipe.recovery.data
    shipped = held_out(tasks.texts(None, None, recipe.seed))
    if wanted.text == "none":
        return [], shipped[1], {"source": "none: the weights alone decide"}
    if wanted.text is None and taught:
        from tlmtool.training.distilling import lesson

        rest, held = (found := lesson(taught, 0)).sentences, found.measured()
    else:
        rest, held = held_out(tasks.texts(wanted.text, None, recipe.seed))
    used = tasks.choose(rest, wanted.samples, recipe.seed)
    source = wanted.text or taught or "the text that comes with tlm"
    few = {} if held else {"measured_on": "the text that comes with tlm"}  # none could be spared
    return used, held or shipped[1], {"source": source, "texts": len(used), **few}


def place_of(recipe: Recipe, suffix: str, name: str | None = None) -> Path:
    """`--out`, or `out/<model>-<suffix>`. `name`: of a model that is not there yet."""
    model = name or Path(recipe.model).name or "model"
    return path_of(recipe.output.out or f"out/{model}-{suffix}")


def out_folder(recipe: Recipe, suffix: str, name: str | None = None) -> Path:
    """The folder to write, `place_of`; refused early if it is taken, and claimed."""
    out = place_of(recipe, suffix, name)
    if not recipe.output.dry_run:
        check_place(out, reads_of(recipe))
        claim(out)
        check_out(out, recipe.output.overwrite)
    return out
