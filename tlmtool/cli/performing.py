"""A command with a recipe: its flags become a recipe, its report is printed and checked."""

from typing import Any

from tlmtool.cli.following import suggest
from tlmtool.cli.terminal import show, told
from tlmtool.failure import speaks


def perform(verb: str, given: dict[str, Any]) -> None:
    """Builds the recipe, runs the command of `tlmtool.commands`, prints and checks its report."""
    control = {name: given.pop(name) for name in ("recipe", "sets", "as_json", "quiet", "verbose")}
    folders = given.pop("folders", None) or ()  # of `tlm run`
    verbose, quiet = bool(control["verbose"]), bool(control["quiet"])
    flags = {name: value for name, value in given.items() if value is not False}
    with told(verbose, quiet):
        talking = speaks()
        from tlmtool.commands.performing import perform as report_of
        from tlmtool.recipe import building as recipes

        sets = control["sets"] or ()
        recipe = recipes.build(verb, flags, sets, control["recipe"], folders)
        report = report_of(recipe)
    if not talking:
        return  # one of several processes prints
    show(report, bool(control["as_json"]), verbose)
    if not (quiet or control["as_json"] or report.failed):
        suggest(report)
    if report.failed:
        with told(verbose, quiet):
            raise report.failed
    if recipe.output.fail_if:
        report.check(recipe.output.fail_if)
