"""The page about a run: everything in one file, and what is missing said."""

from __future__ import annotations

import argparse
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.evaluation import report
from trainer.evaluation.figures import Estimate
from trainer.evaluation.record import Record, Result
from unmask_rt.errors import UsageError

VOID = {"meta", "br", "img", "path", "polyline"}


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order; collects what a page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v for k, v in attrs if k in ("src", "href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def call(*words: object) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args([str(w) for w in words]))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with everything in it."""
    folder = tmp_path / "my-run"
    (folder / "evaluation").mkdir(parents=True)
    lines = [
        {"stage": stage, "step": 100 * i, "seen": 800 * i, "loss": 1 / i, "validation_loss": 2 / i, "rate": 1e-4}
        for stage in ("map", "edit")
        for i in range(1, 6)
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "log.jsonl").write_text(text + '\n{"stage": "edit", "st')
    (folder / "preset.toml").write_text('title = "a <b> & c"\n')
    pictures = {"sheet.jpg": 90, "sheet-edit.jpg": 90, "evaluation/worst.jpg": 30}
    for name, level in pictures.items():  # the first two are the same: one is shown
        cv2.imwrite(str(folder / name), np.full((8, 8, 3), level, np.uint8))
    groups = {"hole_psnr": Estimate(21.5, 21.0, 22.0, 40)}
    results = [Result("my-run", "model", 128, {"all": groups, "family cup": groups, "source x": groups})]
    settings = {"data": "d", "split": "test", "count": 40, "seed": 5, "families": {"cup": 1.0}, "size": 128}
    Record(settings, results, notes=["a note"]).write(folder / "evaluation" / "evaluation.json")
    return folder


def test_the_page_holds_everything_and_loads_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run) == 0 and "report.html" in capsys.readouterr().out
    page = (run / "report.html").read_text("utf-8")
    loads = Balanced(page).loads
    assert len(loads) == 2 and all(load.startswith("data:image/jpeg;base64,") for load in loads)
    assert not re.search(r"https?://", page)
    assert "21.50 ± 0.50" in page and "a note" in page and "a &lt;b&gt; &amp; c" in page
    assert page.count("<svg") == page.count("<polyline") == 6  # three figures of two stages
    assert page.count("#e07b00") == 2, "validation has a colour of its own"
    assert 'class="missing"' not in page


def test_what_a_run_lacks_is_said(tmp_path: Path) -> None:
    (tmp_path / "preset.toml").write_text("seed = 1\n")
    assert call(tmp_path, "-o", tmp_path / "x.html") == 0
    page = (tmp_path / "x.html").read_text()
    Balanced(page)
    for what in ("no log.jsonl", "no sheet", "no evaluation"):
        assert what in page


def test_a_curve_goes_through_its_points() -> None:
    svg = report.chart("loss", [(0, 1.0), (50, 3.0), (100, 2.0)])
    (points,) = re.findall(r'points="([^"]+)"', svg)
    places = [tuple(map(float, p.split(","))) for p in points.split()]
    right, bottom = report.WIDTH - 8, report.HEIGHT - 20
    assert places == [
        (report.MARGIN, bottom),
        (pytest.approx((report.MARGIN + right) / 2, abs=0.1), 10),
        (right, pytest.approx((10 + bottom) / 2, abs=0.1)),
    ]
    assert "polyline" in report.chart("one", [(5, 7.0)])  # no division by nothing


def test_long_curves_are_averaged() -> None:
    thin = report.thin([(i, float(i % 2)) for i in range(10 * report.POINTS)])
    assert len(thin) == report.POINTS and all(value == 0.5 for _, value in thin)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run"):
        call(tmp_path)
    (tmp_path / "preset.toml").touch()
    with pytest.raises(UsageError, match="there is no folder"):
        call(tmp_path, "-o", tmp_path / "gone" / "x.html")
