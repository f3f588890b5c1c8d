"""What the files of a folder say of it, in words: kind, factors, origin, clients."""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text
from tlmtool.models.architectures import PREFIX, base_type
from tlmtool.models.front import front_matter
from tlmtool.models.guarding import OTHER
from tlmtool.models.peeking import Tensor
from tlmtool.models.quantized import by_config, reads
from tlmtool.recipe.exporting import targets
from tlmtool.report.figures import described, kernel
from tlmtool.report.parts.about import Held

GENERATES = ("ForCausalLM", "LMHeadModel")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no file, or nothing of the kind in it."""
    try:
        found = json.loads(read_text(file, OTHER))
    except NotLoadable:
        raise
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def what_of(folder: Path, config: Mapping[str, Any]) -> str:
    """What a folder is, in words."""
    if adapter := read_json(folder / "adapter_config.json"):
        base = adapter.get("base_model_name_or_path")
        return f"an adapter of peft ({adapter.get('peft_type')}) for {base}, no model of its own"
    kind = config.get("model_type")
    if not isinstance(kind, str):
        modules = (folder / "modules.json").exists()
        return "a sentence-transformers folder" if modules else "no model: it has no config.json"
    ours = kind.startswith(PREFIX)
    told = f"a checkpoint of {'tlm' if ours else 'transformers'}, type {base_type(kind)}"
    if how := by_config(config):
        told += f", quantized ({how})"
    if (folder / "modules.json").exists():
        told += ", in a sentence-transformers folder"
    return told


def held_in(
    config: Mapping[str, Any], report: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Held, ...]:
    """The sites of the plan in a config, by role where the report of the folder names roles."""
    plan = config.get("tlm")
    if not isinstance(plan, dict):
        return ()
    listed = report.get("sites")
    known = {
        each["site"]: each
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and isinstance(each.get("site"), str)
    }
    sizes = _sizes(tensors)
    rows: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for site, how in _planned(plan, "plan", "decomposition"):
        rows.setdefault(known.get(site, {}).get("role") or _pattern(site), []).append((site, how))
    found = [_held(role, group, known, sizes) for role, group in rows.items()]
    kernels: dict[str, int] = {}
    for _, how in _planned(plan, "attention", "attention"):
        kernels[kernel(how)] = kernels.get(kernel(how), 0) + 1
    found += [Held(role="attention", sites=n, how=how) for how, n in kernels.items()]
    return tuple(found)


def _planned(plan: dict[str, Any], part: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(site, what it holds) of a part of a plan."""
    groups = plan.get(part)
    for group in groups if isinstance(groups, list) else ():
        if isinstance(group, dict) and isinstance(group.get(key), dict):
            yield from ((str(site), group[key]) for site in group.get("sites") or ())


def _held(
    role: str,
    group: list[tuple[str, dict[str, Any]]],
    known: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> Held:
    counted = [_below(sizes, site) for site, _ in group]
    parameters = sum(each for each in counted if each) or None
    shapes = [known.get(site, {}).get("shape") for site, _ in group]
    dense = sum(each[0] * each[1] for each in shapes) if all(shapes) else 0
    keep = parameters / dense if parameters and dense else None
    names = [described(how) for _, how in group]
    if len({*names}) > 1:
        kinds = ", ".join(sorted({str(how.get("name")) for _, how in group}))
        ranks = [how["rank"] for _, how in group if isinstance(how.get("rank"), int)]
        names = [f"{kinds} rank {min(ranks)}-{max(ranks)}" if ranks else kinds]
    return Held(role=role, sites=len(group), how=names[0], parameters=parameters, keep=keep)


def _pattern(site: str) -> str:
    """'encoder.layer.*.output.dense' of a site in any layer."""
    return ".".join("*" if part.isdigit() else part for part in site.split("."))


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """{path of a module: numbers in its factors}"""
    found: dict[str, int] = {}
    for name, each in tensors.items():
        site, inner, _ = name.partition(".weight.")
        if inner:
            found[site] = found.get(site, 0) + each.numbers
    return found


def _below(sizes: Mapping[str, int], site: str) -> int:
    """The numbers of a site, whose path may stand below that of the base model."""
    return next((n for path, n in sizes.items() if f".{path}".endswith(f".{site}")), 0)


def made_from(folder: Path, report: Mapping[str, Any]) -> dict[str, str]:
    """Where a folder comes from, by topic: its card, and the report that tlm wrote beside it."""
    front, model = front_matter(folder), _mapping(report.get("model"))
    sums = _mapping(model.get("sha256"))
    tool = _mapping(report.get("versions")).get("tlm")
    recipe = folder / "recipe.yaml"
    verb = report.get("verb")
    found = {
        "made by": f"tlm {verb}, version {tool}" if verb and tool else "",
        "from": model.get("id") or "",
        "base model": model.get("base_model") or front.get("base_model") or "",
        "license": front.get("license") or "",
        "source sha256": ", ".join(f"{name} {str(each)[:12]}" for name, each in sums.items()),
        "again": shlex.join(["tlm", str(verb), "--recipe", str(recipe)])
        if verb and recipe.exists()
        else "",
    }
    return {key: _words(value) for key, value in found.items() if value}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def opening(folder: Path, config: Mapping[str, Any], weights: bool) -> dict[str, str]:
    """{client: whether and how it opens the folder}; empty for a folder without a model."""
    kind, how = config.get("model_type"), by_config(config)
    if not isinstance(kind, str) or not weights:
        return {}
    ours, plan = kind.startswith(PREFIX), _mapping(config.get("tlm"))
    factors = bool(plan.get("plan")) or bool(plan.get("attention"))
    packed = " and the package compressed-tensors" if how and reads(config) else ""
    after = "after import tlmtool" if ours else "yes"
    if "auto_map" in config and ours:
        after += ", or with trust_remote_code=True where tlmtool is installed"
    if packed:
        after += ", with the package compressed-tensors"
    found = {"transformers": after, "tlm": "yes"}
    if how:
        readable = "generate, evaluate, profile and merge" if reads(config) else ""
        found["tlm"] = readable or f"no: it is quantized ({how})"
    classes = config.get("architectures") or [""]
    name = str(classes[0])
    if (folder / "modules.json").exists():
        found["sentence-transformers"] = after
    if not how or reads(config):
        given = shlex.join(["tlm", "export", str(folder), "--to"])
        found["ONNX Runtime"] = f"the graph that {given} onnx writes"
        found["OpenVINO"] = f"the graph that {given} openvino writes"
    if name.endswith(GENERATES):
        base, gguf = shlex.join(["tlm", "merge", str(folder)]), "convert_hf_to_gguf.py of llama.cpp"
        if "gguf" in targets():
            gguf = shlex.join(["tlm", "export", str(folder), "--to", "gguf"])
        found["llama.cpp"] = (
            f"no: it has no layers of factors; {base} writes a plain checkpoint first"
            if factors
            else f"no: {base} writes floats first"
            if how
            else f"the GGUF file that {gguf} writes, of a type that llama.cpp has"
        )
    return found
