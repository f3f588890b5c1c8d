"""The recipe: what beats what, how text is converted, what a result keeps of it."""

import pytest

from tlmtool.cli import run
from tlmtool.failure import Usage
from tlmtool.recipe.building import build, dump
from tlmtool.recipe.compression import Compression
from tlmtool.recipe.schema import Recipe, settings, settings_of
from tlmtool.recipe.sources import FORMER
from tlmtool.recipe.verbs import VERBS


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def compress(sets=(), recipe_file=None, **flags):
    return build("compress", {"model": "minilm"} | flags, sets, recipe_file)


def test_flag_beats_set_beats_file_beats_default(file):
    path = file("calibration: {samples: 5, max_length: 9}\nseed: 3\ncompression: {rank: 2}\n")
    recipe = compress(["calibration.samples=6", "seed=4"], path, seed="5")
    assert (recipe.seed, recipe.calibration.samples) == (5, 6)
    assert (recipe.calibration.max_length, recipe.compression.rank) == (9, 2)
    assert recipe.output.max_shard_size == "5GB"
    assert recipe.compression.sites == ("attention",)


def test_text_becomes_what_the_schema_says(file):
    recipe = compress(rank="8", sites="attention, ffn", overwrite=True)
    assert recipe.compression.rank == 8 and recipe.compression.sites == ("attention", "ffn")
    assert recipe.output.overwrite is True
    recipe = build("profile", {"model": "m", "seq_len": "128,512"}, ["profiling.latency=true"])
    assert recipe.profiling.seq_len == (128, 512) and recipe.profiling.latency is True
    assert build(
        "profile", {}, (), file("model: m\nprofiling: {seq_len: 64}")
    ).profiling.seq_len == (64,)
    assert compress(rank=10**9).compression.rank == 10**9  # the planner knows the modes


def test_a_stronger_budget_replaces_a_weaker_one(file):
    path = file("compression: {rank: 8, blocks: 4, method: btd}")
    assert compress(recipe_file=path, keep="0.5").compression == Compression(method="btd", keep=0.5)
    assert compress(recipe_file=path, rank="16").compression.blocks == 4
    assert compress(["compression.energy=0.9"], path).compression.rank is None
    assert compress(["compression.energy=0.9"], path, rank="3").compression.energy is None


def test_a_rate_or_a_grid_of_rates_replaces_a_weaker_one(file):
    def of(sets=(), text="", **flags):
        made = build("finetune", flags, ["study.seeds=2", *sets], file(text))
        return made.training.lr, made.study.lr_grid

    grid, rate = "study: {seeds: 2, lr_grid: [0.1, 0.2]}\n", "training: {lr: 0.1}\n"
    assert of(text=grid, lr="0.3") == (0.3, ())
    assert of(["training.lr=0.3"], grid) == (0.3, ())
    assert of(["study.lr_grid=null"], grid) == (None, ())
    assert of(text=rate, lr_grid="0.3,0.4") == (None, (0.3, 0.4))
    assert of(["training.lr=0.3"], grid, lr_grid="0.4") == (None, (0.4,))
    with pytest.raises(Usage, match=r"^training.lr and study.lr_grid both say the rate"):
        of(text=grid + rate)
    with pytest.raises(Usage, match=r"^--lr and --lr-grid both say the rate"):
        of(text=grid, lr="0.3", lr_grid="0.4")


def test_the_verb_decides_which_field_a_flag_means():
    recipe = build("evaluate", {"model": "m", "task": "clm", "batch": "4", "baseline": "b"})
    assert (recipe.evaluation.batch, recipe.profiling.batch) == (4, 1)
    recipe = build("profile", {"model": "m", "batch": "4", "against": "b"})
    assert (recipe.evaluation.batch, recipe.profiling.batch) == (32, 4)
    assert (recipe.profiling.against, recipe.evaluation.against) == ("b", None)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_has_a_flag_twice(verb):
    flags = [setting.flag for setting in settings(verb).values() if setting.flag]
    assert len(flags) == len(set(flags))
    assert all(setting.help for setting in settings(verb).values() if setting.flag)


READS = {"finetune": {"task": "grammar"}, "compress": {"attention": "dimensionwise"}}


@pytest.mark.parametrize("key", sorted(FORMER))
def test_a_former_key_is_still_read(key, file):
    """As recipes hold it that an earlier version wrote beside its results."""
    path, (section, _, leaf) = FORMER[key], key.partition(".")
    verb, given = next((v, g) for v, g in READS.items() if path in settings(v))
    setting = settings(verb)[path]
    choices = {*setting.rules.get("choices", (0.25,))} - {setting.default}
    for more in (
        {"sets": [f"{key}={min(choices)}"]},
        {"recipe_file": file(f"{section}: {{{leaf}: {min(choices)}}}")},
    ):
        recipe = build(verb, {"model": "m", **given}, **more)
        now, name = path.split(".")
        assert getattr(getattr(recipe, now), name) == min(choices)


def test_a_former_flag_is_still_read(commands):
    words = ["finetune", "m", "--task", "grammar", "--strategy", "dynamic"]
    for flag in (["--form", "svd"], ["--form=svd"], ["--method", "svd"]):
        assert run([*words, *flag]) == 0
    assert [recipe.strategy.method for recipe in commands.recipes] == ["svd"] * 3
    assert (
        build("finetune", {"model": "m", "task": "grammar", "form": "svd"}).strategy.method == "svd"
    )


def test_what_names_a_model_or_data_says_so():
    """By its metavariable, which the help shows, and by what no output may then replace."""
    for setting in settings_of(Recipe):
        names = {"MODEL", "SOURCE", "PATH", "CHECKPOINT"} & {*setting.metavar.split("|")}
        assert bool(names) == bool(setting.reads), setting.path
        assert (setting.metavar == "MODEL") == (setting.reads == "model"), setting.path


def test_defaults_obey_their_own_rules():
    for setting in settings_of(Recipe):
        if setting.default not in (None, ()):
            from tlmtool.recipe.values import convert

            assert convert(setting.kind, setting.rules, setting.path, setting.default) == (
                setting.default
            )


def test_dump_is_read_back_as_the_same_recipe(file):
    path = file(
        "model: minilm\nrevision: '0123'\ncompression:\n  keep: 0.3\n  sites: [attention, 'x.*']\n"
        "  overrides:\n  - {sites: '*.query', method: svd, rank: 4}\n"
        "  - {sites: '*.0.*', blocks: 2}\n"
        "calibration: {text: none}\noutput: {fail_if: loss>3}\n"
    )
    recipe = build("compress", recipe_file=path)
    assert [each.rank for each in recipe.compression.overrides] == [4, None]
    text = dump(recipe)
    assert text.startswith("# tlm compress --recipe recipe.yaml\n")
    assert "evaluation" not in text and "profiling" not in text
    assert build("compress", recipe_file=file(text)) == recipe


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("compress", {"model": "m", "rank": "8"}),
        ("compress", {"model": "m", "attention": "dimensionwise"}),
        ("merge", {"model": "m"}),
        ("overparam", {"model": "m", "growth": "3"}),
        ("finetune", {"model": "m", "task": "cola", "data": "d"}),
        ("finetune", {"model": "m", "teacher": "t", "data": "d"}),
        ("finetune", {"model": "m", "task": "translation", "languages": "en-de", "data": "d"}),
        ("finetune", {"from_config": "bert", "task": "mlm", "data": "d"}),
        ("profile", {"model": "m"}),
        ("profile", {"attention": "softmax,dimensionwise"}),
        ("evaluate", {"model": "m", "task": "mlm"}),
    ],
)
def test_what_a_run_keeps_of_its_recipe_makes_the_same_run(verb, flags, tmp_path):
    """With every default spelled out, none of which may count as a wish."""
    made = build(verb, flags)
    (tmp_path / "recipe.yaml").write_text(dump(made))
    assert build(verb, recipe_file=tmp_path / "recipe.yaml") == made


@pytest.mark.parametrize("given", ["128,512", "[128, 512]", "[128,512]"])
def test_a_list_in_a_set_is_written_as_in_a_recipe_or_with_commas(given):
    found = build("profile", {"model": "m"}, [f"profiling.seq_len={given}"])
    assert found.profiling.seq_len == (128, 512)
