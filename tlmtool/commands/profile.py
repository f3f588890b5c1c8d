"""The verb profile: Recipe -> Report."""

from tlmtool.commands.kernels import measured
from tlmtool.commands.run import Run, sizes
from tlmtool.measuring.counting import check_length
from tlmtool.measuring.profiling import profile as profile_models
from tlmtool.models.folder import Folder
from tlmtool.models.surgery import sites
from tlmtool.recipe.building import Recipe
from tlmtool.report.building import built
from tlmtool.report.parts.ending import Note
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.profiled import Profile
from tlmtool.report.report import Report


def profile(recipe: Recipe) -> Report:
    """Parameters, FLOPs, bytes, memory and time of a model, alone or beside a second; or of
    attention kernels alone."""
    wanted = recipe.profiling
    with Run(recipe) as run:
        if wanted.attention:
            return measured(run)
        folders = [Folder.of(recipe.model, recipe.revision)]
        if wanted.against:
            same = wanted.against == recipe.model
            folders.append(folders[0] if same else Folder.of(wanted.against))
        for folder in folders:  # refused before any weights are loaded
            empty = run.empty(folder)
            for length in wanted.seq_len:
                check_length(empty, length)
        models = []
        for folder in folders:
            model = run.load(folder)
            models.append((folder.asked, model, sites(model)))
        with run.stage("profile"):
            run.bars("profiling", 0, 1)
            lengths = list(wanted.seq_len)
            found = profile_models(models, lengths, wanted.batch, wanted.latency, wanted.runs)
        for entry, folder in zip(found["models"], folders, strict=True):
            entry |= sizes(folder, entry["parameters"]) | {"sums": folder.marks}
        note = Note(note=found.pop("note"))
        return run.report([Model(id=recipe.model), built(Profile, found), note])
