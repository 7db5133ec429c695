"""What a finished stage achieves: its score in float32 and int8, file sizes, and what its kernels hold.

The int8 file is written here, too. The score on the test split is computed here and for the deployed variant only, so
that no choice depends on it.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.analysis import agreement, audit, defects, ptq, scoring
from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage, get_lineage
from collabopt.datasets import Data
from collabopt.runtime import progress
from collabopt.runtime.tensorflow import keras
from collabopt.techniques import activation_ranges, calibration, int8_rewrites, layers, patterns, quantization, registry
from collabopt.tflite import convert, flatbuffer, int4, sizes


@dataclasses.dataclass(frozen=True)
class _Kernels:
    """The kernels of a model by layer, as fake quantization sees them, with their kinds and quantizers."""

    weights: dict[str, np.ndarray]
    kinds: dict[str, str]
    quantizers: dict[str, str] | None


def write_measurements(
    directory: Path,
    stage: Stage,
    model: keras.Model,
    data: Data,
    experiment: Experiment,
    parent: dict[str, np.ndarray] | None,
    reads_test: bool = True,
) -> None:
    """Convert and evaluate the model of a stage, and write the results to a directory.

    The files are:
    - int8.tflite, unless the converter refuses a layer that has no int8 form in quantization-aware training;
    - int8-channel_ranges.tflite if channels share a range in the former but not in the latter;
    - result.json: columns of results.csv;
    - without_qat.json: what has no int8 form in quantization-aware training, by layer; of a plain model only;
    - layers.csv: one row per kernel (`audit.audit_layers`) with its `defect`;
    - ranges.csv: one row per activation (`activation_ranges.compare`); of a fake-quantized model only;
    - kernels.npz: float32 kernels by layer;
    - scores.npz: the score of each example that counts (n,), as `validation` and `test` for the model,
      `validation_int8`, `test_int8` and `test_int8_channel_ranges` for the files.

    Args:
        directory: An existing directory.
        model: Its model, plain or fake-quantized.
        data: All splits.
        experiment: Gives the settings of techniques, conversion and threads.
        parent: The parent's kernels by layer, whose zeros must survive; None if there is nothing to preserve.
        reads_test: Whether to evaluate on the test split. It is not read before a choice by validation is made; its
            results then are None.
    """
    progress.advance("reading the kernels", stage.name)
    kernels, frozen = _read_kernels(model), layers.find_frozen(model)
    lineage = get_lineage(stage.name, experiment.tree)
    if not any(one.prunes for one in lineage):  # the pattern then says nothing of the stage
        experiment = experiment.model_copy(update={"sparsity_pattern": "unstructured"})
    misfits, experiment = patterns.find_misfits(model, experiment), patterns.exclude_skipped(experiment, model)
    shared = _find_shared_ranges(stage, experiment, kernels.kinds)
    activations = registry.get_output_activations(experiment, data)
    without_qat, refused, method = {} if stage.quantizes else int8_rewrites.find_layers_without_qat(model), "", None
    files: dict[str, bytes] = {}
    try:
        weights = {name: kernels.weights[name] for name in shared}
        content, channel_ranges, method = _convert(
            model, data, experiment, weights, activations, bool(without_qat), stage.name
        )
        files = {"_int8": content} | ({"_int8_channel_ranges": channel_ranges} if channel_ranges else {})
    except convert.ConversionRefused as error:
        if not without_qat:
            raise
        refused = f"int8 file: {error}"
    int8_file, channel_file = directory / "int8.tflite", directory / "int8-channel_ranges.tflite"
    for suffix, file in {"_int8": int8_file, "_int8_channel_ranges": channel_file}.items():
        if suffix in files:
            file.write_bytes(files[suffix])
    scores, classes = scoring.score_splits(model, files, data, experiment.threads, reads_test, bool(activations))
    counted = {name: values[scoring.get_split(name, data).counted] for name, values in scores.items()}
    np.savez_compressed(directory / "scores.npz", **counted)
    progress.advance("auditing the kernels")
    shapes = {name: kernel.shape for name, kernel in kernels.weights.items()}
    in_float = _list_float_kernels(stage, experiment, kernels.kinds)
    int8_values = flatbuffer.read_layer_kernels(files["_int8"], shapes, in_float) if files else {}
    table = audit.audit_layers(
        kernels.kinds,
        kernels.weights,
        int8_values,
        kernels.quantizers,
        defects.explain_skipped(stage, experiment, kernels.kinds, frozen, misfits),
    )
    table["defect"] = defects.describe_defects(table, kernels.weights, int8_values, parent, experiment, stage)
    is_audited = parent is not None or experiment.sparsity_pattern != "unstructured"
    np.savez_compressed(directory / "kernels.npz", **kernels.weights)
    table.to_csv(directory / "layers.csv", index=False)
    result = (
        scoring.describe_scores(scores, data)
        | scoring.describe_classes(scores, classes, data)
        | _measure_sizes(int8_file)
        | _summarize_kernels(table, kernels.weights, int8_values, parent, experiment)
        | {"preserved": bool((table["defect"] == "").all()) if is_audited else None}
        | {"gzip_bytes_channel_ranges": sizes.gzipped(channel_file) if channel_file.is_file() else None}
        | _describe_file(model, files.get("_int8"), stage, data, experiment, activations, without_qat)
        | {"calibration": method, "unavailable": refused}
        | _audit_ranges(directory, model, data, experiment)
    )
    (directory / "result.json").write_text(json.dumps(result))
    if not stage.quantizes:
        (directory / "without_qat.json").write_text(json.dumps(without_qat))


def _describe_file(
    model: keras.Model,
    content: bytes | None,
    stage: Stage,
    data: Data,
    experiment: Experiment,
    activations: list[str | None],
    without_qat: dict[str, str],
) -> dict[str, float | str | None]:
    """Whether the int8 file is the model that was trained (`agreement.COLUMNS`)."""
    if not content:
        return dict.fromkeys(agreement.COLUMNS)
    floats = experiment.exclude.quantization if stage.quantizes else without_qat
    return agreement.describe_file(model, content, data.validation, next(iter(activations), None), floats)


def _read_kernels(model: keras.Model) -> _Kernels:
    if quantization.is_wrapped(model):
        return _Kernels(
            quantization.read_kernels(model), quantization.read_kinds(model), quantization.read_quantizers(model)
        )
    return _Kernels(layers.read_kernels(model), layers.read_kinds(model), None)


def _audit_ranges(directory: Path, model: keras.Model, data: Data, experiment: Experiment) -> dict[str, float | str]:
    """The example that sets the range of an input far outside, and the range that fits the data worst after QAT."""
    sample = calibration.draw_examples(model, data.train, activation_ranges.EXAMPLES, experiment.seed)
    found = {"outlier": str(sample.find_outlier() or ""), "range_factor": None, "range_activation": ""}
    if quantization.is_wrapped(model):
        ranges = activation_ranges.compare(model, sample)
        ranges.to_csv(directory / "ranges.csv", index=False)
        if len(ranges):
            worst = ranges.loc[ranges["factor"].idxmax()]
            found |= {"range_factor": float(worst["factor"]), "range_activation": worst["activation"]}
    return found


def _measure_sizes(file: Path) -> dict[str, int | None]:
    functions = {"tflite_bytes": sizes.raw, "gzip_bytes": sizes.gzipped, "zip_bytes": sizes.zipped}
    return {name: measure(file) if file.is_file() else None for name, measure in functions.items()}


def _summarize_kernels(
    table: pd.DataFrame,
    kernels: dict[str, np.ndarray],
    int8_values: dict[str, np.ndarray],
    parent: dict[str, np.ndarray] | None,
    experiment: Experiment,
) -> dict[str, float | int | None]:
    """Zeros and unique weights over the eligible kernels that the experiment does not exclude."""
    eligible = table[table["kind"] != "depthwise"]
    owners = eligible["layer"].map(layers.get_layer_name)
    prunable = eligible[~owners.isin(experiment.exclude.pruning)]["layer"]
    clusterable = eligible[~owners.isin(experiment.exclude.clustering)]
    in_int8 = [name for name in prunable if name in int8_values]
    unique = clusterable["unique_channel" if experiment.cluster_per_channel else "unique_tensor"]
    weights = [kernels[name].ravel() for name in prunable]
    return {
        "sparsity": audit.compute_sparsity(np.concatenate(weights)) if weights else None,
        "unique_weights": int(unique.max()) if len(unique) else None,
        **_measure_bits(eligible, int8_values, experiment.cluster_per_channel),
        "gained_zeros": None
        if parent is None or not weights
        else audit.compute_gained_zeros([parent[name] for name in prunable], [kernels[name] for name in prunable]),
        "rounded_to_zero": audit.compute_rounded_to_zero(
            [kernels[name] for name in in_int8], [int8_values[name] for name in in_int8]
        ),
    }


def _measure_bits(
    eligible: pd.DataFrame, int8_values: dict[str, np.ndarray], per_channel: bool
) -> dict[str, float | None]:
    """Bits per int8 weight: by zero-order entropy, and log2 k in a lookup table of the k values of a tensor or channel.
    The tables themselves do not count."""
    rows = eligible[eligible["layer"].isin(list(int8_values))]
    if rows.empty:
        return {"entropy_bits": None, "lookup_bits": None}
    of_channel = per_channel & rows["kind"].isin(["conv2d", "conv2d_transpose"])
    k = rows["int8_unique_channel"].where(of_channel, rows["int8_unique_tensor"]).astype(float)
    entropy = sizes.compute_entropy_bytes([int8_values[name] for name in rows["layer"]])
    weights = rows["weights"].sum()
    return {"entropy_bits": 8 * entropy / weights, "lookup_bits": float((rows["weights"] * np.log2(k)).sum() / weights)}


def _find_shared_ranges(stage: Stage, experiment: Experiment, kinds: dict[str, str]) -> list[str]:
    """The layers whose channels share a range in the int8 file: those clustered per tensor.

    A layer clustered per channel has at most k int8 values per channel with the stock ranges.
    """
    if not stage.clusters or experiment.scheme == "tfmot":
        return []
    per_tensor = {"dense"} if experiment.cluster_per_channel else {"dense", "conv2d", "conv2d_transpose"}
    return [name for name, kind in kinds.items() if kind in per_tensor and name not in experiment.exclude.clustering]


def _list_float_kernels(stage: Stage, experiment: Experiment, kinds: dict[str, str]) -> list[str]:
    """The kernels that int8 files may hold in float: of excluded layers after QAT, and of recurrent layers."""
    excluded = experiment.exclude.quantization if stage.quantizes else ()
    return [name for name, kind in kinds.items() if kind == "recurrent" or layers.get_layer_name(name) in excluded]


def _convert(
    model: keras.Model,
    data: Data,
    experiment: Experiment,
    shared: dict[str, np.ndarray],
    activations: list[str | None],
    apart: bool,
    stage: str,
) -> tuple[bytes, bytes | None, str | None]:
    """The int8 file in which the channels of each `shared` kernel have one range. If there are such kernels, also the
    file in which each channel has its own. For PTQ, also how ranges were taken from examples."""
    if quantization.is_wrapped(model):
        content = int4.unpack_int4(convert.convert_as_trained(model, activations))
        is_compared = shared and not experiment.has_int4_weights
        return content, flatbuffer.rewrite_ranges(content, shared, of="channel") if is_compared else None, None
    content, method = ptq.convert_calibrated(model, "int8", data, experiment, activations, apart, stage)
    files = (flatbuffer.rewrite_ranges(content, shared, of="tensor"), content) if shared else (content, None)
    return *files, method
