"""A checked recipe out of flags, `--set` and a YAML file, and back into YAML.

Flag beats `--set` beats recipe file beats default. Whatever is wrong is one sentence: a Usage.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any

from tlmtool.failure import Usage
from tlmtool.schema import Override, Recipe, settings
from tlmtool.schema_overparam import Study
from tlmtool.schema_training import LABELLED, Fresh, Recovery, Training
from tlmtool.setting import settings_of
from tlmtool.sources import FREE, Layer, from_file, from_flags, from_sets
from tlmtool.values import convert, show

__all__ = ["Override", "Recipe", "build", "built", "comparison", "dump", "known_task", "to_dict"]

BUDGETS = ("compression.rank", "compression.keep", "compression.energy")
ALONE = {  # settings of which one place gives one, instead of any given at a weaker one
    BUDGETS: "exclude each other: give one budget",
    ("training.lr", "study.lr_grid"): "both say the rate: give the one, or those to choose from",
}
BLOCKS = "compression.blocks"
OF_KERNELS = ("heads", "head_width", "causal", "backward", "plot")  # what --attention alone reads
TRANSLATION = "translation"
LANGUAGE = ("mlm", "clm")
TRAINED = (*LABELLED, *LANGUAGE, TRANSLATION)
OF_TRANSLATION = ("languages", "beams", "label_smoothing")
COMPARISON = re.compile(r"\s*([\w.\-]+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")


def build(
    verb: str,
    flags: Mapping[str, Any] | None = None,
    sets: Iterable[str] = (),
    recipe_file: str | Path | None = None,
) -> Recipe:
    """The checked recipe of a verb.

    `flags`: {flag without its dashes: text, other value, or None for not given}, and `model`;
    `sets`: 'section.key=value', lists by comma, `null` for none. A budget (rank, keep or energy)
    replaces any budget given at a weaker place, a rate a grid of them, and the other way round.
    Raises Usage, or NotLoadable for a missing file.
    """
    layers = [
        from_file(verb, recipe_file) if recipe_file is not None else {},
        from_sets(verb, sets),
        from_flags(verb, flags or {}),
    ]
    return built(verb, layers)


def built(verb: str, layers: list[Layer]) -> Recipe:
    """The checked recipe out of what was given at several places, the weakest first."""
    values: dict[str, Any] = {}
    free: dict[str, Any] = {}
    known = settings(verb)
    for layer in layers:
        checked = {
            path: convert(known[path].kind, known[path].rules, name, raw)
            for path, (name, raw) in layer.items()
            if not path.startswith(FREE)
        }
        free |= {path: raw for path, (_, raw) in layer.items() if path.startswith(FREE)}
        for paths, why in ALONE.items():
            given = [path for path in paths if checked.get(path)]
            if len(given) > 1:
                raise Usage(f"{' and '.join(layer[path][0] for path in given)} {why}")
            if given:
                weaker = {*paths, *([BLOCKS] if given[0] in BUDGETS[1:] else [])}
                values = {path: value for path, value in values.items() if path not in weaker}
        values |= checked
    if verb == "finetune":
        _check_fresh(values, free)
    _check(verb, values)
    sections: dict[str, Any] = {
        entry.name: entry.type(**_within(values, f"{entry.name}."))
        for entry in fields(Recipe)
        if is_dataclass(entry.type)
    }
    top = {path: value for path, value in values.items() if "." not in path}
    return Recipe(verb=verb, config=_within(free, FREE), **top, **sections)


def _flag(path: str) -> str:
    """The flag of a setting; its path where it has none."""
    found = {each.path: each.flag for each in settings_of(Recipe)}
    return f"--{found[path]}" if found.get(path) else path


def _within(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {p.removeprefix(prefix): value for p, value in values.items() if p.startswith(prefix)}


def _check(verb: str, values: dict[str, Any]) -> None:
    """What no single value can say. Raises Usage."""
    if verb == "finetune":
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
        comparison(test)


def _check_fresh(values: dict[str, Any], free: Iterable[str]) -> None:
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


def _check_training(values: dict[str, Any]) -> None:
    """What holds between the settings of a training; without MODEL and task it is the demo's."""
    task, teacher = values.get("training.task"), values.get("distillation.teacher")
    new = values.get("fresh.from_config") is not None
    if values.get("model") is None and task is None and teacher is None and not new:
        values |= {"model": "minilm", "training.task": "grammar"}
    elif task is None and teacher is None:
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


def _check_profile(values: dict[str, Any]) -> None:
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


def comparison(text: str) -> tuple[str, str, float]:
    """('loss', '>', 3.2) out of 'loss>3.2'; raises Usage."""
    found = COMPARISON.fullmatch(text)
    try:
        if found and (number := float(found[3])) == number:
            return found[1], found[2], number
    except ValueError:
        pass
    raise Usage(
        f"the check {show(text)} is not a comparison with a number such as 'loss>3.2' "
        "(operators: > >= < <= == !=)"
    )


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's verb reads, as plain values by section; absent: null and empty ones."""
    tree: dict[str, Any] = {"verb": recipe.verb}
    for path in settings(recipe.verb):
        value = reduce(getattr, path.split("."), recipe)
        if isinstance(value, tuple):
            value = [_plain(each) if is_dataclass(each) else each for each in value]
        if value is not None and value != []:
            section, _, leaf = path.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree | ({"config": dict(recipe.config)} if recipe.config else {})


def _plain(entry: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(entry).items() if value is not None}


def dump(recipe: Recipe, file: str = "recipe.yaml") -> str:
    """YAML that `build` reads back as the same recipe; its first line is a command for that."""
    import yaml

    text = yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True)
    return f"# tlm {recipe.verb} --recipe {file}\n{text}"
