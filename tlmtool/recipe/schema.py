"""The schema of a run: frozen dataclasses, one section for each room that reads it.

The flags of `tlm`, the keys of `--set` and of a YAML recipe, and their checks are all made from it.
Only the standard library is imported here, so that `tlm --help` stays fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tlmtool.recipe.attention import Attending
from tlmtool.recipe.overparam import Growth, Strategy, Study
from tlmtool.recipe.profiling import Profiling
from tlmtool.recipe.setting import Setting, setting, settings_of
from tlmtool.recipe.training import LABELLED, Distillation, Fresh, Recovery, Training

VERBS = "compress merge overparam finetune profile evaluate"


@lru_cache
def decompositions() -> dict[str, str]:
    """{name: first line of its docstring}, read off the folder without importing it."""
    found = {}
    for file in sorted((Path(__file__).parents[1] / "decompositions").glob("[!_]*.py")):
        if file.stem != "base":
            with file.open(encoding="utf-8") as lines:
                found[file.stem] = lines.readline().strip().strip('"')
    return found


def _methods() -> list[str]:
    return ["auto", *decompositions()]


@dataclass(frozen=True)
class Override:
    """What holds for the sites of one glob; later entries win. Absent keys keep the run's own."""

    sites: str = setting("", "compress")
    method: str | None = setting(None, "compress", choices=_methods)
    rank: int | None = setting(None, "compress", ge=1)
    blocks: int | None = setting(None, "compress", ge=1)


@dataclass(frozen=True)
class Compression:
    """Which sites are factorized, in which form, at which budget (exactly one)."""

    sites: tuple[str, ...] = setting(
        ("attention",), "compress", "attention, ffn, embedding, all, or globs, by comma", "SITES"
    )
    ignore: tuple[str, ...] = setting(
        (), "compress", "sites (globs, by comma) that stay dense", "GLOBS", optional=True
    )
    method: str | None = setting(
        None,
        "compress",
        "form of the factors (below); of itself btd for --rank, else auto: the best per site",
        "NAME",
        choices=_methods,
    )
    rank: int | None = setting(None, "compress", "one rank for every site", "R", ge=1)
    blocks: int | None = setting(
        None,
        "compress",
        "block terms of btd, with --rank; of itself the number of heads",
        "P",
        ge=1,
    )
    keep: float | None = setting(
        None, "compress", "share of the sites' parameters to keep", "SHARE", gt=0, lt=1
    )
    energy: float | None = setting(
        None,
        "compress",
        "share of each site's squared singular values to keep",
        "SHARE",
        gt=0,
        le=1,
    )
    allocate: str = setting(
        "greedy",
        "compress",
        "how --keep is spread: greedy (where the loss falls fastest) or uniform",
        "HOW",
        choices=("greedy", "uniform"),
    )
    fit: str = setting(
        "sequential",
        "compress",
        "sequential: each site to what the compressed layers give it; once: to the dense inputs",
        "HOW",
        choices=("sequential", "once"),
    )
    overrides: tuple[Override, ...] = setting((), "compress", flag=None)


@dataclass(frozen=True)
class Calibration:
    """The text whose activations weight the error; None is the text shipped with the package."""

    text: str | None = setting(
        None,
        "compress",
        "texts, one a line; of itself what --recover learns on, or the text that comes with tlm",
        "FILE|DATASET|none",
        "calibration",
    )
    samples: int = setting(1024, "compress", "texts used at most", "N", "calibration-samples", ge=1)
    max_length: int = setting(128, "compress", "tokens of a text used at most", "N", ge=8)


@dataclass(frozen=True)
class Evaluation:
    """How good a model is, and how much better or worse than a baseline."""

    task: str | None = setting(
        None,
        "evaluate",
        "mlm, clm, similarity, features, translation, or a labelled task of finetune",
        "TASK",
        choices=("mlm", "clm", "similarity", "features", "translation", *LABELLED),
    )
    data: str | None = setting(
        None,
        "evaluate",
        "texts, one a line; for similarity a csv of sentence pairs; else as finetune reads it",
        "PATH|DATASET",
    )
    against: str | None = setting(
        None, "evaluate", "the model whose features are the truth (task features)", "MODEL"
    )
    baseline: str | None = setting(
        None, "evaluate", "also score this model, with a paired 95 % interval", "MODEL"
    )
    batch: int = setting(32, "evaluate", "texts in a batch", "N", ge=1)
    samples: int | None = setting(None, "evaluate", "examples used at most; all", "N", ge=1)
    max_length: int = setting(128, "evaluate", "tokens of a text used at most", "N", ge=8)


@dataclass(frozen=True)
class Output:
    """What is written, and when the run counts as failed."""

    out: str | None = setting(
        None, "compress merge overparam finetune", "folder of the new checkpoint", "DIR"
    )
    overwrite: bool = setting(
        False, "compress merge overparam finetune", "replace the checkpoint that is there"
    )
    dry_run: bool = setting(
        False, "compress overparam finetune", "predict size and cost, write nothing"
    )
    max_shard_size: str = setting(
        "5GB",
        "compress merge overparam finetune",
        "largest file of weights",
        "SIZE",
        pattern=r"^[1-9]\d*(\.\d+)?([KMGT]i?)?B$",
        what="a size such as 5GB or 200MB",
    )
    fail_if: str | None = setting(
        None, VERBS, "exit 3 when this holds of the report, such as 'loss>3.2'", "TEST"
    )


@dataclass(frozen=True)
class Recipe:
    """A whole run. `build` makes a checked one; `dump` writes it as YAML."""

    verb: str = ""
    file: str | None = field(default=None, compare=False)  # that it was read from, if from one
    model: str | None = setting(
        None, VERBS, "a folder, a Hub id or its alias, or minilm", "MODEL", None
    )
    revision: str | None = setting(None, VERBS, "branch, tag or commit on the Hub", "REV")
    seed: int = setting(0, VERBS, "seed of everything random", "N", ge=0)
    device: str = setting(
        "auto",
        VERBS,
        "auto, cpu, cuda, cuda:1 ...",
        "NAME",
        pattern=r"^[a-z]+(:\d+)?$",
        what="a device such as auto, cpu, cuda or cuda:1",
    )
    dtype: str = setting(
        "auto",
        VERBS,
        "auto (as stored), float32, bfloat16 or float16",
        "NAME",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    compression: Compression = field(default_factory=Compression)
    calibration: Calibration = field(default_factory=Calibration)
    overparam: Growth = field(default_factory=Growth)
    attention: Attending = field(default_factory=Attending)
    recovery: Recovery = field(default_factory=Recovery)
    fresh: Fresh = field(default_factory=Fresh)
    config: Mapping[str, Any] = field(default_factory=dict)  # keys of a new model's config.json
    training: Training = field(default_factory=Training)
    distillation: Distillation = field(default_factory=Distillation)
    strategy: Strategy = field(default_factory=Strategy)
    study: Study = field(default_factory=Study)
    evaluation: Evaluation = field(default_factory=Evaluation)
    profiling: Profiling = field(default_factory=Profiling)
    output: Output = field(default_factory=Output)


@lru_cache
def settings(verb: str) -> dict[str, Setting]:
    """{path: setting} of what a verb reads."""
    return {each.path: each for each in settings_of(Recipe) if verb in each.verbs}
