"""The known sets of faces: listing pictures, reading names and lists, splitting by identity."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.datasets import Lists, describe, open_sources, read_lists, read_members, split_of
from unmask_rt.errors import SourceError, UsageError

CONTENT = {"b.png": b"second", "a/x.jpg": b"first", "c.WEBP": b"third"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "faces"
    for name, data in (CONTENT | {"notes.txt": b"no"}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(path: Path, mode: Any) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in (CONTENT | {"notes.txt": b"no"}).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_a_folder_lists_its_pictures_in_order(folder: Path) -> None:
    (source,) = open_sources([folder])
    assert source.name == "faces" and [m.name for m in source.members] == ["a/x.jpg", "b.png", "c.WEBP"]
    assert dict(read_members(source.path, source.members)) == CONTENT
    (folder / "b.png").unlink()
    assert dict(read_members(source.path, source.members))["b.png"] == b""


@pytest.mark.parametrize(("name", "mode"), [("set.tar", "w"), ("set.tar.gz", "w:gz"), ("set.tgz", "w:gz")])
def test_a_tar_gives_each_picture_without_being_unpacked(tmp_path: Path, name: str, mode: str) -> None:
    (source,) = open_sources([pack(tmp_path / name, mode)])
    assert source.name == "set" and sorted(m.name for m in source.members) == sorted(CONTENT)
    assert dict(read_members(source.path, source.members)) == CONTENT
    assert dict(read_members(source.path, source.members[::-1])) == CONTENT


def test_inputs_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing"):
        open_sources([tmp_path / "nothing"])
    with pytest.raises(SourceError, match="tar of them"):
        open_sources([folder / "notes.txt"])
    whole = pack(tmp_path / "set.tar", "w").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 + 100])
    (tmp_path / "cut.tar.gz").write_bytes(pack(tmp_path / "set.tgz", "w:gz").read_bytes()[:60])
    for name in ("cut.tar", "cut.tar.gz"):
        with pytest.raises(SourceError, match="cut"):
            open_sources([tmp_path / name])


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", ""])
def test_a_damaged_tar_is_not_half_read(tmp_path: Path, kind: str) -> None:
    whole = pack(tmp_path / "set.tar", "w").read_bytes()
    wrong = bytearray(whole)
    wrong[1024 + 3] ^= 1  # the second header
    with pytest.raises(SourceError, match="damaged or cut short at byte 1024"):
        open_sources([_stored(tmp_path / "wrong.tar", bytes(wrong))])
    with pytest.raises(SourceError, match="damaged or cut short"):
        open_sources([_stored(tmp_path / "short.tar", whole[:1024])])
    packed = bytearray(pack(tmp_path / f"set.tar.{kind}", f"w:{kind}").read_bytes())
    middle = len(packed) // 2 if kind else 1024
    packed[middle : middle + 40] = bytes(40)
    with pytest.raises(SourceError, match="damaged"):
        open_sources([_stored(tmp_path / "damaged.tar", bytes(packed))])


def _stored(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_inputs_of_one_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "faces").mkdir(parents=True)
    with pytest.raises(UsageError, match="twice: faces"):
        open_sources([folder, tmp_path / "other" / "faces"])


# ---- names and lists


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
        ("Abdullah/Abdullah_0004.jpg", {"identity": "Abdullah"}),
        ("lfw/Jean-Pierre_Raffarin/Jean-Pierre_Raffarin_0003.jpg", {"identity": "Jean-Pierre_Raffarin"}),
        ("Holiday_2019/IMG_2041.jpg", {}),  # a folder of many people
        ("00012_female_asian_x7.png", {"sex": "f", "group": "asian"}),
        ("images1024x1024/00000/00021.png", {}),
        ("pictures/IMG_2041.jpg", {}),
    ],
)
def test_names_tell_what_the_known_sets_write_into_them(name: str, wanted: dict[str, Any]) -> None:
    assert describe(name) == wanted and describe(name, Lists()) == wanted


@pytest.mark.parametrize("beside", ["", "Anno", "Eval"])
def test_celeba_s_lists_tell_person_and_split(tmp_path: Path, beside: str) -> None:
    pictures = tmp_path / "CelebA" / "Img" / "img_align_celeba"
    pictures.mkdir(parents=True)
    lists = tmp_path / "CelebA" / beside
    lists.mkdir(exist_ok=True)
    (lists / "identity_CelebA.txt").write_text("000001.jpg 2880\n000002.jpg 2937\n")
    (lists / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 2\n")
    for root in (pictures, pictures.parent, tmp_path / "CelebA"):
        read = read_lists(root)
        assert describe("img_align_celeba/000001.jpg", read) == {"identity": "celeba-2880", "split": "train"}
        assert describe("000002.png", read) == {"identity": "celeba-2937", "split": "test"}
        assert describe("000003.jpg", read) == {}


def test_celeba_hq_goes_by_the_pictures_it_was_made_from(tmp_path: Path) -> None:
    (tmp_path / "CelebA-HQ-img").mkdir()
    mapping = "idx    orig_idx    orig_file\n0      119613      119614.jpg\n1 99094 099095.jpg\n"
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(mapping)
    (tmp_path / "identity_CelebA.txt").write_text("119614.jpg 42\n")
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n119614.jpg,1\n099095.jpg,0\n")
    read = read_lists(tmp_path / "CelebA-HQ-img")
    assert describe("0.jpg", read) == {"identity": "celeba-42", "split": "validation"}
    assert describe("1.jpg", read) == {"split": "train"} and describe("2.jpg", read) == {}


@pytest.mark.parametrize("line", ["000001.jpg", "000001.jpg 7", "000001.jpg x"])
def test_a_damaged_list_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "list_eval_partition.txt").write_text(f"000000.jpg 1\n{line}\n")
    with pytest.raises(SourceError, match=r"list_eval_partition\.txt, line 2"):
        read_lists(tmp_path)


def test_splits_are_fixed_and_in_proportion() -> None:
    names = [f"somebody-{i}" for i in range(20_000)]
    splits = [split_of(name) for name in names]
    assert splits == [split_of(name) for name in names]
    shares = [splits.count(split) / len(splits) for split in ("train", "validation", "test")]
    assert np.allclose(shares, [0.94, 0.03, 0.03], atol=0.006)
    fixed = [split_of(name) for name in ("aaf-00123", "faces-p063.png", "faces-p143.png")]
    assert fixed == ["train", "test", "validation"], "another split than before: models were trained on test faces"
