"""Conversion of float stages to the formats that an experiment asks for (`further_formats`)."""

from importlib import metadata

from collabopt.analysis.finished import Finished
from collabopt.config.formats import FORMATS
from collabopt.run import Run
from collabopt.techniques import calibration, registry
from collabopt.tflite import convert, int4, interpreter, other_runtimes, sparse

_CHECKED = 10
"""Validation examples on which a file is compared with the dense one."""


def convert_stage(run: Run, finished: Finished, name: str) -> bytes:
    """Convert a float stage to a further format.

    Args:
        run: The run.
        finished: The stage.
        name: One of `FURTHER`.

    Returns:
        The content of the file.

    Raises:
        ConversionRefused: There is no such file, for a reason that the table of variants shows.
    """
    model, activations = run.model(finished.stage.name), registry.get_output_activations(run.experiment, run.data)
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


def read_versions(name: str) -> dict[str, str]:
    """Return the versions of the optional packages that write a format.

    Args:
        name: Name of the format.
    """
    return {package: metadata.version(package) for package in FORMATS[name].packages}
