"""Where the values of a recipe come from: flags, `--set`, a YAML file.

Only keys are checked here, values later. Whatever is wrong is one sentence: a Usage.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tlmtool.failure import Failure, NotLoadable, Usage, show
from tlmtool.files.notation import parse
from tlmtool.files.reading import regular
from tlmtool.recipe.schema import Recipe, settings
from tlmtool.recipe.setting import schema_in, settings_of
from tlmtool.recipe.verbs import FORMER_FLAGS

LARGEST_FILE = 2**20  # bytes of a recipe; a larger file is refused before it is parsed
FREE = "config."  # keys of config.json, which the family of the new model checks,
FROM = "fresh.from_config"  # so they are read where this is
FORMER = {  # keys of recipes that tlm 0.2 wrote
    "strategy.form": "strategy.method",
    "attention.max_loss_increase": "compression.max_loss_increase",
}

RUN = ("matrix", "exclude", "cluster", "launch", "stages")  # keys of a file that `tlm run` reads

Layer = dict[str, tuple[str, Any]]  # path -> (its name where it was given, raw value)


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """{path: value}, each path by its name of today; an earlier tlm may have written them."""
    return {FORMER.get(path, path): value for path, value in values.items()}


def from_flags(verb: str, flags: Mapping[str, Any]) -> Layer:
    """What was given by flags."""
    known = {s.flag: s.path for s in settings(verb).values() if s.flag} | {"model": "model"}
    layer = {}
    for flag, raw in flags.items():
        name = flag.replace("_", "-")
        name = FORMER_FLAGS.get(verb, {}).get(f"--{name}", name).removeprefix("--")
        if name not in known:
            raise Usage(f"{verb} has no flag --{name}{_nearest(name, known, '--')}")
        if raw is not None:
            layer[known[name]] = ("MODEL" if name == "model" else f"--{name}", raw)
    return layer


def from_sets(verb: str, sets: Iterable[str]) -> Layer:
    """What was given by `--set key=value`."""
    layer: Layer = {}
    for text in sets:
        path, equals, raw = text.partition("=")
        path, raw = path.strip(), raw.strip()
        if not equals:
            raise Usage(f"--set takes key=value such as compression.rank=8, got {show(text)}")
        if path.startswith(FREE) and path != FREE:
            _known(verb, FROM, "in --set")
            layer[path] = (path, _json(path, parse(raw, f"{path} in --set")))
            continue
        known = _known(verb, path, "in --set")
        if path == "compression.overrides":
            raise Usage("compression.overrides is a list of sections: write it in a recipe file")
        listed = raw.startswith("[") and raw.endswith("]")  # as a recipe has it; a,b is the same
        value = parse(raw, f"{path} in --set") if listed else raw
        layer[known] = (path, None if raw == "null" else value)
    return layer


def from_file(verb: str, file: str | Path) -> Layer:
    """What a recipe file says."""
    return from_mapping(verb, read(file), f"recipe {file}")


def from_mapping(verb: str, given: Mapping[Any, Any], where: str) -> Layer:
    """What a recipe says, as YAML gives it. `where` it stands, in words."""
    layer: Layer = {}
    sections = [entry.name for entry in fields(Recipe) if schema_in(entry)]
    for key, value in given.items():
        if key == "verb":
            if value != verb:
                raise Usage(f"{where} is for the verb {show(value)}, not for {verb}")
        elif key in RUN:
            raise Usage(
                f"{where} has the key {key}, which is for stages and for a matrix: see tlm run"
            )
        elif key not in (*sections, FREE[:-1]):
            layer[_known(verb, key, f"in {where}")] = (key, value)
        elif isinstance(value, dict):
            read_section = _free if key == FREE[:-1] else _section
            layer |= read_section(verb, key, value, where)
        elif value is not None:
            raise Usage(f"{key} in {where} must be a section of keys, got {show(value)}")
    return layer


def _section(verb: str, section: str, given: Mapping[Any, Any], where: str) -> Layer:
    paths = {f"{section}.{leaf}": value for leaf, value in given.items()}
    return {_known(verb, path, f"in {where}"): (path, value) for path, value in paths.items()}


def _free(verb: str, section: str, given: Mapping[Any, Any], where: str) -> Layer:
    """The section of keys of config.json."""
    layer: Layer = {}
    for leaf, value in given.items():
        _known(verb, FROM, f"in {where}")
        if not isinstance(leaf, str):
            raise Usage(f"{section} in {where} has the key {show(leaf)}: keys are text")
        path = f"{section}.{leaf}"
        layer[path] = (path, _json(path, value))
    return layer


def _json(path: str, value: Any) -> Any:
    """A value for config.json; raises Usage for what JSON cannot hold."""
    inner = [value]
    while inner:
        each = inner.pop()
        if isinstance(each, dict):
            if odd := [key for key in each if not isinstance(key, str)]:
                raise Usage(f"{path} has the key {show(odd[0])}: in config.json keys are text")
            inner += each.values()
        elif isinstance(each, list):
            inner += each
        elif isinstance(each, float) and not math.isfinite(each):
            raise Usage(f"{path} holds {each}: a number in config.json must be finite")
    return value


def read(file: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file, as `notation.parse` reads it."""
    try:
        if Path(file).is_dir():
            raise NotLoadable(f"{file} is a directory: name a YAML file")
        with regular(file).open("rb") as stream:
            raw = stream.read(LARGEST_FILE + 1)
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise NotLoadable(f"recipe {file} does not exist") from None
    except Failure as error:
        raise NotLoadable(f"recipe {error}") from None
    except UnicodeDecodeError:
        raise Usage(f"recipe {file} is binary: it should be YAML, text in UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise NotLoadable(f"recipe {show(str(file))} cannot be read: {why}") from None
    if len(raw) > LARGEST_FILE:
        raise Usage(f"recipe {file} is larger than 1 MiB: it should be a page of YAML")
    data = parse(text, f"recipe {file}")
    if not isinstance(data, dict):
        found = "empty" if data is None else f"a {type(data).__name__}"
        raise Usage(f"recipe {file} is {found}: it should hold keys such as model and compression")
    return data


def _known(verb: str, path: Any, where: str) -> str:
    """The path of a key. Raises Usage, with the nearest key, where the verb does not read it."""
    path = FORMER.get(path, path) if isinstance(path, str) else path
    if path in settings(verb):
        return str(path)
    others = {s.path: s.verbs for s in settings_of(Recipe)}
    if path in others:
        raise Usage(f"{path} {where} is read by {' and '.join(others[path])}, not by {verb}")
    plain = isinstance(path, str) and path.isprintable() and len(path) <= 80
    sections = {known.partition(".")[0] for known in settings(verb)}  # and keys of no section
    hint = _nearest(str(path), [*settings(verb), *sections], others=sorted(sections))
    raise Usage(f"unknown key {path if plain else show(path)} {where}{hint}")


def _nearest(
    word: str, known: Iterable[str], dashes: str = "", others: list[str] | None = None
) -> str:
    """'; did you mean X?', or a list of known words; a bare key finds the section that holds it."""
    names = list(known)
    leaves = [name for name in names if name.rpartition(".")[2] == word.rpartition(".")[2]]
    if close := leaves or get_close_matches(word, names, 1, 0.5):
        return f"; did you mean {dashes}{close[0]}?"
    return f"; known are {', '.join(dashes + name for name in others or names)}"
