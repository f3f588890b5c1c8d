"""What no single value of a recipe can say: the rules between its sections, and of each verb.

Every refusal is one sentence: a Usage.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from tlmtool.failure import Usage, show
from tlmtool.recipe.overparam import Study
from tlmtool.recipe.schema import Recipe
from tlmtool.recipe.setting import settings_of
from tlmtool.recipe.training import LABELLED, Fresh, Recovery, Training
from tlmtool.report.checks import check_figure, comparison

BUDGETS = ("compression.rank", "compression.keep", "compression.energy")
BLOCKS = "compression.blocks"
OF_KERNELS = ("heads", "head_width", "causal", "backward", "plot")  # what --attention alone reads
TRANSLATION = "translation"
LANGUAGE = ("mlm", "clm")
TRAINED = (*LABELLED, *LANGUAGE, TRANSLATION)
OF_TRANSLATION = ("languages", "beams", "label_smoothing")


def check(verb: str, values: Mapping[str, Any], free: Iterable[str]) -> None:
    """Raises Usage where `values` {path: value} break a rule. `free`: keys of config.json."""
    if verb == "finetune":
        _check_fresh(values, free)
        _check_training(values)
    if verb == "overparam":
        sizes = [values.get(f"overparam.{key}") for key in ("growth", "to_params")]
        if sum(size is not None for size in sizes) != 1:
            raise Usage("overparam needs one size: --growth G or --to-params N")
    if verb == "profile":
        _check_profile(values)
    elif values.get("model") is None and values.get("fresh.from_config") is None:
        raise Usage(f"{verb} needs a MODEL: a folder, a Hub id, or minilm")
    kind = values.get("attention.kind") or values.get("profiling.attention")
    lone = [path for path in values if path.startswith("attention.") and kind is None]
    if lone and values[lone[0]] is not None:
        raise Usage(f"{_flag(lone[0])} says how --attention NAME is to be: give that too")
    if verb == "compress":
        if all(values.get(path) is None for path in BUDGETS) and kind is None:
            budgets = "--rank R, --keep SHARE or --energy SHARE"
            raise Usage(f"compress needs one budget: {budgets} (or --attention NAME)")
        if values.get(BLOCKS) is not None and values.get("compression.rank") is None:
            raise Usage("--blocks goes with --rank: give the rank of a block term too")
        if (values.get("recovery.data") is None) != (values.get("recovery.steps") is None):
            raise Usage("--recover STEPS and --data go together: so many steps, on these texts")
        usual = vars(Recovery())
        lone = [k for k in usual if values.get(f"recovery.{k}", usual[k]) != usual[k]]
        if lone and values.get("recovery.steps") is None:
            flag = _flag(f"recovery.{lone[0]}")
            raise Usage(f"{flag} says how --recover STEPS is to teach: give that too")
    if verb == "evaluate":
        task = values.get("evaluation.task")
        if task is None:
            raise Usage("evaluate needs --task, such as similarity, mlm or cola")
        against = values.get("evaluation.against")
        if (task == "features") != (against is not None):
            asked = "needs --against MODEL" if against is None else "takes no --against"
            raise Usage(f"task {task} {asked}, which names the model whose features are the truth")
        if values.get("training.pack") and task not in LANGUAGE:
            raise Usage("--pack goes with --task mlm or clm, which read plain text")
        if task == "similarity" and values.get("evaluation.data") is None:
            raise Usage("task similarity needs --data, a csv of sentence1, sentence2, score")
        if task == TRANSLATION and values.get("evaluation.data") is None:
            raise Usage("task translation needs --data, such as a folder with val.en and val.de")
    if TRANSLATION not in (values.get("evaluation.task"), values.get("training.task")):
        usual = vars(Training())  # which the recipe of a run holds too
        lone = [k for k in OF_TRANSLATION if values.get(f"training.{k}", usual[k]) != usual[k]]
        if lone:
            raise Usage(f"{_flag(f'training.{lone[0]}')} goes with --task translation")
    if (test := values.get("output.fail_if")) is not None:
        check_figure(comparison(test)[0], verb, values)


def _check_fresh(values: Mapping[str, Any], free: Iterable[str]) -> None:
    """A model is either there or built; what says how to build one goes with building one."""
    if values.get("fresh.from_config") is not None:
        if values.get("model") is not None:
            raise Usage("MODEL and --from-config exclude each other: train one, or a new one")
        if values.get("distillation.teacher") is not None:
            raise Usage("--teacher teaches a MODEL: it does not go with --from-config")
        size = values.get("fresh.vocabulary", Fresh().vocabulary) != Fresh().vocabulary
        if values.get("fresh.tokenizer") is not None and size:
            raise Usage("--vocab-size is of a tokenizer that is trained: --tokenizer has its own")
        return
    usual = {f"fresh.{key}": value for key, value in vars(Fresh()).items()}
    building = ("attention.", "fresh.")
    lone = [_flag(p) for p in values if p.startswith(building) and values[p] != usual.get(p)]
    lone = [*free, *lone]
    if lone:
        raise Usage(f"{lone[0]} says how a new model is built: it goes with --from-config FAMILY")


def _check_training(values: Mapping[str, Any]) -> None:
    """What holds between the settings of a training."""
    task, teacher = values.get("training.task"), values.get("distillation.teacher")
    if task is None and teacher is None:
        raise Usage("finetune needs --task, such as cola, or --teacher MODEL to learn from")
    if task is not None:
        known_task(task, TRAINED)
        if teacher is not None and task in (*LANGUAGE, TRANSLATION):
            raise Usage(f"--teacher goes with a labelled task or none, not with {task}")
    if values.get("training.pack") and task not in LANGUAGE:
        raise Usage("--pack goes with --task mlm or clm, which read plain text")
    usual = vars(Study())
    lone = [k for k in ("arms", "lr_grid") if values.get(f"study.{k}", usual[k]) != usual[k]]
    if lone and values.get("study.seeds") is None:
        raise Usage(f"{_flag(f'study.{lone[0]}')} is of a study: give --seeds N too")
    most, each = values.get("strategy.N"), values.get("strategy.n")
    if values.get("strategy.name") == "dynamic" and (most or 12) < (each or 2):
        raise Usage(f"--N {most or 12} is below --n {each or 2}: at least n matrices are taken")


def _check_profile(values: Mapping[str, Any]) -> None:
    """Raises Usage where a profile mixes kernels alone with models, or is given neither."""

    def given(key: str) -> bool:
        return bool(values.get(f"profiling.{key}"))

    model = values.get("model") is not None
    if not given("attention"):
        lone = [_flag(f"profiling.{key}") for key in OF_KERNELS if given(key)]
        lone += [
            _flag(p) for p, v in values.items() if p.startswith("attention.") and v is not None
        ]
        if lone:
            raise Usage(f"{lone[0]} is about kernels alone: name them too, by --attention NAMES")
        if not model:
            raise Usage(
                "profile needs a MODEL (a folder, a Hub id, or minilm), or --attention NAMES"
            )
    elif given("against"):
        raise Usage("--attention measures kernels alone, --against a second model: give one")
    elif model and (taken := [key for key in ("heads", "head_width") if given(key)]):
        flag = _flag(f"profiling.{taken[0]}")
        raise Usage(f"{flag} is MODEL's with --attention: leave out one of the two")


def known_task(task: str, known: tuple[str, ...]) -> str:
    """The task; raises Usage, naming the nearest, for one that is not known."""
    if task not in known:
        near = get_close_matches(task, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise Usage(f"unknown task {show(task)}: {hint}")
    return task


def _flag(path: str) -> str:
    """The flag of a setting; its path where it has none."""
    found = {each.path: each.flag for each in settings_of(Recipe)}
    return f"--{found[path]}" if found.get(path) else path
