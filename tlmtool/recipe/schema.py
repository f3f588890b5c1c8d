"""The schema of a run: a `Recipe`, with one section for each part of the work.

The flags of `tlm`, the keys of `--set` and of a YAML recipe, and their checks are all made from it.
Only the standard library is imported here, so that `tlm --help` stays fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tlmtool.recipe.attention import Attending
from tlmtool.recipe.compression import Calibration, Compression
from tlmtool.recipe.distillation import Distillation, Recovery
from tlmtool.recipe.evaluation import Evaluation
from tlmtool.recipe.exporting import Export
from tlmtool.recipe.fresh import Fresh
from tlmtool.recipe.generation import Generation
from tlmtool.recipe.language import Language
from tlmtool.recipe.output import SIZE, Output
from tlmtool.recipe.overparam import Growth, Strategy
from tlmtool.recipe.profiling import Profiling
from tlmtool.recipe.quantization import Quantization
from tlmtool.recipe.repair import Repair
from tlmtool.recipe.setting import Setting, section, setting, settings_of
from tlmtool.recipe.study import Study
from tlmtool.recipe.training import Training
from tlmtool.recipe.verbs import EVERY


@dataclass(frozen=True)
class Recipe:
    """A whole run. `build` makes a checked one; `dump` writes it as YAML.

    The parts of `--help` stand in the order of these fields.
    """

    verb: str = ""
    file: str | None = field(default=None, compare=False)  # that it was read from, if from one
    model: str | None = setting(
        None,
        EVERY,
        "A folder, a GGUF file, an id of the Hugging Face Hub, or a small model to try tlm on: "
        "minilm, smollm2 or gemma3-270m",
        "MODEL",
        None,
        reads="model",
    )
    compression: Compression = section(Compression, "Compression")
    export: Export = section(Export, "Export")
    quantization: Quantization = section(Quantization, "Bits of the stored weights")
    repair: Repair = section(Repair, "Repair")
    overparam: Growth = section(Growth, "Over-parameterization")
    evaluation: Evaluation = section(Evaluation, "Evaluation")
    generation: Generation = section(Generation, "Prompts and texts")
    profiling: Profiling = section(Profiling, "Profile")
    training: Training = section(Training, "Training")
    calibration: Calibration = section(Calibration, "Calibration text")
    language: Language = section(Language, "Samples of a language model")
    recovery: Recovery = section(Recovery, "Score and recovery")
    distillation: Distillation = section(Distillation, "Learning from a teacher")
    strategy: Strategy = section(Strategy, "Over-parameterization while training")
    study: Study = section(Study, "Comparing strategies over seeds")
    fresh: Fresh = section(Fresh, "New model")
    config: Mapping[str, Any] = field(default_factory=dict)  # keys of a new model's config.json
    output: Output = section(Output, "Output")
    revision: str | None = setting(None, EVERY, "Branch, tag or commit of MODEL on the Hub", "REV")
    seed: int = setting(0, EVERY, "Seed of everything random", "N", ge=0)
    device: str = setting(
        "auto",
        EVERY,
        "Device: auto, cpu, cuda, cuda:1 ...",
        "NAME",
        pattern=r"^[a-z]+(:\d+)?$",
        what="a device such as auto, cpu, cuda or cuda:1",
    )
    dtype: str = setting(
        "auto",
        EVERY,
        "Number type of the weights: auto (as stored), float32, bfloat16 or float16",
        "NAME",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    memory: str | None = setting(
        None,
        "compress evaluate",
        "Memory to stay within, such as 8GB: weights that take more than half of it are read from "
        "their files block by block, and activations go to disk",
        "SIZE",
        pattern=SIZE,
        what="a size such as 8GB or 500MB",
        otherwise="the memory that is free",
    )
    attention: Attending = section(Attending, "Tensor attention")


@lru_cache
def settings(verb: str) -> dict[str, Setting]:
    """{path: setting} of what a verb reads."""
    return {each.path: each for each in settings_of(Recipe) if verb in each.verbs}
