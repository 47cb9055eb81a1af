"""The bundled sample picture and the clip made from it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from tests.conftest import FaceModels
from unmask_rt import sample
from unmask_rt.faces.mesh import FaceMesh


def test_the_picture_is_scikit_images_astronaut(astronaut: NDArray[np.uint8]) -> None:
    truth = skimage.data.astronaut()
    assert astronaut.shape == truth.shape and astronaut.dtype == np.uint8
    assert np.abs(astronaut.astype(int) - truth).mean() < 2.5


def test_the_stored_mesh_is_what_the_landmarker_finds(astronaut: NDArray[np.uint8], face_models: FaceModels) -> None:
    with FaceMesh(face_models.face, max_faces=1, video=False) as mesh:
        (face,) = mesh(astronaut)
    assert np.abs(face.points - sample.astronaut_mesh()).mean() < 1.0


def test_the_mask_covers_mouth_and_nothing_above_the_eyes() -> None:
    plain, masked = sample.masked_astronaut()
    changed = np.abs(plain.astype(int) - masked).sum(2) > 30
    mesh = np.round(sample.astronaut_mesh()).astype(int)
    for point in (13, 14, 1, 199):  # lips, nose tip, chin
        assert changed[mesh[point, 1], mesh[point, 0]]
    assert not changed[: mesh[159, 1] - 10].any()
    assert changed.mean() < 0.05


def test_frames_are_deterministic_and_move() -> None:
    options = {"seconds": 1.0, "size": (320, 180), "rate": 4}
    first = list(sample.builtin_frames(**options))
    again = list(sample.builtin_frames(**options))
    assert len(first) == 4 and all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (180, 320, 3) and first[0].dtype == np.uint8
    assert np.abs(first[0].astype(int) - first[3]).mean() > 3
    other = next(sample.builtin_frames(**options, seed=1))
    assert not np.array_equal(first[0], other)


def test_the_clip_without_a_mask_is_the_same_elsewhere() -> None:
    masked = next(sample.builtin_frames(seconds=1, size=(320, 180)))
    plain = next(sample.builtin_frames(seconds=1, size=(320, 180), masked=False))
    differs = np.abs(masked.astype(int) - plain).sum(2) > 0
    assert 0.005 < differs.mean() < 0.15


@pytest.mark.parametrize("at_s", [0.0, 2.5, 5.0])
def test_the_face_is_found_and_as_wide_as_promised(face_models: FaceModels, at_s: float) -> None:
    frames = list(sample.builtin_frames(seconds=5.5, rate=2, masked=False))
    with FaceMesh(face_models.face, max_faces=1, video=False) as mesh:
        (face,) = mesh(frames[round(at_s * 2)])
    width = float(np.hypot(*(face.points[454] - face.points[234])))
    assert 170 < width < 270


def test_the_clip_is_tagged_and_has_sound(masked_clip: Path) -> None:
    with av.open(str(masked_clip)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, video.average_rate) == (640, 360, 15)
        assert video.codec_context.colorspace == 1 and video.codec_context.color_range == 1  # BT.709, limited
        assert audio.codec_context.name == "aac"
        frames = list(container.decode(video=0))
    assert [frame.pts * frame.time_base for frame in frames] == [pytest.approx(i / 15) for i in range(15)]
    with av.open(str(masked_clip)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs(len(sound) / sample.SOUND_HZ - 1.0) < 0.1
    assert 0.01 < np.sqrt((sound**2).mean()) < 0.05


def test_a_clip_without_sound(tmp_path: Path) -> None:
    path = sample.builtin_clip(tmp_path / "silent.mkv", seconds=0.2, size=(320, 180), sound=False)
    with av.open(str(path)) as container:
        assert not container.streams.audio and len(list(container.decode(video=0))) == 6


def test_side_by_side_keeps_both_pictures(astronaut: NDArray[np.uint8]) -> None:
    both = sample.side_by_side(astronaut, astronaut[:, ::-1], gap_px=4)
    assert both.shape == (512, 1028, 3)
    assert np.array_equal(both[:, :512], astronaut) and np.array_equal(both[:, 516:], astronaut[:, ::-1])
    assert (both[:, 512:516] == 255).all()
