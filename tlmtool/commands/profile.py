"""The verb profile: Recipe -> Report."""

from tlmtool.commands.kernels import measured
from tlmtool.commands.run import Run
from tlmtool.measuring.counting import check_length
from tlmtool.measuring.profiling import profile as profile_models
from tlmtool.models import checkpoint
from tlmtool.models.surgery import sites
from tlmtool.recipe.building import Recipe
from tlmtool.report.report import Report


def profile(recipe: Recipe) -> Report:
    """Parameters, FLOPs, bytes, memory and time of a model, alone or beside a second; or of
    attention kernels alone."""
    wanted = recipe.profiling
    with Run(recipe) as run:
        if wanted.attention:
            return run.report(measured(run))
        models, names = [], [*filter(None, (recipe.model, wanted.against))]
        for name in names:  # refused before any weights are loaded
            revision = recipe.revision if name == recipe.model else None
            for length in wanted.seq_len:
                check_length(run.empty(checkpoint.resolve(name, revision)), length)
        for name in names:
            model = run.load(name)
            models.append((name, model, sites(model)))
        with run.stage("profile"):
            run.bars("profiling", 0, 1)
            lengths = list(wanted.seq_len)
            found = profile_models(models, lengths, wanted.batch, wanted.latency, wanted.runs)
        return run.report({"model": {"id": recipe.model}} | found)
