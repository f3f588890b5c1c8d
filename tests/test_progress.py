"""Progress: one line in a terminal of 80 columns, lines in a log at least every 30 seconds, nothing
with -q. The clock is made up."""

import io
import logging
import re
import threading

import pytest
from rich.console import Console

from tlmtool.report import progress
from tlmtool.report.course import Course, about
from tlmtool.report.progress import EVERY, Bars

FORECAST = [("loading", 10.0), ("factorizing", 80.0), ("saving", 10.0)]


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(monkeypatch):
    """The lines of the log; the thread that looks at the clock is idle."""
    lines: list[str] = []
    handler, own = logging.Handler(), logging.getLogger("tlmtool")
    handler.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(own, "handlers", [handler])
    monkeypatch.setattr(own, "propagate", False)
    monkeypatch.setattr(progress, "LOOK", 1e6)
    level = own.level
    own.setLevel(logging.INFO)
    yield lines
    own.setLevel(level)


def test_a_log_has_a_line_at_each_stage_and_every_thirty_seconds(clock, log):
    with Bars(clock) as bars:
        for step in range(13):
            bars("training", step, 12, "loss 2.5000")
            clock.now += 10
        bars("scoring", 0, 4)
        bars("training", 12, 12)
        bars("scoring", 0, 4)
    assert log[0] == "training ..." and log[5:] == ["scoring ..."]
    assert log[1] == "training 3 of 12, loss 2.5000, 25 %, about 90 s left"
    assert log[2] == "training 6 of 12, loss 2.5000, 50 %, about 60 s left"


def test_with_a_forecast_the_lines_are_of_the_whole_command(clock, log):
    with Bars(clock) as bars:
        bars.expect(FORECAST)
        bars("loading", 0, 1)
        clock.now += 10
        bars("factorizing", 0, 4)
        clock.now += 40
        bars("factorizing", 2, 4)
        clock.now += 40
        bars("factorizing", 4, 4)
        bars("saving", 0, 1)
    assert log == [
        "loading, 0 %, about 2 min left",
        "factorizing, 10 %, about 90 s left",
        "factorizing 2 of 4, 50 %, about 50 s left",
        "factorizing 4 of 4, 90 %, about 10 s left",
        "saving, 90 %, about 10 s left",
    ]


def test_the_time_left_follows_the_measured_progress_and_the_clock(clock):
    course = Course(clock)
    course.expect(FORECAST)
    for done in range(4):  # at half the speed
        course.reach("factorizing", done, 4)
        clock.now += 40
    course.reach("factorizing", 4, 4)
    assert 15 < course.left < 20
    clock.now += 5
    assert 10 < course.left < 15
    clock.now += 500
    assert course.left == 0
    course.reach("another stage", 1, 2)
    assert course.share == pytest.approx(0.9)
    assert course.stages["factorizing"].spent == 160 + 505


def test_a_stage_that_is_forecast_twice_counts_twice(clock):
    course = Course(clock)
    course.expect([("scoring", 5.0), ("factorizing", 10.0), ("scoring", 5.0)])
    shares = []
    for name, done in [("scoring", 4), ("factorizing", 2), ("scoring", 1), ("scoring", 4)]:
        course.reach(name, done, 4)
        shares.append(course.share)
    assert shares == pytest.approx([0.25, 0.5, 0.8125, 1])
    course.expect([("scoring", 5.0), ("scoring", 5.0)])
    for done, share in [(4, 0.5), (1, 0.625), (2, 0.75)]:
        course.reach("scoring", done, 4)
        assert course.share == pytest.approx(share)


def test_a_stage_that_comes_back_keeps_its_speed(clock):
    course = Course(clock)
    course.reach("training", 0, 10)
    assert course.left is None and "0 s so far" in course.line
    clock.now += 10
    course.reach("training", 5, 10)
    assert course.left == pytest.approx(10)
    course.reach("scoring", 3, 9)
    clock.now += 60
    course.reach("scoring", 9, 9)
    course.reach("training", 5, 10)
    assert course.left == pytest.approx(10)
    course.reach("scoring", 1, 9)  # another round of it
    assert course.left is None


def test_a_stage_that_reports_nothing_still_has_its_lines(clock, log, monkeypatch):
    monkeypatch.setattr(progress, "LOOK", 1e-3)
    said, own = threading.Event(), logging.getLogger("tlmtool")
    own.handlers[0].emit = lambda record: (log.append(record.getMessage()), said.set())
    with Bars(clock) as bars:
        bars("loading", 0, 1)
        said.clear()
        clock.now += EVERY
        assert said.wait(60)
    assert log == ["loading ...", "loading, 30 s so far"]
    assert not bars.watch.is_alive()


def test_quiet_is_quiet(clock, log, capsys):
    logging.getLogger("tlmtool").setLevel(logging.WARNING)
    with Bars(clock) as bars:
        bars("loading", 0, 1)
        clock.now += 100
        bars("loading", 1, 1)
        bars.line("a line")
    assert not log and bars.watch is None and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", ["factorizing", "unpacking " + 90 * "x"])
@pytest.mark.parametrize("forecast", [[], FORECAST])
def test_a_terminal_shows_one_line(clock, log, monkeypatch, width, name, forecast):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with Bars(clock) as bars:
        bars.expect(forecast)
        for done in range(0, 20_000, 5000):
            bars(name, done, 16_384, "loss 2.5")
            clock.now += 3600
            (shown,) = console.render_lines(bars.progress.get_renderable(), pad=False)
            assert sum(part.cell_length for part in shown) <= width
    assert not log
    if width == 80:
        text = "".join(part.text for part in shown)
        assert name[:9] in text and re.search(r"\d+ %, (a few seconds|about [\d.]+ \w+) left", text)


def test_times_as_people_say_them():
    said = [about(seconds) for seconds in (0, 7.4, 8, 94, 95, 300, 5399, 86400)]
    assert said == [
        *("a few seconds", "a few seconds", "about 10 s", "about 95 s"),
        *("about 2 min", "about 5 min", "about 90 min", "about 24.0 h"),
    ]
