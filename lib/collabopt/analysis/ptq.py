"""Post-training quantization (PTQ) with the ranges of training examples, by the method that suits validation."""

from collections.abc import Sequence

from collabopt.analysis import scoring
from collabopt.config.experiment import Experiment
from collabopt.datasets import Data
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import calibration
from collabopt.tflite import convert


def convert_calibrated(
    model: keras.Model,
    format: str,
    data: Data,
    experiment: Experiment,
    activations: Sequence[str | None],
    apart: bool,
    stage: str,
) -> tuple[bytes, str]:
    """Return a float model converted with ranges of activations, and their method (`calibration.METHODS`).

    Args:
        model: The float model.
        format: "int8" or "int16x8".
        data: Training and validation splits.
        experiment: Says how many examples set ranges, and how (`calibration`).
        activations: As in `convert.convert`.
        apart: As in `convert.convert`.
        stage: Name of the stage in progress lines.

    Raises:
        ConversionRefused: The converter fails.
    """
    sample = calibration.draw_examples(model, data.train, experiment.calibration_examples, experiment.seed)
    files = {
        method: convert.convert(model, format, sample.select(method), activations, apart)
        for method in sample.list_methods(experiment.calibration)
    }
    method = next(iter(files))
    if len(files) > 1:
        validation = data.validation.take_counted()
        settings = validation, data.task, experiment.threads, bool(activations)
        scores = {method: scoring.score_file(content, *settings) for method, content in files.items()}
        method = calibration.choose(scores, data.task.score)
    calibration.log_choice(sample, method, f"{stage} {format}")
    return files[method], method
