"""Prepared sets in parts: what is taken along, that it comes back, and parts that got lost or damaged on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from tests.training_media import WHOLE, crop_mesh, head_shape, tiny_preset
from trainer import cli
from trainer.loop import Settings, train
from trainer.pack import VALIDATED, chosen_rows, pack
from trainer.processes import Place
from trainer.schedule import Budget
from trainer.unpack import unpack
from unmask_rt.errors import MissingError, SourceError, UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
SPLITS = ["train"] * 30 + ["validation"] * 4 + ["test"] * 3
LEAST = 0.1
"""The smallest parts in megabytes that are made."""


class Packed(NamedTuple):
    """A prepared set without masks, the folder of its parts, and their paths as `pack` gave them."""

    data: Path
    parts: Path
    paths: list[Path]


def write_faces(folder: Path) -> Path:
    """A prepared set of "faces" (clouds of colour), whose meshes and corners differ; masks are not drawn."""
    rng, count = np.random.default_rng(0), len(SPLITS)
    folder.mkdir()
    clouds = rng.integers(0, 256, (count, 20, 20, 3), np.uint8)
    crops = np.stack([cv2.resize(cloud, (256, 256), interpolation=cv2.INTER_CUBIC) for cloud in clouds])
    mesh = crop_mesh() * rng.uniform(0.9, 1.1, (count, 1, 2)) + rng.normal(0, 1.5, (count, 478, 2))
    corners = np.array(WHOLE) + rng.normal(0, 3, (count, 4, 2))
    arrays = {"crops": crops, "mesh": mesh.astype(np.float16), "corners": corners.astype(np.float32)}
    for name, array in (arrays | {"shape": head_shape()}).items():
        np.save(folder / f"{name}.npy", array)
    told = {"source": "drawn", "smile": 0.0, "open": 0.0}
    records = [told | {"name": f"{i}.png", "split": s, "yaw": float(rng.normal())} for i, s in enumerate(SPLITS)]
    (folder / "meta.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("pack")
    data = write_faces(folder / "data")
    return Packed(data, folder / "parts", pack(data, folder / "parts", megabytes=LEAST, workers=1))


def records_of(data: Path) -> list[dict[str, Any]]:
    return json.loads((data / "meta.json").read_text())


# ---- there and back


def test_faces_come_back_as_they_were(packed: Packed, tmp_path: Path) -> None:
    assert unpack(packed.parts, tmp_path / "data", workers=1) == 34
    before, after = records_of(packed.data), records_of(tmp_path / "data")
    assert sorted(r["name"] for r in after) == sorted(r["name"] for r in before if r["split"] != "test")
    assert [r["name"] for r in after] != [r["name"] for r in before if r["split"] != "test"], "mixed"
    home = {r["name"]: row for row, r in enumerate(before)}
    rows = [home[r["name"]] for r in after]
    assert [before[row] for row in rows] == after
    old, new = ({n: np.load(d / f"{n}.npy") for n in ("crops", "mesh", "corners", "shape")}
                for d in (packed.data, tmp_path / "data"))  # fmt: skip
    assert {n: a.dtype for n, a in new.items()} == {n: a.dtype for n, a in old.items()}
    assert np.array_equal(new["corners"], old["corners"][rows]) and np.array_equal(new["shape"], old["shape"])
    assert np.abs(new["mesh"].astype(np.float32) - old["mesh"][rows]).max() <= 1 / 8
    away = np.abs(new["crops"].astype(int) - old["crops"][rows])
    assert away.mean((1, 2, 3)).max() < 6 and away.mean((0, 1, 2)).max() < 6
    other = np.abs(new["crops"].astype(int) - old["crops"][np.roll(rows, 1)])
    assert other.mean((1, 2, 3)).min() > 20, "the test would compare nothing"


def test_parts_are_no_larger_than_asked_for(packed: Packed) -> None:
    sizes = [path.stat().st_size for path in packed.paths]
    assert len(sizes) >= 3 and max(sizes) <= LEAST * 1e6 and min(sizes[:-1]) > 0.7 * LEAST * 1e6
    assert packed.paths == sorted(packed.parts.iterdir()) and packed.paths[0].name == "part-00.npz"
    counts = []
    for path in packed.paths:
        with np.load(path) as stored:
            counts.append(len(stored["ends"]))
            assert len(stored["corners"]) == counts[-1] and stored["ends"][-1] == len(stored["crops"])
    assert sum(counts) == 34


def test_one_part_holds_all_where_there_is_room(packed: Packed, tmp_path: Path) -> None:
    (path,) = pack(packed.data, tmp_path / "parts", megabytes=50, workers=1)
    assert unpack(path.parent, tmp_path / "data", workers=1) == 34


def test_a_lower_quality_is_smaller(packed: Packed, tmp_path: Path) -> None:
    (path,) = pack(packed.data, tmp_path / "parts", megabytes=50, quality=20, workers=1)
    assert path.stat().st_size < 0.7 * sum(p.stat().st_size for p in packed.paths)


def test_all_go_that_are_trained_on_and_a_few_that_validate() -> None:
    splits = ["train", "validation", "test"] * 300
    rows = chosen_rows([{"split": split} for split in splits])
    assert sorted(r for r in rows if splits[r] == "train") == list(range(0, 900, 3))
    some = sorted(r for r in rows if splits[r] == "validation")
    assert len(some) == len(set(some)) == VALIDATED == len(rows) - 300 and some[0] < 20 and some[-1] > 800
    assert rows != sorted(rows), "mixed"


# ---- on the command line


@pytest.mark.parametrize(("command", "option"), [("pack", "--megabytes"), ("unpack", "--families")])
def test_the_commands_explain_themselves(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    told = capsys.readouterr().out
    assert left.value.code == 0 and option in told and "--workers" in told and f"unmask-train {command}" in told


def test_a_set_that_was_unpacked_can_be_trained_on(
    packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, data = tmp_path / "parts", tmp_path / "data"
    assert cli.main(["pack", str(packed.data), "-o", str(parts), "--megabytes", "1", "--workers", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{parts / 'part-00.npz'}: 0.")
    # Neither what finds faces nor what trains is needed.
    others = ("mediapipe", "torch", "av", "onnxruntime", "onnx", "rich", "PIL", "skimage", "torchmetrics")
    words = ["unpack", str(parts), "-o", str(data), "--variants", "1", "--families", "rectangle", "--workers", "1"]
    code = (
        f"import sys\nfor n in {others}: sys.modules[n] = None\nimport trainer.cli\nsys.exit(trainer.cli.main({words}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "34 faces\n", done.stderr
    drawn = np.load(data / "bank" / "done.npy")
    assert drawn.shape == (1, 34) and drawn.all()
    settings, place = Settings(workers=0, tensorboard=False), Place(0, 1, torch.device("cpu"))
    assert train(tiny_preset("pix2pix"), data, tmp_path / "r", Budget("steps", 1), settings, place)
    assert cli.main(words) == 0, "goes on, and finds all masks drawn"
    assert cli.main(["unpack", str(parts), "-o", str(data)]) == 2 and "bank of" in capsys.readouterr().err


# ---- what goes wrong


def changed(path: Path, **arrays: np.ndarray) -> None:
    """Writes a part again with other arrays."""
    with np.load(path) as stored:
        content = {name: stored[name] for name in stored.files}
    np.savez(path, **(content | arrays))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGES: dict[str, Any] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-2000]),
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_bytes(b"no part at all"),
    "a byte": flip,
    "pictures": lambda path: changed(path, crops=np.zeros(10_000, np.uint8)),
    "records": lambda path: changed(path, records=np.zeros(50, np.uint8)),
    "mesh": lambda path: changed(path, mesh=np.zeros(50, np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named(packed: Packed, tmp_path: Path, damage: str) -> None:
    parts = tmp_path / "parts"
    shutil.copytree(packed.parts, parts)
    DAMAGES[damage](parts / "part-01.npz")
    with pytest.raises(SourceError, match=r"part-01\.npz is damaged.*\n.*once more"):
        unpack(parts, tmp_path / "data", workers=1)
    assert not (tmp_path / "data" / "meta.json").exists(), "what is not whole is no set"
    shutil.copy(packed.paths[1], parts)
    assert unpack(parts, tmp_path / "data", workers=1) == 34, "into the same folder, where the part has come again"


def test_without_parts_there_is_nothing_to_unpack(tmp_path: Path) -> None:
    for parts in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingError, match="unmask-train pack"):
            unpack(parts, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_nothing_is_written_over(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        pack(packed.data, tmp_path, megabytes=1)
    with pytest.raises(UsageError, match="already"):
        unpack(packed.parts, packed.data)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"] and len(records_of(packed.data)) == len(SPLITS)


def test_a_second_call_goes_on_with_the_masks_and_leaves_the_faces_alone(packed: Packed, tmp_path: Path) -> None:
    count = unpack(packed.parts, tmp_path / "data")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "data").iterdir()}
    assert unpack(packed.parts, tmp_path / "data") == count
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "data").iterdir()} == before


def test_what_cannot_be_packed_is_refused(packed: Packed, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.05 MB"):
        pack(packed.data, tmp_path / "parts", megabytes=0.05)
    with pytest.raises(MissingError, match="no prepared set"):
        pack(tmp_path, tmp_path / "parts", megabytes=1)
    assert not (tmp_path / "parts").exists()
