"""The rules of a recipe that no single value breaks: between its sections, and of each verb.

Every refusal is one sentence: a Usage.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from tlmtool.failure import Usage, show
from tlmtool.recipe.exporting import targets
from tlmtool.recipe.overparam import Strategy
from tlmtool.recipe.profiling import ALONE
from tlmtool.recipe.schema import Recipe, settings
from tlmtool.recipe.setting import settings_of
from tlmtool.report.checks import check_figure, comparison
from tlmtool.tasks.table import LANGUAGE, PERPLEXITY, TASKS, TRAINED, TRANSLATION

Values = Mapping[str, Any]  # {path: value}, of those that were given

TARGETS = ("compression.target_parameters", "compression.target_size")  # of the whole model
BOUND = "compression.max_loss_increase"
BUDGETS = ("compression.rank", "compression.keep", "compression.energy", *TARGETS)
BLOCKS = "compression.blocks"
ALLOCATE, UNIFORM = "compression.allocate", "uniform"
NARROW = "narrow"  # the method that makes MLPs narrower
PLAIN = {"compression.method": NARROW, ALLOCATE: UNIFORM}  # what --plain stands for
OF_PERPLEXITY = ("evaluation.window", "evaluation.stride", "evaluation.tokens")
OF_TRANSLATION = ("training.languages", "training.beams", "training.label_smoothing")
SCORED = ("recovery.data", "recovery.task")  # what scores a compressed model, also untrained
COLUMNS = ("training.text", "training.pair", "training.label")
MODEL = "a folder, a GGUF file, a Hub id, or minilm"


def check(verb: str, values: Values, free: Iterable[str]) -> None:
    """Raises Usage where `values` {path: value} break a rule. `free`: keys of config.json."""
    if verb == "finetune":
        _check_fresh(values, free)
        _check_training(values)
    if verb == "overparam":
        _check_growth(values)
    if verb == "profile":
        _check_profile(values)
    elif values.get("model") is None and values.get("fresh.from_config") is None:
        raise Usage(f"{verb} needs a MODEL: {MODEL}")
    kernel = values.get("attention.kind") or values.get("profiling.attention")
    if not kernel and (lone := _wished(values, "attention.")):
        other = ", or --sites to choose linear layers" if lone[0] == "attention.layers" else ""
        raise Usage(f"{_flag(lone[0])} goes with --attention NAME: give that too{other}")
    if verb == "compress":
        _check_compress(values)
    if verb == "repair" and values.get("repair.against") is None:
        raise Usage("repair needs --against MODEL: the original, before it was changed")
    if verb == "evaluate":
        _check_evaluate(values)
    if verb == "export" and values.get("export.to") is None:
        raise Usage(f"export needs a format: --to {', '.join(targets())}")
    if values.get("generation.prompt") is not None and values.get("generation.prompts") is not None:
        raise Usage("--prompt gives one text, --prompts a file of them: give one of the two")
    if values.get("quantization.bits") is None:
        if verb == "quantize":
            raise Usage("quantize needs --bits 8 or --bits 4")
        if _wished(values, "quantization."):
            raise Usage("--embedding-bits goes with --bits: give that too")
    tasks = (values.get("evaluation.task"), values.get("training.task"))
    if TRANSLATION not in tasks and (lone := _wished(values, *OF_TRANSLATION)):
        raise Usage(f"{_flag(lone[0])} goes with --task translation")
    if (test := values.get("output.fail_if")) is not None:
        check_figure(comparison(test)[0], verb, values)


def _check_growth(values: Values) -> None:
    sizes = [values.get(f"overparam.{key}") for key in ("growth", "to_params")]
    if sum(size is not None for size in sizes) != 1:
        raise Usage("overparam needs one size: --growth G or --to-params N")


def _check_compress(values: Values) -> None:
    given = [path for path in BUDGETS if values.get(path) is not None]
    bound, kernel = values.get(BOUND) is not None, values.get("attention.kind") is not None
    if not (given or bound or kernel):
        budgets = "--rank R, --keep SHARE, --energy SHARE or --target-size SIZE"
        raise Usage(f"compress needs one budget: {budgets} (or --attention NAME)")
    if bound and given and not kernel:
        raise Usage(f"--max-loss-increase looks for the budget: leave out {_flag(given[0])}")
    if bound and not kernel and values.get("output.dry_run"):
        raise Usage(
            "--dry-run cannot tell which budget --max-loss-increase finds: give several to see "
            "their sizes, such as --keep 0.9,0.7,0.5"
        )
    if kernel:
        if isinstance(values.get("compression.keep"), tuple):
            raise Usage("--attention goes with one budget: give one --keep, or convert a result")
        if target := next((path for path in TARGETS if values.get(path) is not None), None):
            raise Usage(f"{_flag(target)} does not go with --attention: give --keep instead")
    if values.get(BLOCKS) is not None and values.get("compression.rank") is None:
        raise Usage("--blocks goes with --rank: give the rank of a block term too")
    _check_narrow(values)
    _check_scored(values)


def _check_narrow(values: Values) -> None:
    """What holds of narrower MLPs, and of a plain checkpoint, whose MLPs are all narrower."""
    energy = values.get("compression.energy") is not None
    if values.get("compression.method") == NARROW and energy:
        raise Usage("--method narrow takes --rank or --keep: a width has no singular values")
    if not values.get("compression.plain"):
        return
    if values.get("attention.kind"):
        raise Usage("--plain writes a checkpoint that needs no tlm: leave out --attention")
    if (method := values.get("compression.method") or NARROW) != NARROW:
        raise Usage(f"--plain goes with --method narrow: factors of {method} need tlm to load")
    if energy or values.get("compression.overrides"):
        given = "--energy" if energy else "compression.overrides"
        raise Usage(f"--plain gives all MLPs one width: give --rank or --keep, and no {given}")
    if (values.get(ALLOCATE) or UNIFORM) != UNIFORM:
        raise Usage("--plain gives all MLPs one width: leave out --allocate greedy")


def _check_scored(values: Values) -> None:
    """What `--data` of compress goes with."""
    if values.get("recovery.steps") is None:
        lone = [path for path in _wished(values, "recovery.") if path not in SCORED]
        if lone:
            raise Usage(f"{_flag(lone[0])} goes with --recover STEPS: give that too")
    weights = [values.get(f"recovery.{name}") for name in ("divergence", "hidden")]
    if weights[0] == 0 and not weights[1]:
        raise Usage("recovery.divergence and recovery.hidden are both 0: nothing is learned")
    task = values.get("recovery.task")
    alone = () if task in TASKS and TASKS[task].made else ("recovery.task",)
    lone = _wished(values, *alone, *COLUMNS)
    if values.get("recovery.data") is None and lone:
        raise Usage(f"{_flag(lone[0])} goes with --data PATH: give that too")


def _check_evaluate(values: Values) -> None:
    task = values.get("evaluation.task")
    if task is None:
        raise Usage("evaluate needs --task, such as similarity, mlm or cola")
    against = values.get("evaluation.against")
    if (task == "features") != (against is not None):
        asked = "needs --against MODEL" if against is None else "takes no --against"
        raise Usage(f"task {task} {asked}, the model whose features are taken as correct")
    _check_pack(values, task)
    _check_windows(values, task)
    if task == "similarity" and values.get("evaluation.data") is None:
        raise Usage("task similarity needs --data, a csv of sentence1, sentence2, score")
    if task == TRANSLATION and values.get("evaluation.data") is None:
        raise Usage("task translation needs --data, such as a folder with val.en and val.de")


def _check_windows(values: Values, task: str) -> None:
    """What cuts a text into windows is for perplexity, and what cuts texts is for other tasks."""
    if task != PERPLEXITY:
        if lone := _wished(values, *OF_PERPLEXITY):
            raise Usage(f"{_flag(lone[0])} goes with --task perplexity")
        return
    instead = {"evaluation.samples": "--tokens", "evaluation.max_length": "--window"}
    if lone := _wished(values, *instead):
        raise Usage(f"task perplexity reads one text: use {instead[lone[0]]}, not {_flag(lone[0])}")
    window, stride = values.get("evaluation.window"), values.get("evaluation.stride")
    if window and stride and stride > window:
        raise Usage(f"--stride {stride} is above --window {window}: tokens would be left out")


def _check_pack(values: Values, task: str | None) -> None:
    if values.get("training.pack") and task not in LANGUAGE:
        raise Usage(f"--pack goes with --task {' or '.join(LANGUAGE)}, which read plain text")
    if values.get("training.eos") and not values.get("training.pack"):
        raise Usage("--eos ends the texts that --pack joins: give --pack too")


def _check_fresh(values: Values, free: Iterable[str]) -> None:
    """A model is either there or built; what says how to build one needs --from-config."""
    if values.get("fresh.from_config") is not None:
        if values.get("model") is not None:
            raise Usage("MODEL and --from-config exclude each other: give one of them")
        if values.get("distillation.teacher") is not None:
            raise Usage("--teacher needs a MODEL that imitates it: it excludes --from-config")
        if values.get("fresh.tokenizer") is not None and _wished(values, "fresh.vocabulary"):
            raise Usage("--vocab-size is for a tokenizer that is trained: it excludes --tokenizer")
        return
    if lone := [*free, *map(_flag, _wished(values, "attention.", "fresh."))]:
        raise Usage(f"{lone[0]} is for a new model: it goes with --from-config TYPE")


def _check_training(values: Values) -> None:
    """What holds between the settings of a training."""
    task, teacher = values.get("training.task"), values.get("distillation.teacher")
    if task is None and teacher is None:
        raise Usage("finetune needs --task, such as cola, or --teacher MODEL to imitate")
    if task is not None:
        known_task(task, TRAINED)
        if teacher is not None and task in (*LANGUAGE, TRANSLATION):
            raise Usage(f"--teacher goes with a labelled task or none, not with {task}")
    _check_pack(values, task)
    if values.get("language.prompts") is not None and task != "clm":
        raise Usage("--prompts goes with --task clm, which trains a causal language model")
    if values.get("study.seeds") is None and (lone := _wished(values, "study.")):
        raise Usage(f"{_flag(lone[0])} is for a comparison: give --seeds N too")
    usual = Strategy()
    most, each = values.get("strategy.N", usual.N), values.get("strategy.n", usual.n)
    if values.get("strategy.name") == "dynamic" and most < each:
        raise Usage(f"--N {most} is below --n {each}: give at least as many in all as at a time")


def _check_profile(values: Values) -> None:
    """Raises Usage where a profile mixes kernels alone with models, or is given neither."""
    model = values.get("model") is not None
    kernels = settings("profile")
    alone = [path for path, setting in kernels.items() if setting.panel == ALONE]
    if not values.get("profiling.attention"):
        if lone := _wished(values, *alone, "attention."):
            raise Usage(f"{_flag(lone[0])} is for kernels alone: give --attention NAMES too")
        if not model:
            raise Usage(f"profile needs a MODEL ({MODEL}), or --attention NAMES")
    elif values.get("profiling.against"):
        raise Usage("--attention measures kernels alone, --against a second model: give one")
    elif model and (taken := _wished(values, "profiling.heads", "profiling.head_width")):
        raise Usage(f"{_flag(taken[0])} is that of MODEL: leave out one of the two")


def known_task(task: str, known: tuple[str, ...]) -> str:
    """The task; raises Usage, with the nearest one, for a task that is not known."""
    if task not in known:
        near = get_close_matches(task, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise Usage(f"unknown task {show(task)}: {hint}")
    return task


def _wished(values: Values, *paths: str) -> list[str]:
    """Of these settings, or sections ('attention.'), those that are not as by default."""
    usual = {each.path: each.default for each in settings_of(Recipe)}
    return [path for path in values if path.startswith(paths) and values[path] != usual[path]]


def _flag(path: str) -> str:
    return next(each.name for each in settings_of(Recipe) if each.path == path)
