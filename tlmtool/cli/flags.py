"""The flags of a verb, made from the schema; all are read as text, `recipe.build` checks them."""

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from tlmtool.recipe.schema import settings
from tlmtool.recipe.setting import Setting
from tlmtool.report.checks import helped


def _default_words(setting: Setting) -> str:
    value = (
        ",".join(map(str, setting.default))
        if isinstance(setting.default, tuple)
        else (setting.default)
    )
    return f" (default {value})" if value not in (None, "") and value is not False else ""


def _parameters(verb: str) -> Iterator[inspect.Parameter]:
    """MODEL, a flag for each setting that the verb reads, and the flags that every verb has."""

    def option(name: str, kind: Any, default: Any, *spelled: str, **more: Any) -> inspect.Parameter:
        info = typer.Option(*spelled, show_default=False, **more)
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, info],
        )

    ordered = sorted(settings(verb).items(), key=lambda entry: "." not in entry[0])
    for path, setting in ordered:  # the general ones last
        section = path.partition(".")[0].capitalize() if "." in path else "General"
        help = setting.help + _default_words(setting)
        help += f"; figures: {helped(verb)} ..." if path == "output.fail_if" else ""
        if path == "model":
            info = typer.Argument(metavar="MODEL", help=help, show_default=False)
            kind, place = Annotated[str | None, info], inspect.Parameter.KEYWORD_ONLY
            yield inspect.Parameter("model", place, default=None, annotation=kind)
        elif setting.flag:
            name, flag = setting.flag.replace("-", "_"), f"--{setting.flag}"
            more = {"help": help, "rich_help_panel": section}
            if setting.kind is bool:
                yield option(name, bool, False, flag, metavar=" ", **more)
            else:
                yield option(name, str | None, None, flag, metavar=setting.metavar, **more)
    general = {"rich_help_panel": "General"}
    yield option(
        "recipe", str | None, None, "--recipe", metavar="FILE", help="YAML of a run", **general
    )
    yield option(
        "sets",
        list[str] | None,
        None,
        "--set",
        metavar="KEY=VALUE",
        help="a key of the recipe, such as compression.rank=8; may be repeated",
        **general,
    )
    yield option(
        "as_json", bool, False, "--json", metavar=" ", help="print one JSON object", **general
    )
    yield option(
        "quiet", bool, False, "-q", "--quiet", metavar=" ", help="no progress on stderr", **general
    )
    yield option(
        "verbose", bool, False, "-v", "--verbose", metavar=" ", help="all rows, all logs", **general
    )


def command(verb: str, help: str, perform: Callable[[str, dict[str, Any]], None]) -> Any:
    """The function that typer turns into a verb: its flags, then `perform(verb, {name: value})`."""

    def given_to(**given: Any) -> None:
        perform(verb, given)

    parameters = list(_parameters(verb))
    given_to.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    given_to.__annotations__ = {each.name: each.annotation for each in parameters}
    given_to.__name__, given_to.__doc__ = verb, help
    return given_to
