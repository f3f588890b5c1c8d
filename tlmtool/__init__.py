"""tlm: pretrained language models made smaller by tensor decomposition, and measured.

The library is what the commands call: `compress`, `overparam`, `merge`, `save`, `load` (and
`evaluate`, `profile`); `run` is a whole command, such as finetune. Importing this package makes
transformers know the model types `tlm-<type>`, now or at its first use, so that
`AutoModel.from_pretrained` re-loads our checkpoints.

The rooms of the package, from the top of the house to the ground. A file imports only from its own
room, without a circle, and from rooms below it; tests/test_layers.py reads this list.

    cli             the command `tlm`: flags, terminal, signals, failures as sentences
    commands        a file for each verb: a recipe becomes a report
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
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

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
    "Failure": "failure",
}
__all__ = ["Failure", *(name for name in PUBLIC if name != "Failure")]
_TRIGGER = "transformers.models.auto.configuration_auto"


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)


def _register() -> None:
    import_module("tlmtool.models.modeling")  # registers as its last act


class _AfterTransformers(MetaPathFinder):
    """Once transformers has AutoConfig, has it register our model types when it is first used:
    before that transformers may be half imported, and after it every Auto class needs them."""

    def find_spec(self, name, path=None, target=None):
        if name != _TRIGGER or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _on_first_use(module.AutoConfig)

        spec.loader.exec_module = exec_module
        return spec


def _on_first_use(auto: type) -> None:
    plain = {name: vars(auto)[name] for name in ("from_pretrained", "for_model")}

    def first(name):
        def call(cls, *args, **kwargs):
            for each, method in plain.items():
                setattr(auto, each, method)
            _register()
            return getattr(cls, name)(*args, **kwargs)

        return classmethod(call)

    for name in plain:
        setattr(auto, name, first(name))


if _TRIGGER in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterTransformers())
