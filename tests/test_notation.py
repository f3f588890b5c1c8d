"""YAML as tlm reads it: keys stand once, numbers are YAML 1.2, and nothing is without bound."""

import math
import os

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tlmtool.cli import run
from tlmtool.failure import Failure, Usage
from tlmtool.recipe.building import build, dump

FUZZ = settings(max_examples=200, deadline=None, derandomize=True)


@pytest.fixture
def file(tmp_path):
    def write(text, name="r.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def config(file, value):
    """The value of a free key, as a recipe file gives it."""
    flags = {"from_config": "bert", "task": "mlm"}
    return build("finetune", flags, recipe_file=file(f"config: {{x: {value}}}")).config["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((each, int(each)) for each in ("0", "010", "-08", "+7", "9" * 30)),
        ("0o10", 8),
        ("0x1F", 31),
        *((each, float(each)) for each in ("1e3", "5e-5", "1.", ".5", "-1.5E+3", "010.5")),
        (".inf", None),  # in JSON there is none
        ("-.INF", None),
        (".NaN", None),
        *((each, each) for each in ("1:30", "1_000", "2024-01-01", "2024-99-99", "0b1", "٣", "1e")),
        *(
            (each, each)
            for each in ("yes", "No", "on", "OFF", "y", "=", "nan", "+.nan", "0x", "--")
        ),
        *((each, None) for each in ("null", "~", "Null", "")),
        ("true", True),
        ("False", False),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(file, text, value):
    flags = {"from_config": "bert", "task": "mlm"}
    if value is None and text[-1:] in "fFN" and text:
        with pytest.raises(Usage, match=r"config\.x holds"):
            config(file, text)
        with pytest.raises(Usage, match=r"config\.x holds"):
            build("finetune", flags, [f"config.x={text}"])
        return
    for found in (config(file, text), build("finetune", flags, [f"config.x={text}"]).config["x"]):
        assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("010", 10), ("+8", 8), ("8.0", 8), ("1e1", 10), ("0x10", 16), ("0o10", 8), (" 8 ", 8)),
        *((each, None) for each in ("1_000", "٣", "1e-1", "1:30", "0b11", "1e999", ".nan", "٣.0")),
    ],
)
def test_a_number_is_read_alike_wherever_it_stands(file, text, number):
    given_by = [
        lambda: build("merge", {"model": "m", "seed": text}),
        lambda: build("merge", {"model": "m"}, [f"seed={text}"]),
        lambda: build("merge", {"model": "m"}, recipe_file=file(f"seed: {text}")),
        lambda: build("merge", {"model": "m"}, recipe_file=file(f"seed: '{text}'")),
    ]
    for giving in given_by:
        if number is None:
            with pytest.raises(Usage, match="seed must be an integer"):
                giving()
        else:
            assert giving().seed == number


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nmodel: m\nseed: 2", "line 3, column 1: the key 'seed' stands at line 1, col"),
        (
            "model: m\ncompression:\n  rank: 2\n  'rank': 2",
            "line 4, column 3: the key 'rank' stand",
        ),
        ("compression: {rank: 2}\ncompression: {keep: 1}", "line 2, column 1: the key 'compressi"),
        ("{seed: 1, seed: 2}", "line 1, column 11: the key 'seed' stands at line 1, column 2 alr"),
        ("config: {a: {b: 1, b: 1}}", "line 1, column 20: the key 'b' stands at line 1, column 14"),
        ("1: 1\n0x1: 2", "line 2, column 1: the key 1 stands at line 1, column 1 already"),
        ("a: &a {seed: 1}\n<<: *a", "line 2, column 1: a merge (<<) is refused"),
        ("? [a]\n: 1", "a list or a mapping is no key"),
        ("a: &a [*a]", "the alias *a stands within itself"),
        ("a: *b", "undefined alias"),
        ("- " * 70 + "x", "it nests too deep, more than 64 levels"),
        ("{a: " * 9999, "it nests too deep"),
        ("a: &a0 [x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}]\n" for i in range(70)), "too deep"),
        ("a: [" + "x, " * 20_000 + "x]", "it holds more than 20,000 values"),
        ("a: 1\n---\na: 2", "is not valid YAML"),
        ("a: 1" + "0" * 5000, "is not valid YAML: "),
        ("a: \x07", "is not valid YAML"),
    ],
)
def test_what_is_refused_says_where(file, text, says):
    with pytest.raises(Usage) as failure:
        build("compress", {"model": "m", "rank": 2}, recipe_file=file(text))
    assert says in str(failure.value) and len(str(failure.value)) < 400


def test_an_alias_is_what_it_stands_for(file):
    text = "compression: &c {overrides: [&o {sites: a, rank: 2}, *o]}\nconfig: null"
    made = build("compress", {"model": "m", "rank": "3"}, recipe_file=file(text))
    assert len(made.compression.overrides) == 2


def bomb(wide, levels):
    lines = ["&a0 [x, x, x]"]
    lines += [f"&a{i} [{', '.join([f'*a{i - 1}'] * wide)}]" for i in range(1, levels)]
    return lines


@pytest.mark.parametrize("place", ["recipe", "config", "set", "stages"])
def test_a_bomb_of_aliases_is_one_sentence(file, capsys, place):
    levels = bomb(9, 20)
    flat = f"{{{', '.join(f'k{i}: {each}' for i, each in enumerate(levels))}}}"
    args = ["finetune", "--from-config", "bert", "--task", "mlm"]
    if place == "set":
        args += ["--set", f"config.x={flat}"]
    elif place == "stages":
        args = ["run", str(file(f"stages: {flat}"))]
    else:
        text = {"recipe": f"seed: {flat}", "config": f"config: {flat}"}[place]
        args += ["--recipe", str(file(text))]
    assert run(args) == 2
    sentence = capsys.readouterr().err
    assert "it holds more than 20,000 values" in sentence and sentence.count("\n") == 1


@pytest.mark.parametrize("value", ["2024-99-99", "[" * 3000, "[", "a: b: c", "*a", "!!int 3", "%x"])
def test_a_free_value_that_is_odd_is_text_or_one_sentence(value):
    flags = {"from_config": "bert", "task": "mlm"}
    try:
        assert build("finetune", flags, [f"config.x={value}"]).config["x"] == value
    except Usage as failure:
        assert str(failure).startswith("config.x in --set")


@pytest.mark.parametrize("key", ["1", "null", "[a]", "~"])
def test_keys_of_config_json_are_text(file, key):
    for text in (f"config: {{{key}: 1}}", f"config: {{a: [{{{key}: 1}}]}}"):
        with pytest.raises(Usage, match=r"keys are text|is no key"):
            build("finetune", {"from_config": "bert"}, recipe_file=file(text))


def test_a_pipe_is_no_recipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for args in (["merge", "m", "--recipe"], ["run"]):
        assert run([*args, str(tmp_path / "pipe")]) == 4
        assert "is a named pipe" in capsys.readouterr().err


# ---- written and read again

TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["1e3", "0o10", "010", "yes", "No", "~", "", "null", "<<", "=", "1:30", ".inf"]
    ),
    st.sampled_from(["2024-01-01", "1_000", "- a", "a: b", "#", "a\n\nb ", "*a", "&a", "!t", " x"]),
    st.from_regex(r"[-+.0-9eExo_:]{1,8}", fullmatch=True),
)
TREES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), TEXT),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@FUZZ
@given(tree=st.dictionaries(st.from_regex("[a-z]{1,6}", fullmatch=True), TREES, max_size=3))
def test_a_dumped_recipe_reads_back_as_the_same(tmp_path_factory, tree):
    flags = {"from_config": "bert", "task": "mlm"}
    shared = {**tree, "again": [tree, tree]}
    path = tmp_path_factory.getbasetemp() / "r.yaml"
    first = build("finetune", flags)
    first.config.update(shared)
    path.write_text(dump(first), encoding="utf-8")
    assert build("finetune", {}, recipe_file=path) == first
    assert yaml.safe_load(dump(first))["config"] == shared  # and by YAML 1.1 too


@FUZZ
@given(text=st.text("{}[]:,-?&*!|>'\"%@` \n\tab10.x~#<", max_size=40) | st.text(max_size=30))
def test_any_text_is_a_recipe_or_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    for reading in (
        lambda: build("compress", {"model": "m", "rank": 2}, recipe_file=path),
        lambda: build("finetune", {"from_config": "bert", "task": "mlm"}, [f"config.x={text}"]),
    ):
        try:
            reading()
        except Failure as failure:
            assert 5 < len(str(failure)) < 700


@FUZZ
@given(text=st.from_regex(r"[-+.0-9eE_x]{1,6}", fullmatch=True))
def test_a_number_is_the_same_by_flag_and_by_file(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "n.yaml"
    path.write_text(f"training: {{lr: {text}}}")
    found = []
    for flags, recipe in (({"lr": text}, None), ({}, path)):
        try:
            made = build("finetune", {"model": "m", "task": "cola"} | flags, recipe_file=recipe)
            found.append(made.training.lr)
        except Usage:
            found.append(math.nan)
    assert found[0] == found[1] or all(each != each for each in found)
