"""The two Python files of a checkpoint, which transformers runs with `trust_remote_code=True`.

They import tlmtool and take our classes from it, so a program that knows nothing of tlm opens the
checkpoint where tlmtool is installed. Where it is not, they say what to install. Where tlmtool is
imported already, transformers takes the registered classes and neither asks nor runs the files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import CONFIG_NAME

from tlmtool.models.architectures import NAME
from tlmtool.models.classes import heads_of

CONFIGURATION, MODELING = "configuration_tlm", "modeling_tlm"  # names of the files, without .py
BROAD = "AutoModelForPreTraining"  # of the heads that another Auto class names better
# The import stands in a `try`. transformers looks for those that do not, and has a longer message.
OPENING = '''"""The {what} of a checkpoint that tlm wrote. transformers reads this file with
trust_remote_code=True; without it, `import tlmtool` first does the same."""

try:
    import tlmtool
except ModuleNotFoundError as error:
    if error.name != "tlmtool":
        raise
    raise ImportError("this checkpoint needs the package tlmtool: pip install tlmtool") from None

'''


def auto_map(model_type: str, architectures: Sequence[str] | None) -> dict[str, str]:
    """{Auto class: file and class} for `config.json`: the config, the bare model, and the heads
    that `architectures` names."""
    config = CONFIG_MAPPING[model_type].__name__
    found = {"AutoConfig": f"{CONFIGURATION}.{NAME}{config}"}
    return found | {auto: f"{MODELING}.{n}" for auto, n in _heads(model_type, architectures)}


def writing(base: type[PreTrainedConfig], model_type: str) -> Callable[..., None]:
    """A method `to_json_file` for our config class over `base`: beside a `config.json` it also
    writes the two files, whoever saves a model or a config."""

    def to_json_file(self: Any, json_file_path: Any, *args: Any, **kwargs: Any) -> None:
        base.to_json_file(self, json_file_path, *args, **kwargs)
        if (file := Path(json_file_path)).name == CONFIG_NAME:
            for name, text in code(model_type, self.architectures).items():
                (file.parent / name).write_text(text, encoding="utf-8")

    return to_json_file


def code(model_type: str, architectures: Sequence[str] | None) -> dict[str, str]:
    """{file name: its code} of the files that `auto_map` names."""
    config = f"{NAME}{CONFIG_MAPPING[model_type].__name__}"
    heads = _heads(model_type, architectures)
    lines = [f'classes = tlmtool.model_classes("{model_type}")  # by Auto class']
    lines += [f'{name} = classes["{auto}"]' for auto, name in heads]
    parts = {
        CONFIGURATION: ("config class", [f'{config} = tlmtool.config_class("{model_type}")']),
        MODELING: ("model classes", lines),
    }
    return {f"{n}.py": OPENING.format(what=w) + "\n".join([*x, ""]) for n, (w, x) in parts.items()}


def _stays(cls: Any, auto_class: Any = None) -> None:
    """In place of `register_for_auto_class`. transformers calls it on a class that the code of a
    folder names, and would copy the file that defines the class into whatever is saved later."""


STAYS = classmethod(_stays)


def _heads(model_type: str, architectures: Sequence[str] | None) -> list[tuple[str, str]]:
    """(Auto class, name of our class) of the bare model and of the heads that were saved."""
    ours = {auto: NAME + each.__name__ for auto, each in heads_of(model_type).items()}
    saved = [auto for auto, name in ours.items() if name in (architectures or ())]
    if len(saved) > 1 and BROAD in saved:
        saved.remove(BROAD)
    bare = ["AutoModel"] if "AutoModel" in ours else []
    return [(auto, ours[auto]) for auto in dict.fromkeys(bare + saved)]
