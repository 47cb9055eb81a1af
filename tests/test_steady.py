"""What is drawn, averaged over time along what is seen to move."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import FaceModels
from tests.fakes import ANCHORS, FakeEngine, face_at, worn_map
from unmask_rt.frames import Mode, Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.sources.arrays import frame_of
from unmask_rt.steady import LONGEST_GAP_S, TIME_S, Steady, SteadyStage
from unmask_rt.unmasker import UnmaskerOptions, stages_of

Image = NDArray[np.uint8]
RATE = 30
INNER = np.s_[40:216, 40:216]


def smooth(seed: int, size: int = 256, coarse: float = 5) -> Image:
    """A picture with structure at the size of a face's."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(size, size, 3)), (0, 0), coarse)
    return np.asarray(np.clip(128 + noise * 45 / noise.std(), 0, 255), np.uint8)


def shifted(picture: Image, x: float, y: float = 0.0) -> Image:
    moved = np.float32([[1, 0, x], [0, 1, y]])
    return np.asarray(cv2.warpAffine(picture, moved, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))


def away(found: Image, wanted: Image) -> float:
    return float(np.abs(found.astype(float) - wanted)[INNER].mean())


def test_a_first_frame_is_left_as_it_is() -> None:
    completed = smooth(1)
    assert (Steady()(smooth(0), completed, 0.0) == completed).all()


def test_on_a_still_scene_what_flickers_calms_down_and_keeps_its_mean() -> None:
    steady, crop, base = Steady(), smooth(0), smooth(1)
    rng = np.random.default_rng(0)
    given, found = [], []
    for index in range(60):
        change = cv2.GaussianBlur(rng.normal(size=(256, 256, 3)), (0, 0), 8) * 160
        completed = np.clip(base + change, 0, 255).astype(np.uint8)
        given.append(completed)
        found.append(steady(crop, completed, index / RATE))
    unrest = [np.abs(np.diff(np.stack(v[20:]).astype(float), axis=0))[:, *INNER].mean() for v in (given, found)]
    assert unrest[1] < 0.25 * unrest[0]
    assert away(np.mean(found[20:], axis=0), np.mean(given[20:], axis=0)) < 1


def test_what_moves_with_the_input_is_not_smeared() -> None:
    steady, crop, completed = Steady(), smooth(0, 320), smooth(1, 320)
    window = np.s_[32:288, 32:288]
    for index in range(12):
        x, y = 2.3 * index, -1.1 * index
        now = shifted(completed, x, y)[window]
        found = steady(shifted(crop, x, y)[window], now, index / RATE)
    one_frame = away(shifted(completed, x + 2.3, y - 1.1)[window], now)
    assert away(found, now) < 0.25 * one_frame, "it stands where the input stands now"


def fine(picture: Image) -> NDArray[np.float64]:
    """The finest of a picture's detail."""
    given = picture.astype(float)
    return (given - cv2.GaussianBlur(given, (0, 0), 1))[INNER]


def test_fine_detail_that_moves_with_the_input_is_not_washed_out() -> None:
    steady, crop, completed = Steady(), smooth(0, 320), smooth(1, 320, coarse=1.2)
    window = np.s_[32:288, 32:288]
    for index in range(25):
        x, y = 0.4 * index, -0.3 * index
        now = shifted(completed, x, y)[window]
        found = steady(shifted(crop, x, y)[window], now, index / RATE)
    assert np.corrcoef(fine(found).ravel(), fine(now).ravel())[0, 1] > 0.8
    assert fine(found).std() > 0.7 * fine(now).std()


def test_fine_detail_that_is_another_in_each_frame_calms_down() -> None:
    steady, crop, base = Steady(), smooth(0), smooth(1)
    rng = np.random.default_rng(0)
    for index in range(round(2 * TIME_S * RATE)):
        checks = np.where(rng.random((256, 256, 1)) < 0.5, -12, 12).astype(np.int16)
        completed = np.clip(base + checks, 0, 255).astype(np.uint8)
        found = steady(crop, completed, index / RATE)
    assert fine(found).std() < 0.4 * fine(completed).std()


def test_what_overshoots_between_pixels_stays_black() -> None:
    steady, crop, completed = Steady(), smooth(0, 320), np.zeros((320, 320, 3), np.uint8)
    completed[:, 160:] = 255
    for index in range(4):
        found = steady(shifted(crop, 0.5 * index)[32:288, 32:288], shifted(completed, 0.5 * index)[32:288, 32:288],
                       index / RATE)  # fmt: skip
    assert found[40:216, 40:110].max() == 0 and found[40:216, 150:216].min() == 255


@pytest.mark.parametrize("change", ["something in front", "another light"])
def test_what_flow_cannot_explain_is_shown_at_once(change: str) -> None:
    steady, crop, completed = Steady(), smooth(0) // 2 + 40, smooth(3)
    for index in range(8):
        steady(crop, smooth(1), index / RATE)
    later = smooth(2) // 4 + 180 if change == "something in front" else crop + 60
    assert away(steady(later, completed, 8 / RATE), completed) < 0.1 * away(smooth(1), completed)


def test_an_average_of_another_face_is_left_soon() -> None:
    steady, crop, before, turned = Steady(), smooth(0), smooth(1), smooth(3)
    for index in range(8):
        steady(crop, before, index / RATE)
    for index in range(8, 11):
        found = steady(crop, turned, index / RATE)
    assert away(found, turned) < 0.15 * away(before, turned), "three frames after a head has turned"


@pytest.mark.parametrize("later_s", [LONGEST_GAP_S + 0.01, 0.0, -1.0])
def test_after_a_gap_or_a_jump_back_it_begins_anew(later_s: float) -> None:
    steady, completed = Steady(), smooth(3)
    steady(smooth(0), smooth(1), 5.0)
    assert (steady(smooth(0), completed, 5.0 + later_s) == completed).all()


def test_the_average_is_one_of_seconds_not_of_frames() -> None:
    reached = []
    for rate in (15, 60):
        steady, dark, light = Steady(), np.full((256, 256, 3), 80, np.uint8), np.full((256, 256, 3), 91, np.uint8)
        steady(smooth(0), dark, 0.0)
        for index in range(1, round(TIME_S * rate) + 1):
            found = steady(smooth(0), light, index / rate)
        reached.append((float(found[INNER].mean()) - 80) / 11)
    assert reached == pytest.approx([1 - np.exp(-1)] * 2, abs=0.06)


# ---- in the stage


class Blinking(FakeEngine):
    """Another colour in each frame."""

    def __call__(self, crop: np.ndarray, extra: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        self.colour = (200, 40, 120) if len(self.crops) % 2 else (160, 40, 120)
        return super().__call__(crop, extra)


class Calmed:
    """The network and what calms it, one after the other."""

    def __init__(self, engine: FakeEngine) -> None:
        self.inpaint, self.steady = InpaintStage(engine, "file"), SteadyStage()

    def __call__(self, packet: Packet) -> Packet:
        (packet,) = self.inpaint(packet)
        (packet,) = self.steady(packet)
        return packet


def red(packet: Packet) -> int:
    return int(packet.patches[0].completed[64, 64, 0])


def packets(picture: Image, count: int = 6) -> list[Packet]:
    face = face_at(ANCHORS)
    return [Packet(frame_of(picture, k), faces=(face,)) for k in range(count)]


def test_frames_of_a_video_are_calmed(astronaut: Image) -> None:
    calmed = Calmed(Blinking(worn_map(128)))
    video = [red(calmed(packet)) for packet in packets(astronaut)]
    assert max(video[3:]) - min(video[3:]) < 12
    plain = InpaintStage(Blinking(worn_map(128)), "file")
    assert [red(plain(packet)[0]) for packet in packets(astronaut)] == [160, 200] * 3


def test_pictures_are_not_calmed(face_models: FaceModels) -> None:
    found = face_models.face, face_models.finder, face_models.aligner
    names: dict[Mode, list[str]] = {}
    for mode in get_args(Mode):
        stages = stages_of(FakeEngine(worn_map(128)), found, mode, UnmaskerOptions())
        names[mode] = [stage.name for stage in stages]
        for stage in stages:
            stage.close()
    video = ["find", "inpaint", "steady", "blend"]
    assert names == {"file": video, "live": video, "still": ["find", "inpaint", "blend"]}


def test_a_cut_an_absence_and_a_bare_face_begin_anew(astronaut: Image) -> None:
    for change in ("cut", "absent", "bare"):
        engine = Blinking(worn_map(128))
        calmed, (first, middle, last) = Calmed(engine), packets(astronaut, 3)
        assert red(calmed(first)) == 160
        if change == "absent":
            calmed(replace(middle, faces=()))
        elif change == "bare":
            engine.mask_map = np.zeros((128, 128), np.uint8)
            assert red(calmed(middle)) == 200
            engine.mask_map = worn_map(128)
            engine.crops.append(engine.crops[0])
        last = replace(last, cut=change == "cut")
        assert red(calmed(last)) == 200, change


def test_each_face_has_its_own_memory(astronaut: Image) -> None:
    calmed = Calmed(Blinking(worn_map(128)))
    two = (face_at(ANCHORS), face_at(ANCHORS, 2))
    found = [[int(p.completed[64, 64, 0]) for p in calmed(replace(q, faces=two)).patches] for q in packets(astronaut)]
    assert found == [[160, 200]] * 6, "the engine's colours alternate from face to face"
