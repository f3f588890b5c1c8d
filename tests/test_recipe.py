"""The recipe: precedence, conversion, and one sentence for whatever is wrong."""

import pytest

from tlmtool.failure import Failure, NotLoadable, Usage
from tlmtool.recipe.building import build, dump
from tlmtool.recipe.compression import Compression
from tlmtool.recipe.schema import Recipe, settings, settings_of
from tlmtool.recipe.verbs import VERBS
from tlmtool.report.checks import comparison


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
    ("flags", "sentence"),
    [
        ({"rank": "eight"}, "--rank must be an integer of at least 1, got 'eight'"),
        ({"rank": "0"}, "--rank must be an integer of at least 1, got 0"),
        ({"rank": "-1"}, "--rank must be an integer of at least 1, got -1"),
        ({"rank": "1.5"}, "--rank must be an integer of at least 1, got 1.5"),
        ({"rank": str(2**63)}, "--rank is too large: at most 2**63 - 1 is possible"),
        ({"keep": "0"}, "--keep must be a number above 0 and below 1, got 0"),
        ({"keep": "1.5"}, "--keep must be a number above 0 and below 1, got 1.5"),
        ({"keep": "nan"}, "--keep must be a number above 0 and below 1, got 'nan'"),
        ({"energy": "1.01"}, "--energy must be a number above 0 and at most 1, got 1.01"),
        ({"rank": "8", "keep": "0.5"}, "--rank and --keep exclude each other: give one budget"),
        (
            {},
            "compress needs one budget: --rank R, --keep SHARE or --energy SHARE (or --attention "
            "NAME)",
        ),
        (
            {"keep": ".5", "blocks": "2"},
            "--blocks goes with --rank: give the rank of a block term too",
        ),
        ({"rank": "8", "sites": ""}, "--sites must be a line of text, got ''"),
        (
            {"rank": "8", "method": "svdd"},
            "--method must be auto, btd, cp, mpo, svd or tucker, got 'svdd'; did you mean svd?",
        ),
        (
            {"rank": "8", "max_shard_size": "5"},
            "--max-shard-size must be a size such as 5GB or 200MB, got 5",
        ),
        ({"rank": "8", "max_length": "7"}, "--max-length must be an integer of at least 8, got 7"),
        ({"rank": "8", "model": None}, "compress needs a MODEL: a folder, a Hub id, or minilm"),
        ({"rnak": "8"}, "compress has no flag --rnak; did you mean --rank?"),
    ],
)
def test_wrong_flags(flags, sentence):
    with pytest.raises(Usage) as failure:
        compress(**flags)
    assert str(failure.value) == sentence


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "compression.rnak=8",
            "unknown key compression.rnak in --set; did you mean compression.rank?",
        ),
        ("rank=8", "unknown key rank in --set; did you mean compression.rank?"),
        ("compression.rank", "--set takes key=value such as compression.rank=8"),
        ("profiling.batch=8", "profiling.batch in --set is read by profile, not by compress"),
        ("compression.overrides=x", "write it in a recipe file"),
        (
            "calibration.samples=null",
            "calibration.samples must be an integer of at least 1, got None",
        ),
    ],
)
def test_wrong_sets(text, says):
    with pytest.raises(Usage, match=None) as failure:
        compress([text], rank="8")
    assert says in str(failure.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a", "is a list"),
        ("7", "is a int"),
        (b"\xff\xfe\x00", "is binary"),
        ("a\x00b", "special characters are not allowed"),
        (
            "a: !!python/object/apply:os.system [x]",
            "YAML tags such as python/object/apply:os.system",
        ),
        ("seed: !!int '3'", "YAML tags such as int are refused"),
        ("model: [", "is not valid YAML"),
        ("[" * 1200, "nests too deep"),
        ("seed: 2001-99-99", "seed must be an integer of at least 0, got '2001-99-99'"),
        ("x: =", "unknown key x"),
        ("seed: 0x" + "f" * 9000, "seed is too large"),
        ("seed: true", "seed must be an integer of at least 0, got True"),
        ("model: 7", "model must be a line of text, got 7"),
        ('model: "a\\0b"', "model must be a line of text"),
        ("model:", "needs a MODEL"),
        ("compresion: {rank: 3}", "did you mean compression?"),
        ("rank: 3", "did you mean compression.rank?"),
        ("1: 3", "unknown key 1"),
        ("compression: 3", "compression in recipe"),
        ("compression: {sites: []}", "compression.sites must name at least one"),
        ("compression: {rank: {a: 1}}", "compression.rank must be an integer"),
        ("compression: {overrides: [3]}", "must be a list of sections"),
        ("compression: {overrides: [{rank: 3}]}", "overrides[0] needs sites"),
        (
            "compression: {overrides: [{sites: a, rank: 0}]}",
            "compression.overrides[0].rank must be",
        ),
        ("compression: {overrides: [{sites: a, size: 0}]}", "unknown key 'size'"),
        ("verb: merge", "is for the verb 'merge', not for compress"),
        ("compression: {rank: 3, keep: 0.5}", "compression.rank and compression.keep exclude"),
        ("a: &a [x, x, x, x]\nb: &b [*a, *a, *a]\nseed: [*b, *b]", "unknown key a"),
    ],
)
def test_wrong_files_are_one_short_sentence(file, text, says):
    with pytest.raises(Usage) as failure:
        build("compress", {}, ["compression.rank=8"], file(text))
    sentence = str(failure.value)
    assert says in sentence
    assert "\n" not in sentence and len(sentence) < 500


def test_a_bomb_of_aliases_is_shown_short(file):
    lines = ["seed:", " - &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f" - &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(Usage, match="line 6, column 4: it holds more than 20,000") as failure:
        compress(recipe_file=file("\n".join(lines)), rank="8")
    assert len(str(failure.value)) < 1000


def test_files_that_cannot_be_read(tmp_path):
    for path, says in [(tmp_path / "none.yaml", "does not exist"), (tmp_path, "is a directory")]:
        with pytest.raises(NotLoadable, match=says):
            compress(recipe_file=path, rank="8")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({}, "needs --task"),
        ({"task": "features"}, "needs --against MODEL"),
        ({"task": "clm", "against": "x"}, "takes no --against"),
        ({"task": "similarity"}, "needs --data"),
        ({"task": "mml"}, "did you mean mlm?"),
    ],
)
def test_evaluate_says_what_is_missing(flags, says):
    with pytest.raises(Usage, match=r"\w") as failure:
        build("evaluate", {"model": "m"} | flags)
    assert says in str(failure.value)


def test_a_bad_check_fails_before_the_run():
    assert comparison(" loss >= 3.2") == ("loss", ">=", 3.2)
    with pytest.raises(Failure, match="not a comparison"):
        build("merge", {"model": "m", "fail_if": "loss"})


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
