"""Whatever is wrong in a recipe, a flag or a `--set` is one sentence that names it."""

import pytest
import test_recipe
from test_recipe import compress

from tlmtool.failure import Failure, NotLoadable, Usage
from tlmtool.recipe.building import build
from tlmtool.report.checks import comparison

file = test_recipe.file  # its fixture


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
            "compress needs one budget: --rank R, --keep SHARE, --energy SHARE or --target-size "
            "SIZE (or --attention NAME)",
        ),
        (
            {"keep": ".5", "blocks": "2"},
            "--blocks goes with --rank: give the rank of a block term too",
        ),
        ({"rank": "8", "sites": ""}, "--sites must be a line of text, got ''"),
        (
            {"rank": "8", "method": "svdd"},
            "--method must be auto, btd, cp, mpo, narrow, svd or tucker, got 'svdd'; did you mean "
            "svd?",
        ),
        (
            {"rank": "8", "max_shard_size": "5"},
            "--max-shard-size must be a size such as 5GB or 200MB, got 5",
        ),
        ({"rank": "8", "max_length": "7"}, "--max-length must be an integer of at least 8, got 7"),
        (
            {"rank": "8", "model": None},
            "compress needs a MODEL: a folder, a GGUF file, a Hub id, or minilm",
        ),
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
