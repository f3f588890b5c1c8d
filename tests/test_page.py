"""The page and the pictures of `tlm compare`: whole, alone, legible, and drawn from the figures."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_reports import compressed
from test_compare import quality, written

from tlmtool.cli import run
from tlmtool.commands.compare import beside, compare
from tlmtool.report import plots
from tlmtool.report.arms import half_width
from tlmtool.report.page import page
from tlmtool.report.picture import COLOURS, Picture
from tlmtool.report.report import Report
from tlmtool.report.spots import Spot, _spots, front_of

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
VOID = {"meta", "br", "path", "use", "rect"}
ASKED = """<script>addEventListener("load", () => { document.title = JSON.stringify([
  document.documentElement.scrollWidth <= innerWidth,
  getComputedStyle(document.body).backgroundColor,
  [...document.querySelectorAll("figure svg")].every(s => s.getBoundingClientRect().width > 250),
  getComputedStyle(document.querySelector("figure svg text")).fill]) })</script>"""


def study(lr: float = 1e-3, growth: float = 2.0, better: str = "higher") -> Report:
    """A study of two arms and three seeds."""
    scores = {"dense": [0.5, 0.52, 0.54], "mpo-dynamic": [0.6, 0.61, 0.65]}
    common = {"of": "x", "better": better, "metric": "accuracy", "steps": 4, "warnings": []}
    results = [
        common | {"arm": arm, "seed": seed, "lr": lr, "score": score + growth / 100}
        for arm, held in scores.items()
        for seed, score in enumerate(held)
    ]
    arms = [
        {"arm": arm, "mean": sum(s) / 3 + growth / 100, "deviation": 0.02, "scores": s}
        for arm, s in scores.items()
    ]
    recipe = {
        "training": {"task": "cola", "data": "cola/", "lr": lr},
        "strategy": {"N": 2, "n": 1, "growth": growth},
    }
    parts = {"lr": lr, "rates": [], "results": results, "arms": arms, "pairs": []}
    data = {"verb": "finetune", "study": parts, "warnings": [], "seconds": {"study": 1.0}}
    return Report.read(data | {"seed": 0, "versions": {}, "recipe": recipe})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The page of three compressions, whose names and texts would break a careless page."""
    folder = tmp_path_factory.mktemp("page")
    names = ("a", "b <script>alert(1)</script>", "c & d")
    for place, name in enumerate(names):
        written(folder / name.replace("/", "-"), 3.2 + place / 10, keep=0.9 - place / 10)
    assert run(["compare", str(folder), "--out", str(folder / "p.html"), "-q"]) == 0
    return folder / "p.html"


class Tags(HTMLParser):
    """Every tag is closed in order; what each has is kept."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.kinds = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.kinds.add(tag)
        self.open += [] if tag in VOID else [tag]
        self._read(attrs)

    def handle_startendtag(self, tag, attrs):
        self._read(attrs)

    def _read(self, attrs):
        held = dict(attrs)
        self.ids += [held["id"]] if "id" in held else []
        self.links += [held[name] for name in ("href", "src") if name in held]
        self.links += re.findall(r"url\((.*?)\)", " ".join(v or "" for v in held.values()))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_a_page_is_well_formed_and_needs_nothing_else(made):
    text, tags = made.read_text("utf-8"), Tags()
    tags.feed(text)
    assert not tags.open and len(tags.ids) == len(set(tags.ids)) > 10
    assert all(link[0] == "#" and link[1:] in tags.ids for link in tags.links)
    assert "script" not in tags.kinds and "&lt;script&gt;" in text
    assert not re.search(r"https?://(?!www\.w3\.org)|@import", text)
    assert not any(colour in text.partition("</style>")[2] for colour in COLOURS)
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_a_page_is_the_same_each_time_and_replaces_its_own_alone(made, capsys):
    before = made.read_bytes()
    words = ["compare", str(made.parent), "--out", str(made), "-q"]
    assert run(words) == 0 and made.read_bytes() == before
    made.with_name("thesis.html").write_text("<h1>a year of work</h1>")
    words[3] = str(made.with_name("thesis.html"))
    capsys.readouterr()
    assert run(words) == 2
    assert "exists, and tlm did not write it" in capsys.readouterr().err
    assert "a year" in made.with_name("thesis.html").read_text()


def test_pictures_are_written_as_png_and_svg(made, tmp_path):
    assert run(["compare", str(made.parent), "--plots", str(tmp_path), "-q"]) == 0
    names = {file.stem for file in tmp_path.iterdir()}
    assert {"loss-against-size", "error-by-layer"} <= names  # all have the same errors
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    words = ["compare", str(made.parent), "--plots", str(tmp_path), "-q"]
    assert run(words) == 0  # its own pictures are drawn anew
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    (mine := tmp_path / "seconds.png").write_bytes(b"mine")
    assert run(words) == 2 and mine.read_bytes() == b"mine"
    assert all(file.read_bytes() == held for file, held in before.items() if file != mine)


def test_errors_of_different_results_stand_in_a_picture_of_each_role(tmp_path):
    for name, change in (("a", 0), ("b", 0), ("c", 0.1)):
        data = json.loads((written(tmp_path / name) / "report.json").read_text())
        for site in data["sites"]:
            site["weight_error"] += change
            site["output_error"] = None
        (tmp_path / name / "report.json").write_text(json.dumps(data))
    names = {picture.name for picture in compare([tmp_path]).pictures()}
    assert "error-of-query-by-layer" in {name.replace(" ", "-") for name in names}


def test_without_matplotlib_the_page_says_so(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "drawable", lambda: False)
    text = compare([made.parent]).page("x")
    assert "<figure>" not in text and "without pictures: they need pip install" in text
    assert run(["compare", str(made.parent), "--plots", str(tmp_path / "p")]) == 5
    assert "--plots needs the plots extra" in capsys.readouterr().err


def test_the_front_is_what_nothing_beats_in_both():
    spots = [Spot(size, value, str(value), False) for size, value in [(1, 5), (2, 6), (3, 2)]]
    spots.append(Spot(3, 4, "4", False))
    assert [s.value for s in front_of(spots, "lower")] == [5, 2]
    assert [s.value for s in front_of(spots, "higher")] == [5, 6]


def test_equal_results_share_a_text():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    spots = [Spot(5.0, 1.0, "dense", True), Spot(5.0, 1.0, "tuned", False)]
    spots.append(Spot(2.0, 3.0, "small", False))
    _spots(axes, spots, "lower", "loss")
    assert [text.get_text() for text in axes.texts] == ["dense, tuned", "small"]


def test_a_study_is_a_row_and_a_line_an_arm():
    found = beside({"s/two": study(), "s/four": study(growth=4.0), "s/six": study(growth=6.0)})
    rows = {row.name: row for row in found.table.rows}
    assert len(rows) == 6 and found.table.baseline is rows["two: dense"]
    key = "cola.accuracy"
    apart = found.table.difference(rows["two: mpo-dynamic"], key)
    assert apart.value == pytest.approx(0.1) and apart.interval[0] < 0.1 < apart.interval[1]
    pictures = {each.title: each for each in found.pictures()}
    assert {"accuracy against growth", "cola accuracy of each arm"} <= {*pictures}
    text = svg_of(pictures["accuracy against growth"])
    assert text.count("mpo-dynamic") == 1 and text.count(">dense<") == 1  # a line, and a level
    assert half_width([0.5, 0.52, 0.54]) == pytest.approx(4.302653 * 0.02 / 3**0.5)


def test_rates_are_on_a_logarithmic_axis_with_a_line_an_arm():
    found = beside({f"r/{lr}": study(lr=lr) for lr in (1e-4, 1e-3, 1e-2)})
    text = svg_of({each.title: each for each in found.pictures()}["accuracy against rate"])
    assert "learning rate" in text and "mpo-dynamic" in text and "dense" in text


def svg_of(picture: Picture) -> str:
    return page("t", "", [], [picture], [], [])


def test_the_card_of_a_checkpoint_has_its_picture():
    plain = compressed(quality=quality(3.2, []))
    assert "report.png" not in plain.card("m8")
    drawn = compressed(quality=quality(3.2, []), files=["README.md", "report.png"])
    assert "![what it keeps and what it loses](report.png)" in drawn.card("m8")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1200])
def test_a_browser_shows_it_on_a_phone_and_in_the_dark(made, tmp_path, scheme, width):
    (tmp_path / "p.html").write_text(made.read_text("utf-8").replace("</head>", f"{ASKED}</head>"))
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    words += ["--blink-settings=preferredColorScheme=0"] * (scheme == "dark")
    found = subprocess.run(
        [*words, f"file://{tmp_path / 'p.html'}"], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", found.stdout, re.DOTALL)[1]
    dark = scheme == "dark"
    colours = (
        ("rgb(23, 24, 27)", "rgb(236, 236, 238)")
        if dark
        else (
            "rgb(255, 255, 255)",
            "rgb(26, 26, 27)",
        )
    )
    assert title == f'[true,"{colours[0]}",true,"{colours[1]}"]'
