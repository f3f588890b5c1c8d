"""tlm: pretrained language models made smaller by tensor decomposition, and measured.

The library is what the commands call: `compress`, `overparam`, `merge`, `save`, `load` (and
`evaluate`, `profile`); `run` is a whole command, such as finetune. After `import tlmtool`,
transformers knows the model types `tlm-<type>`, and `AutoModel.from_pretrained` loads our
checkpoints.

The rooms of the package, from the top of the house to the ground. A file imports only from its own
room, without a circle, and from rooms below it; tests/test_layers.py reads this list.

    cli             the command `tlm`: flags, terminal, signals, failures as sentences
    commands        a file for each verb: a recipe becomes a report
    exporting       a file for each format that other programs open
    training        the training loop, over-parameterizing, distillation, studies
    compression     calibration, ranks for each site, fitting, converted attention
    measuring       scores, perplexity, FLOPs, time and memory
    data            files and data sets become examples and batches
    models          sites and roles, factorized modules, checkpoints
    decompositions  a file for each decomposition: the maths
    attention       a file for each attention kernel: the maths
    recipe          the schema of a run, where its values come from, its rules
    report          what a run found, as JSON, tables, a card and plots
    tasks           the tasks and the metrics, a row each
    files           what is read, written and claimed on disk
    failure         expected failures: one sentence and an exit code

Letters for shapes, in every docstring: B batch, N query length, M key length, H heads, D head
width, E model width, O and I out and in features of a weight (in that order), R rank, K order
(number of cores), P blocks, V vocabulary. FLOPs: 1 multiply-add = 2 FLOPs.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PUBLIC = {
    "compress": "compression.compress",
    "merge": "models.modeling",
    "load": "models.checkpoint",
    "save": "models.saving",
    "evaluate": "measuring.evaluation",
    "profile": "measuring.profiling",
    "overparam": "training.growth",
    "run": "commands.performing",
    "plan_of": "models.surgery",
    "config_class": "models.modeling",
    "model_classes": "models.modeling",
    "Failure": "failure",
}
__all__ = ["Failure", *(name for name in PUBLIC if name != "Failure")]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)


# How transformers learns of our model types.
#
# `AutoModel.from_pretrained` must load our checkpoints after `import tlmtool`, whichever of the two
# packages is imported first. And `import tlmtool` must not import transformers, which takes
# seconds: `tlm --help` would wait for it. If transformers is there already, we register at once.
#
# Otherwise a finder waits for the module that defines AutoConfig. To register right after that
# module has run is too early. Our config classes derive from those of the families, and importing
# these imports `modeling_auto`, which may be the very module that is importing AutoConfig and is
# half done: `from transformers import AutoModel` would fail. So the two methods that every Auto
# class goes through are replaced until the first call, which puts them back and registers.
#
# The same finder waits for peft, which then learns of our factorized linears.
CONFIGS = "transformers.models.auto.configuration_auto"
METHODS = ("from_pretrained", "for_model")


def _register() -> None:
    import_module("tlmtool.models.modeling")  # registers as its last act


class _Finder:
    """Finds one module as if it were not there, and calls `then` with it once it has run."""

    def __init__(self, wanted: str, then: Callable[[ModuleType], None]):
        self.wanted, self.then, self.busy = wanted, then, False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.wanted or self.busy:
            return None
        self.busy = True
        try:
            spec = find_spec(name)  # as the other finders have it
        finally:
            self.busy = False
        loader: Any = None if spec is None else spec.loader
        if loader is None:  # the import fails, and says so
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if (
                self in sys.meta_path
            ):  # till now, since some only ask whether there is such a module
                sys.meta_path.remove(self)
            self.then(module)

        loader.exec_module = exec_module
        return spec


def _register_at_first_call(configs: ModuleType) -> None:
    auto: Any = configs.AutoConfig
    own = {name: vars(auto)[name] for name in METHODS}

    def first(name: str) -> Any:
        def call(cls: Any, *args: Any, **kwargs: Any) -> Any:
            for each, method in own.items():
                setattr(auto, each, method)
            _register()
            return getattr(cls, name)(*args, **kwargs)

        return classmethod(call)

    for name in METHODS:
        setattr(auto, name, first(name))


def _tell_peft(_: ModuleType) -> None:
    import_module("tlmtool.models.adapting").register()


if CONFIGS in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _Finder(CONFIGS, _register_at_first_call))
if "peft" in sys.modules:
    _tell_peft(sys.modules["peft"])
else:
    sys.meta_path.insert(0, _Finder("peft", _tell_peft))
