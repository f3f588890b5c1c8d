"""The flags of a verb, made from the schema. All are read as text; `recipe.build` checks them.

The schema is imported where flags are made, so that `tlm --help` stays fast.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from tlmtool.cli.completing import completing, models
from tlmtool.cli.telling import print_schema
from tlmtool.recipe.setting import GENERAL, Setting

FIRST = ("Output",)  # parts that stand right after the first one


def _parameter(name: str, kind: Any, default: Any, info: Any) -> inspect.Parameter:
    annotation = Annotated[kind, info]
    where = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, where, default=default, annotation=annotation)


def _option(
    name: str, kind: Any, spelled: tuple[str, ...], help: str, metavar: str = " ", **more: Any
) -> inspect.Parameter:
    """A flag. A metavar of one blank keeps typer from writing the type there."""
    more = {"rich_help_panel": GENERAL, **more}
    info = typer.Option(*spelled, metavar=metavar, help=help, show_default=False, **more)
    return _parameter(name, kind, False if kind is bool else None, info)


def _in_order(verb: str) -> list[tuple[str, Setting]]:
    """The settings of a verb by the parts of the help, the part that is used most first."""
    from tlmtool.recipe.schema import settings

    found = settings(verb)
    first = next(each.panel for each in found.values() if each.flag)
    parts = {name: place for place, name in enumerate((first, *FIRST))}
    return sorted(found.items(), key=lambda entry: parts.get(entry[1].panel, len(parts)))


def parameters(verb: str) -> Iterator[inspect.Parameter]:
    """MODEL, a flag for each setting that the verb reads, and the flags that every verb has."""
    for path, setting in _in_order(verb):
        help = setting.help_for(verb)
        if path == "model":
            info = typer.Argument(
                metavar="MODEL", help=help, show_default=False, autocompletion=completing(setting)
            )
            yield _parameter("model", str | None, None, info)
        elif setting.flag:
            name, spelled = setting.flag.replace("-", "_"), (f"--{setting.flag}",)
            kind = bool if setting.kind is bool else str | None
            metavar, more = setting.metavar or " ", {"rich_help_panel": setting.panel}
            if kind is not bool:
                more["autocompletion"] = completing(setting)
            yield _option(name, kind, spelled, help, metavar, **more)
    words = "Set a key of the recipe, such as seed=1; may be repeated"
    yield _option("recipe", str | None, ("--recipe",), "YAML file with the settings", "FILE")
    yield _option("sets", list[str] | None, ("--set",), words, "KEY=VALUE")
    yield from outputs()


def outputs() -> Iterator[inspect.Parameter]:
    """The flags of what is printed, which every command has."""
    yield _option("as_json", bool, ("--json",), "Print the report as one JSON object")
    yield _option("quiet", bool, ("-q", "--quiet"), "Show no progress")
    yield _option("verbose", bool, ("-v", "--verbose"), "Show all rows and all log messages")


def info_parameters() -> Iterator[inspect.Parameter]:
    """The name of what is described, and the flags of what is printed."""
    words = "A folder, a GGUF file, an id of the Hugging Face Hub, or a model with a name"
    info = typer.Argument(metavar="DIR", help=words, autocompletion=models)
    yield _parameter("model", str, inspect.Parameter.empty, info)
    yield from outputs()


def pipeline_parameters() -> Iterator[inspect.Parameter]:
    """The file of a pipeline and its flags."""
    info = typer.Argument(metavar="FILE", help="YAML file of one command, or with a list of stages")
    yield _parameter("file", str, inspect.Parameter.empty, info)
    folder = (
        "Folder for the results, one for each stage (default: out/<name of FILE>; one command "
        "keeps its own default)"
    )
    yield _option("out", str | None, ("--out",), folder, "DIR")
    words = "Set a key of a stage, such as convert.seed=1; may be repeated"
    yield _option("sets", list[str] | None, ("--set",), words, "STAGE.KEY=VALUE")
    words = (
        "Folder of the data that FILE names as ${COLA}, such as COLA=../data/cola, or one folder "
        "that holds them all; may be repeated"
    )
    yield _option("data", list[str] | None, ("--data",), words, "NAME=DIR")
    yield _option("resume", bool, ("--resume",), "Continue a run that was stopped")
    yield _option("overwrite", bool, ("--overwrite",), "Replace earlier results")
    words = "Check all settings only; no data are read and no model is loaded"
    yield _option("check", bool, ("--check",), words)
    words = "Predict what each stage will cost, and write nothing"
    yield _option("dry_run", bool, ("--dry-run",), words)
    words = "Perform so many points of a matrix at a time, which share the cores (default: 1)"
    yield _option("jobs", str | None, ("--jobs",), words, "J")
    words = "Submit the points of a matrix as jobs of a cluster, such as slurm; needs submitit"
    yield _option("cluster", str | None, ("--cluster",), words, "NAME")
    yield _option("yes", bool, ("--yes",), "Run more than 200 points of a matrix")
    words = "Print the JSON schema of such files, with which editors check and complete them"
    yield _option("schema", bool, ("--schema",), words, is_eager=True, callback=print_schema)
    yield from outputs()


def compare_parameters() -> Iterator[inspect.Parameter]:
    """The folders of a comparison and its flags."""
    words = "Folders that a run of tlm has written, such folders in one, or files with its --json"
    info = typer.Argument(metavar="DIR...", help=words, show_default=False)
    yield _parameter("folders", list[str], inspect.Parameter.empty, info)
    words = "Result to compare with: a row, or one of DIR (default: the first that others fit)"
    yield _option("baseline", str | None, ("--baseline",), words, "DIR")
    words = "Order by a figure, the smallest first; -FIGURE puts the largest first"
    yield _option("sort", str | None, ("--sort",), words, "FIGURE")
    words = "Show only results of which this is true, such as keep<0.8; may be repeated"
    yield _option("where", list[str] | None, ("--where",), words, "TEST")
    words = "What to print: table, csv, json, latex or markdown (default: table)"
    yield _option("format", str | None, ("--format",), words, "NAME")
    words = "Write one HTML page of the tables and pictures, which needs no network"
    yield _option("out", str | None, ("--out",), words, "PAGE.html")
    words = "Write each picture as PNG and as SVG to this folder"
    yield _option("plots", str | None, ("--plots",), words, "DIR")
    yield from outputs()


def push_parameters() -> Iterator[inspect.Parameter]:
    """The folder that is uploaded, its id, and the flags of an upload."""
    info = typer.Argument(metavar="DIR", help="Folder of a checkpoint", show_default=False)
    yield _parameter("folder", str, inspect.Parameter.empty, info)
    words = "Id of the model on the Hub, such as me/minilm-rank8"
    info = typer.Argument(metavar="ID", help=words, show_default=False)
    yield _parameter("id", str, inspect.Parameter.empty, info)
    yield _option("private", bool, ("--private",), "Only you see a new model; this is the default")
    words = "Everyone sees a new model; an existing public one is uploaded to only with this"
    yield _option("public", bool, ("--public",), words)
    yield _option("dry_run", bool, ("--dry-run",), "List the files and their sizes only")
    yield from outputs()


def command(
    name: str,
    help: str,
    parameters: Iterable[inspect.Parameter],
    perform: Callable[[str, dict[str, Any]], None],
) -> Any:
    """The function that typer turns into a command: its flags, then `perform(name, given)`."""

    def given_to(**given: Any) -> None:
        perform(name, given)

    several = list(parameters)
    given_to.__signature__ = inspect.Signature(several)  # type: ignore[attr-defined]
    given_to.__annotations__ = {each.name: each.annotation for each in several}
    given_to.__name__, given_to.__doc__ = name, help
    return given_to


def _figures(verb: str) -> str:
    from tlmtool.report.helped import HELPED

    if verb in HELPED:
        return HELPED[verb]
    from tlmtool.report.checks import helped

    return ", ".join(helped(verb))


class Command(TyperCommand):
    """A verb, with `--help` among its general flags."""

    def get_help(self, ctx: Any) -> str:
        """Its help, with the figures that `--fail-if` takes."""
        self.name_figures()
        return super().get_help(ctx)

    def name_figures(self) -> None:
        """Names them in the help of `--fail-if`. Only now: the schema does not know them."""
        for each in self.params:
            if isinstance(each, TyperOption) and each.name == "fail_if" and each.help:
                words = f"; figures: {_figures(self.name or '')} ..."
                if not each.help.endswith(words):
                    each.help += words

    def get_help_option(self, ctx: Any) -> Any:
        return _plain(super().get_help_option(ctx), GENERAL)


class Commands(TyperGroup):
    """All verbs; its `--help` is told in our words."""

    def get_help_option(self, ctx: Any) -> Any:
        return _plain(super().get_help_option(ctx))


def _plain(option: Any, panel: str | None = None) -> Any:
    if option is not None:
        option.help, option.metavar, option.rich_help_panel = "Show this help and exit", " ", panel
    return option
