"""Drawing one mask that is placed on the mesh: outline, texture, light, shadow, straps."""

from __future__ import annotations

import cv2
import numpy as np

from trainer.masks.families import Family, draw_style
from trainer.masks.head import Floats, Head, Image, Rng, Style
from trainer.masks.light import face_light, polygon_alpha, rim_fade
from trainer.masks.outlines import strap_lines
from trainer.masks.paint import add_print
from trainer.masks.texture import sample, texture_grid, value_noise


def draw_placed(rgb: Image, mesh: Floats, rng: Rng, kind: Family) -> tuple[Image, Floats]:
    """Draws a mask of a kind on one face; arguments and result as those of `trainer.masks.draw_mask`."""
    mesh = np.asarray(mesh, np.float32)[:, :2]
    style = draw_style(kind, rng)
    head = Head(mesh)
    outline = kind.shape(head, style, rng)
    straps = strap_lines(head, outline, kind.straps, rng) if style.straps else []

    height, width = rgb.shape[:2]
    polygon = head.to_picture(outline.polygon)
    everything = np.vstack([polygon, *(head.to_picture(s) for s in straps)])
    margin = 0.08 * head.height * kind.shadow + 2
    x0, y0 = np.clip(np.floor(everything.min(0) - margin), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(everything.max(0) + margin), 1, [width, height]).astype(int)
    alpha_full = np.zeros((height, width), np.float32)
    if x1 - x0 < 8 or y1 - y0 < 8:
        return rgb.copy(), alpha_full
    u, v = texture_grid(outline, *head.from_grid(x0, y0, x1, y1))
    offset = np.array([x0, y0], np.float32)

    albedo, relief = paint(kind, style, u, v, rng)
    light, slope = face_light(rgb, mesh)
    exposure = np.clip(0.45 + 0.75 * light, 0.15, 1.15) * float(rng.uniform(0.8, 1.15))
    tint = exposure / exposure.mean()
    exposure = exposure.mean() * (1 + (tint - 1) * float(rng.uniform(0, 0.6)))
    round_off = float(rng.uniform(0.05, 0.5))
    shade = 1 - round_off * (2 * u - 1) ** 2 * 0.6 + slope * (u - 0.5) * float(rng.uniform(0.5, 1.4))
    shade = shade * (1 - float(rng.uniform(-0.05, 0.25)) * np.clip(v - 0.45, 0, 1)) * (1 + relief)
    cloth = np.clip(albedo * exposure.astype(np.float32) * shade[..., None], 0, 1.0)

    softness = float(rng.uniform(0.35, 1.1)) * max(head.height / 130, 0.5)
    body = polygon_alpha(polygon - offset, u.shape, softness)
    cover = body * style.opacity
    if kind.rim is not None:
        cover = cover * thin_rim(body, head.height * float(rng.uniform(0.03, 0.12)), float(rng.uniform(*kind.rim)))
    alpha = cover
    plain = rgb[y0:y1, x0:x1].astype(np.float32) / np.float32(255)
    picture = cast_shadow(plain, body, head.height * kind.shadow, margin, rng)

    lines = np.zeros(u.shape, np.uint8)
    thickness = max(1, round(style.straps * head.height))
    for line in straps:
        points = np.round((head.to_picture(line) - offset) * 16).astype(np.int32)
        cv2.polylines(lines, [points], False, 255, thickness, cv2.LINE_AA, 4)
    if straps:
        strap = cv2.GaussianBlur(lines, (0, 0), softness * 0.8).astype(np.float32) / 255
        colour = style.strap_colour * exposure.mean() * (1 + slope * (u - 0.5))[..., None]
        picture = picture + (np.clip(colour, 0, 1) - picture) * strap[..., None]
        alpha = np.maximum(alpha, strap)
    picture = picture + (cloth - picture) * cover[..., None]

    masked = rgb.copy()
    masked[y0:y1, x0:x1] = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    alpha_full[y0:y1, x0:x1] = alpha
    return masked, alpha_full


def paint(kind: Family, style: Style, u: Floats, v: Floats, rng: Rng) -> tuple[Floats, Floats]:
    """Albedo float32[H, W, 3] with print, and relief float32[H, W] with folds and weave."""
    albedo, relief = kind.paint(u, v, style, rng)
    if rng.random() < kind.prints:
        albedo = add_print(albedo, u, v, rng)
    if style.folds > 0.005:
        for cells in ((6, 4), (14, 9)):
            relief = relief + sample(value_noise(rng, (64, 96), cells), u, v) * style.folds * float(rng.uniform(0.3, 1))
    if style.noise > 0.002:
        relief = relief + rng.normal(0, style.noise, u.shape).astype(np.float32)
    return albedo, relief


def cast_shadow(picture: Floats, body: Floats, height: float, margin: float, rng: Rng) -> Floats:
    """The skin beside a mask darkened by its shadow, which is no part of the mask.

    Args:
        picture: float32[H, W, 3], 0..1.
        body: coverage of the mask, float32[H, W].
        height: pixels that the shadow's reach is drawn in proportion to: those of the face.
        margin: pixels at the rectangle's rim over which the shadow fades out.
    """
    reach = height * float(rng.uniform(0.01, 0.045))
    shadow = cv2.GaussianBlur(body, (0, 0), max(reach, 0.5))
    shift = [[1, 0, reach * rng.uniform(-0.5, 0.5)], [0, 1, reach * rng.uniform(-0.2, 0.9)]]
    shadow = cv2.warpAffine(shadow, np.array(shift, np.float32), body.shape[::-1])
    shadow = shadow * rim_fade(body.shape, margin)
    dark = (1 - shadow * float(rng.uniform(0.0, 0.45)) * (1 - body))[..., None]
    return np.asarray(picture * dark)


def thin_rim(body: Floats, width_px: float, share: float) -> Floats:
    """Opacity float32[H, W] that falls from 1 to ``share`` over the last ``width_px`` pixels before the edge."""
    inside = cv2.distanceTransform((body > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(share + (1 - share) * np.minimum(inside / max(width_px, 1.0), 1), np.float32)
