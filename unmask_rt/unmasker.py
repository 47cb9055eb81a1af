"""The whole way of a frame in one call: find, inpaint, steady and blend, one after the other.

with Unmasker() as unmasker:
    finished = unmasker.process(frame)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines import open_engine
from unmask_rt import models
from unmask_rt.faces.find import FindStage
from unmask_rt.frames import Frame, Mode, Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.show import BlendStage, OnMiss
from unmask_rt.steady import SteadyStage
from unmask_rt.threads import default_threads

if TYPE_CHECKING:
    from engines.base import Engine
    from unmask_rt.pipeline import Stage


MAX_FACES: dict[Mode, int] = {"file": 8, "live": 8, "still": 32}
"""Most faces in a frame where nothing else is asked for: each costs a call of the engine, and pictures have time."""


@dataclass(frozen=True, slots=True)
class UnmaskerOptions:
    """How faces are unmasked.

    Attributes:
        engine: name of the backend that runs the network, or "auto".
        threads: threads inside one call of the engine; 0 takes half of the processor's, at most four.
        model: another unmask model than the bundled one.
        face_model: a local copy of ``face_landmarker.task``.
        finder_model: a local copy of ``centerface.onnx``.
        max_faces: at most so many faces a frame, the largest ones; 0 takes `MAX_FACES` of the mode.
        feather: width of the soft edge as a share of the crop's side.
        on_miss: what a masked face shows that was lost: the frame as it is, its last patch, or a blur.
        view: "result", "side-by-side", "mask" or "difference".
    """

    engine: str = "auto"
    threads: int = 0
    model: Path | None = None
    face_model: Path | None = None
    finder_model: Path | None = None
    max_faces: int = 0
    feather: float = 0.015
    on_miss: OnMiss = "pass"
    view: str = "result"


def stages_of(
    engine: Engine, face_models: tuple[bytes, bytes, bytes], mode: Mode, options: UnmaskerOptions
) -> list[Stage]:
    """New stages find, inpaint, steady (not for pictures) and blend, for one source; whoever takes them closes them.

    Args:
        engine: stays open when they are closed.
        face_models: bytes of ``face_landmarker.task``, ``centerface.onnx`` and ``aligner.onnx``, hash checked.
        mode: "file" looks ahead up to a second, "live" never waits, "still" takes each frame for a picture.
        options: max_faces, feather, on_miss and view are used.

    Raises:
        ModelError: the finder's bytes are no such model.
    """
    return [
        FindStage(*face_models, max_faces=options.max_faces or MAX_FACES[mode], mode=mode),
        InpaintStage(engine, mode),
        *([] if mode == "still" else [SteadyStage()]),
        BlendStage(mode, feather=options.feather, on_miss=options.on_miss, view=options.view),
    ]


class Unmasker:
    """Takes masks off faces.

    Raises:
        ModelError: a model is missing, damaged or foreign.
        ExtraError: the engine is not installed or not usable here.
        UsageError: an option does not exist.
    """

    def __init__(self, options: UnmaskerOptions | None = None) -> None:
        self.options = options or UnmaskerOptions()
        model, self.model_sha256 = models.load_unmask_model(self.options.model)
        self._face_model = models.load_face_model(self.options.face_model)
        self._finder_model = models.load_finder_model(self.options.finder_model)
        self._aligner_model = models.load_aligner_model()
        threads = self.options.threads or default_threads()
        self._engine = open_engine(self.options.engine, model, threads=threads)
        self._made: dict[Mode, list[Stage]] = {}

    def stages(self, mode: Mode) -> list[Stage]:
        """New stages for one source (`stages_of`)."""
        found = self._face_model, self._finder_model, self._aligner_model
        return stages_of(self._engine, found, mode, self.options)

    def process(self, frame: Frame, mode: Literal["live", "still"] = "live") -> Frame:
        """One frame in, the finished frame out.

        Args:
            frame: of a video in order ("live"), or a picture of its own ("still").
            mode: as for `stages`.

        Returns:
            The finished frame; the very same planes where nobody wears a mask.
        """
        if mode not in self._made:
            self._made[mode] = self.stages(mode)
        packet = Packet(frame)
        for stage in self._made[mode]:
            (packet,) = stage(packet)
        return packet.frame

    def describe(self) -> Mapping[str, Any]:
        """The engine's own description, with the model's hash."""
        return self._engine.describe()

    def close(self) -> None:
        """Frees engine and finders; calling it twice is harmless."""
        for stages in self._made.values():
            for stage in stages:
                stage.close()
        self._made.clear()
        self._engine.close()

    def __enter__(self) -> Unmasker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
