"""Files for OpenVINO and ONNX Runtime, which do the same work as LiteRT on CPUs: for comparison (optional packages).

OpenVINO's format is a pair of files, model.xml and model.bin. Here it is a ZIP archive of both, not compressed.
"""

import contextlib
import io
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from collabopt.runtime.tensorflow import drop_native_notices
from collabopt.tflite.convert import ConversionRefused, Inputs

if TYPE_CHECKING:
    import openvino

_PARTS = "model.xml", "model.bin"
_ARCHIVE, _TFLITE = b"PK\x03\x04", b"TFL3"
_OPENVINO_SETTINGS = {
    **{"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"},
    "INFERENCE_PRECISION_HINT": "f32",  # else some CPUs compute in bfloat16
    "ENABLE_CPU_PINNING": False,  # else it waits for its core while other processes use that, and idle ones are free
}


def convert_to_openvino(dense: bytes, name: str, calibration: Inputs | None = None) -> bytes:
    """Return a float32 `.tflite` file as an archive for OpenVINO.

    Args:
        dense: The content of the file.
        name: "openvino" (float32 weights), "openvino_fp16" (16-bit weights, computed in float32), or "openvino_int8"
            (quantized by NNCF's post-training quantization).
        calibration: Model inputs (n, ...) float32 for the ranges of activations; only for "openvino_int8".

    Raises:
        ConversionRefused: OpenVINO or NNCF fails, or NNCF is to quantize a model with several inputs.
    """
    import openvino

    with _save_file(dense) as path:
        try:
            model = openvino.Core().read_model(path)
            if name == "openvino_int8":
                model = _quantize(model, calibration)
            openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=name == "openvino_fp16")
        except (RuntimeError, ValueError) as error:
            raise ConversionRefused(f"OpenVINO fails: {' '.join(str(error).split())}") from error
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for part in _PARTS:
                file.writestr(zipfile.ZipInfo(part), path.with_name(part).read_bytes())
    return archive.getvalue()


def convert_to_onnx(dense: bytes) -> bytes:
    """Return the float32 `.tflite` file `dense` as ONNX, by tf2onnx.

    Raises:
        ConversionRefused: tf2onnx fails.
    """
    with _save_file(dense) as path, drop_native_notices(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        import tf2onnx

        logging.getLogger("tf2onnx").setLevel(logging.ERROR)
        try:
            model, _ = tf2onnx.convert.from_tflite(str(path))
        except Exception as error:  # it raises bare exceptions for operators that it does not know
            raise ConversionRefused(f"tf2onnx fails: {' '.join(str(error).split())}") from error
    return model.SerializeToString()


def is_tflite(content: bytes) -> bool:
    """Return whether `content` is a file for LiteRT, rather than one of this module."""
    return content[:4] != _ARCHIVE and (content[4:8] == _TFLITE or content[:1] != b"\x08")


class Interpreter:
    """A file opened in another runtime, with one thread and batch 1, and the methods of LiteRT's interpreter."""

    def __init__(self, inputs: list[np.ndarray], outputs: list[np.ndarray], compute: Callable[[], None]) -> None:
        """Keep what a runtime reads, `inputs`, and writes, `outputs`, batch first, and the function that computes,
        `compute`.
        """
        self.invoke = compute
        self._arrays, self._number = [*inputs, *outputs], len(inputs)

    def get_input_details(self) -> list[dict[str, Any]]:
        """Return what LiteRT says of inputs."""
        return [self._describe(index) for index in range(self._number)]

    def get_output_details(self) -> list[dict[str, Any]]:
        """Return what LiteRT says of outputs."""
        return [self._describe(index) for index in range(self._number, len(self._arrays))]

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        """Set the input at `index` to `values`, batch first."""
        self._arrays[index][:] = values

    def get_tensor(self, index: int) -> np.ndarray:
        """Return a copy of the input or output at `index`."""
        return self._arrays[index].copy()

    def _describe(self, index: int) -> dict[str, Any]:
        array = self._arrays[index]
        return {"index": index, "shape": np.array(array.shape), "dtype": array.dtype.type, "quantization": (0.0, 0)}


def open_interpreter(content: bytes) -> Interpreter:
    """Return `content`, a file of this module, opened in its runtime.

    Raises:
        ValueError: The model has several inputs, whose names these files do not keep.
    """
    interpreter = _open_openvino(content) if content[:4] == _ARCHIVE else _open_onnx(content)
    if len(interpreter.get_input_details()) > 1:
        raise ValueError("files for other runtimes are measured for models with one input")
    return interpreter


def _open_openvino(content: bytes) -> Interpreter:
    import openvino

    with zipfile.ZipFile(io.BytesIO(content)) as file:
        xml, weights = map(file.read, _PARTS)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(xml, weights), "CPU", _OPENVINO_SETTINGS)
    request = compiled.create_infer_request()
    inputs = [request.get_input_tensor(index).data for index in range(len(compiled.inputs))]
    outputs = [request.get_output_tensor(index).data for index in range(len(compiled.outputs))]
    return Interpreter(inputs, outputs, request.infer)


def _open_onnx(content: bytes) -> Interpreter:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    inputs, outputs = (
        [np.zeros(one.shape, np.int32 if one.type == "tensor(int32)" else np.float32) for one in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    feeds = {one.name: array for one, array in zip(session.get_inputs(), inputs, strict=True)}

    def compute() -> None:
        for array, values in zip(outputs, session.run(None, feeds), strict=True):
            array[...] = values

    return Interpreter(inputs, outputs, compute)


def _quantize(model: "openvino.Model", calibration: Inputs) -> "openvino.Model":
    """The model in int8, by NNCF with its default settings."""
    parts = list(calibration.values()) if isinstance(calibration, dict) else [calibration]
    if len(parts) > 1:
        raise ValueError("models with several inputs are not quantized by NNCF here")
    import nncf
    import rich

    nncf.set_log_level(logging.ERROR)
    examples = nncf.Dataset([example[None] for example in parts[0]])
    # Its progress bars become widgets in a notebook, and papermill stops at a widget that is closed.
    rich.reconfigure(quiet=True, force_jupyter=False)
    try:
        return nncf.quantize(model, examples, subset_size=len(parts[0]))
    finally:
        rich.reconfigure()


@contextlib.contextmanager
def _save_file(content: bytes) -> Any:
    """A `.tflite` file in a folder of its own, while the block runs."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        path.write_bytes(content)
        yield path
