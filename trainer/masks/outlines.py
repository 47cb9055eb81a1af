"""Where the edges and the straps of a mask run on a head, by how it is made and how it is worn."""

from __future__ import annotations

import numpy as np

from trainer.masks.head import CHIN, Floats, Head, Outline, Points, Rng, Style, mix, shifted, smooth_curve


def nose_point(head: Head, top: float) -> Points:
    """A point on the ridge of the nose: 0 its tip, 1 between the eyes; below 0 it slides under the nose."""
    ridge = [head[164], head[1], head[4], head[5], head[195], head[197], head[6]]
    place = np.clip(top * 5 + 1, 0, 5.999)
    return mix(ridge[int(place)], ridge[int(place) + 1], float(place - int(place)))


def jaw_bottom(head: Head, side_low: tuple[Points, Points], drop: float, rng: Rng, *, pointed: float) -> Floats:
    """Lower edge along the jaw and below the chin."""
    down = np.array([0, drop], np.float32)
    out = 1.0 + float(rng.uniform(0.0, 0.06))
    centre = head[CHIN]
    left, right = side_low
    wide = [(0, 0.15), (1, 0.5 - pointed * 0.2)] + ([(2, 0.95)] if pointed < 0.4 else [])
    chain_r = [centre + (head[(136, 149, 176)[i]] - centre) * out + down * s for i, s in wide]
    chain_l = [centre + (head[(365, 378, 400)[i]] - centre) * out + down * s for i, s in reversed(wide)]
    return smooth_curve([left, *chain_r, centre + down * (1 + pointed * 0.6), *chain_l, right])


def outline_cloth(head: Head, style: Style, rng: Rng, *, pointed: float = 0.3, tall_sides: float = 0.5) -> Outline:
    """From cheek to cheek over nose and chin: surgical, KN95, cup and cloth masks, by how they peak and hang."""
    nose = nose_point(head, style.top)
    nose_left = mix(head[126 if style.top > 0.4 else 129], nose, 0.35)
    nose_right = mix(head[355 if style.top > 0.4 else 358], nose, 0.35)
    lift = (nose[1] - (nose_left[1] + nose_right[1]) / 2) * 0.7
    shift = np.array([0, lift], np.float32)
    cheek_height = float(rng.uniform(0.0, 0.45))
    cheek_r, cheek_l = mix(head[50], head[205], cheek_height), mix(head[280], head[425], cheek_height)
    ear = float(np.clip(0.25 + tall_sides * 0.5, 0, 1))
    high_r, high_l = mix(head[132], head[93], ear), mix(head[361], head[323], ear)
    if rng.random() < 0.35:  # large masks (KF94 and the like) reach up to the lower lids and the ears
        lift_up = float(rng.uniform(0.2, 1.0))
        cheek_r, cheek_l = mix(cheek_r, head[118], lift_up), mix(cheek_l, head[347], lift_up)
        high_r, high_l = mix(high_r, head[234], lift_up * 0.8), mix(high_l, head[454], lift_up * 0.8)
    high_r, high_l = mix(high_r, head[187], 1 - style.side), mix(high_l, head[411], 1 - style.side)
    low_r = mix(mix(head[132], head[172], 0.4 + 0.6 * tall_sides), head[214], (1 - style.side) * 0.8)
    low_l = mix(mix(head[361], head[397], 0.4 + 0.6 * tall_sides), head[434], (1 - style.side) * 0.8)
    top = smooth_curve([high_r, cheek_r, nose_left + shift, nose, nose_right + shift, cheek_l, high_l])
    return Outline(top, jaw_bottom(head, (low_r, low_l), style.drop, rng, pointed=pointed))


def outline_gaiter(head: Head, style: Style, rng: Rng) -> Outline:
    """A tube or scarf: from the nose down over the neck, out past the jaw on both sides."""
    nose = nose_point(head, style.top)
    wide = 1.0 + float(rng.uniform(0.0, 0.12))
    reach = float(rng.uniform(0.9, 1.9))
    widen = np.array([wide, 1])
    side_r, side_l = head[234] * widen, head[454] * widen
    sag = float(rng.uniform(-0.02, 0.12))
    high_r = mix(side_r, head[93] * widen, rng.uniform(0, 1))
    high_l = mix(side_l, head[323] * widen, rng.uniform(0, 1))
    cheek_r, cheek_l = mix(head[117], head[205], 0.35 + sag), mix(head[346], head[425], 0.35 + sag)
    top = smooth_curve([high_r, cheek_r, nose, cheek_l, high_l])
    base = head[CHIN][1]
    neck = np.array([0, reach], np.float32)
    low_r = np.array([head[172][0] * wide * rng.uniform(0.95, 1.3), base], np.float32) + neck * 0.8
    low_l = np.array([head[397][0] * wide * rng.uniform(0.95, 1.3), base], np.float32) + neck * 0.8
    jaw_r, jaw_l = head[58] * widen.astype(np.float32), head[288] * widen.astype(np.float32)
    lowest = head[CHIN] + neck
    bottom = smooth_curve([shifted(high_r, 0, 0.05), jaw_r, low_r, lowest, low_l, jaw_l, shifted(high_l, 0, 0.05)])
    return Outline(top, bottom)


def outline_stretch(head: Head, style: Style, rng: Rng) -> Outline:
    """One piece of stretch foam whose sides run out into arms above and below the ears, with bare skin between them."""
    nose = nose_point(head, style.top)
    wing_r, wing_l = mix(head[129], nose, 0.35), mix(head[358], nose, 0.35)
    lift = np.array([0, (nose[1] - (wing_r[1] + wing_l[1]) / 2) * 0.6], np.float32)
    dip, width = float(rng.uniform(-0.2, 0.35)), float(rng.uniform(0.06, 0.12))
    rise, reach = float(rng.uniform(-0.06, 0.1)), float(rng.uniform(0.0, 0.05))
    depth = float(rng.uniform(0.2, 0.9))
    sides = []
    for ear, middle, lobe, jaw, cheek, corner, sign in (
        (234, 93, 132, 58, 205, 172, -1),
        (454, 323, 361, 288, 425, 397, 1),
    ):
        high = shifted(head[ear], sign * reach, -rise)
        low = shifted(mix(head[lobe], head[jaw], 0.5), sign * reach, 0)
        notch = shifted(mix(mix(head[middle], head[lobe], 0.6), head[cheek], depth), 0, 0.02)
        arm = [shifted(high, 0, width), notch, shifted(low, 0, -width * 0.5), shifted(low, 0, width * 0.5)]
        sides.append((high, [*arm, mix(head[jaw], head[corner], 0.6)]))
    (high_r, down_r), (high_l, down_l) = sides
    cheek_r, cheek_l = mix(head[50], head[205], dip), mix(head[280], head[425], dip)
    top = smooth_curve([high_r, cheek_r, wing_r + lift, nose, wing_l + lift, cheek_l, high_l])
    chin = jaw_bottom(head, (down_r[-1], down_l[-1]), style.drop, rng, pointed=float(rng.uniform(0.3, 0.9)))
    return Outline(top, np.vstack([smooth_curve(down_r), chin[1:-1], smooth_curve(down_l[::-1])]))


def outline_low(head: Head, style: Style, rng: Rng) -> Outline:
    """Worn under the nose: the upper edge runs from the jaw over the cheeks to the upper lip."""
    place = float(rng.uniform(0.0, 0.6))
    centre = mix(head[164], head[0], place)
    wing_r, wing_l = mix(head[165], head[92], place), mix(head[391], head[322], place)
    ease = float(rng.uniform(0.0, 0.7))
    cheek_r, cheek_l = mix(head[205], head[207], ease), mix(head[425], head[427], ease)
    ear = float(rng.uniform(0.0, 0.8))
    high_r, high_l = mix(head[132], head[58], ear), mix(head[361], head[288], ear)
    high_r, high_l = mix(high_r, head[187], 1 - style.side), mix(high_l, head[411], 1 - style.side)
    low_r, low_l = mix(head[172], head[136], rng.uniform(0, 0.6)), mix(head[397], head[365], rng.uniform(0, 0.6))
    top = smooth_curve([high_r, cheek_r, wing_r, centre, wing_l, cheek_l, high_l])
    drop = style.drop + float(rng.uniform(0.0, 0.1))
    return Outline(top, jaw_bottom(head, (low_r, low_l), drop, rng, pointed=float(rng.uniform(0.1, 0.8))))


def outline_chin(head: Head, style: Style, rng: Rng) -> Outline:
    """Pulled down to the chin: mouth and nose are free, the cloth hangs bunched under the jaw."""
    centre = mix(head[18], head[199], float(rng.uniform(0.0, 1.0)))
    ear = float(rng.uniform(0.2, 1.0))
    high_r, high_l = mix(head[132], head[172], ear), mix(head[361], head[397], ear)
    sag = np.array([0, rng.uniform(0.0, 0.07)], np.float32)
    bend_r, bend_l = mix(high_r, centre, 0.5) + sag, mix(high_l, centre, 0.5) + sag
    low_r, low_l = mix(high_r, head[136], rng.uniform(0.2, 0.6)), mix(high_l, head[365], rng.uniform(0.2, 0.6))
    top = smooth_curve([high_r, bend_r, centre, bend_l, high_l])
    drop = style.drop + float(rng.uniform(0.1, 0.32))
    return Outline(top, jaw_bottom(head, (low_r, low_l), drop, rng, pointed=float(rng.uniform(0.0, 0.5))))


def outline_held(head: Head, style: Style, rng: Rng) -> Outline:
    """Held in front of nose and mouth, tied to nothing: a flat mask, tilted, that does not follow the jaw."""
    half_width = float(rng.uniform(0.42, 0.66))
    half_height = half_width * float(rng.uniform(0.45, 0.72))
    bow, hang = float(rng.uniform(-0.03, 0.08)), float(rng.uniform(-0.02, 0.08))
    slope = float(rng.uniform(-0.10, 0.10))
    spans = np.linspace(-1, 1, 5, dtype=np.float32)
    above = [np.array([x * half_width, -half_height * (1 + x * slope) - bow * (1 - x * x)]) for x in spans]
    below = [np.array([x * half_width, half_height * (1 + x * slope) + hang * (1 - x * x)]) for x in spans]
    tilt = float(np.radians(rng.normal(0, 8)))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    middle = mix(head[1], head[13], float(rng.uniform(0.4, 1.2))) + rng.normal(0, [0.05, 0.03])
    return Outline(*(smooth_curve([p @ turn + middle for p in edge]) for edge in (above, below)))


def strap_lines(head: Head, outline: Outline, kind: str, rng: Rng) -> list[Floats]:
    """Ear loops, head bands or loops that hang loose, as curves in the head's frame.

    Args:
        kind: "loops", "bands" or "dangling".
    """
    if kind == "dangling":
        return [dangling_loop(outline, end, sign, rng) for end, sign in ((0, -1), (-1, 1))]
    lines = []
    for ear, top_end, bottom_end, sign in (
        (234, outline.top[0], outline.bottom[0], -1),
        (454, outline.top[-1], outline.bottom[-1], 1),
    ):
        side = head[ear]
        outside = side + np.array([sign * rng.uniform(0.0, 0.10), rng.uniform(-0.15, 0.08)], np.float32)
        if kind == "bands":
            bend = shifted(mix(top_end, outside, 0.5), 0, -0.03)
            lines.append(smooth_curve([top_end, bend, shifted(outside, sign * 0.1, -0.15)]))
            bend = shifted(mix(bottom_end, outside, 0.5), 0, 0.12)
            lines.append(smooth_curve([bottom_end, bend, shifted(outside, sign * 0.1, 0.35)]))
        else:
            bend = shifted(mix(top_end, outside, 0.55), 0, rng.uniform(-0.03, 0.02))
            lines.append(smooth_curve([top_end, bend, outside]))
            low = outside + np.array([0, rng.uniform(0.1, 0.25)], np.float32)
            bend = shifted(mix(bottom_end, low, 0.55), 0, rng.uniform(-0.02, 0.04))
            lines.append(smooth_curve([bottom_end, bend, low]))
    return lines


def dangling_loop(outline: Outline, end: int, sign: int, rng: Rng) -> Floats:
    """An ear loop on no ear: from the upper corner outwards, down by its weight and back to the lower corner."""
    high, low = outline.top[end], outline.bottom[end]
    out, fall = float(rng.uniform(0.06, 0.28)), float(rng.uniform(0.0, 0.2))
    third, two_thirds = mix(high, low, 0.25), mix(high, low, 0.9)
    return smooth_curve(
        [high, shifted(third, sign * out, fall * 0.6), shifted(two_thirds, sign * out * 0.8, fall), low]
    )
