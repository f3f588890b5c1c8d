"""The head that a task needs: a checkpoint has it, gets a new one, or does not fit the task."""

from typing import Any

import transformers
from transformers.models.auto import modeling_auto as auto

from tlmtool.data.labels import classes_in, matched, numbered, outputs_in
from tlmtool.failure import Usage
from tlmtool.models.architectures import architecture, base_type
from tlmtool.models.modeling import NAME
from tlmtool.tasks.table import TRANSLATION, Task


def head_of(config: dict[str, Any], model: str, task: Task) -> tuple[type, dict, bool]:
    """(Auto class, changes of the config, whether the checkpoint has that head already).

    `config`: what config.json holds. Raises Usage where the task does not fit the model or its
    head.
    """
    kind = base_type(config["model_type"])
    saved = str((config.get("architectures") or [""])[0]).removeprefix(NAME)
    if task.labelled:
        return _classifier(config, model, task, kind, saved)
    two_sided = kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if task.kind == "translation":
        if not two_sided:
            raise Usage(
                f"task {task.name} does not fit {model}: a {kind} has no encoder and decoder"
            )
        return transformers.AutoModelForSeq2SeqLM, {}, saved in _classes("SEQ_TO_SEQ_CAUSAL", kind)
    if two_sided:
        raise Usage(
            f"task {task.name} does not fit {model}: a {kind} has an encoder and a decoder (task "
            f"{TRANSLATION})"
        )
    masked, causal = _classes("MASKED", kind), _classes("CAUSAL", kind)
    if not masked and not causal:
        raise Usage(f"task {task.name} does not fit {model}: a {kind} has no head that gives words")
    if bool(masked) != (task.name == "mlm"):
        reads = "both ways (mlm)" if masked else "from left to right (clm)"
        raise Usage(f"task {task.name} does not fit {model}: a {kind} reads {reads}")
    if masked:
        has = saved in masked or saved.endswith(architecture(kind).masked)
        return transformers.AutoModelForMaskedLM, {}, has
    return transformers.AutoModelForCausalLM, {}, saved in causal


def _classes(head: str, kind: str) -> tuple[str, ...]:
    """The classes that transformers has with a language-model head for a type; () for none."""
    found = getattr(auto, f"MODEL_FOR_{head}_LM_MAPPING_NAMES").get(kind, ())
    return (found,) if isinstance(found, str) else tuple(found)


def _classifier(
    config: dict[str, Any], model: str, task: Task, kind: str, saved: str
) -> tuple[type, dict, bool]:
    """The head for classes, or for a figure. `kind`: of the base model; `saved`: the class that
    the checkpoint was saved as."""
    if kind not in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise Usage(f"task {task.name} does not fit {model}: a {kind} has no head for classes")
    has = saved.endswith("ForSequenceClassification")
    names = dict(enumerate(task.labels))
    wanted, found = len(names) or 1, outputs_in(config)
    if has and found != wanted:
        raise Usage(
            f"task {task.name} does not fit {model}: its head has {found} outputs, "
            f"the task needs {wanted}"
        )
    problem = "single_label_classification" if names else "regression"
    changes = {"num_labels": wanted, "problem_type": problem}
    if own := _own(config, task, model) if has else None:
        names = own
    if names:
        changes |= {"id2label": names, "label2id": {v: k for k, v in names.items()}}
    return transformers.AutoModelForSequenceClassification, changes, has


def _own(config: dict[str, Any], task: Task, model: str) -> dict[int, str] | None:
    """The classes of a task, in the words of a checkpoint's head. None where the head names no
    classes, or other ones."""
    names = classes_in(config)
    known = not numbered(names) and matched(task.labels, names, model) is not None
    return dict(enumerate(names)) if known else None


def skipping(config: dict[str, Any]) -> str:
    """The key of a config that makes training leave out layers at random; "" for none."""
    return next((key for key in config if key.endswith("layerdrop") and config[key]), "")


def dropouts(config: dict[str, Any], share: float) -> dict[str, float]:
    """{key: share} of every dropout in config.json, except those of whole layers."""
    kinds = (key for key in config if ("dropout" in key or "pdrop" in key) and "layer" not in key)
    return dict.fromkeys(kinds, share)
