"""The JSON schema of recipe files, by which editors check and complete them.

It says what each key may hold. Rules between keys, such as one budget for a compression, are
checked by `tlm` alone. Draft 7, which the YAML extensions of editors read.
"""

from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from tlmtool.recipe.launchers import EXAMPLE, MODULES
from tlmtool.recipe.schema import Recipe, settings
from tlmtool.recipe.setting import Setting, settings_of
from tlmtool.recipe.sources import FREE, FROM
from tlmtool.recipe.stages import MOST, NAME
from tlmtool.recipe.verbs import VERBS

DRAFT = "http://json-schema.org/draft-07/schema#"
TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
OF_A_RUN = ("output.out", "output.dry_run")  # keys that a stage must not have
LAUNCH = {
    "type": ["string", "array"],
    "pattern": f"^({'|'.join(MODULES)}) ",
    "items": {"type": "string"},
    "description": f"What starts the stage in several processes, such as {EXAMPLE}",
}
CLUSTER = {
    "type": "object",
    "description": "What jobs of --cluster are given: keys of submitit such as timeout_min",
}

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of a recipe of one verb, and of a file of stages."""
    every = {each.path: each for each in settings_of(Recipe)}
    definitions = {path: _value(setting) for path, setting in every.items()}
    for verb in VERBS:
        definitions |= {verb: _recipe(verb), f"stage {verb}": _stage(verb)}
    return {
        "$schema": DRAFT,
        "title": "A recipe of tlm",
        "type": "object",
        "properties": {"verb": _verbs(), "stages": {"type": "array"}},
        "if": {"required": ["stages"]},
        "then": _pipeline([*every]),
        "else": {"required": ["verb"], "allOf": _by_verb("")},
        "definitions": definitions,
    }


def _verbs() -> Schema:
    return {"enum": [*VERBS], "description": "The command that the recipe is for"}


def _by_verb(prefix: str) -> list[Schema]:
    """The definition that a verb chooses."""
    return [
        {
            "if": {"properties": {"verb": {"const": verb}}, "required": ["verb"]},
            "then": {"$ref": f"#/definitions/{prefix}{verb}"},
        }
        for verb in VERBS
    ]


def _closed(properties: Schema, **more: Any) -> Schema:
    """An object with these keys and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _recipe(verb: str, without: tuple[str, ...] = ()) -> Schema:
    """A recipe of a verb: its sections, with the keys that the verb reads."""
    properties: Schema = {"verb": {"const": verb, "description": VERBS[verb].help}}
    for path in settings(verb):
        section, _, leaf = path.rpartition(".")
        if path in without:
            continue
        held = properties
        if section:
            empty = _closed({}) | {"type": ["object", "null"]}
            held = properties.setdefault(section, empty)["properties"]
        held[leaf] = _ref(path)
    if "output.out" not in without:  # the folder of a matrix, also where a verb writes none
        properties["output"]["properties"].setdefault("out", _ref("output.out"))
    if verb == "finetune":
        properties["launch"] = LAUNCH
    if FROM in settings(verb):
        properties[FREE[:-1]] = {"type": "object", "description": "Keys of the new config.json"}
    grid = _grid([*settings(verb)], "")
    of_a_matrix = {key: ["matrix"] for key in ("launch", *grid) if key != "matrix"}
    return _closed(properties | grid, dependencies=of_a_matrix)


def _stage(verb: str) -> Schema:
    """A recipe of a verb as a stage: with a name, and without what the run decides."""
    found = _recipe(verb, OF_A_RUN)
    del found["properties"]["cluster"], found["dependencies"]  # the matrix may be the file's
    pattern = f"^{NAME.pattern}$"
    words = "Name of the stage, and of the folder of its result"
    found["properties"]["name"] = {"type": "string", "pattern": pattern, "description": words}
    return found | {"required": ["name", "verb"]}


def _pipeline(paths: list[str]) -> Schema:
    """A file of stages. Its grid may name a key of any stage."""
    stage: Schema = {"type": "object", "required": ["name", "verb"]}
    stage |= {"properties": {"verb": _verbs()}, "allOf": _by_verb("stage ")}
    stages = {"type": "array", "minItems": 1, "maxItems": MOST, "items": stage}
    return _closed({"stages": stages} | _grid(paths, f"{NAME.pattern}."), required=["stages"])


def _grid(paths: list[str], before: str) -> Schema:
    """What makes a file a sweep. `before`: the pattern of what stands before a key."""

    def keys(held: Any) -> Schema:
        found = {f"^{before}{path.replace('.', '[.]')}$": held(_ref(path)) for path in paths}
        found[f"^{before}{FREE[:-1]}[.]"] = held({})
        return {"type": "object", "patternProperties": found, "additionalProperties": False}

    values = keys(lambda each: {"type": "array", "minItems": 1, "items": each})
    values |= {"minProperties": 1, "description": "Values of each key; all combinations are run"}
    points = {"type": "array", "items": keys(lambda each: each) | {"minProperties": 1}}
    return {
        "cluster": CLUSTER,
        "matrix": values,
        "exclude": points | {"description": "Combinations to leave out"},
    }


def _ref(path: str) -> Schema:
    return {"$ref": f"#/definitions/{path}"}


def _value(setting: Setting) -> Schema:
    """What a key may hold."""
    alike = isinstance(setting.otherwise, str)
    text = setting.help_for(setting.verbs[0]) if alike else setting.help
    kind, rules = setting.kind, setting.rules
    kinds = [each for each in get_args(kind) if each is not type(None)] or [kind]
    if get_origin(kind) is tuple:
        kinds = [kind]
    found = [each for one in kinds for each in _kinds(one, rules)]
    if type(None) in get_args(kind) or "optional" in rules:
        found.append({"type": "null"})
    held = found[0] if len(found) == 1 else {"anyOf": found}
    usual = setting.default
    default = {} if usual in (None, ()) or isinstance(usual, tuple) else {"default": usual}
    return {"description": text} | held | default


def _kinds(kind: Any, rules: dict[str, Any]) -> list[Schema]:
    """The kinds of values that a type stands for: of a list also one entry alone."""
    if get_origin(kind) is not tuple:
        return [_scalar(kind, rules)]
    element: Any = get_args(kind)[0]
    least = 0 if "optional" in rules else 1
    if isinstance(element, type) and is_dataclass(element):
        inner = {each.path: _value(each) for each in settings_of(element)}
        return [{"type": "array", "items": _closed(inner, required=["sites"])}]
    one = _scalar(element, rules)
    several = {"type": "array", "items": one, "minItems": least}
    return [one, several]


def _scalar(kind: type, rules: dict[str, Any]) -> Schema:
    choices = rules.get("choices", ())
    if choices := [*(choices() if callable(choices) else choices)]:
        if not (prefix := rules.get("prefix")):
            return {"enum": choices}
        return {"anyOf": [{"enum": choices}, {"type": "string", "pattern": f"^{prefix}."}]}
    found: Schema = {"type": TYPES[kind]}
    found |= {word: rules[key] for key, word in BOUNDS.items() if key in rules}
    pattern = rules.get("pattern", "")
    if pattern and not pattern.startswith("(?"):  # flags of Python, which editors do not know
        found["pattern"] = pattern
    return found | ({"minLength": 1} if kind is str else {})
