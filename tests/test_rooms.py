"""Which room may import which: the runtime stays free of torch, and no arrow points backwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import unmask_rt
from unmask_rt import sample

ROOT = Path(__file__).resolve().parent.parent


def imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """Top names that a module imports: when it is loaded, or (lazy) anywhere in it."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", modules("unmask_rt"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_runtime_never_imports_torch_nor_the_trainer_at_load(path: Path) -> None:
    assert not {"torch", "onnx"} & set(imports(path, lazy=True))
    assert "trainer" not in set(imports(path, lazy=False))
    if path.name != "sample.py":  # it draws the mask of the built-in clip
        assert "trainer" not in set(imports(path, lazy=True))


@pytest.mark.parametrize(
    "path", [p for p in modules("engines") if p.name != "export.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_only_the_export_needs_torch(path: Path) -> None:
    assert "torch" not in set(imports(path, lazy=False)) or path.name == "to_torch.py"
    assert "engines.export" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", modules("engines"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_engine_brings_the_trainer(path: Path) -> None:
    assert "trainer" not in set(imports(path, lazy=False))


def test_asking_every_backend_brings_neither_torch_nor_onnx() -> None:
    code = (
        "import sys\nfrom engines import BACKENDS, backend, fallback, obtain, select\n"
        "[backend(name).usable() for name in BACKENDS]\n"
        "heavy = {'torch', 'onnx', 'trainer', 'openvino', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", modules("trainer/masks"), ids=lambda p: p.name)
def test_mask_drawing_needs_no_torch(path: Path) -> None:
    assert not {"torch", "mediapipe", "av"} & set(imports(path, lazy=True))


def test_a_picture_is_unmasked_without_torch(tmp_path: Path, face_models: object) -> None:
    Image.fromarray(sample.masked_astronaut()[1]).save(tmp_path / "masked.png")
    code = (
        "import sys\nimport unmask_rt.cli\nassert 'torch' not in sys.modules and 'mediapipe' not in sys.modules\n"
        f"code = unmask_rt.cli.main([r'{tmp_path / 'masked.png'}', '-o', r'{tmp_path / 'out.png'}'])\n"
        "assert 'torch' not in sys.modules and 'trainer' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").is_file()


def test_the_package_exports_what_it_promises() -> None:
    for name in unmask_rt.__all__:
        assert getattr(unmask_rt, name) is not None
    assert set(dir(unmask_rt)) == set(unmask_rt.__all__)
    with pytest.raises(AttributeError):
        unmask_rt.nothing  # noqa: B018
