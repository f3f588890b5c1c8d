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

from tlmtool.failure import NotLoadable, Usage
from tlmtool.schema import Override, Recipe, settings, settings_of
from tlmtool.schema_training import LABELLED
from tlmtool.values import convert, show

__all__ = ["Override", "Recipe", "build", "comparison", "dump", "known_task", "to_dict"]

BUDGETS = ("compression.rank", "compression.keep", "compression.energy")
BLOCKS = "compression.blocks"
LARGEST_FILE = 2**20
TRANSLATION = "translation"
TRAINED = (*LABELLED, "mlm", "clm", TRANSLATION)
OF_TRANSLATION = ("languages", "beams", "label_smoothing")
COMPARISON = re.compile(r"\s*([\w.\-]+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")

Layer = dict[str, tuple[str, Any]]  # path -> (its name where it was given, raw value)


def build(
    verb: str,
    flags: Mapping[str, Any] | None = None,
    sets: Iterable[str] = (),
    recipe_file: str | Path | None = None,
) -> Recipe:
    """The checked recipe of a verb.

    `flags`: {flag without its dashes: text, other value, or None for not given}, and `model`;
    `sets`: 'section.key=value', lists by comma, `null` for none. A budget (rank, keep or energy)
    replaces any budget given at a weaker place. Raises Usage, or NotLoadable for a missing file.
    """
    layers = [
        _from_file(verb, recipe_file) if recipe_file is not None else {},
        _from_sets(verb, sets),
        _from_flags(verb, flags or {}),
    ]
    values: dict[str, Any] = {}
    known = settings(verb)
    for layer in layers:
        checked = {
            path: convert(known[path].kind, known[path].rules, name, raw)
            for path, (name, raw) in layer.items()
        }
        budget = [path for path in BUDGETS if checked.get(path) is not None]
        if len(budget) > 1:
            names = [layer[path][0] for path in budget]
            raise Usage(f"{' and '.join(names)} exclude each other: give one budget")
        if budget:
            weaker = set(BUDGETS) | (set() if budget == ["compression.rank"] else {BLOCKS})
            values = {path: value for path, value in values.items() if path not in weaker}
        values |= checked
    _check(verb, values)
    sections: dict[str, Any] = {
        entry.name: entry.type(**_within(values, f"{entry.name}."))
        for entry in fields(Recipe)
        if is_dataclass(entry.type)
    }
    top = {path: value for path, value in values.items() if "." not in path}
    return Recipe(verb=verb, **top, **sections)


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
    if values.get("model") is None:
        raise Usage(f"{verb} needs a MODEL: a folder, a Hub id, or minilm")
    if verb == "compress":
        kind = values.get("attention.kind")
        if all(values.get(path) is None for path in BUDGETS) and kind is None:
            budgets = "--rank R, --keep SHARE or --energy SHARE"
            raise Usage(f"compress needs one budget: {budgets} (or --attention NAME)")
        lone = [path for path in values if path.startswith("attention.") and kind is None]
        if lone and values[lone[0]] is not None:
            raise Usage(f"{lone[0]} says how --attention NAME is to be: give that too")
        if values.get(BLOCKS) is not None and values.get("compression.rank") is None:
            raise Usage("--blocks goes with --rank: give the rank of a block term too")
        if (values.get("recovery.data") is None) != (values.get("recovery.steps") is None):
            raise Usage("--recover STEPS and --data go together: so many steps, on these texts")
    if verb == "evaluate":
        task = values.get("evaluation.task")
        if task is None:
            raise Usage("evaluate needs --task, such as similarity, mlm or cola")
        against = values.get("evaluation.against")
        if (task == "features") != (against is not None):
            asked = "needs --against MODEL" if against is None else "takes no --against"
            raise Usage(f"task {task} {asked}, which names the model whose features are the truth")
        if task == "similarity" and values.get("evaluation.data") is None:
            raise Usage("task similarity needs --data, a csv of sentence1, sentence2, score")
        if task == TRANSLATION and values.get("evaluation.data") is None:
            raise Usage("task translation needs --data, such as a folder with val.en and val.de")
    if TRANSLATION not in (values.get("evaluation.task"), values.get("training.task")):
        lone = [key for key in OF_TRANSLATION if values.get(f"training.{key}") is not None]
        if lone:
            raise Usage(f"--{lone[0].replace('_', '-')} goes with --task translation")
    if (test := values.get("output.fail_if")) is not None:
        comparison(test)


def _check_training(values: dict[str, Any]) -> None:
    """What holds between the settings of a training; without MODEL and task it is the demo's."""
    task, teacher = values.get("training.task"), values.get("distillation.teacher")
    if values.get("model") is None and task is None and teacher is None:
        values |= {"model": "minilm", "training.task": "grammar"}
    elif task is None and teacher is None:
        raise Usage("finetune needs --task, such as cola, or --teacher MODEL to learn from")
    if task is not None:
        known_task(task, TRAINED)
    most, each = values.get("strategy.N"), values.get("strategy.n")
    if values.get("strategy.name") == "dynamic" and (most or 12) < (each or 2):
        raise Usage(f"--N {most or 12} is below --n {each or 2}: at least n matrices are taken")


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
    return tree


def _plain(entry: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(entry).items() if value is not None}


def dump(recipe: Recipe, file: str = "recipe.yaml") -> str:
    """YAML that `build` reads back as the same recipe; its first line is a command for that."""
    import yaml

    text = yaml.safe_dump(to_dict(recipe), sort_keys=False, allow_unicode=True)
    return f"# tlm {recipe.verb} --recipe {file}\n{text}"


# ---- where values come from


def _from_flags(verb: str, flags: Mapping[str, Any]) -> Layer:
    known = {s.flag: s.path for s in settings(verb).values() if s.flag} | {"model": "model"}
    layer = {}
    for flag, raw in flags.items():
        name = flag.replace("_", "-")
        if name not in known:
            raise Usage(f"{verb} has no flag --{name}{_nearest(name, known, '--')}")
        if raw is not None:
            layer[known[name]] = ("MODEL" if name == "model" else f"--{name}", raw)
    return layer


def _from_sets(verb: str, sets: Iterable[str]) -> Layer:
    layer = {}
    for text in sets:
        path, equals, raw = text.partition("=")
        path, raw = path.strip(), raw.strip()
        if not equals:
            raise Usage(f"--set takes key=value such as compression.rank=8, got {show(text)}")
        _known(verb, path, "in --set")
        if path == "compression.overrides":
            raise Usage("compression.overrides is a list of sections: write it in a recipe file")
        layer[path] = (path, None if raw == "null" else raw)
    return layer


def _from_file(verb: str, file: str | Path) -> Layer:
    layer: Layer = {}
    sections = [entry.name for entry in fields(Recipe) if is_dataclass(entry.type)]
    for key, value in _read(file).items():
        if key == "verb":
            if value != verb:
                raise Usage(f"recipe {file} is for the verb {show(value)}, not for {verb}")
        elif key not in sections:
            _known(verb, key, f"in recipe {file}")
            layer[key] = (key, value)
        elif isinstance(value, dict):
            for leaf, inner in value.items():
                _known(verb, f"{key}.{leaf}", f"in recipe {file}")
                layer[f"{key}.{leaf}"] = (f"{key}.{leaf}", inner)
        elif value is not None:
            raise Usage(f"{key} in recipe {file} must be a section of keys, got {show(value)}")
    return layer


def _read(file: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file, by `safe_load`, explicit tags refused."""
    import yaml

    try:
        with open(file, "rb") as stream:
            text = stream.read(LARGEST_FILE + 1).decode("utf-8-sig")
    except FileNotFoundError:
        raise NotLoadable(f"recipe {file} does not exist") from None
    except IsADirectoryError:
        raise NotLoadable(f"recipe {file} is a directory: name a YAML file") from None
    except OSError as error:
        raise NotLoadable(f"recipe {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Usage(f"recipe {file} is binary: it should be YAML, text in UTF-8") from None
    try:
        if len(text) > LARGEST_FILE:
            raise Usage(f"recipe {file} is larger than 1 MiB: it should be a page of YAML")
        if tag := next((t for t in yaml.scan(text) if isinstance(t, yaml.TagToken)), None):
            line = tag.start_mark.line + 1
            raise Usage(f"recipe {file}, line {line}: YAML tags such as {tag.value[1]} are refused")
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "broken")
        raise Usage(f"recipe {file}{where} is not valid YAML: {problem}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, Usage):
            raise
        deep = isinstance(error, RecursionError)
        why = "it nests too deep" if deep else show(str(error))
        raise Usage(f"recipe {file} is not valid YAML: {why}") from None
    if not isinstance(data, dict):
        found = "empty" if data is None else f"a {type(data).__name__}"
        raise Usage(f"recipe {file} is {found}: it should hold keys such as model and compression")
    return data


def _known(verb: str, path: Any, where: str) -> None:
    """Raises Usage for a key that the verb does not read, naming the nearest."""
    if path in settings(verb):
        return
    others = {s.path: s.verbs for s in settings_of(Recipe)}
    if path in others:
        raise Usage(f"{path} {where} is read by {' and '.join(others[path])}, not by {verb}")
    shown = path if isinstance(path, str) and path.isprintable() else show(path)
    sections = {known.partition(".")[0] for known in settings(verb)}  # and keys of no section
    hint = _nearest(str(path), [*settings(verb), *sections], others=sorted(sections))
    raise Usage(f"unknown key {shown} {where}{hint}")


def _nearest(
    word: str, known: Iterable[str], dashes: str = "", others: list[str] | None = None
) -> str:
    """'; did you mean X?', or a list of known words; a bare key finds the section that holds it."""
    names = list(known)
    leaves = [name for name in names if name.rpartition(".")[2] == word.rpartition(".")[2]]
    if close := leaves or get_close_matches(word, names, 1, 0.5):
        return f"; did you mean {dashes}{close[0]}?"
    return f"; known are {', '.join(dashes + name for name in others or names)}"
