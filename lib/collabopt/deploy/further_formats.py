"""Conversion of float stages to the formats that an experiment asks for (`further_formats`)."""

from collabopt.analysis.finished import Finished
from collabopt.config.formats import FURTHER
from collabopt.run import Run
from collabopt.techniques import registry
from collabopt.tflite import convert, sparse

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
    match name:
        case "float32_sparse":
            ((inputs, _),) = run.data.validation.take(slice(_CHECKED)).batches(_CHECKED).as_numpy_iterator()
            return sparse.convert_to_sparse(model, dense, inputs, activations)
    raise ValueError(f"format={name!r}: expected one of {', '.join(FURTHER)}")
