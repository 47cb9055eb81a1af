"""The test pictures are the same for everybody; the baselines do what they say."""

from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation_media import SPLITS, aligned_astronaut, write_set
from tests.training_media import head_shape
from trainer.evaluation import baselines
from trainer.evaluation.metrics import psnr
from trainer.evaluation.pictures import BASELINES, EVERY, Drawer, at_size, cases, choose
from trainer.heads import yaw_of
from trainer.masks import GROUPS
from trainer.people import person_of
from unmask_rt.errors import UsageError

COUNT = SPLITS.count("test")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data"))


def test_faces_are_of_the_split_and_chosen_by_the_seed(data: Path) -> None:
    draw = choose(data, "test", 100, 5)
    assert sorted(draw.rows) == [i for i, s in enumerate(SPLITS) if s == "test"]
    assert choose(data, "test", 2, 5).rows == draw.rows[:2]
    assert choose(data, "test", 100, 6).rows != draw.rows
    assert dict(draw.families) == pytest.approx(GROUPS["classic"])


def test_a_source_held_out_of_a_training_is_measured_whole(data: Path) -> None:
    draw = choose(data, EVERY, 100, 5, sources="b")
    assert sorted(draw.rows) == list(range(1, len(SPLITS), 2)) and draw.sources == ("b",)
    in_test = choose(data, "test", 100, 5, sources=" a , b")
    assert sorted(in_test.rows) == [i for i, s in enumerate(SPLITS) if s == "test"]


def test_something_is_put_in_front_of_each_face_the_same_each_time(data: Path) -> None:
    plain, hidden = choose(data, "test", 4, 5), choose(data, "test", 4, 5, in_front=True)
    assert plain.rows == hidden.rows
    less = []
    for row in plain.rows:
        before, after = Drawer(plain).picture(row), Drawer(hidden).picture(row)
        again = Drawer(hidden).picture(row)
        assert (after.masked == again.masked).all() and (after.truth == again.truth).all()
        assert (after.truth != before.truth).any() and after.family == before.family
        assert (after.alpha <= before.alpha + 1 / 128).all()
        less.append(after.alpha.sum() / before.alpha.sum())
    assert min(less) < 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "holdout"}, "split 'holdout'.*\n.*test, train, validation"),
        ({"sources": "a,c"}, "no c.*\n.*a, b"),
        ({"families": "beard"}, "beard"),
        ({"families": "cup", "without": "cup"}, "no family"),
        ({"count": 0}, "--count 0"),
        ({"profiles": True}, "--profiles: .* has no shape.npy"),
        ({"data": Path("nowhere")}, "nowhere is no prepared set"),
    ],
)
def test_what_cannot_be_chosen_is_refused(data: Path, change: dict[str, object], message: str) -> None:
    options: dict[str, object] = {"data": data, "split": "test", "count": 4, "seed": 1} | change
    with pytest.raises(UsageError, match=message):
        choose(**options)  # type: ignore[arg-type]


def test_people_are_told_in_words_as_far_as_the_set_tells() -> None:
    assert person_of({"age": 12, "sex": "f", "group": "black"}) == {
        "age": "below 13", "sex": "female", "group": "black",
    }  # fmt: skip
    assert [person_of({"age": age})["age"] for age in (0, 13, 19, 20, 59, 60, 116)] == [
        "below 13", "13 to 19", "13 to 19", "20 to 59", "20 to 59", "60 and more", "60 and more",
    ]  # fmt: skip
    assert person_of({"age": None, "sex": "m"}) == {"sex": "male"} and person_of({}) == {}


def test_a_set_without_training_faces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('[{"split": "test"}]')
    with pytest.raises(UsageError, match="no training faces"):
        choose(tmp_path, "test", 1, 5)


def test_a_process_that_dies_is_an_error_and_no_hang(data: Path) -> None:
    draw = choose(data, "test", 6, 5)
    gone = dataclasses.replace(draw, data=data / "gone")
    with pytest.raises(BrokenProcessPool):
        list(cases(gone, 64, workers=1))


def test_a_face_wears_the_same_mask_whatever_is_measured_before_it(data: Path) -> None:
    draw = choose(data, "test", 3, 5)
    one = Drawer(draw).picture(draw.rows[2])
    drawer = Drawer(draw)
    again = [drawer.picture(row) for row in draw.rows][2]
    assert np.array_equal(one.masked, again.masked) and np.array_equal(one.alpha, again.alpha)
    other = Drawer(choose(data, "test", 3, 6)).picture(draw.rows[2])
    assert not np.array_equal(one.masked, other.masked)


def test_families_can_be_held_to(data: Path) -> None:
    draw = choose(data, "test", 6, 5, "geometric,chin", "oval")
    drawer = Drawer(draw)
    assert {drawer.picture(row).family for row in draw.rows} <= {"rectangle", "chin"}


def test_heads_are_turned_into_profiles_the_same_each_time(data: Path, tmp_path: Path) -> None:
    turned = tmp_path / "data"
    shutil.copytree(data, turned)
    np.save(turned / "shape.npy", head_shape())
    draw = choose(turned, "test", 2, 5, profiles=True)
    plain, picture = Drawer(choose(turned, "test", 2, 5)).picture(draw.rows[0]), Drawer(draw).picture(draw.rows[0])
    again = Drawer(draw).picture(draw.rows[0])
    assert np.array_equal(picture.masked, again.masked) and np.array_equal(picture.mesh, again.mesh)
    assert picture.family == plain.family and abs(yaw_of(plain.mesh, head_shape())) < 30
    assert abs(yaw_of(picture.mesh, head_shape())) > 42
    assert picture.alpha.dtype == np.float32 and 0.01 < (picture.alpha > 0.5).mean() < 0.6
    assert (picture.masked[picture.alpha == 0] == picture.truth[picture.alpha == 0]).mean() > 0.95


def test_processes_change_nothing(data: Path) -> None:
    draw = choose(data, "test", 3, 5)
    here, there = (list(cases(draw, 64, workers=n)) for n in (0, 1))
    assert [c.picture.row for c in here] == list(draw.rows) == [c.picture.row for c in there]
    for a, b in zip(here, there, strict=True):
        assert a.figures == b.figures and np.array_equal(a.masked, b.masked)
        assert a.truth.shape == (64, 64, 3) and a.alpha.shape == (64, 64) and set(a.baselines) == set(BASELINES)


def test_the_masked_input_and_telea_are_what_they_are_called(data: Path) -> None:
    (case,) = cases(choose(data, "test", 1, 5), 256, workers=0)
    assert np.array_equal(case.baselines["masked input"], case.masked)
    assert case.figures["masked input"]["treated"] == 0 and case.figures["Telea, true hole"]["treated"] == 1
    away = np.asarray(case.alpha == 0)
    telea = case.baselines["Telea, true hole"]
    assert (telea != case.masked).any(2)[case.alpha > 0.5].mean() > 0.9
    assert (telea != case.masked).any(2)[away].mean() < 0.05
    assert case.figures["mean face, true hole"]["hole_psnr"] > case.figures["masked input"]["hole_psnr"]


def test_the_mean_face_is_of_the_training_faces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.load(data / "crops.npy")
    train = [i for i, s in enumerate(SPLITS) if s == "train"]
    assert np.allclose(baselines.mean_face(data), crops[train].mean(0), atol=1e-3)
    monkeypatch.setattr(baselines, "MEAN_OF", 2)  # every second then
    assert np.allclose(baselines.mean_face(data), crops[train[::2]].mean(0), atol=1e-3)
    (data / "meta.json").rename(data / "kept.json")
    try:
        (data / "meta.json").write_text('[{"split": "test"}]')
        with pytest.raises(ValueError, match="no mean face"):
            baselines.mean_face(data)
    finally:
        (data / "kept.json").replace(data / "meta.json")


def test_the_mean_face_takes_on_the_colours_around_the_hole() -> None:
    truth, _ = aligned_astronaut()
    alpha = np.zeros((256, 256), np.float32)
    alpha[120:200, 80:180] = 1
    masked = truth.copy()
    masked[alpha > 0] = (0, 200, 0)
    other_light = truth.astype(np.float32) * 0.6 + 30
    done = baselines.paste_mean(other_light, masked, alpha)
    assert psnr(done, truth, alpha > 0) > 35
    assert psnr(other_light.astype(np.uint8), truth, alpha > 0) < 25
    assert np.array_equal(done[alpha == 0], masked[alpha == 0])


def test_pictures_are_averaged_where_they_shrink() -> None:
    fine = np.zeros((4, 4, 3), np.uint8)
    fine[::2] = 200
    assert (at_size(fine, 2) == 100).all() and at_size(fine, 4) is fine
    grown = at_size(np.eye(4, dtype=np.float32), 16)
    assert grown.shape == (16, 16) and grown.min() >= 0 and grown.max() <= 1
