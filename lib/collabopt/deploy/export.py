"""The export of one stage: a folder with everything that others need to use it."""

from pathlib import Path

import numpy as np

from collabopt.config.stages import BASELINE
from collabopt.deploy import model_card, targets, variants
from collabopt.deploy.search import Search
from collabopt.run import Run
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import plain_model, quantization

_EXAMPLES = 32


class ExportError(ValueError):
    """The stage cannot be exported."""


def export(run: Run, name: str, format: str = "int8", directory: Path | str | None = None) -> Path:
    """Write a stage as a Keras model, a `.tflite` file, C source, test vectors and a model card.

    Args:
        run: The run; the stage is trained if it is not in the store.
        name: Name of the stage.
        format: Format of the `.tflite` file (`variants.list_formats`).
        directory: The folder; None takes `exports/<stage>/` in the report.

    Returns:
        The folder, with `<experiment>-<stage>.keras`, the `.tflite` file and what `model_card.write` writes beside it,
        with the card as `README.md`. `load_model` opens the Keras model. So does `keras.models.load_model` of tf-keras,
        unless the network has operations that the import has rewritten.

    Raises:
        ExportError: There is no such format, the stage is not available, or no file has the format.
    """
    stage = run.stage(name).stage
    formats = variants.list_formats(stage, run.experiment)
    if format not in formats:
        raise ExportError(f"format={format}: {name} has no such file; expected one of {', '.join(formats)}")
    run = run.without_test() if run.experiment.has_targets else run
    pairs = dict.fromkeys([(BASELINE, "float32"), (name, format)])
    found = [variants.measure(run, run.experiment.tree[one], form) for one, form in pairs]
    chosen = found[-1]
    if chosen.tflite is None:
        raise ExportError(f"{chosen.name}: there is no such file: {chosen.row['unavailable']}")
    tried = {variant.name: variant for variant in found}
    table = variants.make_table(found)
    variants.add_test_scores(table, run, {chosen.name: chosen} if run.experiment.has_targets else tried)
    misses = targets.find_misses(table.loc[chosen.name], run.experiment.targets, targets.get_baseline_score(table))
    result = Search(run, tried, table, table.iloc[:0], None if misses else chosen.name, chosen.name)
    place = Path(directory) if directory else run.directory / "exports" / name
    title = f"{run.experiment.name}-{name}"
    model_card.write_files(result, place, title, "README.md", f"is {name}, exported by its name")
    _write_model(run, name, place / f"{title}.keras")
    return place


def load_model(path: Path | str) -> keras.Model:
    """Return the exported Keras model at `path` for inference: a QAT stage has rounded kernels and fixed ranges."""
    from collabopt.models.importing import layers  # noqa: F401 - registers them

    return keras.models.load_model(path, compile=False)


def _write_model(run: Run, name: str, path: Path) -> None:
    """Save the Keras model, and check that the loaded one computes the same."""
    model = run.model(name)
    plain = plain_model.make_plain(model) if quantization.is_wrapped(model) else model
    path.parent.mkdir(parents=True, exist_ok=True)
    plain.save(path)
    ((inputs, _),) = run.data.validation.take(slice(_EXAMPLES)).batches(_EXAMPLES).as_numpy_iterator()
    expected, found = (one.predict_on_batch(inputs) for one in (model, load_model(path)))
    pairs = zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True)
    if not all(np.allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(one).max()) for one, other in pairs):
        path.unlink()
        raise ExportError(f"{name}: the saved Keras model does not compute the same as the trained one")
