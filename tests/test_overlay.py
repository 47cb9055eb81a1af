"""What ``--view mask`` draws: readable at any size, inside the picture, and nothing of it in the input."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.fakes import ANCHORS, FakeEngine, face_at, worn_map
from unmask_rt.frames import Face, Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.overlay import SOURCES, draw_overlay
from unmask_rt.sources.arrays import frame_of


def grey(height: int) -> np.ndarray:
    return np.full((height, height * 16 // 9, 3), 90, np.uint8)


def face(height: int, by: str = "aligner") -> Face:
    anchors = (ANCHORS - ANCHORS.mean(0)) * (height / 720) + np.float32([height * 0.9, height * 0.5])
    x0, y0, x1, y1 = (float(v) for v in (height * 0.75, height * 0.35, height * 1.05, height * 0.75))
    return Face(1, anchors.astype(np.float32), (x0, y0, x1, y1), by, 0.87)  # type: ignore[arg-type]


@pytest.mark.parametrize("height", [360, 720, 2160])
def test_lines_are_thin_and_words_legible_at_any_size(height: int) -> None:
    picture = grey(height)
    drawn = draw_overlay(picture, Packet(frame_of(picture), faces=(face(height),)))
    assert (picture == 90).all()
    x0, y0, x1, y1 = (round(v) for v in face(height).box)
    close = np.abs(drawn.astype(int) - SOURCES["aligner"]).max(2) < 25
    column = close[y1 - 20 : y1 + 20, (x0 + x1) // 2]
    assert 1 <= column.sum() <= max(1, height // 400)
    words = close[:y0].any(axis=1)
    assert words.sum() >= max(7, height // 80), "letters are high enough to be read"
    assert not close[:, x1 + 40 :].any()


def test_every_source_has_its_colour_and_all_can_be_told_apart_by_brightness_or_hue() -> None:
    lab = {
        name: cv2.cvtColor(np.array([[colour]], np.uint8), cv2.COLOR_RGB2LAB)[0, 0] for name, colour in SOURCES.items()
    }
    for a in lab:
        for b in lab:
            if a < b:  # red-green blindness leaves lightness and the blue-yellow axis
                apart = lab[a].astype(int)[[0, 2]] - lab[b].astype(int)[[0, 2]]
                assert np.abs(apart).max() > 15, (a, b)


def test_words_stay_inside_the_picture() -> None:
    picture = np.full((512, 512, 3), 160, np.uint8)
    for box in ((-30.0, -40.0, 60.0, 50.0), (480.0, 470.0, 560.0, 600.0), (600.0, 600.0, 700.0, 700.0)):
        drawn = draw_overlay(picture, Packet(frame_of(picture), faces=(replace(face_at(), box=box),)))
        assert drawn.shape == picture.shape and (drawn == 160 // 4).all(2).sum() > 500


def test_a_map_partly_outside_is_drawn_as_far_as_it_is_there(astronaut: np.ndarray) -> None:
    for shift in ((-220, -60), (255, 30), (0, 330), (2000, 0)):
        moved = face_at(ANCHORS + np.float32(shift))
        (packet,) = InpaintStage(FakeEngine(worn_map()), "still")(Packet(frame_of(astronaut), faces=(moved,)))
        changed = (draw_overlay(astronaut, packet) != astronaut).any(2)
        assert changed.any()


def test_a_face_without_a_patch_is_drawn_too(astronaut: np.ndarray) -> None:
    packet = Packet(frame_of(astronaut), faces=(face_at(),))
    assert (draw_overlay(astronaut, packet) != astronaut).any()
