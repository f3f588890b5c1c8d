"""The points of a matrix: their names, what is left out, which stages they share, wrong input."""

import json
from pathlib import Path

import pytest

from tlmtool.failure import Usage
from tlmtool.recipe.points import sweep_of
from tlmtool.recipe.stages import opened

COMPRESS = {"verb": "compress", "model": "m"}
STAGES = [
    {"name": "small", **COMPRESS},
    {"name": "dense", "verb": "merge"},
    {"name": "tune", "verb": "finetune", "model": "@small", "training": {"task": "cola"}},
    {"name": "plain", "verb": "profile", "model": "m"},
]


def points(tree: dict, tmp_path: Path, sets=(), many=False):
    file = tmp_path / "f.yaml"
    file.write_text(json.dumps(tree))
    return sweep_of(opened(file), tmp_path / "out", sets, many=many)


def test_a_file_of_one_verb_has_a_folder_for_each_combination(tmp_path):
    matrix = {"compression.keep": [0.5, 0.25], "compression.method": ["svd", "tucker"]}
    left = [{"compression.keep": 0.25, "compression.method": "tucker"}]
    found = points(COMPRESS | {"matrix": matrix, "exclude": left}, tmp_path)
    names = ["keep=0.5,method=svd", "keep=0.5,method=tucker", "keep=0.25,method=svd"]
    assert [point.name for point in found.points] == names and found.count == 3
    for point in found.points:
        (stage,) = point.stages
        used = stage.recipe.compression
        assert {"keep": str(used.keep), "method": used.method} == point.values
        assert stage.recipe.output.out == str(stage.out) == str(tmp_path / "out" / point.name)


def test_a_stage_depends_on_its_keys_and_on_those_of_what_it_reads(tmp_path):
    matrix = {"small.compression.rank": [2, 4], "tune.training.lr": [1e-3, 1e-4]}
    found = points({"stages": STAGES, "matrix": matrix}, tmp_path)
    held = {point.name: [stage.name for stage in point.stages] for point in found.points}
    assert held == {
        "shared": ["plain"],
        **{f"rank={rank}": ["small", "dense"] for rank in (2, 4)},
        **{f"rank={rank},lr={lr}": ["tune"] for rank in (2, 4) for lr in (0.001, 0.0001)},
    }
    for point in found.points[3:]:
        (before,), (tune,) = point.after, point.stages
        assert before == point.name.partition(",")[0]
        assert tune.recipe.model == str(tmp_path / "out" / before / "small")
    inside = [STAGES[0] | {"matrix": {"compression.rank": [2, 4]}}, *STAGES[1:]]
    only = {"tune.training.lr": matrix["tune.training.lr"]}
    again = points({"stages": inside, "matrix": only}, tmp_path)
    assert {point.name.count("=") for point in again.points} == {0, 1, 2}
    assert len(again.points) == len(found.points)


def test_what_a_stage_reads_may_vary(tmp_path):
    score = {"name": "score", "verb": "evaluate", "evaluation": {"task": "mlm", "data": "x"}}
    stages = [STAGES[0] | {"matrix": {"compression.rank": [2, 4]}}, score]
    matrix = {"score.model": ["@small", "m"]}
    found = points({"stages": stages, "matrix": matrix}, tmp_path)
    held = {point.name: len(point.stages) for point in found.points}
    assert held == dict.fromkeys(
        ["rank=2", "rank=4", "model=m", "rank=2,model=@small", "rank=4,model=@small"], 1
    )


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([None, True, 1e-05, "a/b c"], ["none", "true", "1e-05", "b-c"]),
        (["x/model", "y/model"], ["1", "2"]),
        ([1, "1"], ["1", "2"]),
        (["Model", "model"], ["1", "2"]),
        ([[1, 2], [3]], ["1+2", "3"]),
        (["l" * 41], ["1"]),
    ],
)
def test_values_in_names(values, texts, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(json.dumps(COMPRESS | {"matrix": {"model": values}}))
    matrix = opened(file).matrix
    found = [matrix.texts(point)["model"] for point in matrix.points("it")]
    assert found == texts


def test_a_long_name_is_cut_and_stays_its_own(tmp_path):
    matrix = {f"compression.{key}": ["a" * 39, "b" * 39] for key in ("sites", "allocate")}
    matrix["calibration.text"] = ["c" * 39, "d" * 39]
    file = tmp_path / "f.yaml"
    file.write_text(json.dumps(COMPRESS | {"matrix": matrix}))
    from tlmtool.recipe.matrix import label

    found = opened(file).matrix
    names = {label(found.texts(point)) for point in found.points("it")}
    assert len(names) == 8 and max(map(len, names)) == 100


RANKS = {"compression.rank": [2, 4]}
DRAWN = {"verb": "profile", "profiling": {"attention": "softmax", "plot": "a.png"}}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"matrix": {"compression.rank": 2}}, "needs a list of values"),
        ({"matrix": {"compression.rank": []}}, "needs a list of values"),
        ({"matrix": {}}, "is empty"),
        ({"matrix": {"compression.rank": [2, "2"]}}, "rank=1 and rank=2 of .* say the same"),
        ({"matrix": {"compression.rank": [2, 2]}}, "has the value 2 twice"),
        ({"matrix": {"compression.rnk": [2]}}, "did you mean compression.rank?"),
        ({"matrix": {"compression.rank": [0]}}, "rank"),
        ({"matrix": [1]}, "must be keys with lists"),
        (
            {"matrix": RANKS, "exclude": [{"seed": 1}]},
            "names seed, and its matrix has compression.rank",
        ),
        ({"matrix": RANKS, "exclude": [{"compression.rank": 3}]}, "is no value of its matrix"),
        ({"matrix": RANKS, "exclude": {"compression.rank": 2}}, "must be a list"),
        ({"matrix": {"seed": [1]}, "exclude": [{"seed": 1}]}, "leaves out all 1 points"),
        ({"matrix": {"seed": [*range(201)]}}, "201 points: --yes"),
        ({"matrix": {"seed": [*range(101)], "revision": [*"a" * 1, *"bcd"], "memory": []}}, "list"),
        ({"matrix": {"seed": [*range(200)], "compression.rank": [*range(1, 99)]}}, "at most"),
        ({"compression": {"rank": 2}, "matrix": {"output.dry_run": [True]}}, "is a dry run"),
    ],
)
def test_wrong_input_is_one_sentence(more, says, tmp_path):
    with pytest.raises(Usage, match=says.replace("?", r"\?")) as caught:
        points(COMPRESS | more, tmp_path)
    assert "\n" not in str(caught.value)


def test_many_points_may_be_meant(tmp_path):
    tree = COMPRESS | {"compression": {"rank": 2}, "matrix": {"seed": [*range(201)]}}
    assert points(tree, tmp_path, many=True).count == 201


def test_a_set_beside_the_matrix(tmp_path):
    tree = COMPRESS | {"matrix": RANKS}
    assert points(tree, tmp_path, ["seed=3"]).points[0].stages[0].recipe.seed == 3


NARROWED = {"matrix": {"model": ["x/a", "y/a"], **RANKS}}
EXCLUDE = {"exclude": [{"model": "y/a", "compression.rank": 4}]}


@pytest.mark.parametrize(
    ("sets", "names"),
    [
        (["model=y/a"], ["model=2,rank=2"]),  # numbered as in the whole matrix
        (["compression.rank=4"], ["model=1,rank=4"]),
        (["compression.rank = 2", "model=x/a"], ["model=1,rank=2"]),
        (["compression.rank=2", "compression.rank=4"], ["model=1,rank=4"]),
        (["compression.rank=3"], ["model=1,rank=3", "model=2,rank=3"]),  # a value of its own
        (["model=z/a", "compression.rank=2"], ["model=3,rank=2"]),  # in a folder of its own
    ],
)
def test_a_set_of_a_key_of_the_matrix_leaves_it_that_value(sets, names, tmp_path):
    found = points(COMPRESS | NARROWED | EXCLUDE, tmp_path, sets)
    assert [point.name for point in found.points] == names
    assert found.points[0].stages[0].recipe.compression.rank == int(names[0][-1])


def test_a_set_of_a_key_of_a_stage_narrows_the_matrix(tmp_path):
    tree = {"stages": [STAGES[0] | {"matrix": {"compression.rank": [2, 4]}}]}
    found = points(tree, tmp_path, ["small.compression.rank=4"])
    assert [point.name for point in found.points] == ["rank=4"]


def test_a_set_that_leaves_no_point_is_refused(tmp_path):
    with pytest.raises(Usage, match=r"leaves out all points with .*rank=4.*, as --set asks for"):
        points(COMPRESS | NARROWED | EXCLUDE, tmp_path, ["model=y/a", "compression.rank=4"])
    with pytest.raises(Usage, match="rank"):
        points(COMPRESS | {"matrix": RANKS}, tmp_path, ["compression.rank=0"])


@pytest.mark.parametrize("given", ["compression.keep=0.5", "compression.energy=0.9"])
def test_a_budget_beside_the_matrix_does_not_replace_its_values(given, tmp_path):
    with pytest.raises(Usage, match=r"compression\.rank of the matrix of .* is replaced"):
        points(COMPRESS | {"matrix": RANKS}, tmp_path, [given])
    assert len(points(COMPRESS | {"compression": {"keep": 0.5}, "matrix": RANKS}, tmp_path).points)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"stages": STAGES, "matrix": {"compression.rank": [1]}}, "name of a stage"),
        (
            {"stages": [STAGES[0] | {"matrix": RANKS}], "matrix": {"small.compression.rank": [2]}},
            "stands in two matrices",
        ),
        ({"stages": STAGES, "matrices": {}}, "is no pipeline"),
        (
            COMPRESS | {"matrix": {"compression.keep": [0.6], "compression": [{"keep": 0.5}]}},
            "two keys of the matrix of .* give compression.keep",
        ),
        ({"verb": ["profile"]}, "with its verb under the key verb"),
        (DRAWN | {"matrix": {"seed": [1, 2]}}, "^--plot a.png would be drawn for .*seed=1 and"),
        ({"stages": [DRAWN | {"name": "a"}, DRAWN | {"name": "b"}]}, "drawn for .*a and again"),
    ],
)
def test_wrong_stages_are_one_sentence(tree, says, tmp_path):
    with pytest.raises(Usage, match=says):
        points(tree, tmp_path)
