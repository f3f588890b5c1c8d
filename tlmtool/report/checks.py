"""What `--fail-if` can name: the figures of each verb's report, known before anything is loaded.

A figure is a dotted path in the report, or its last part where that says which; `#` stands for a
place in a list whose length the run finds, `*` for a name of the model's (a role, a metric).
"""

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from tlmtool.failure import Usage, show
from tlmtool.files.numbers import number

COMPARISON = re.compile(r"\s*([\w.\-]+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")
ENDS = ("before", "after")
METRICS = {  # of the labelled tasks, whose mean is the score
    **dict.fromkeys(("cola", "grammar"), ("matthews",)),
    **dict.fromkeys(("sst2", "rte", "qnli", "mnli", "classification"), ("accuracy",)),
    **dict.fromkeys(("mrpc", "qqp"), ("accuracy", "f1")),
    **dict.fromkeys(("stsb", "regression"), ("pearson", "spearman")),
}
SCORES = {  # of the other tasks of evaluate: names of the score, and what comes beside it
    "mlm": (("nll", "loss"), ("perplexity", "tokens", "blocks")),
    "clm": (("nll", "loss"), ("perplexity", "tokens", "blocks")),
    "similarity": (("spearman",), ()),
    "features": (("relative_error",), ()),
    "translation": (("BLEU",), ("loss", "perplexity", "beams")),
}
SECONDS = {
    "compress": "load measure plan fit convert recover save",
    "merge": "load merge save",
    "overparam": "load expand save",
    "finetune": "load train evaluate study save",
    "profile": "load profile plot",
    "evaluate": "load evaluate",
}


def check_figure(key: str, verb: str, values: Mapping[str, Any]) -> None:
    """Raises Usage where the report of a run of `verb` will have no figure `key`. `values`: {path:
    value} of its recipe."""
    find(key, verb, figures(verb, values), shortcuts(verb, values))


def find(key: str, verb: str, paths: Iterable[str], named: Mapping[str, str]) -> str:
    """The path, of those of a report, that `key` means: itself, by a short name, or by its last
    part. Raises Usage where there is none, or more than one."""
    paths = list(paths)
    if key in paths or any(_matches(path, key) for path in paths if "#" in path or "*" in path):
        return key
    if key in named:
        return named[key]
    bare = [path for path in paths if path.rpartition(".")[2] == key and not _listed(path)]
    if len(bare) == 1:
        return bare[0]
    if bare:
        raise Usage(f"{key} is not one figure of the report: say {' or '.join(bare[:4])} ...")
    last = {path.rpartition(".")[2]: None for path in paths if not _listed(path)}
    near = get_close_matches(key, [*named, *last, *paths], 1, 0.5)
    hint = f"did you mean {near[0]}?" if near and not {*"#*"} & {*near[0]} else ""
    some = f"it has {', '.join(brief(verb, paths, named))}"
    raise Usage(f"the report of tlm {verb} has no figure {show(key)}; {hint or some}")


def brief(verb: str, paths: Iterable[str], named: Mapping[str, str]) -> list[str]:
    """Some figures that are checked most, short names first."""
    paths = list(paths)
    usual = ("parameters.keep", "parameters.growth", "parameters.after", "flops.after")
    usual += ("bytes.after", "parity.relative", "recovery.recovered", "training.last_loss")
    usual += ("models.0.parameters", "models.0.runs.0.flops", "models.0.runs.0.latency_ms.median")
    usual += ("step.step_flops.after", "cost.flops", "study.pairs.#.p_holm", "models.0.score")
    usual += ("baseline.difference", "peak_memory_bytes")
    return [*named, *(path for path in usual if path in paths)]


def helped(verb: str) -> str:
    """The figures that the help of a verb names."""
    given: dict[str, dict[str, Any]] = {
        "compress": {"compression.keep": 0.5, "recovery.steps": 1},
        "evaluate": {"evaluation.baseline": "", "evaluation.task": "mlm"},
        "profile": {"profiling.latency": True},
    }
    values = given.get(verb, {})
    return ", ".join(brief(verb, figures(verb, values), shortcuts(verb, values))[:9])


def shortcuts(verb: str, values: Mapping[str, Any]) -> dict[str, str]:
    """{short name: path} of a report."""
    if verb == "compress" and not values.get("output.dry_run"):
        return dict.fromkeys(("loss", "feature_error"), "quality.after")
    if verb == "evaluate" and (task := values.get("evaluation.task")):
        names, beside = SCORES.get(task, ((), ()))
        several = METRICS.get(task, ())
        names = (*names, "_and_".join(several)) if several else names
        beside = (*beside, *several) if len(several) > 1 else beside
        found = {name: "models.0.score" for name in ("score", *names)}
        return found | {name: f"models.0.{name}" for name in (*beside, "n")}
    trains = verb == "finetune" and not values.get("output.dry_run")
    if trains and values.get("study.seeds") is None:
        task = values.get("training.task")
        several = METRICS.get(task, ())
        beside = (*several, *(SCORES["translation"][1] if task == "translation" else ()))
        found = {"score": "scores.after.score"} | {n: f"scores.after.{n}" for n in beside}
        return found | ({"BLEU": "scores.after.score"} if task == "translation" else {})
    return {}


def figures(verb: str, values: Mapping[str, Any]) -> list[str]:
    """Paths of the figures that a report may have."""
    dry = bool(values.get("output.dry_run"))
    found = [f"seconds.{name}" for name in SECONDS[verb].split()] + ["seed"]
    if verb not in ("profile", "evaluate") and not dry and values.get("study.seeds") is None:
        found.append("peak_memory_bytes")
    return [*_OF[verb](values, dry), *found]


def _ended(*parts: str) -> list[str]:
    return [f"{part}.{end}" for part in parts for end in ENDS]


def _costs(change: str | None) -> list[str]:
    """Of what a verb makes; `change`: of the sites, keep or growth."""
    found = _ended("parameters", "flops", "bytes")
    if change:
        found += [f"parameters.{name}" for name in (change, "sites_before", "sites_after")]
        found += [f"parameters.by_role.*.{name}" for name in ("sites", *ENDS)]
    return found


def _parity() -> list[str]:
    return [f"parity.{name}" for name in ("max_abs", "relative", "tolerance")]


def _compress(values: Mapping[str, Any], dry: bool) -> list[str]:
    budget = any(values.get(f"compression.{name}") for name in ("rank", "keep", "energy"))
    found, weighed = _costs("keep" if budget else None), values.get("calibration.text") != "none"
    found += ["calibration.texts", "calibration.tokens"] if weighed else []
    if values.get("attention.kind"):
        found += ["attention.layers.#.output_error", "attention.alone.#.*"]
        found += _ended("attention.layers.#.parameters") + ([] if dry else ["attention.quality"])
    if dry:
        return found
    if budget:
        outputs = ("output_error", "svd_output_error", "best_output_error") if weighed else ()
        of = ("weight_error", "svd_weight_error", *outputs, "keep", "parameters")
        found += [f"sites.#.{name}" for name in of]
    if values.get("recovery.steps"):
        of = ("dense", "compressed", "recovered", "steps", "lr", "sentences")
        found += [f"recovery.{name}" for name in of]
    return [*found, *_ended("quality"), "quality.texts"]


def _merge(values: Mapping[str, Any], dry: bool) -> list[str]:
    return [*_costs(None), *_parity(), "parity.rounding"]


def _step() -> list[str]:
    return _ended("step.parameters", "step.optimizer_bytes", "step.step_flops")


def _overparam(values: Mapping[str, Any], dry: bool) -> list[str]:
    found = [*_costs("growth"), *_step(), "expanded.#.growth"]
    return found if dry else [*found, *_parity(), "expanded.#.max_abs"]


def _finetune(values: Mapping[str, Any], dry: bool) -> list[str]:
    if values.get("study.seeds") is not None:
        if dry:
            return ["cost.flops", "cost.runs", "cost.steps"] + [
                f"cost.rows.#.{name}" for name in ("runs", "step_flops", "flops")
            ]
        of = ("difference", "p", "p_holm", "interval.#")
        found = [f"study.pairs.#.{name}" for name in of] + ["study.lr"]
        found += [f"study.arms.#.{name}" for name in ("mean", "deviation", "scores.#")]
        return found + [f"study.{part}.#.*" for part in ("results", "rates")]
    if dry:
        return [*_step(), "step.steps", "expanded.#.growth"]
    of = ("steps", "batch", "lr", "last_loss", "chosen_step", "examples", "dev", "max_length")
    found = [*_ended("parameters", "bytes"), *(f"training.{name}" for name in (*of, "processes"))]
    found += ["training.history.#.*"] + [f"scores.{end}.*" for end in ENDS]
    found += [f"scores.{end}.score" for end in ENDS]
    if values.get("strategy.name") in (None, "none"):
        return found
    of = ("growth", "step_ratio", "max_abs", "first_update.*")
    found += [*_parity(), *(f"expansions.#.{name}" for name in of)]
    return [*found, "selections.#.step", "selections.#.scores.*"]


def _profile(values: Mapping[str, Any], dry: bool) -> list[str]:
    lengths = len(values.get("profiling.seq_len") or (128,))
    runs = [f"runs.{place}" for place in range(lengths)]
    latency = [f"latency_ms.{name}" for name in ("median", "min", "max", "cpu", "runs")]
    if kernels := values.get("profiling.attention"):
        of = ("flops", "time", "processor_time", "memory")
        found = [f"complexity.kernels.{k}.exponents.{name}" for k in kernels for name in of]
        of = ("seq_len", "flops", "peak_memory_bytes", *latency)
        found += [
            f"complexity.kernels.{k}.{run}.{name}" for k in kernels for run in runs for name in of
        ]
        of = ("heads", "width", "features", "batch", "threads", "runs")
        return found + [f"complexity.{name}" for name in of]
    found = []
    for place in range(2 if values.get("profiling.against") else 1):
        of = ["seq_len", "batch", "flops", "by_part.*", "peak_memory_bytes"]
        of += latency if values.get("profiling.latency") else []
        here = ["parameters", "bytes", "by_role.*", *(f"{r}.{name}" for r in runs for name in of)]
        found += [f"models.{place}.{name}" for name in here]
    return found


def _evaluate(values: Mapping[str, Any], dry: bool) -> list[str]:
    task = values.get("evaluation.task")
    beside = SCORES.get(task, ((), ()))[1]
    several = METRICS.get(task, ())
    of = ("score", "n", *beside, *(several if len(several) > 1 else ()))
    found = ["max_length", *(f"models.0.{name}" for name in of)]
    if values.get("evaluation.baseline") is not None:
        more = ("difference", "level", "resamples", "interval.0", "interval.1")
        found += [f"baseline.{name}" for name in (*of, *more)]
    return found


_OF = {
    "compress": _compress,
    "merge": _merge,
    "overparam": _overparam,
    "finetune": _finetune,
    "profile": _profile,
    "evaluate": _evaluate,
}


def _listed(path: str) -> bool:
    """Whether a path goes through a list."""
    return bool(re.search(r"\.(\d+|#)(\.|$)", path))


def _matches(path: str, key: str) -> bool:
    """Whether a path with places and names left open is that of a key."""
    pattern = re.escape(path).replace(r"\#", r"\d+").replace(r"\*", r"[\w.\-]+")
    return re.fullmatch(pattern, key) is not None


def checked_figure(test: str | None) -> str:
    """The figure that a check such as 'loss>3.2' names; nothing where none is asked for."""
    return comparison(test)[0] if test else ""


def comparison(text: str) -> tuple[str, str, float]:
    """('loss', '>', 3.2) out of 'loss>3.2'; raises Usage."""
    found = COMPARISON.fullmatch(text)
    try:
        if found and math.isfinite(limit := number(found[3])):
            return found[1], found[2], float(limit)
    except (ValueError, OverflowError):
        pass
    raise Usage(
        f"the check {show(text)} is not a comparison with a number such as 'loss>3.2' "
        "(operators: > >= < <= == !=)"
    )
