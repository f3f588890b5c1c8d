"""Where the values of a recipe come from: flags, `--set`, a YAML file. Not checked yet, but for
their keys; whatever is wrong is one sentence: a Usage.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tlmtool.failure import Failure, NotLoadable, Usage, show
from tlmtool.files.notation import parse
from tlmtool.files.reading import regular
from tlmtool.recipe.schema import Recipe, settings, settings_of

LARGEST_FILE = 2**20
FREE = "config."  # keys of config.json: checked by the family that is built,
FROM = "fresh.from_config"  # so read where this is

Layer = dict[str, tuple[str, Any]]  # path -> (its name where it was given, raw value)


def from_flags(verb: str, flags: Mapping[str, Any]) -> Layer:
    """What was given by flags."""
    known = {s.flag: s.path for s in settings(verb).values() if s.flag} | {"model": "model"}
    layer = {}
    for flag, raw in flags.items():
        name = flag.replace("_", "-")
        if name not in known:
            raise Usage(f"{verb} has no flag --{name}{_nearest(name, known, '--')}")
        if raw is not None:
            layer[known[name]] = ("MODEL" if name == "model" else f"--{name}", raw)
    return layer


def from_sets(verb: str, sets: Iterable[str]) -> Layer:
    """What was given by `--set key=value`."""
    layer = {}
    for text in sets:
        path, equals, raw = text.partition("=")
        path, raw = path.strip(), raw.strip()
        if not equals:
            raise Usage(f"--set takes key=value such as compression.rank=8, got {show(text)}")
        if path.startswith(FREE) and path != FREE:
            _known(verb, FROM, "in --set")
            layer[path] = (path, _json(path, parse(raw, f"{path} in --set")))
            continue
        _known(verb, path, "in --set")
        if path == "compression.overrides":
            raise Usage("compression.overrides is a list of sections: write it in a recipe file")
        layer[path] = (path, None if raw == "null" else raw)
    return layer


def from_file(verb: str, file: str | Path) -> Layer:
    """What a recipe file says."""
    return from_mapping(verb, read(file), f"recipe {file}")


def from_mapping(verb: str, given: Mapping[Any, Any], where: str) -> Layer:
    """What a recipe says, as YAML gives it; `where` it stands, in words."""
    layer: Layer = {}
    sections = [entry.name for entry in fields(Recipe) if is_dataclass(entry.type)] + [FREE[:-1]]
    for key, value in given.items():
        if key == "verb":
            if value != verb:
                raise Usage(f"{where} is for the verb {show(value)}, not for {verb}")
        elif key not in sections:
            _known(verb, key, f"in {where}")
            layer[key] = (key, value)
        elif isinstance(value, dict):
            for leaf, inner in value.items():
                if key == FREE[:-1]:
                    _known(verb, FROM, f"in {where}")
                    if not isinstance(leaf, str):
                        raise Usage(f"config in {where} has the key {show(leaf)}: keys are text")
                    layer[f"{key}.{leaf}"] = (f"{key}.{leaf}", _json(f"{key}.{leaf}", inner))
                    continue
                _known(verb, f"{key}.{leaf}", f"in {where}")
                layer[f"{key}.{leaf}"] = (f"{key}.{leaf}", inner)
        elif value is not None:
            raise Usage(f"{key} in {where} must be a section of keys, got {show(value)}")
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
            raise Usage(f"{path} holds {each}: numbers of config.json are finite")
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


def _known(verb: str, path: Any, where: str) -> None:
    """Raises Usage for a key that the verb does not read, naming the nearest."""
    if path in settings(verb):
        return
    others = {s.path: s.verbs for s in settings_of(Recipe)}
    if path in others:
        raise Usage(f"{path} {where} is read by {' and '.join(others[path])}, not by {verb}")
    shown = (
        path if isinstance(path, str) and path.isprintable() and path[:80] == path else show(path)
    )
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
