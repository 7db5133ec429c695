"""Conversion of float stages to the formats that an experiment asks for (`further_formats`)."""

from importlib import metadata

import numpy as np

from collabopt.analysis.finished import Finished
from collabopt.config.formats import FORMATS
from collabopt.config.stages import Stage
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import calibration, registry
from collabopt.tflite import convert, flatbuffer, int4, interpreter, other_runtimes, sparse

_CHECKED = 10
"""Validation examples on which a file is compared with the dense one."""

_HELD = "int8_values", "scales", "bias"


def convert_stage(run: Run, finished: Finished, name: str) -> bytes:
    """Return a float stage converted to the format `name`, which is not in `STANDARD`.

    Raises:
        ConversionRefused: There is no such file, for a reason that the table of variants shows.
    """
    model, activations = run.model(finished.stage.name), registry.get_output_activations(run.experiment, run.data)
    if finished.stage.quantizes:
        return _convert_to_int4_as_trained(model, finished, run, activations)
    dense = convert.convert(model, "float32", activations=activations)
    ((inputs, _),) = run.data.validation.take(slice(_CHECKED)).batches(_CHECKED).as_numpy_iterator()
    match name:
        case "float32_sparse":
            return sparse.convert_to_sparse(model, dense, inputs, activations)
        case "int4":
            content = int4.quantize_to_int4(dense)
        case "onnx":
            content = other_runtimes.convert_to_onnx(dense)
            interpreter.check_equal(content, dense, inputs)
        case _:
            number, seed = run.experiment.calibration_examples, run.experiment.seed
            examples = calibration.draw_examples(model, run.data.train, number, seed).inputs
            content = other_runtimes.convert_to_openvino(dense, name, examples)
    interpreter.run_or_refuse(content, inputs)
    return content


def _convert_to_int4_as_trained(
    model: keras.Model, finished: Finished, run: Run, activations: list[str | None]
) -> bytes:
    """The file of a quantization-aware stage with INT4 tensors. Its int8 file holds the same values."""
    content = convert.convert_as_trained(model, activations)
    if not int4.count_int4_tensors(content):
        raise convert.ConversionRefused("no kernel of a convolution or dense layer has 4-bit weights")
    int8 = finished.tflite.read_bytes()
    pairs = zip(flatbuffer.list_kernels(int4.unpack_int4(content)), flatbuffer.list_kernels(int8), strict=True)
    arrays = ((getattr(pair[0], one), getattr(pair[1], one)) for pair in pairs for one in _HELD)
    if not all(np.array_equal(*pair) for pair in arrays):
        raise convert.ConversionRefused("the file holds other values than the int8 file")
    ((inputs, _),) = run.data.validation.take(slice(_CHECKED)).batches(_CHECKED).as_numpy_iterator()
    # XNNPACK has no 4-bit convolutions. LiteRT's own kernels, which run instead, round like the reference kernels.
    found, expected = (interpreter.run(interpreter.open_interpreter(one, 1, True), inputs) for one in (content, int8))
    if (found != expected).any():
        raise convert.ConversionRefused("by LiteRT's reference kernels, outputs differ from those of the int8 file")
    return content


def read_versions(stage: Stage, name: str) -> dict[str, str]:
    """Return the versions of the optional packages that write the format `name`; QAT stages need none."""
    return {} if stage.quantizes else {package: metadata.version(package) for package in FORMATS[name].packages}
