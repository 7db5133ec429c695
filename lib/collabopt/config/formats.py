"""The formats of a deployed file, in the order of the search: what changes the model least comes first."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        name: Name in files and parameters.
        label: Name as readers see it.
        marker: Matplotlib marker where a figure tells formats apart.
        is_standard: Whether every experiment tries it. Others are for experiments that ask for them.
        suffix: End of the name of a file. Only `.tflite` files are deployed. Others are for comparison.
        packages: Optional packages that it needs.
        npu_obstacle: Why no file of this format runs on an NPU; empty if Vela has to tell.
    """

    name: str
    label: str
    marker: str
    is_standard: bool = True
    suffix: str = ".tflite"
    packages: tuple[str, ...] = ()
    npu_obstacle: str = ""

    @property
    def is_tflite(self) -> bool:
        """Whether it is a `.tflite` file, which can be deployed."""
        return self.suffix == ".tflite"


_FLOATS = {"npu_obstacle": "nothing runs on the NPU: it computes with integers, and this file with floats"}
_FURTHER = {"is_standard": False}
_OTHER_RUNTIME = _FURTHER | {"npu_obstacle": "no .tflite file"}
_OPENVINO = _OTHER_RUNTIME | {"suffix": ".zip"}

FORMATS = {
    one.name: one
    for one in (
        Format("float32", "float32", "o", **_FLOATS),
        Format("float32_sparse", "float32 sparse", "p", **_FURTHER, **_FLOATS),
        Format("openvino", "OpenVINO FP32", "P", packages=("openvino",), **_OPENVINO),
        Format("onnx", "ONNX FP32", "h", packages=("tf2onnx", "onnx", "onnxruntime"), suffix=".onnx", **_OTHER_RUNTIME),
        Format("float16", "float16", "^", **_FLOATS),
        Format("openvino_fp16", "OpenVINO FP16", "X", packages=("openvino",), **_OPENVINO),
        Format("int16x8", "int16×8", "D"),
        Format("dynamic_range", "dynamic range", "v", **_FLOATS),
        Format("int8", "int8", "s"),
        Format("openvino_int8", "OpenVINO INT8", "*", packages=("openvino", "nncf"), **_OPENVINO),
        Format(
            "int4", "int4", "<", packages=("ai_edge_quantizer",), npu_obstacle="Vela has no 4-bit weights", **_FURTHER
        ),
    )
}
"""Every format by name."""

STANDARD = tuple(one.name for one in FORMATS.values() if one.is_standard)
"""The formats that the converter writes for any model."""

LARGEST_WORK = {"int16x8": 5e10}
"""Multiplications on all validation examples up to which a standard format is measured without being asked for.

LiteRT has no fast kernels for int16×8. So many take it about a minute on one core.
"""

FURTHER = tuple(one.name for one in FORMATS.values() if not one.is_standard or one.name in LARGEST_WORK)
"""The formats that an experiment asks for by name (`further_formats`)."""

CALIBRATED = "int8", "int16x8"
"""The formats whose activations have ranges, which are taken from examples."""


def get_format_label(name: str) -> str:
    """Return a format as readers see it: `int16x8` becomes "int16×8". Any other `name` stays as it is."""
    return FORMATS[name].label if name in FORMATS else str(name)
