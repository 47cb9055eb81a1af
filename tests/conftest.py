"""Fixtures that several test modules share."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from unmask_rt import models, sample

if TYPE_CHECKING:
    from tests.trainer_media import TinySet


def pytest_configure() -> None:
    """Programs started in the background ignore Ctrl-C; the tests that press it need it to arrive."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class FaceModels(NamedTuple):
    """The bytes of the face models, checked against their hashes."""

    face: bytes
    finder: bytes
    aligner: bytes


@pytest.fixture(scope="session")
def face_models() -> FaceModels:
    """The face models, from the package, the cache folder or (once) from the network."""
    return FaceModels(models.load_face_model(), models.load_finder_model(), models.load_aligner_model())


@pytest.fixture(scope="session")
def astronaut() -> NDArray[np.uint8]:
    """The sample picture, uint8[512, 512, 3] RGB; read-only, so copy before you draw on it."""
    picture = sample.astronaut()
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def masked_astronaut() -> NDArray[np.uint8]:
    """The sample picture with a surgical mask on its face, uint8[512, 512, 3] RGB; read-only."""
    picture = sample.masked_astronaut()[1]
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def masked_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of the built-in clip with a mask and with sound, 640x360 at 15 a second; do not change it."""
    path = tmp_path_factory.mktemp("clip") / "masked.mp4"
    return sample.builtin_clip(path, seconds=1.0, size=(640, 360), rate=15)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory, face_models: FaceModels) -> TinySet:
    """A dozen prepared faces with a bank of masks, for the trainer; do not change it."""
    from tests.trainer_media import make_set

    return make_set(tmp_path_factory.mktemp("trainer"), face_models.face)


@pytest.fixture
def quick_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """A perceptual loss on one convolution: its real network is tested elsewhere."""
    from torch import nn

    from trainer import losses

    layer = nn.Conv2d(3, 4, 3, 2)
    monkeypatch.setitem(losses.BACKBONES, "efficientnet-lite0", lambda: ([layer], (0,)))
