"""Preparing faces for training: what is kept, what is dropped and why, and going on where a run stopped."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.conftest import FaceModels
from tests.trainer_media import CORRUPT, COUNTS, DROPPED, IN_TAR, TinySet, encoded, portrait
from trainer import chunks as chunks_module
from trainer import prepare as module
from trainer.bank import open_bank
from trainer.chunks import Chunk, list_chunks, work
from trainer.datasets import Source, open_sources, split_of
from trainer.prepare import add_arguments, assemble, main, prepare, show_summary
from trainer.quality import Duplicates, decode, difference_hash, thumbnail, yaw_of
from unmask_rt import align, sample
from unmask_rt.errors import SourceError, UnmaskError, UsageError
from unmask_rt.faces.mesh import FaceMesh

KEPT = sum(COUNTS.values()) + IN_TAR
ARRAYS = ("crops", "mesh", "corners")


def records_of(data: Path) -> list[dict[str, Any]]:
    return list(json.loads((data / "meta.json").read_text()))


def store(chunk: Chunk, crops: list[np.ndarray], dropped: list[tuple[str, str]] | None = None) -> None:
    """Writes what `work` would have written, with crops of one's own."""
    chunk.out.parent.mkdir(parents=True, exist_ok=True)
    figures = {"source": chunk.source, "yaw": 0.0, "smile": 0.0, "open": 0.0, "sharpness": 9.0}
    records = [{"name": member.name} | figures for member in chunk.members[: len(crops)]]
    count = len(crops)
    with chunk.out.open("wb") as file:
        np.savez(
            file,
            crop=np.stack(crops),
            mesh=np.zeros((count, 478, 2), np.float16),
            corners=np.zeros((count, 4, 2), np.float32),
            records=json.dumps(records),
            dropped=json.dumps(dropped or []),
        )


def empty_pictures(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def noise(seed: int) -> np.ndarray:
    spots = np.random.default_rng(seed).uniform(0, 255, (12, 12, 3)).astype(np.float32)
    return np.asarray(cv2.resize(spots, (256, 256), interpolation=cv2.INTER_CUBIC)).clip(0, 255).astype(np.uint8)


# ---- what comes out


def test_the_summary_counts_every_picture(tiny_set: TinySet) -> None:
    summary = tiny_set.summary
    assert summary["kept"] == KEPT and summary["dropped"] == DROPPED
    assert sorted(summary["corrupt"]) == CORRUPT
    assert summary["by_source"] == {"faces": KEPT - IN_TAR, "more": IN_TAR}
    assert summary["dropped_by_source"] == {"faces": DROPPED, "more": {}}
    assert sum(summary["by_split"].values()) == KEPT
    assert all(summary["by_split"][split] >= count for split, count in COUNTS.items())
    pictures = [p for p in tiny_set.inputs[0].iterdir() if p.suffix != ".txt"]
    assert KEPT + sum(DROPPED.values()) == len(pictures) + IN_TAR
    assert json.loads((tiny_set.data / "summary.json").read_text()) == summary
    dropped = [json.loads(line) for line in (tiny_set.data / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == sum(DROPPED.values())
    (again,) = (d for d in dropped if d["reason"] == "duplicate")
    assert again["name"] == "z-again.png" and again["of"] == f"faces/{records_of(tiny_set.data)[0]['name']}"
    assert not (tiny_set.data / "chunks").exists() and not list(tiny_set.data.glob("*.partial"))


def test_the_arrays_fit_each_other(tiny_set: TinySet) -> None:
    crops, mesh, corners = (np.load(tiny_set.data / f"{n}.npy", mmap_mode="r") for n in ARRAYS)
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
        assert abs(record["yaw"]) < 0.2 and record["smile"] > 0.5


def test_crops_are_what_the_runtime_would_cut(tiny_set: TinySet, face_models: FaceModels) -> None:
    record = records_of(tiny_set.data)[0]
    data = (tiny_set.inputs[0] / record["name"]).read_bytes()
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    with FaceMesh(face_models.face, max_faces=1, video=False) as mesh:
        (face,) = mesh(np.asarray(picture))
    crop = align.warp(picture, align.crop_transform(face.points[list(align.MESH_ANCHORS)], 256), 256)
    assert np.abs(crop.astype(int) - np.load(tiny_set.data / "crops.npy")[0]).mean() < 2


# ---- going on


def test_an_interrupted_call_goes_on_with_what_is_missing(
    tiny_set: TinySet, face_models: FaceModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "data"
    done: list[str] = []
    chunks = list_chunks(open_sources(tiny_set.inputs), out / "chunks")
    (out / "chunks").mkdir(parents=True)

    def in_process(function: Any, jobs: Any, **_: Any) -> Any:
        for number, job in enumerate(jobs):
            if len(done) == 1 and number == 1:
                raise KeyboardInterrupt
            done.append(job[0].source)
            yield function(job)

    monkeypatch.setattr(module, "run_jobs", in_process)
    with pytest.raises(KeyboardInterrupt):
        prepare(tiny_set.inputs, out, face_models.face)
    (out / "chunks" / "more-000000-0.partial").write_bytes(b"what a kill left behind")
    assert done == ["faces"] and chunks[0].out.exists() and not (out / "crops.npy").exists()
    summary = prepare(tiny_set.inputs, out, face_models.face)
    assert done == ["faces", "more"] and summary == tiny_set.summary
    for name in ARRAYS:
        assert (np.load(out / f"{name}.npy") == np.load(tiny_set.data / f"{name}.npy")).all()
    assert records_of(out) == records_of(tiny_set.data) and not (out / "chunks").exists()


def test_a_finished_set_is_left_alone(tiny_set: TinySet) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in tiny_set.data.iterdir()}
    assert prepare(tiny_set.inputs, tiny_set.data, b"no model, as none is needed") == tiny_set.summary
    assert {p.name: p.stat().st_mtime_ns for p in tiny_set.data.iterdir()} == before
    with pytest.raises(UsageError, match="other pictures"):
        prepare(tiny_set.inputs[:1], tiny_set.data, b"no model")
    assert {p.name: p.stat().st_mtime_ns for p in tiny_set.data.iterdir()} == before


def test_inputs_can_be_added_where_the_chunks_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, out = empty_pictures(tmp_path / "a", ["1.png"]), empty_pictures(tmp_path / "b", ["2.png"]), tmp_path
    worked: list[str] = []

    def fake(function: Any, jobs: Any, **_: Any) -> Any:
        for chunk, _model in jobs:
            worked.append(chunk.source)
            store(chunk, [noise(ord(chunk.source))])
        return iter(())

    monkeypatch.setattr(module, "run_jobs", fake)
    monkeypatch.setattr(module, "head_shape", lambda crops, turned, model: np.zeros((478, 3)))
    prepare([first], out / "data", b"model", keep_chunks=True)
    (out / "data" / "bank").mkdir()
    assert prepare([first, second], out / "data", b"model", keep_chunks=True)["kept"] == 2
    assert worked == ["a", "b"] and not (out / "data" / "bank").exists(), "masks of other rows are left"


def test_other_pictures_of_the_same_name_are_worked_off_again(tmp_path: Path) -> None:
    root = empty_pictures(tmp_path / "a", ["1.png", "2.png"])
    (before,) = list_chunks(open_sources([root]), tmp_path)
    (root / "3.png").write_bytes(b"")
    (after,) = list_chunks(open_sources([root]), tmp_path)
    (root / "3.png").unlink()
    assert before.out != after.out and [before] == list_chunks(open_sources([root]), tmp_path)


def test_chunks_hold_every_picture_once(tiny_set: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "CHUNK", 4)
    chunks = list_chunks(open_sources(tiny_set.inputs), tmp_path)
    names = [member.name for chunk in chunks if chunk.source == "faces" for member in chunk.members]
    assert sorted(names) == sorted(p.name for p in tiny_set.inputs[0].iterdir() if p.name != "notes.txt")
    assert all(len(chunk.members) <= 4 for chunk in chunks) and len({chunk.out for chunk in chunks}) == len(chunks)


def test_a_chunk_without_any_face(tmp_path: Path, face_models: FaceModels) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "text.png").write_text("no picture")
    sources = open_sources([tmp_path / "faces"])
    (chunk,) = list_chunks(sources, tmp_path)
    work((chunk, face_models.face))
    summary = assemble(sources, [chunk], tmp_path)
    assert summary["kept"] == 0 and summary["dropped"] == {"corrupt": 1}
    assert np.load(tmp_path / "crops.npy").shape == (0, 256, 256, 3)


def test_an_input_without_a_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no picture"):
        prepare([tmp_path / "empty"], tmp_path / "data", b"model")


# ---- who is in which split


def test_nobody_is_in_two_splits(tmp_path: Path) -> None:
    """CelebA's partition goes before the hash, and one person's pictures stay together, from whatever set they come."""
    celeba = empty_pictures(tmp_path / "img_align_celeba", [f"{i:06d}.jpg" for i in range(1, 41)])
    people = {f"{i:06d}.jpg": i % 7 for i in range(1, 41)}
    (tmp_path / "identity_CelebA.txt").write_text("".join(f"{name} {who}\n" for name, who in people.items()))
    parts = {name: (0 if who < 4 else 1 if who < 6 else 2) for name, who in people.items()}
    parts["000040.jpg"] = 2  # a slip of the list: person 5 belongs to the validation
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part in parts.items()))
    lfw = empty_pictures(tmp_path / "lfw", [f"Some_{a}/Some_{a}_000{i}.jpg" for a in "ABCDEFGH" for i in range(1, 4)])
    sources = open_sources([celeba, lfw])
    chunks = list_chunks(sources, tmp_path / "chunks")
    for number, chunk in enumerate(chunks):
        store(chunk, [noise(1000 * number + i) for i in range(len(chunk.members))])
    summary = assemble(sources, chunks, tmp_path)
    records = records_of(tmp_path)
    assert summary["kept"] == len(records) == 64
    splits: dict[str, set[str]] = {}
    for record in records:
        splits.setdefault(record["identity"], set()).add(record["split"])
    assert len(splits) == 7 + 8 and all(len(found) == 1 for found in splits.values())
    assert splits["celeba-5"] == {"validation"} and splits["celeba-6"] == {"test"} and splits["celeba-1"] == {"train"}
    assert splits["Some_A"] == {split_of("Some_A")}
    assert summary["unnamed"] == {}


def test_whose_pictures_nothing_tells_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "anna/IMG_1.jpg", "anna/IMG_2.jpg", "00123A45.jpg"]  # a number
    sources = open_sources([empty_pictures(tmp_path / "mine", names)])
    chunks = list_chunks(sources, tmp_path / "chunks")
    for chunk in chunks:
        store(chunk, [noise(i) for i in range(len(chunk.members))])
    summary = assemble(sources, chunks, tmp_path)
    assert summary["unnamed"] == {"mine": 3}
    show_summary(summary)
    assert "nothing tells who is on 3 of mine" in capsys.readouterr().out


# ---- duplicates


def like(picture: np.ndarray) -> list[np.ndarray]:
    """The same picture at another quality, size, exposure."""
    _, code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])
    small = cv2.resize(picture, (120, 120), interpolation=cv2.INTER_AREA)
    darker = (picture * 0.8).astype(np.uint8)
    return [cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.resize(small, (256, 256)), darker]


def test_a_picture_is_recognised_at_another_size_quality_and_exposure() -> None:
    pictures = [np.ascontiguousarray(portrait(i)[40:296, 40:296]) for i in (3, 4, 8)]
    seen = Duplicates(30)
    assert [seen.find(p) for p in pictures] == [None, None, None]
    for number, picture in enumerate(pictures):
        assert [seen.find(np.asarray(p)) for p in like(picture)] == [number] * 3
        assert seen.find(np.ascontiguousarray(picture[:, ::-1])) is None, "a mirror image is another picture"
    assert seen.find(noise(1)) is None and seen.find(noise(1)) == 6


def test_hash_and_thumbnail_are_what_their_names_say() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    assert difference_hash(np.ascontiguousarray(ramp)).tolist() == [2**64 - 1] * 4
    assert difference_hash(np.ascontiguousarray(ramp[:, ::-1])).tolist() == [0] * 4
    small = thumbnail(np.ascontiguousarray(ramp)).astype(np.float32)
    assert float(small @ small) == pytest.approx(1, abs=2e-3) and abs(float(small.mean())) < 1e-3
    assert not thumbnail(np.full((256, 256, 3), 9, np.uint8)).any()


def test_flat_pictures_of_one_hash_are_told_apart_by_their_thumbnails() -> None:
    top = np.zeros((256, 256, 3), np.uint8)
    top[:100] = 200
    left = np.ascontiguousarray(top[::-1])
    assert (difference_hash(top) == difference_hash(left)).all()
    seen = Duplicates(2)
    assert seen.find(top) is None and seen.find(left) is None


# ---- single pictures


def test_pictures_are_decoded_upright_and_cut_ones_are_refused() -> None:
    picture = portrait(3)
    for extension in (".png", ".jpg", ".webp"):
        data = encoded(picture, extension)
        found = decode(data)
        assert found is not None and np.abs(found.astype(int) - picture).mean() < 4
        assert decode(data[: len(data) // 2]) is None, f"half a {extension} is taken for a picture"
    assert decode(b"") is None and decode(b"text") is None
    exif = bytes.fromhex("ffe1002245786966000049492a000800000001001201030001000000060000000000000000")[:36]
    jpeg = encoded(picture[:200], ".jpg")
    turned = decode(jpeg[:2] + exif + jpeg[2:])
    assert turned is not None and turned.shape == (360, 200, 3)
    # beside the orientation a width that is a text: Pillow cannot write it down again when it turns the picture
    tags = bytes.fromhex("4d4d002a00000008 0002 0100 0002 00000001 35000000 0112 0003 00000001 00060000 00000000")
    wrong = b"\xff\xe1" + (len(tags) + 8).to_bytes(2, "big") + b"Exif\0\0" + tags
    assert decode(jpeg[:2] + wrong + jpeg[2:]) is None


def test_yaw_follows_the_nose() -> None:
    mesh = sample.astronaut_mesh().copy()
    straight = yaw_of(mesh)
    mesh[1, 0] += 0.2 * (mesh[454, 0] - mesh[234, 0])
    assert abs(straight) < 0.2 and yaw_of(mesh) == pytest.approx(straight + 0.4, abs=1e-3)
    mesh[1, 0] += 1000
    assert yaw_of(mesh) == 1.0


# ---- the command


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args([str(word) for word in words]))


def test_the_command_prepares_shows_and_draws(
    tiny_set: TinySet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_set.data, data, ignore=shutil.ignore_patterns("bank"))
    inputs = tiny_set.inputs
    assert run(*inputs, "-o", data, "--no-bank") == 0 and not (data / "bank").exists()
    shown = capsys.readouterr().out
    assert all(reason in shown for reason in DROPPED) and all(f"corrupt: {name}" in shown for name in CORRUPT)
    words = ("--variants", "1", "--workers", "1", "--families", "classic", "--without", "surgical,gaiter")
    assert run(*inputs, "-o", data, *words) == 0
    bank = open_bank(data)
    assert bank["done"].shape == (1, KEPT) and np.asarray(bank["done"]).all()
    assert not {0, 5} & set(np.unique(bank["family"]).tolist())
    with pytest.raises(UsageError, match="visor"):
        run(*inputs, "-o", data, "--families", "visor")


def test_the_commands_load_no_heavy_module_before_they_work() -> None:
    heavy = "{'torch', 'mediapipe', 'av', 'rich'}"
    code = f"import sys, trainer.prepare, trainer.synthesize\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_command_fails_where_no_face_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(sources: list[Source], *_: Any, **__: Any) -> dict[str, Any]:
        empty: dict[str, Any] = {"kept": 0, "corrupt": [], "by_source": {}, "by_split": {}}
        return empty | {"dropped": {"grey": 2}, "dropped_by_source": {"a": {"grey": 2}}}

    monkeypatch.setattr(module, "prepare", nothing)
    with pytest.raises(UnmaskError, match="not a single face"):
        run(tmp_path, "-o", tmp_path / "data")
