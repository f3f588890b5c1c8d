"""The verb profile: Recipe -> Report."""

from tlmtool.bookkeeping import Run
from tlmtool.commands.kernels import measured
from tlmtool.measuring.profiling import profile as profile_models
from tlmtool.models.surgery import sites
from tlmtool.recipe import Recipe
from tlmtool.report import Report


def profile(recipe: Recipe) -> Report:
    """Parameters, FLOPs, bytes, memory and time of a model, alone or beside a second; or of
    attention kernels alone."""
    wanted = recipe.profiling
    with Run(recipe) as run:
        if wanted.attention:
            return run.report(measured(run))
        models = []
        for name in filter(None, (recipe.model, wanted.against)):
            model = run.load(name)
            models.append((name, model, sites(model)))
        with run.stage("profile"):
            run.bars("profiling", 0, 1)
            lengths = list(wanted.seq_len)
            found = profile_models(models, lengths, wanted.batch, wanted.latency, wanted.runs)
        return run.report({"model": {"id": recipe.model}} | found)
