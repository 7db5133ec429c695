"""A trial of the stages before training: one step of each, their conversion, and a run of the files.

A layer may fail in training, in conversion or in LiteRT, or stay in float32 in an int8 file. All of that shows on a
clone of the model with random biases and batch norms: the converter simplifies the zeros and ones of a new model.
"""

import contextlib
import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np

from collabopt.analysis import agreement
from collabopt.config.experiment import Experiment
from collabopt.config.stages import BASELINE, Stage, get_lineage
from collabopt.datasets import Data
from collabopt.runtime import progress, tensorflow, user_modules
from collabopt.runtime.tensorflow import keras
from collabopt.storage import store
from collabopt.techniques import calibration, int8_rewrites, layers, quantization, registry
from collabopt.techniques.checkpoints import NO_CHECKPOINT
from collabopt.tflite import convert, flatbuffer, int4, interpreter

_EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Finding:
    """A problem of one layer.

    Attributes:
        layer: Name of the layer, or of the model if the layer is not known.
        reason: What happens, and why.
        remedy: What to change.
        stops: Whether training or conversion fails; otherwise the layer is compressed less than asked for.
    """

    layer: str
    reason: str
    remedy: str
    stops: bool = False


def find_failures(model: keras.Model, data: Data, experiment: Experiment, store_directory: Path) -> list[Finding]:
    """Return what `try_stages` finds for `model`. The store in `store_directory` keeps it for other processes."""
    tree = experiment.tree
    settings = {name for stage in tree.values() for name in stage.settings}
    included = dict.fromkeys((*settings, "distill", "scheme", "exclude"), True) | {"stages": {*tree}}
    trainers = dict.fromkeys(registry.find_trainer(stage) for stage in _choose_stages(experiment))
    material = {
        "architecture": model.to_json(),
        "settings": experiment.model_dump(mode="json", include=included),
        "outputs": [data.outputs, *registry.describe_task(data.task)],
        "versions": tensorflow.read_versions(),
        "code": registry.compute_code_digests(experiment, data, try_stages, *trainers),
    }

    def make(directory: Path) -> None:
        found = [dataclasses.asdict(one) for one in try_stages(model, data, experiment)]
        (directory / "findings.json").write_text(json.dumps(found))

    entry = store.get_or_make(store_directory, "trial", material, make)
    return [Finding(**one) for one in json.loads((entry / "findings.json").read_text())]


def try_stages(model: keras.Model, data: Data, experiment: Experiment) -> list[Finding]:
    """Return what fails when stages train for a step on a few examples and their files run, and layers in float32.

    The stages are those on the way to the deepest ones, which use every technique; with TFMOT's schemes, which differ
    between stages, all of them. The step is not traced: that would take most of the time.

    Args:
        model: The plain model that the baseline starts from; it stays as it is.
        experiment: Gives the settings of the techniques.
    """
    without_qat, excluded = int8_rewrites.find_layers_without_qat(model), {*experiment.exclude.quantization}
    some, settings = _take_some(data), _shorten(experiment)
    trained: dict[str, keras.Model] = {}
    findings: list[Finding] = []
    for stage in _choose_stages(experiment):
        is_out = stage.quantizes and not without_qat.keys() <= excluded
        if is_out or (stage.parent and stage.parent not in trained):
            continue
        progress.advance(f"trying {stage.label} on a few examples", "check")
        start = trained[stage.parent] if stage.parent else randomize(model)
        try:
            taught = dataclasses.replace(some, teacher=trained.get(BASELINE))
            trained[stage.name] = _take_step(stage, start, taught, settings)
        except Exception as error:  # TFMOT, Keras and user's functions raise any
            findings.append(_explain(model, f"a training step of {stage.label} fails", error, stage))
            continue
        if stage.name == BASELINE or stage.quantizes:
            floats = excluded if stage.quantizes else without_qat
            findings += _try_file(model, stage, trained[stage.name], some, settings, floats, bool(without_qat))
    return list(dict.fromkeys(findings))


def randomize(model: keras.Model) -> keras.Model:
    """Return a clone of a plain `model`, with random numbers where biases and batch norms are those of a new model."""
    clone, generator = layers.clone_model(model), np.random.default_rng(0)

    def draw(array: np.ndarray) -> np.ndarray:
        is_new = array.ndim == 1 and array.size and array.dtype == np.float32 and np.isin(array[0], (0, 1))
        is_new = is_new and (array == array[0]).all()
        return array + generator.uniform(0.05, 0.5, array.shape).astype(np.float32) if is_new else array

    clone.set_weights([draw(array) for array in clone.get_weights()])
    return clone


def _choose_stages(experiment: Experiment) -> list[Stage]:
    # A user's function is tried by itself, before its parents are trained.
    tree = {name: stage for name, stage in experiment.tree.items() if not stage.function}
    if experiment.scheme == "tfmot":
        return list(tree.values())
    lineages = [get_lineage(name, tree) for name in tree]
    if experiment.has_binary_weights:  # a stage that keeps zeros and clusters is not available
        lineages = [one for one in lineages if not any(stage.clusters and stage.keeps_zeros for stage in one)]
    depth = max(map(len, lineages))
    chosen = {stage.name for lineage in lineages if len(lineage) == depth for stage in lineage}
    return [stage for stage in tree.values() if stage.name in chosen]


def _take_some(data: Data) -> Data:
    """A data set of a few training examples, in each split."""
    some = data.train.take(slice(_EXAMPLES))
    return dataclasses.replace(data, train=some, validation=some, test=some)


def _shorten(experiment: Experiment) -> Experiment:
    """The experiment with trainings of one step."""

    def shorten(section):
        changes = {"epochs": min(section.epochs, 1), "batch_size": _EXAMPLES, "warmup_epochs": 0.0}
        pruning = {"sparsity_schedule": "constant", "begin_epoch": 0.0, "end_epoch": 1.0, "frequency": 1}
        return section.model_copy(update=changes | (pruning if hasattr(section, "frequency") else {}))

    sections = {name: getattr(experiment.stages, name) for name in type(experiment.stages).model_fields}
    stages = experiment.stages.model_copy(update={name: shorten(one) for name, one in sections.items() if one})
    changes = {"stages": stages}
    if experiment.initial_weights:
        training = shorten(experiment.initial_weights.training)
        changes["initial_weights"] = experiment.initial_weights.model_copy(update={"training": training})
    return experiment.model_copy(update=changes)


def _take_step(stage: Stage, start: keras.Model, some: Data, settings: Experiment) -> keras.Model:
    with progress.silence(), contextlib.nullcontext() if layers.has_groups(start) else tensorflow.run_eagerly():
        model = registry.find_trainer(stage)(stage, start, some, settings, NO_CHECKPOINT)[0]
    if not all(np.isfinite(array).all() for array in model.get_weights()):
        rate = settings.training(stage.name).learning_rate
        raise FloatingPointError(f"weights are not finite after a step; lower learning_rate={rate:g}")
    return model


def _try_file(
    model: keras.Model,
    stage: Stage,
    trained: keras.Model,
    some: Data,
    experiment: Experiment,
    floats: Collection[str],
    apart: bool,
) -> list[Finding]:
    """Convert a stage to int8 and run the file. Layers in `floats` may stay in float32."""
    kernels = (quantization if stage.quantizes else layers).read_kernels(trained)
    shapes = {name: kernel.shape for name, kernel in kernels.items() if layers.get_layer_name(name) not in floats}
    sample = calibration.draw_examples(model, some.train, _EXAMPLES, experiment.seed)
    try:
        if apart and not stage.quantizes:
            content = convert.convert(trained, "int8", sample.inputs, apart=True)
        else:
            content = convert.convert_for_trial(trained, None if stage.quantizes else sample.inputs)
        content = int4.unpack_int4(content) if stage.quantizes else content
        flatbuffer.read_layer_kernels(content, shapes)
        interpreter.score_examples(content, some.test, lambda _, outputs: outputs)
    except Exception as error:  # the converter, LiteRT and flatbuffers raise any
        is_known = floats and not stage.quantizes  # the tables then say that there is no int8 file
        if is_known:
            return []
        finding = _explain(model, f"the int8 file of {stage.label} fails", error, stage)
        culprit = finding.layer if finding.layer != model.name else _find_unconvertible(model) or model.name
        return [dataclasses.replace(finding, layer=culprit)]
    remedy = "an integer-only device cannot run it: use another layer there, or deploy with a CPU"
    what = f"stays in float32 in the int8 file of {stage.label}"
    kept = agreement.find_floats(trained, content, floats).items()
    return [Finding(name, f"{operators} {what}", remedy) for name, operators in kept]


def _find_unconvertible(model: keras.Model) -> str | None:
    """The first layer of one input that the converter refuses by itself."""
    for layer in model.layers:
        shape = layer.input_shape
        if isinstance(layer, keras.layers.InputLayer) or isinstance(shape, list) or None in shape[1:]:
            continue
        inputs = keras.Input(shape[1:], name="input")
        alone = keras.Model(inputs, type(layer).from_config(layer.get_config())(inputs))
        try:
            convert.convert(alone, "int8", np.ones((1, *shape[1:]), np.float32))
        except convert.ConversionRefused:
            return layer.name
    return None


def _explain(model: keras.Model, what: str, error: Exception, stage: Stage) -> Finding:
    message = " ".join(str(error).split())
    technique = "quantization" if stage.quantizes else "clustering" if stage.clusters else "pruning"
    name = agreement.find_layer(model, message)
    is_layer = name != model.name and stage.name != BASELINE
    line = user_modules.find_line(error)
    if is_layer:
        remedy = f"list the layer in exclude.{technique}"
    elif line:
        remedy = "correct this line"
    else:
        remedy = "make the model smaller until the error is gone, and replace the layer that causes it"
    where = f" in {line}" if line else ""
    return Finding(name, f"{what} ({type(error).__name__}{where}: {message[:300]})", remedy, stops=True)
