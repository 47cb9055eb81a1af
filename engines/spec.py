"""What a model says about itself: the metadata that travels inside each exported file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

METADATA_KEY = "unmask_rt"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that a runtime has to know about a model, read from its own metadata.

    Attributes:
        name: the model's name.
        crop_size: side S of the aligned crop in pixels.
        template: where the six anchors (`align.MESH_ANCHORS`) lie in the crop, fractions of its side.
        extra_channels: names of further input channels, usually none.
        licence: of the weights.
        trained: what it was trained on and for how long, one line.
        format: version of this record.
    """

    name: str
    crop_size: int
    template: tuple[tuple[float, float], ...]
    extra_channels: tuple[str, ...]
    licence: str
    trained: str
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> ModelSpec:
        """Reads a record.

        Raises:
            ValueError: it is not one, or of a format that this version does not know.
        """
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"model format {fields['format']}, this version reads {FORMAT}")
            template = tuple((float(x), float(y)) for x, y in fields["template"])
            return ModelSpec(
                name=str(fields["name"]),
                crop_size=int(fields["crop_size"]),
                template=template,
                extra_channels=tuple(fields["extra_channels"]),
                licence=str(fields["licence"]),
                trained=str(fields["trained"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"model metadata is incomplete: {error}") from error
