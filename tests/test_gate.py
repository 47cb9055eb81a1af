"""When a face counts as masked: in files with look-ahead, live within two frames, in pictures at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from unmask_rt.align import TEMPLATE
from unmask_rt.frames import Face, Frame, Mode, Packet, Patch
from unmask_rt.gate import BARE, LOOK_AHEAD_FRAMES, LOOK_AHEAD_S, MAPPED, MISSED_S, ON, SURE, WORN, Gate

STRAIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
VIDEO = av.VideoFrame(16, 16, "yuv420p")
BLANK = np.zeros((8, 8, 3), np.uint8)


def packet(index: int, scores: Mapping[int, float], *, rate: int = 30, cut: bool = False) -> Packet:
    frame = Frame(VIDEO, index, index, Fraction(1, rate), 0, STRAIGHT, (640, 16))
    patches = []
    for track, score in scores.items():
        face = Face(track, TEMPLATE * 16, (index, 0.0, index + 8.0, 8.0), "mesh", 1.0)
        patches.append(Patch(face, STRAIGHT, BLANK, BLANK, BLANK[..., 0], score))
    return Packet(frame, faces=tuple(p.face for p in patches), patches=tuple(patches), cut=cut)


def run(mode: Mode, packets: Sequence[Packet]) -> list[Packet]:
    gate = Gate(mode)
    out = [ready for p in packets for ready in gate.push(p)]
    out += gate.flush()
    assert [p.frame.index for p in out] == [p.frame.index for p in packets]
    return out


def shown(mode: Mode, scores: Sequence[float | None], *, rate: int = 30, track: int = 1) -> str:
    """One letter a frame: # unmasked, . not, o missed, space nobody there."""
    packets = [packet(i, {} if s is None else {track: s}, rate=rate) for i, s in enumerate(scores)]
    letters = []
    for p in run(mode, packets):
        if p.patches:
            letters.append("#" if p.patches[0].strength == 1.0 else ".")
        else:
            letters.append("o" if p.missed else " ")
    return "".join(letters)


def test_file_begins_at_the_true_first_frame_of_a_span() -> None:
    assert shown("file", [0.0] * 5 + [0.3, 0.4, 0.6] + [0.9] * 20) == "." * 5 + "#" * 23


def test_file_begins_at_frame_zero_when_the_clip_does() -> None:
    assert shown("file", [0.9] * 40) == "#" * 40
    assert shown("file", [0.3, 0.9, 0.9, 0.9]) == "####"


def test_file_ends_where_the_mask_comes_off() -> None:
    assert shown("file", [0.9] * 20 + [0.1] * 30) == "#" * 20 + "." * 30


def test_file_bridges_drop_outs_of_the_score() -> None:
    assert shown("file", [0.9] * 10 + [0.05] * 8 + [0.9] * 10) == "#" * 28


def test_file_does_not_bridge_longer_than_it_looks_ahead() -> None:
    gone = int(LOOK_AHEAD_S * 30) + 10
    out = shown("file", [0.9] * 10 + [0.05] * gone + [0.9] * 10)
    assert out.startswith("#" * 10 + "." * 10) and out.endswith("#" * 10)


def test_file_lets_flicker_of_one_or_two_frames_vanish() -> None:
    assert shown("file", [0.0] * 20 + [0.9] + [0.0] * 20 + [0.9, 0.9] + [0.0] * 20) == "." * 63


def test_a_score_in_between_keeps_what_was() -> None:
    assert shown("file", [0.4] * 40) == "." * 40
    assert shown("file", [0.9] * 10 + [0.35] * 40) == "#" * 50
    assert shown("live", [0.9] * 3 + [0.35] * 5) == "#" * 8


def test_a_file_of_one_frame_is_decided_at_once() -> None:
    assert shown("file", [0.9]) == "#" and shown("file", [0.1]) == "."


def test_file_looks_ahead_by_time_and_not_by_more_frames_than_it_should() -> None:
    for rate, held in ((30, 15), (240, LOOK_AHEAD_FRAMES)):
        gate = Gate("file")
        ready = [len(gate.push(packet(i, {1: 0.9}, rate=rate))) for i in range(60)]
        assert ready.index(1) == held and sum(ready) == 60 - held
        assert len(gate.flush()) == held and gate.flush() == []


def test_live_holds_nothing_back_and_decides_within_two_frames() -> None:
    gate = Gate("live")
    assert all(len(gate.push(packet(i, {1: 0.6}))) == 1 for i in range(5)) and gate.flush() == []
    assert shown("live", [0.0] * 3 + [0.6] * 4 + [0.1] * 4) == "...." + "####" + "..."
    assert shown("live", [0.9] * 3) == "###"  # beyond doubt: at once


def test_live_does_not_flicker_with_the_score() -> None:
    assert shown("live", [0.6, 0.1] * 6) == "." * 12
    assert shown("live", [0.9, 0.9] + [0.1, 0.9] * 5) == "#" * 12


def test_pictures_are_decided_one_by_one() -> None:
    assert shown("still", [0.86, 0.4, 0.7, 0.55]) == "#.#."


@pytest.mark.parametrize("mode", ["file", "live", "still"])
@pytest.mark.parametrize(
    ("score", "masked", "wanted"),
    [(0.45, None, 0.0), (0.45, 0.5, 0.0), (0.45, WORN, 1.0), (MAPPED / 2, WORN, 0.0), (0.9, 0.5, 1.0)],
)
def test_half_a_map_is_enough_where_the_aligner_sees_a_mask(
    mode: Mode, score: float, masked: float | None, wanted: float
) -> None:
    packets = []
    for k in range(6):
        seen = packet(k, {1: score})
        patch = seen.patches[0]
        packets.append(replace(seen, patches=(replace(patch, face=replace(patch.face, masked=masked)),)))
    assert {p.patches[0].strength for p in run(mode, packets)[2:]} == {wanted}


@pytest.mark.parametrize(("masked", "wanted"), [(None, 1.0), (0.9, 1.0), (0.5, 1.0), (BARE / 2, 0.0)])
def test_a_picture_in_which_the_aligner_is_sure_of_a_bare_face_stays(masked: float | None, wanted: float) -> None:
    seen = packet(0, {1: 0.9})
    patch = replace(seen.patches[0], face=replace(seen.patches[0].face, masked=masked))
    for mode in ("still", "file"):
        (out,) = run(mode, [replace(seen, patches=(patch,))])  # type: ignore[arg-type]
        assert out.patches[0].strength == (wanted if mode == "still" else 1.0)


@pytest.mark.parametrize(
    ("score", "masked", "wanted"),
    [
        (SURE - 0.05, WORN - 0.1, 0.0),
        (SURE, WORN - 0.1, 1.0),
        (SURE - 0.05, WORN, 1.0),
        (SURE, BARE / 2, 0.0),
        (ON - 0.05, None, 0.0),
        (ON, None, 1.0),
    ],
)
def test_a_picture_in_which_the_aligner_sees_no_mask_for_certain_needs_a_higher_score(
    score: float, masked: float | None, wanted: float
) -> None:
    seen = packet(0, {1: score})
    patch = replace(seen.patches[0], face=replace(seen.patches[0].face, masked=masked))
    (out,) = run("still", [replace(seen, patches=(patch,))])
    assert out.patches[0].strength == wanted


@pytest.mark.parametrize("mode", ["file", "live"])
def test_a_masked_face_that_is_lost_is_reported_where_it_was(mode: Mode) -> None:
    lost = int(MISSED_S * 30)  # whole frames within the time
    assert shown(mode, [0.9] * 5 + [None] * 30) == "#" * 5 + "o" * lost + " " * (30 - lost)
    out = run(mode, [packet(0, {1: 0.9}), packet(1, {1: 0.9}), packet(2, {1: 0.9}), packet(3, {})])
    assert out[3].missed == ((2.0, 0.0, 10.0, 8.0),)


@pytest.mark.parametrize("mode", ["file", "live"])
@pytest.mark.parametrize(("left", "missed"), [(6.0, False), (11.0, True)])
def test_who_is_hidden_behind_somebody_is_no_miss(mode: Mode, left: float, missed: bool) -> None:
    away = packet(3, {2: 0.0})
    (bare,) = away.patches
    face = replace(bare.face, box=(left, 0.0, left + 8.0, 8.0))
    in_front = replace(away, faces=(face,), patches=(replace(bare, face=face),))
    out = run(mode, [packet(0, {1: 0.9}), packet(1, {1: 0.9}), packet(2, {1: 0.9}), in_front])
    assert bool(out[3].missed) == missed


@pytest.mark.parametrize("mode", ["file", "live", "still"])
def test_a_bare_face_that_is_lost_is_no_miss(mode: Mode) -> None:
    assert shown(mode, [0.0] * 5 + [None] * 5) == "." * 5 + " " * 5


def test_a_face_that_was_leaving_the_picture_is_no_miss() -> None:
    def leaving(index: int) -> Packet:
        p = packet(index, {1: 0.9})
        face = replace(p.faces[0], box=(-2.0, 0.0, 6.0, 8.0))
        return replace(p, faces=(face,), patches=(replace(p.patches[0], face=face),))

    assert run("live", [leaving(0), leaving(1), packet(2, {})])[-1].missed == ()


def test_a_masked_face_is_unmasked_again_when_it_returns() -> None:
    assert shown("live", [0.9] * 3 + [None] * 3 + [0.3, 0.9]) == "###ooo##"
    assert shown("file", [0.9] * 3 + [None] * 3 + [0.3, 0.9]) == "###ooo##"


@pytest.mark.parametrize("mode", ["file", "live"])
def test_nothing_is_carried_over_a_cut(mode: Mode) -> None:
    packets = [packet(i, {1: 0.9}) for i in range(10)] + [packet(i, {}, cut=i == 10) for i in range(10, 20)]
    assert all(not p.missed for p in run(mode, packets))
    packets = [packet(i, {1: 0.4}) for i in range(10)] + [packet(i, {1: 0.9}, cut=i == 10) for i in range(10, 20)]
    assert [p.patches[0].strength for p in run(mode, packets)] == [0.0] * 10 + [1.0] * 10


def test_each_face_is_judged_on_its_own() -> None:
    packets = [packet(i, {1: 0.9, 2: 0.0}) for i in range(20)]
    for p in run("file", packets):
        assert [(q.face.track, q.strength) for q in p.patches] == [(1, 1.0), (2, 0.0)]
        assert p.faces == packets[p.frame.index].faces and p.patches[0].crop is BLANK
