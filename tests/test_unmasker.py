"""The whole way of a frame with the real models: a mask goes, a bare face stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import FaceModels
from trainer.masks import draw_mask
from unmask_rt import Unmasker, UnmaskerOptions, planes, sample
from unmask_rt.errors import ModelError, UsageError
from unmask_rt.frames import Frame, Packet
from unmask_rt.pipeline import Stage
from unmask_rt.sources import open_source
from unmask_rt.sources.arrays import frame_of


@pytest.fixture(scope="module")
def unmasker(face_models: FaceModels) -> Iterator[Unmasker]:
    with Unmasker() as made:
        yield made


def masked_astronaut(family: str) -> tuple[np.ndarray, np.ndarray]:
    return draw_mask(sample.astronaut(), sample.astronaut_mesh(), np.random.default_rng(3), family)


def rgb_of(frame: Frame) -> np.ndarray:
    return planes.upright(frame).astype(np.int16)


@pytest.mark.parametrize("family", ["surgical", "kn95", "sport"])
def test_the_mask_goes_and_the_rest_stays(unmasker: Unmasker, family: str) -> None:
    masked, alpha = masked_astronaut(family)
    result = rgb_of(unmasker.process(frame_of(masked), "still"))
    moved = np.abs(result - masked).mean(2)
    hole = alpha > 0.5
    assert (moved[hole] > 8).mean() > 0.8
    truth = sample.astronaut().astype(np.float64)
    before, after = (np.square(p - truth)[hole].mean() for p in (masked.astype(np.float64), result))
    assert after < 0.5 * before
    ys, xs = np.nonzero(hole)
    margin = (np.ptp(xs) + np.ptp(ys)) // 6
    moved[max(0, ys.min() - margin) : ys.max() + margin, max(0, xs.min() - margin) : xs.max() + margin] = 0
    assert moved.max() == 0


def test_a_bare_face_stays_bit_by_bit(unmasker: Unmasker) -> None:
    frame = frame_of(sample.astronaut())
    assert unmasker.process(frame, "still").video is frame.video


def test_live_decides_within_two_frames(unmasker: Unmasker) -> None:
    masked, alpha = masked_astronaut("surgical")
    hole = alpha > 0.5
    moved = []
    for index in range(4):
        result = unmasker.process(frame_of(masked, index), "live")
        moved.append(float((np.abs(rgb_of(result) - masked).mean(2)[hole] > 8).mean()))
    assert min(moved[2:]) > 0.7


def test_files_are_treated_from_the_first_frame_to_the_last(unmasker: Unmasker, masked_clip: Path) -> None:
    source = open_source(str(masked_clip), start_s=0.0, duration_s=None)
    stages = unmasker.stages("file")
    packets: list[Packet] = []
    for frame in source:
        packets += through(stages, [Packet(frame)])
    for k in range(len(stages)):
        packets += through(stages[k + 1 :], list(stages[k].flush()))
    source.close()
    for stage in stages:
        stage.close()
    assert [p.frame.index for p in packets] == list(range(15))
    assert all(any(patch.strength == 1 for patch in p.patches) for p in packets)


def through(stages: list[Stage], packets: list[Packet]) -> list[Packet]:
    for stage in stages:
        packets = [ready for packet in packets for ready in stage(packet)]
    return packets


def test_description_names_engine_and_model(unmasker: Unmasker) -> None:
    about = unmasker.describe()
    assert about["engine"] in ("onnxruntime", "openvino") and about["model_sha256"] == unmasker.model_sha256


def test_options_that_do_not_exist(tmp_path: Path, face_models: FaceModels) -> None:
    with pytest.raises(UsageError, match="no engine 'abacus'"):
        Unmasker(UnmaskerOptions(engine="abacus"))
    with pytest.raises(ModelError):
        Unmasker(UnmaskerOptions(model=tmp_path / "missing.onnx"))
    with Unmasker(UnmaskerOptions(view="upside-down")) as made, pytest.raises(UsageError, match="no view"):
        made.stages("still")
