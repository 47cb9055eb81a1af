"""Preparing faces for training: what is kept, what is dropped and why, and going on where a run stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.conftest import FaceModels
from tests.trainer_media import CORRUPT, COUNTS, DROPPED, IN_TAR, TinySet, encoded, portrait
from trainer import prepare as module
from trainer.prepare import describe, difference_hash, list_chunks, prepare, read_pictures, split_of, yaw_of
from unmask_rt import align, sample

KEPT = sum(COUNTS.values()) + IN_TAR


def records_of(data: Path) -> list[dict[str, Any]]:
    return list(json.loads((data / "meta.json").read_text()))


# ---- what comes out


def test_the_summary_counts_every_picture(tiny_set: TinySet) -> None:
    summary = tiny_set.summary
    assert summary["kept"] == KEPT and summary["dropped"] == DROPPED
    assert sorted(summary["corrupt"]) == CORRUPT
    assert summary["by_source"] == {"faces": KEPT - IN_TAR, "more": IN_TAR}
    assert sum(summary["by_split"].values()) == KEPT
    assert all(summary["by_split"][split] >= count for split, count in COUNTS.items())
    pictures = [p for p in tiny_set.inputs[0].iterdir() if p.suffix != ".txt"]
    assert KEPT + sum(DROPPED.values()) == len(pictures) + IN_TAR
    assert json.loads((tiny_set.data / "summary.json").read_text()) == summary


def test_the_arrays_fit_each_other(tiny_set: TinySet) -> None:
    crops, mesh, corners = (np.load(tiny_set.data / f"{n}.npy") for n in ("crops", "mesh", "corners"))
    assert crops.shape == (KEPT, 256, 256, 3) and crops.dtype == np.uint8
    assert mesh.shape == (KEPT, 478, 2) and corners.shape == (KEPT, 4, 2)
    records = records_of(tiny_set.data)
    assert len(records) == KEPT
    for row, record in enumerate(records):
        points = mesh[row].astype(np.float32)
        assert np.abs(points[list(align.MESH_ANCHORS)] - align.TEMPLATE * 256).max() < 16, "not aligned"
        lips, cheek = points[13].astype(int), points[50].astype(int)
        assert crops[row][cheek[1], cheek[0]].mean() > 60 and lips[1] > 150
        width, height = np.hypot(*(corners[row][1] - corners[row][0])), np.hypot(*(corners[row][3] - corners[row][0]))
        assert width == pytest.approx(height, rel=0.01)
        assert record["split"] == split_of(record["identity"])
        assert {"name", "source", "identity", "split", "yaw", "smile", "open", "sharpness"} <= set(record)
        assert "hash" not in record and abs(record["yaw"]) < 0.2 and record["smile"] > 0.5


def test_crops_are_what_the_runtime_would_cut(tiny_set: TinySet, face_models: FaceModels) -> None:
    record = records_of(tiny_set.data)[0]
    data = (tiny_set.inputs[0] / record["name"]).read_bytes()
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    with module.FaceMesh(face_models.face, max_faces=1, video=False) as mesh:
        (face,) = mesh(np.asarray(picture))
    crop = align.warp(picture, align.crop_transform(face.points[list(align.MESH_ANCHORS)], 256), 256)
    assert np.abs(crop.astype(int) - np.load(tiny_set.data / "crops.npy")[0]).mean() < 2


# ---- going on


def test_a_second_call_does_nothing_again(tiny_set: TinySet, face_models: FaceModels, tmp_path: Path) -> None:
    out = tmp_path / "data"
    (out / "chunks").mkdir(parents=True)
    for chunk in (tiny_set.data / "chunks").iterdir():
        (out / "chunks" / chunk.name).write_bytes(chunk.read_bytes())
    (out / "chunks" / "faces-000000.partial").write_bytes(b"what a kill left behind")
    before = {p.name: p.stat().st_mtime_ns for p in (out / "chunks").iterdir()}
    assert prepare(tiny_set.inputs, out, b"no model, as none is needed") == tiny_set.summary
    assert {p.name: p.stat().st_mtime_ns for p in (out / "chunks").iterdir()} == before
    for name in ("crops", "mesh", "corners"):
        assert (np.load(out / f"{name}.npy") == np.load(tiny_set.data / f"{name}.npy")).all()
    assert records_of(out) == records_of(tiny_set.data)


def test_only_what_is_missing_is_done(
    tiny_set: TinySet, face_models: FaceModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "data"
    (out / "chunks").mkdir(parents=True)
    here, gone = list_chunks(tiny_set.inputs, out)
    Path(here.out).write_bytes((tiny_set.data / "chunks" / Path(here.out).name).read_bytes())
    done: list[str] = []

    class InProcess:
        def __init__(self, workers: int, maxtasksperchild: int) -> None:
            pass

        def __enter__(self) -> InProcess:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def imap_unordered(self, function: Any, jobs: Any) -> Any:
            for job in jobs:
                done.append(job[0].source)
                yield function(job)

    context = type("Context", (), {"Pool": InProcess})
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda kind: context)
    summary = prepare(tiny_set.inputs, out, face_models.face)
    assert done == [gone.source] == ["more"] and summary == tiny_set.summary
    assert (np.load(out / "crops.npy") == np.load(tiny_set.data / "crops.npy")).all()


def test_a_set_without_any_face(tmp_path: Path, face_models: FaceModels) -> None:
    faces, out = tmp_path / "faces", tmp_path / "data"
    faces.mkdir()
    (faces / "text.png").write_text("no picture")
    (out / "chunks").mkdir(parents=True)
    chunks = list_chunks([faces], out)
    for chunk in chunks:
        module.work((chunk, face_models.face))
    summary = module.assemble(chunks, out)
    assert summary["kept"] == 0 and summary["dropped"] == {"corrupt": 1}
    assert np.load(out / "crops.npy").shape == (0, 256, 256, 3)


# ---- inputs


def test_chunks_hold_every_picture_once(tiny_set: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    chunks = list_chunks(tiny_set.inputs, tmp_path)
    names = [name for chunk in chunks if chunk.source == "faces" for name in chunk.names]
    assert sorted(names) == sorted(p.name for p in tiny_set.inputs[0].iterdir() if p.name != "notes.txt")
    assert all(len(chunk.names) <= 4 for chunk in chunks) and len({chunk.out for chunk in chunks}) == len(chunks)
    assert [name for name, _ in read_pictures(chunks[-1])] == ["somewhere/q0.png", "somewhere/q1.png"]
    assert all(data for chunk in chunks for name, data in read_pictures(chunk) if name != "empty.png")


def test_inputs_that_are_none_or_have_one_name(tiny_set: TinySet, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        list_chunks([tmp_path / "nothing"], tmp_path)
    with pytest.raises(FileNotFoundError, match="tar"):
        list_chunks([tiny_set.inputs[0] / "text.jpg"], tmp_path)
    (tmp_path / "faces").mkdir()
    with pytest.raises(ValueError, match="faces"):
        list_chunks([tiny_set.inputs[0], tmp_path / "faces"], tmp_path)


# ---- names, splits, figures


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("UTKFace/34_1_2_20170103174850406.jpg.chip.jpg", {"age": 34, "sex": "f", "group": "asian"}),
        ("00017_100_0_0_20170112213500903.jpg", {"age": 100, "sex": "m", "group": "white"}),
        ("61_1_20170109142408075.jpg", {}),  # one of the few without a group
        ("All-Age-Faces/00123A45.jpg", {"identity": "aaf-00123", "age": 45}),
        ("00007_00123A02.png", {"identity": "aaf-00123", "age": 2}),
        ("Images/AF1023.jpg", {"identity": "scut-AF1023", "sex": "f", "group": "asian"}),
        ("CM9.jpg", {"identity": "scut-CM9", "sex": "m", "group": "white"}),
        ("lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg", {"identity": "Aaron_Eckhart"}),
        ("lfw/Jean-Pierre_Raffarin/Jean-Pierre_Raffarin_0003.jpg", {"identity": "Jean-Pierre_Raffarin"}),
        ("00012_female_asian_x7.png", {"sex": "f", "group": "asian"}),
        ("pictures/IMG_2041.jpg", {}),
    ],
)
def test_names_tell_what_the_known_sets_write_into_them(name: str, wanted: dict[str, Any]) -> None:
    assert describe("any", name) == wanted


def test_splits_are_fixed_and_in_proportion() -> None:
    names = [f"somebody-{i}" for i in range(20_000)]
    splits = [split_of(name) for name in names]
    assert splits == [split_of(name) for name in names]
    shares = [splits.count(split) / len(splits) for split in ("train", "validation", "test")]
    assert np.allclose(shares, [0.94, 0.03, 0.03], atol=0.006)
    fixed = [split_of(name) for name in ("aaf-00123", "faces-p063.png", "faces-p143.png")]
    assert fixed == ["train", "test", "validation"], "another split than before: models were trained on test faces"


def test_the_hash_sees_through_size_and_quality_but_not_a_mirror() -> None:
    picture = portrait(3)
    code = np.frombuffer(encoded(picture, ".jpg"), np.uint8)
    again = np.asarray(cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))
    smaller = np.asarray(cv2.resize(picture, (180, 180), interpolation=cv2.INTER_AREA))
    hashes = [difference_hash(p) for p in (picture, again, smaller)]
    assert all((hashes[0] ^ h).bit_count() <= 2 for h in hashes)
    assert difference_hash(picture) == difference_hash(picture.copy())
    others = [np.ascontiguousarray(picture[:, ::-1]), portrait(4)]
    assert all((hashes[0] ^ difference_hash(p)).bit_count() > 10 for p in others)


def test_yaw_follows_the_nose() -> None:
    mesh = sample.astronaut_mesh().copy()
    straight = yaw_of(mesh)
    mesh[1, 0] += 0.2 * (mesh[454, 0] - mesh[234, 0])
    assert abs(straight) < 0.2 and yaw_of(mesh) == pytest.approx(straight + 0.4, abs=1e-3)
    mesh[1, 0] += 1000
    assert yaw_of(mesh) == 1.0
