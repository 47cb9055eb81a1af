"""The forms in which one model exists, and where each is found: beside the bundled model, in the cache, or made.

    fp32            as exported: the reference
    fp16            computed in FP16, for TensorRT (`engines.fp16`)
    int8            QDQ, activations U8 and weights S8: what ONNX Runtime and OpenVINO run fast (`engines.quantise`)
    int8-symmetric  QDQ, everything S8 around zero and no int32 bias: what TensorRT accepts

Each made form carries the SHA-256 of the model that it was made from, so that no form of another model is ever taken.
"""

from __future__ import annotations

SOURCE_KEY = "unmask_rt_source"
"""Metadata of a made form: SHA-256 of the fp32 model that it was made from."""
VARIANTS = ("fp32", "fp16", "int8", "int8-symmetric")
