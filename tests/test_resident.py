"""Samples made where the faces lie: aligned with their truth, drawn as often as they should be, changed as cameras do.

All of it on the processor, where the same operations run as on a GPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.training_media import WHOLE, Corners, raw_preset, tiny_file, write_arrays, write_set
from trainer import checkpoint, cli, loop, preset
from trainer import resident as module
from trainer.data import Batch, Faces
from trainer.loop import Settings, train
from trainer.processes import Place
from trainer.resident import Resident, hold
from trainer.schedule import Budget
from trainer.turned import PLANES
from unmask_rt.errors import UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
CPU = torch.device("cpu")
DARK, BRIGHT, BETWEEN = 30, 230, 110
"""Values of a marked picture's channels, and what tells them apart under every light."""
INSIDE: Corners = ((25.0, 15.0), (228.0, 30.0), (215.0, 240.0), (40.0, 235.0))
"""Corners of a picture that fills its crop in part."""


def boxes(count: int) -> NDArray[np.uint8]:
    """Masks of two variants, uint8[2, count, 256, 256]: the first over the eyes, the second over the mouth."""
    alpha = np.zeros((2, count, 256, 256), np.uint8)
    for row in range(count):
        alpha[0, row, 70 : 110 + row, 60:180] = alpha[1, row, 150 : 190 + row, 60:180] = 255
    return alpha


def write_marked(folder: Path, corners: Corners = INSIDE) -> Path:
    """Four faces that say where they are: red where the second mask is, green where the picture is, blue on the left.

    Masks take the red away, so that masked and truth differ just there.
    """
    alpha, x = boxes(4), np.mgrid[:256, :256][1]
    alpha[0] = alpha[1]
    valid = cv2.fillConvexPoly(np.zeros((256, 256), np.uint8), np.round(corners).astype(np.int32), 255)
    parts = [np.stack([mask > 0, valid > 0, x < 128], 2) for mask in alpha[1]]
    crops = np.where(np.stack(parts), BRIGHT, DARK).astype(np.uint8)
    masked = np.stack([crops, crops])
    masked[..., 0] = DARK
    return write_arrays(folder, crops, masked, alpha, [{}] * 4, corners)


def resident(data: Path, batch: int = 8, sources: dict[str, float] | None = None, **options: Any) -> Resident:
    faces = Faces(data, "train", 1, sources or {}, **options)
    return Resident(hold(faces, CPU), faces, batch)


def drawn(made: Resident, batches: int = 1, seed: int = 0) -> Batch:
    """Some batches as one."""
    torch.manual_seed(seed)
    found = [made.draw() for _ in range(batches)]
    return Batch(*(torch.cat([getattr(b, n) for b in found]) for n in ("masked", "truth", "alpha", "valid")))


def nothing(self: Resident, *planes: Tensor) -> Any:
    return planes[0] if len(planes) == 1 else planes


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces stay where they are and as they are."""
    for step in ("_pose", "_light", "_noise", "_jpeg"):
        monkeypatch.setattr(Resident, step, nothing)


@pytest.fixture
def own_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces wear their own masks, without noise and compression."""
    monkeypatch.setattr(module, "FOREIGN", 0.0)
    monkeypatch.setattr(Resident, "_noise", nothing)
    monkeypatch.setattr(Resident, "_jpeg", nothing)


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
    """Turned heads are white pictures; which were asked for."""
    asked: list[list[tuple[int, int]]] = []

    def white(data: Path, worn: Sequence[tuple[int, int]], **_: Any) -> dict[str, np.ndarray]:
        asked.append(list(worn))
        return {name: np.full((len(worn), *shape), 255, np.uint8) for name, shape in PLANES.items()}

    monkeypatch.setattr(module, "draw_turned", white)
    monkeypatch.setattr(module, "TURNED_HEADS", 40)
    return asked


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marked(tmp_path_factory.mktemp("marked") / "data")


def near(alpha: Tensor, pixels: int) -> NDArray[np.bool_]:
    """Where a mask is or is not far, bool[S, S]."""
    return cv2.dilate(alpha[0].numpy(), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0


# ---- one sample


@pytest.mark.usefixtures("own_masks")
@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("stood_off", [0.0, 1.0])
def test_all_four_planes_show_the_same_place(marked: Path, size: int, stood_off: float) -> None:
    batch = drawn(resident(marked, size=size, stood_off=stood_off))
    assert batch.masked.shape == batch.truth.shape == (8, 3, size, size)
    assert batch.alpha.shape == batch.valid.shape == (8, 1, size, size) and set(batch.valid.unique().tolist()) == {
        0,
        255,
    }
    assert all(t.dtype == torch.uint8 for t in (batch.masked, batch.truth, batch.alpha, batch.valid))
    for masked, truth, alpha, valid in zip(batch.masked, batch.truth, batch.alpha, batch.valid, strict=True):
        red, green, _ = truth > BETWEEN
        assert (green == (valid[0] > 0)).float().mean() > 0.97 and green[valid[0] > 0].float().mean() > 0.999
        far = ~near(alpha, size // 40)
        away = (masked.int() - truth.int()).abs().numpy()
        assert away[:, far].max() <= 2, "what no mask covers is the truth"
        sure = (alpha[0] == 255).numpy()
        assert 0.03 < sure.mean() < 0.3 and (masked[0] < BETWEEN).numpy()[sure].mean() > 0.999
        if not stood_off:
            assert (red == (alpha[0] > 127)).float().mean() > 0.985
            assert away[1:].max() <= 2 and away[0][sure].min() > 60


@pytest.mark.usefixtures("own_masks")
def test_a_mask_that_stands_off_is_wider(marked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resident, "_pose", nothing)
    plain, wider, some = (drawn(resident(marked, stood_off=share), 2).alpha[:, 0] > 127 for share in (0.0, 1.0, 0.5))
    assert (wider | ~plain).all(), "what was covered still is"
    grown = wider.any(1).sum(1) - plain.any(1).sum(1)
    assert grown.min() >= 1 and 8 < grown.max() < 50
    left = (wider & ~plain)[:, :, :120].any(2).any(1)
    right = (wider & ~plain)[:, :, 120:].any(2).any(1)
    assert (left ^ right).all() and left.any() and right.any(), "one side each, and either"
    assert 2 <= int((some != plain).any(2).any(1).sum()) <= 14


@pytest.mark.usefixtures("own_masks")
def test_faces_are_moved_bent_mirrored_and_lit(marked: Path) -> None:
    batch = drawn(resident(marked), 4)
    left = batch.truth[:, 2, 100:150, 20:60].float().mean((1, 2)) > BETWEEN
    assert 8 <= int(left.sum()) <= 24, "mirrored and not"
    places = np.array([[axis.mean() for axis in np.nonzero(a[0].numpy() > 127)] for a in batch.alpha])
    assert places.std(0).min() > 2 and places.std(0).max() < 25
    light = batch.truth[:, 1, 120:136, 120:136].float().mean((1, 2))
    assert light.std() > 6
    bent, rows = [], np.arange(40, 216)
    for blue in batch.truth[:, 2, 40:216].numpy() > BETWEEN:  # its edge was straight, and in the middle
        share = blue[:, 40:216].mean(1)
        edge = 39.5 + 176 * np.where(blue[:, 60].mean() > 0.5, share, 1 - share)
        bent.append([edge.mean(), *np.polyfit(rows, edge, 1, full=True)[1]])
    middles, residuals = np.array(bent).T
    assert max(abs(middles[way].mean() - 127.5) for way in (left.numpy(), ~left.numpy())) < 3
    assert abs(places[:, 0].mean() - 170.5) < 3
    assert middles.std() > 2 and np.sqrt(residuals / len(rows)).mean() > 0.5


@pytest.mark.usefixtures("own_masks")
def test_what_lies_outside_the_crop_is_not_valid(tmp_path: Path) -> None:
    batch = drawn(resident(write_marked(tmp_path / "data", WHOLE)), 2)
    assert (batch.valid[..., 60:196, 60:196] == 255).all()
    rims = torch.cat([batch.valid[..., side, :].reshape(16, -1) for side in (0, 255)], 1)
    assert ((rims == 0).any(1)).float().mean() > 0.8, "turned, shifted and bent, hardly a crop keeps all of its rim"
    lost = (batch.valid == 0).float().mean((1, 2, 3))
    assert lost.max() < 0.3


def test_the_same_seed_is_the_same_batch(marked: Path) -> None:
    made = resident(marked, size=128, stood_off=0.5)
    one, again, other = drawn(made, 2, 3), drawn(made, 2, 3), drawn(made, 2, 4)
    for name in ("masked", "truth", "alpha", "valid"):
        assert torch.equal(getattr(one, name), getattr(again, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(one.truth[:8], one.truth[8:])
    torch.manual_seed(3)
    stream = iter(made)
    assert torch.equal(torch.cat([next(stream).masked, next(stream).masked]), one.masked)


# ---- masks of others


@pytest.mark.usefixtures("unmoved")
def test_faces_wear_masks_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one grey, in place or mirrored, with a shadow around them."""
    crops = np.full((4, 256, 256, 3), (200, 150, 100), np.uint8)
    alpha = boxes(4)
    masked = np.where(alpha[..., None] > 0, np.uint8(0), crops[None])
    data = write_arrays(tmp_path / "data", crops, masked, alpha, [{}] * 4)
    known = [torch.from_numpy(m) for m in alpha.reshape(-1, 256, 256)]
    monkeypatch.setattr(module, "FOREIGN", 1.0)
    batch = drawn(resident(data), 4)
    found = [[torch.equal(a, m) + 2 * torch.equal(a, m.flip(1)) for m in known] for a in batch.alpha[:, 0]]
    ways = [max(row) for row in found]
    assert set(ways) == {1, 2} and len({row.index(max(row)) for row in found}) >= 6
    for one, truth, cover in zip(batch.masked, batch.truth, batch.alpha[:, 0], strict=True):
        cloth = one[:, cover == 255].int()
        assert int(cloth.max()) - int(cloth.min()) <= 1, "one grey"
        bare = truth[:, cover == 0].int() - one[:, cover == 0].int()
        assert bare.min() >= 0 and torch.equal(one[:, :30], truth[:, :30])
    greys = batch.masked[:, 0].float().amin((1, 2))
    shadows = ((batch.truth.int() - batch.masked.int())[:, 0] * (batch.alpha[:, 0] == 0)).amax((1, 2))
    assert greys.std() > 20 and shadows.max() > 20
    monkeypatch.setattr(module, "FOREIGN", 0.5)
    black = (drawn(resident(data), 4).masked.amin((1, 2, 3)) == 0).sum()
    assert 8 <= int(black) <= 26, "every second one its own"


# ---- which faces come


COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces of one colour each, also their source; the blue one is not to be trained on. Masks as in `boxes`."""
    crops = np.stack([np.full((256, 256, 3), np.where(c, BRIGHT, DARK), np.uint8) for c in COLOURS.values()])
    told = [{"source": name, "split": "validation" if name == "blue" else "train"} for name in COLOURS]
    folder = tmp_path_factory.mktemp("coloured") / "data"
    return write_arrays(folder, crops, np.stack([crops, crops]), boxes(4), told)


def counted(batch: Batch) -> dict[str, int]:
    """How many faces of each colour came."""
    found = [tuple(int(v) for v in truth[:, 100:150, 100:150].float().mean((1, 2)) > BETWEEN) for truth in batch.truth]
    return {name: found.count(colour) for name, colour in COLOURS.items()} | {"white": found.count((1, 1, 1))}


def variants_of(batch: Batch) -> list[int]:
    """Which of its two masks each face wears."""
    return [int(np.nonzero(a[0].numpy() > 127)[0].mean() > 128) for a in batch.alpha]


@pytest.mark.usefixtures("unmoved")
def test_faces_come_as_often_as_they_should(coloured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = resident(coloured, 16, {"red": 0.0, "green": 1.0, "yellow": 3.0})
    found = counted(drawn(made, 6))
    assert sum(found.values()) == 96 and found["red"] == found["blue"] == found["white"] == 0
    assert 12 <= found["green"] <= 36 and found["yellow"] == 96 - found["green"]
    # The smallest and the largest number that may be drawn are no faces that never come.
    monkeypatch.setattr(torch, "rand", lambda *sides, device: torch.zeros(sides, device=device))
    assert counted(drawn(made))["green"] == 16
    made.held = replace(made.held, cumulated=made.held.cumulated * 0.99)
    monkeypatch.setattr(torch, "rand", lambda *sides, device: torch.full(sides, 0.999, device=device))
    assert counted(drawn(made))["yellow"] == 16


@pytest.mark.usefixtures("own_masks", "unmoved")
def test_only_masks_that_may_come_are_worn(coloured: Path, tmp_path: Path, heads: list[list[tuple[int, int]]]) -> None:
    every = variants_of(drawn(resident(coloured, 16), 2))
    assert 8 <= sum(every) <= 24
    assert not any(variants_of(drawn(resident(coloured, 16, without=("cloth",)), 2)))
    data = tmp_path / "data"
    shutil.copytree(coloured, data)
    np.save(data / "bank" / "done.npy", np.array([[1, 0, 1, 0], [0, 1, 1, 0]], np.uint8))  # yellow has none
    batch = drawn(resident(data, 16), 2)
    found = counted(batch)
    assert found["red"] + found["green"] == 32 and min(found["red"], found["green"]) >= 8
    assert sum(variants_of(batch)) == found["green"]
    assert heads == [[], [], []]


@pytest.mark.usefixtures("unmoved")
def test_masks_of_others_may_come_too(coloured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOREIGN", 1.0)
    assert not any(variants_of(drawn(resident(coloured, 16, without=("cloth",)), 2)))
    assert any(variants_of(drawn(resident(coloured, 16), 2)))


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_turned_heads_take_their_share(coloured: Path, heads: list[list[tuple[int, int]]], share: float) -> None:
    made = resident(coloured, 16, {"red": 0.0}, turned=share, without=("surgical",))
    (asked,) = heads
    assert len(asked) == made.held.heads == 40
    assert {row for _, row in asked} == {1, 3} and {variant for variant, _ in asked} == {1}, "only what may come"
    found = counted(drawn(made, 4))
    assert found["white"] == 64 if share == 1 else 8 <= found["white"] <= 26
    assert found["white"] + found["green"] + found["yellow"] == 64
    assert counted(drawn(Resident(made.held, Faces(coloured, "train", 1, {}), 16)))["white"] == 0


def test_heads_are_really_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURNED_HEADS", 3)
    data = write_set(tmp_path / "data")
    held = resident(data, turned=0.5).held
    assert held.heads == 3 and held.faces == 10 and len(held.masked) == len(held.alpha) == 2 * 10 + 3
    assert len(held.truth) == len(held.valid) == 10 + 3
    for name in PLANES:
        stored = torch.from_numpy(np.load(data / "bank" / "turned" / f"{name}.npy"))
        assert torch.equal(getattr(held, name)[-3:], stored) and stored.any()
    rows = np.load(data / "bank" / "turned" / "rows.npy")
    assert rows.shape == (3, 2) and rows[:, 1].max() < 6, "of faces to train on"


# ---- noise and compression


def compressing(made: Resident, quality: float) -> Resident:
    """Every picture is compressed, at this quality."""

    def chosen(low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.full((made.batch, 1, 1, 1), quality if high > 1 else 0.0)

    made._random = chosen  # type: ignore[method-assign]
    return made


def test_compression_is_that_of_jpeg(marked: Path, astronaut: NDArray[np.uint8]) -> None:
    face = astronaut[50:178, 160:288]
    picture = torch.from_numpy(face.copy()).permute(2, 0, 1)[None].float()
    errors = []
    for quality in (90, 60, 30):
        ours = compressing(resident(marked, 1), quality)._jpeg(picture)[0].permute(1, 2, 0).numpy()
        _, code = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])
        theirs = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR)).astype(np.float32)
        one, other = (np.abs(p - face).mean() for p in (ours, theirs))
        assert 0.7 * other < one < 1.4 * other and np.abs(ours - theirs).mean() < 1.2 * other
        errors.append(float(one))
    assert errors[0] < 3.5 and errors == sorted(errors) and errors[2] > 1.5 * errors[0]
    grey = picture.mean(1, keepdim=True).expand(-1, 3, -1, -1).round()
    kept = compressing(resident(marked, 1), 100)._jpeg(grey)
    assert (kept - grey).abs().mean() < 0.5, "steps of one, and no colour that could be halved"
    coarse = compressing(resident(marked, 1), 30)._jpeg(grey)
    edges = (coarse - coarse.roll(1, 3)).abs().mean((0, 1, 2))[1:]
    places = torch.arange(1, 128) % 8 == 0
    assert edges[places].mean() > 1.1 * edges[~places].mean(), "blocks of eight pixels"


@pytest.mark.parametrize(("step", "share"), [("_jpeg", 0.3), ("_noise", 0.2)])
def test_some_masked_pictures_are_spoilt_and_their_truth_never(
    marked: Path, monkeypatch: pytest.MonkeyPatch, step: str, share: float
) -> None:
    made = resident(marked, 16)
    before = torch.rand(16, 3, 128, 128) * 255
    torch.manual_seed(0)
    spoil: Callable[[Tensor], Tensor] = getattr(made, step)
    found = [(spoil(before) != before).any(3).any(2).any(1) for _ in range(6)]
    assert abs(float(torch.stack(found).float().mean()) - share) < 0.12
    clean = drawn(made).truth
    monkeypatch.setattr(Resident, step, nothing)
    without = drawn(made).truth
    assert torch.equal(clean, without)


# ---- what is not made here


@pytest.mark.parametrize(
    "options",
    [{"bare": 0.2}, {"dressed": 0.1}, {"shaded": 0.1}, {"trimmed": 0.1}, {"coloured": 0.1},
     {"jitter": "loose"}, {"jitter": "none"}, {"jitter": "pix2pix"}, {"real": Path("labels"), "real_share": 0.3}],
)  # fmt: skip
def test_other_samples_are_refused_before_anything_is_drawn(
    marked: Path, heads: list[list[tuple[int, int]]], options: dict[str, Any]
) -> None:
    faces = Faces(marked, "train", 1, {}, turned=0.3, **options)
    held = hold(Faces(marked, "train", 1, {}), CPU)
    for refused in (lambda: hold(faces, CPU), lambda: Resident(held, faces, 2)):
        with pytest.raises(UsageError, match=r"editing module.*\n.*without --resident"):
            refused()
    assert heads == [[]]


# ---- training


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> list[Faces]:
    """What was moved into the device's memory; three heads are turned."""
    asked: list[Faces] = []

    def counting(faces: Faces, device: torch.device) -> module.Held:
        asked.append(faces)
        return hold(faces, device)

    monkeypatch.setattr(loop, "hold", counting)
    monkeypatch.setattr(module, "TURNED_HEADS", 3)
    return asked


@pytest.mark.usefixtures("quick_features")
def test_stages_train_on_the_faces_that_are_held(tmp_path: Path, holds: list[Faces]) -> None:
    data, file = write_set(tmp_path / "data"), tiny_file(tmp_path / "tiny.toml", "realtime")
    command = ["run", "--preset", str(file), "--data", str(data), "--run", str(tmp_path / "r"), "--device", "cpu"]
    command += ["--workers", "0", "--no-tensorboard", "--resident"]
    assert cli.main([*command, "--stage", "inner", "--stage", "outer", "--steps", "4"]) == 0
    stored = checkpoint.load(tmp_path / "r")
    assert stored.meta["stage"] == "outer" and stored.meta["done"] and stored.meta["seen"] == 8
    assert len(holds) == 1 and holds[0].turned > 0


@pytest.mark.usefixtures("quick_features")
def test_stages_that_leave_out_other_masks_hold_their_own(tmp_path: Path, holds: list[Faces]) -> None:
    data, raw = write_set(tmp_path / "data"), raw_preset("realtime")
    raw["stage"][2]["data"] = {"without": ["cloth"]}
    settings = Settings(("inner", "outer"), workers=0, tensorboard=False, resident=True)
    chosen = preset.check("realtime", raw)
    assert train(chosen, data, tmp_path / "r", Budget("steps", 2), settings, Place(0, 1, CPU))
    assert [faces.left_out.tolist() for faces in holds] == [[], [3]]


def test_what_needs_the_processor_says_so(
    tmp_path: Path, heads: list[list[tuple[int, int]]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = write_set(tmp_path / "data"), tiny_file(tmp_path / "tiny.toml", "realtime")
    command = ["run", "--run", str(tmp_path / "r"), "--steps", "1", "--workers", "0", "--device", "cpu", "--resident"]
    assert cli.main([*command, "--preset", str(file), "--data", str(data), "--stage", "map"]) == 2
    assert "--resident" in capsys.readouterr().err and not heads
    pairs = tmp_path / "pairs"
    for split in ("train", "test"):
        (pairs / split).mkdir(parents=True)
        cv2.imwrite(str(pairs / split / "1.png"), np.zeros((256, 512, 3), np.uint8))
    file = tiny_file(tmp_path / "pairs.toml", "pix2pix")
    assert cli.main([*command, "--preset", str(file), "--data", str(pairs)]) == 2
    assert "picture pairs" in capsys.readouterr().err
