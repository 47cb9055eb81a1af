"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.evaluation.figures import FIGURES, Estimate
from trainer.evaluation.measure import GROUPS
from trainer.evaluation.record import Record, Result

PICTURE = ("hole_psnr", "whole_psnr", "ssim", "hole_ssim", "hole_l1", "l1", "sharpness", "seam")
JUDGED = ("feature", "hole_feature", "fd", "hole_fd", "identity", "identity_same", "frechet")
MAP = ("treated", "mask_left", "far_change", "map_iou", "map_precision", "map_recall", "gate_masked", "gate_bare")
GROUPED = ("hole_psnr", "ssim", "sharpness", "hole_feature", "identity", "mask_left", "map_iou", "gate_masked")
PHOTO_TITLES = {
    "treated_large": "masked faces of 60 px and more: treated",
    "treated_frontal": "of these, heads turned by less than 25 degrees",
    "treated_turned": "of these, heads turned further",
    "treated_small": "masked faces of 30 to 60 px: treated",
    "unchanged": "photographs of unmasked people: not changed at all",
    "gate_masked": "masked faces that were found: the gate says mask",
    "gate_bare": "unmasked faces that were found: the gate says none",
    "gate": "faces that were found: the gate is right",
}
HOW = (
    "In brackets: 95 % intervals, of means by the normal distribution, of shares by Wilson's score, of the median by "
    "the bootstrap. They say how much the choice of pictures matters, not what another training run would give. "
    "A Frechet distance has none, and is the larger the fewer pictures it is of: compare it at one count only."
)


def cell(found: Estimate | None, key: str, *, interval: bool = True) -> str:
    """One figure: its value, and its interval as ``±`` where it is even, else by its ends."""
    if found is None:
        return ""
    digits = FIGURES[key].digits
    value = f"{found.value:.{digits}f}"
    if not interval or found.low is None or found.high is None:
        return value
    if FIGURES[key].how == "mean":
        return f"{value} ± {found.high - found.value:.{digits}f}"
    return f"{value} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines) + "\n"


def of_systems(results: Sequence[Result], keys: Sequence[str]) -> str:
    """One row a system, one column a figure; columns that nobody has are left out."""
    keys = [k for k in keys if any(k in r.groups["all"] for r in results)]
    rows = [[r.name, *(cell(r.groups["all"].get(k), k) for k in keys)] for r in results]
    return table(["", *(FIGURES[k].title for k in keys)], rows)


def of_groups(result: Result, kind: str) -> str:
    """One row a group of pictures of one ``kind`` (`measure.GROUPS`) of one system; empty where there is none."""
    groups = {name.removeprefix(f"{kind} "): v for name, v in result.groups.items() if name.startswith(f"{kind} ")}
    if not groups:
        return ""
    keys = [k for k in GROUPED if any(k in v for v in groups.values())]
    rows = []
    for name, values in groups.items():
        count = max(e.count for e in values.values())
        rows.append([name, str(count), *(cell(values.get(k), k) for k in keys)])
    return table([kind, "pictures", *(FIGURES[k].title for k in keys)], rows)


def of_photos(photos: dict[str, Estimate]) -> str:
    """The gate on photographs, with the faces or photographs counted."""
    rows = [
        [
            PHOTO_TITLES[key],
            str(e.count),
            f"{e.value:.3f}" + (f" [{e.low:.3f}, {e.high:.3f}]" if e.low is not None else ""),
        ]
        for key, e in photos.items()
    ]
    return table(["photographs", "of", "share"], rows)


def of_frames(frames: dict[str, Estimate]) -> str:
    """Whole pictures through the tool, one row a figure."""
    rows = [[FIGURES[key].title, str(e.count), cell(e, key)] for key, e in frames.items()]
    return table(["whole pictures", "of", "figure"], rows)


def of_clips(clips: list[dict[str, Any]]) -> str:
    """One row a clip; flicker and popping 1 are as calm as life, "pasted" is the flicker of one drawn face."""
    rows = []
    for clip in clips:
        restless = [f"{clip[name]:.2f}" for name in ("flicker", "pasted", "popping")]
        rest = [f"{clip['still_masked']:.3f}", f"{clip['hole_psnr']:.2f}"]
        rows.append([clip["name"], str(clip["frames"]), *restless, *rest])
    return table(["clip", "frames", "flicker", "pasted", "popping", "still masked", "hole PSNR, dB"], rows)


def how_measured(record: Record) -> str:
    """What was measured on, in words."""
    s = record.settings
    families = ", ".join(s["families"])
    hole = "told to the model (true hole)" if s.get("true_hole") else "found by the model itself"
    whose = f" ({', '.join(s['sources'])} only)" if s.get("sources") else ""
    turned = ", turned 50 to 78 degrees aside by drawing" if s.get("profiles") else ""
    hidden = ", something drawn in front of each" if s.get("in_front") else ""
    which = f"{s['count']} faces of the split `{s['split']}` of `{s['data']}`{whose}{turned}{hidden}"
    lines = [
        f"{which}, one mask each ({families}; seed {s['seed']}), measured at {s['size']} px; the hole is {hole}.",
        HOW,
    ]
    if s.get("features") != "none":
        lines.append(f"Feature distance and FD: {s.get('features')}.")
    if record.strangers is not None:
        lines.append(f"Identity distance between different people of these pictures: {record.strangers:.3f}.")
    return "\n".join(lines) + "\n"


def markdown(record: Record, title: str) -> str:
    """The whole evaluation of one model."""
    parts = [f"# {title}\n", how_measured(record)]
    parts += ["## Picture\n", of_systems(record.results, PICTURE)]
    if any(k in r.groups["all"] for r in record.results for k in JUDGED):
        parts += ["## Features and identity\n", of_systems(record.results, JUDGED)]
    parts += ["## Mask and map\n", of_systems(record.results, MAP)]
    for model in record.models:
        suffix = f": {model.name}" if len(record.models) > 1 else ""
        for kind in GROUPS:
            if rows := of_groups(model, kind):
                parts += [f"## By {'mask family' if kind == 'family' else kind}{suffix}\n", rows]
    if record.protocol:
        from trainer.evaluation.protocols import table_of

        parts += ["## Beside the ancestors' published figures\n", table_of(record.protocol)]
    if record.frames:
        parts += ["## Whole pictures through the tool\n", of_frames(record.frames)]
    if record.photos:
        parts += ["## Photographs\n", of_photos(record.photos)]
    if record.clips:
        parts += ["## Clips, masks laid over\n", of_clips(record.clips)]
    if record.notes:
        parts += ["## Notes\n", "\n".join(f"- {n}" for n in record.notes) + "\n"]
    return "\n".join(parts)
