"""The known sets of faces: which pictures an input holds, what their names and lists tell, and who is tested on.

| set | how it lies on the disk | identity from |
|---|---|---|
| CelebA | ``img_align_celeba/000001.jpg`` | ``identity_CelebA.txt``; split from ``list_eval_partition`` |
| CelebA-HQ | ``CelebA-HQ-img/0.jpg`` | ``CelebA-HQ-to-CelebA-mapping.txt`` and CelebA's lists |
| LFW | ``Some_Body/Some_Body_0001.jpg`` | the folder |
| All-Age-Faces | ``00000A02.jpg`` | the name (picture number, age): each picture counts as one person |
| SCUT-FBP5500 | ``AF1.jpg`` | the name (group, sex, number) |
| FFHQ, UTKFace and whatever else | any | none: each picture counts as one person |

The lists of CelebA are looked for in the input's folder and the two above it, and in their ``Anno`` and ``Eval``.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask_rt.errors import SourceError, UsageError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
CELEBA_SPLITS = ("train", "validation", "test")
_LISTS = (
    "identity_CelebA.txt",
    "list_eval_partition.txt",
    "list_eval_partition.csv",
    "CelebA-HQ-to-CelebA-mapping.txt",
)


@dataclass(frozen=True, slots=True)
class Member:
    """One picture of an input: its name, and where a tar holds its bytes (0, 0 in a folder)."""

    name: str
    offset: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """A folder or tar of pictures.

    Attributes:
        name: what its faces are labelled with: the file's or folder's name without endings.
        path: absolute.
        members: its pictures; sorted by name in a folder, as they lie in a tar.
    """

    name: str
    path: Path
    members: tuple[Member, ...]


def open_sources(inputs: Sequence[Path]) -> list[Source]:
    """Lists the pictures of folders and tars.

    Raises:
        SourceError: an input is neither a folder nor a readable tar.
        UsageError: two inputs have the same name, which is what sources are told apart by.
    """
    sources = [Source(_name(path), path.resolve(), tuple(_members(path))) for path in inputs]
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"inputs need different names, these are there twice: {', '.join(twice)}",
            "Rename a folder or tar, or give the folder above them.",
        )
    return sources


def _name(path: Path) -> str:
    path = path.resolve()
    return path.name if path.is_dir() else re.sub(r"\.(tar(\.\w+)?|tgz)$", "", path.name)


def _members(path: Path) -> Iterator[Member]:
    if path.is_dir():
        names = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix.lower() in PICTURES)
        yield from (Member(name) for name in sorted(names))
        return
    try:
        with tarfile.open(path) as tar:
            for entry in tar:
                if entry.isfile() and Path(entry.name).suffix.lower() in PICTURES:
                    yield Member(entry.name, entry.offset_data, entry.size)
            _require_end(tar)
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(
            f"{path}: neither a folder of pictures nor a tar of them ({error})",
            "Give a folder of JPEG, PNG, WebP or BMP files, or a whole, readable tar.",
        ) from error


def _require_end(tar: tarfile.TarFile) -> None:
    """Raises ReadError unless the member last read is followed by the block of zeros that ends an archive: the module
    ends its list at a damaged header as well, without a word."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset}")


def read_members(path: Path, members: Sequence[Member]) -> Iterator[tuple[str, bytes]]:
    """Name and encoded bytes of pictures of a folder or tar; no bytes where a file cannot be read."""
    if path.is_dir():
        for member in members:
            try:
                yield member.name, (path / member.name).read_bytes()
            except OSError:
                yield member.name, b""
        return
    with tarfile.open(path) as tar:
        assert tar.fileobj is not None
        for member in members:
            tar.fileobj.seek(member.offset)
            yield member.name, tar.fileobj.read(member.size)


@dataclass(frozen=True, slots=True)
class Lists:
    """What the lists beside a set of pictures tell, each by a file name's stem.

    Attributes:
        identities: CelebA picture -> number of its person.
        splits: CelebA picture -> "train", "validation" or "test".
        originals: CelebA-HQ picture -> CelebA picture.
    """

    identities: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    originals: dict[str, str] = field(default_factory=dict)


def read_lists(path: Path) -> Lists:
    """Reads CelebA's lists where they lie near an input.

    Raises:
        SourceError: a line of a list is not what it should be.
    """
    lists = Lists()
    base = path if path.is_dir() else path.parent
    folders = [base / part for base in (base, base.parent, base.parent.parent) for part in ("", "Anno", "Eval")]
    for name in _LISTS:
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        for number, line in enumerate(file.read_text("utf-8").splitlines() if file else ()):
            words = re.split(r"[\s,]+", line.strip())
            if not words[0] or not re.match(r"\d", words[0]):  # a title, an empty line
                continue
            try:
                if name.startswith("identity"):
                    lists.identities[Path(words[0]).stem] = words[1]
                elif name.startswith("list"):
                    lists.splits[Path(words[0]).stem] = CELEBA_SPLITS[int(words[1])]
                else:
                    lists.originals[words[0]] = Path(words[2]).stem
            except (IndexError, ValueError) as error:
                raise SourceError(
                    f"{file}, line {number + 1}: {line.strip()!r} is not a line of this list",
                    "Fetch the file again, or move it away: the split then goes by picture.",
                ) from error
    return lists


def describe(name: str, lists: Lists | None = None) -> dict[str, Any]:
    """What a file's name and the lists tell about the person: identity, split, age, sex, group; as far as they do."""
    stem = Path(name).name.split(".")[0]
    if lists is not None:
        picture = lists.originals.get(stem, stem)
        found: dict[str, Any] = {}
        if picture in lists.identities:
            found["identity"] = f"celeba-{lists.identities[picture]}"
        if picture in lists.splits:
            found["split"] = lists.splits[picture]
        if found:
            return found
    if m := re.match(r"(?:\d{5}_)?(\d{5})A(\d{2})$", stem):  # All-Age-Faces: the number is the picture's
        return {"identity": f"aaf-{m[1]}", "age": int(m[2])}
    if m := re.match(r"(?:\d{5}_)?(\d{1,3})_([01])_([0-4])_\d+", stem):  # UTKFace
        group = ("white", "black", "asian", "indian", "other")[int(m[3])]
        return {"age": int(m[1]), "sex": "mf"[int(m[2])], "group": group}
    if m := re.match(r"(?:\d{5}_)?([AC])([FM])(\d+)$", stem):  # SCUT-FBP5500
        return {"identity": f"scut-{m[0]}", "sex": m[2].lower(), "group": {"A": "asian", "C": "white"}[m[1]]}
    if m := re.match(r"\d{5}_(female|male)_([a-z]+)_", stem):
        return {"sex": m[1][0], "group": m[2]}
    parent = Path(name).parent.name
    if parent and re.fullmatch(re.escape(parent) + r"_\d{4}", stem):  # LFW: one folder a person
        return {"identity": parent}
    return {}


def unnamed(source: str, name: str) -> str:
    """The identity of a picture of which nothing tells whose face it is: its own."""
    return f"{source}-{Path(name).name}"


def is_unnamed(record: Mapping[str, Any]) -> bool:
    """Whether nothing tells whose face the picture of a prepared set's record is.

    The numbers of All-Age-Faces are of pictures. They stay its identities: new ones would change the split.
    """
    identity: str = record["identity"]
    return identity == unnamed(record["source"], record["name"]) or identity.startswith("aaf-")


def split_of(identity: str) -> str:
    """Deterministic split by identity: 94 % train, 3 % validation, 3 % test."""
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.94 else "validation" if share < 0.97 else "test"
