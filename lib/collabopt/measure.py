"""What a finished stage is worth: accuracy, size, and what its kernels hold. Test is read here and nowhere else."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt import audit, lite, quantize, sizes
from collabopt.backend import keras, log_dropped, native_notices_dropped
from collabopt.datasets import Data, Split
from collabopt.experiment import Experiment
from collabopt.layers import prunable


def correct(model: keras.Model, split: Split) -> np.ndarray:
    """Whether each example (n,) bool is given its label."""
    # Each stage is another model and is traced once; TensorFlow takes that for one model traced again and again.
    with log_dropped("triggered tf.function retracing"), native_notices_dropped():
        return model.predict(split.batches(256), verbose=0).argmax(axis=-1) == split.labels


def write(
    directory: Path,
    model: keras.Model,
    data: Data,
    plan: Experiment,
    parent: dict[str, np.ndarray] | None,
    holds_clusters: bool,
) -> None:
    """Convert and measure a plain or a quantize-wrapped model, and write what was found to `directory`.

    parent: the kernels whose zeros must be there still, None where the stage has nothing to preserve. holds_clusters:
    whether at most k values a kernel may remain.
    Files: int8.tflite; result.json, columns of results.csv; layers.csv; kernels.npz, float32 kernels by layer;
    correct.npz, bool (n,) on `validation` and `test`, and by the int8 file `validation_int8` and `test_int8`.
    """
    content = _converted(model, data, plan, holds_clusters)
    (directory / "int8.tflite").write_bytes(content)
    right = {}
    for name, split in (("validation", data.validation), ("test", data.test)):
        right[name] = correct(model, split)
        right[f"{name}_int8"] = lite.predictions(content, split, plan.threads) == split.labels
    np.savez_compressed(directory / "correct.npz", **right)

    layers, own, codes = _layers(model, content)
    layers["defect"] = _defects(layers, own, codes, parent, plan, holds_clusters)
    np.savez_compressed(directory / "kernels.npz", **own)
    layers.to_csv(directory / "layers.csv", index=False)

    touched = layers[(layers["kind"] != "depthwise") & ~layers["layer"].isin(plan.exclude.pruning)]["layer"]
    clusterable = layers[(layers["kind"] != "depthwise") & ~layers["layer"].isin(plan.exclude.clustering)]
    result = {
        "validation_accuracy": float(right["validation"].mean()),
        "validation_accuracy_int8": float(right["validation_int8"].mean()),
        "accuracy": float(right["test"].mean()),
        "accuracy_int8": float(right["test_int8"].mean()),
        "tflite_bytes": sizes.raw(directory / "int8.tflite"),
        "gzip_bytes": sizes.gzipped(directory / "int8.tflite"),
        "zip_bytes": sizes.zipped(directory / "int8.tflite"),
        "sparsity": audit.sparsity(np.concatenate([own[name].ravel() for name in touched])),
        "unique_weights": int(clusterable["unique_channel" if plan.cluster_per_channel else "unique_tensor"].max()),
        "rounded_to_zero": audit.rounded_to_zero([own[name] for name in touched], [codes[name] for name in touched]),
        "preserved": None if parent is None else bool((layers["defect"] == "").all()),
    }
    (directory / "result.json").write_text(json.dumps(result))


def _converted(model: keras.Model, data: Data, plan: Experiment, holds_clusters: bool) -> bytes:
    if quantize.is_wrapped(model):
        return lite.quantized_as_trained(model)
    content = lite.quantized(model, calibration(data.train, plan.calibration_examples, plan.seed))
    if not holds_clusters or plan.scheme == "tfmot":
        return content
    # Channels that were clustered on their own have k codes each as they are; a tensor that was must share its range.
    clustered = {
        layer.name: audit.kernel(layer)
        for layer in model.layers
        if prunable(layer)
        and layer.name not in plan.exclude.clustering
        and not (plan.cluster_per_channel and isinstance(layer, keras.layers.Conv2D))
    }
    return lite.with_shared_ranges(content, clustered)


def _layers(model: keras.Model, content: bytes) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A row a kernel, the float32 kernels and the int8 codes by layer."""
    wrapped = quantize.is_wrapped(model)
    kinds = quantize.kinds(model) if wrapped else audit.kinds(model)
    own = quantize.kernels(model) if wrapped else audit.kernels(model)
    codes = lite.kernels(content, {name: kernel.shape for name, kernel in own.items()})
    return audit.layers(kinds, own, codes, quantize.quantizers(model) if wrapped else None), own, codes


def calibration(train: Split, examples: int, seed: int) -> np.ndarray:
    """Model inputs (examples, ...) of training examples chosen by seed, for activation ranges."""
    chosen = np.random.default_rng(seed).permutation(len(train))[:examples]
    return np.concatenate([inputs for inputs, _ in train.take(chosen).batches(256).as_numpy_iterator()])


def _defects(
    layers: pd.DataFrame,
    own: dict[str, np.ndarray],
    codes: dict[str, np.ndarray],
    parent: dict[str, np.ndarray] | None,
    plan: Experiment,
    holds_clusters: bool,
) -> list[str]:
    """A line a kernel: what was not preserved, empty where all held or there was nothing to preserve."""
    found = []
    for _, row in layers.iterrows():
        name = row["layer"]
        if parent is None or row["kind"] == "depthwise":
            found.append("")
            continue
        clusters = plan.number_of_clusters if holds_clusters and name not in plan.exclude.clustering else None
        # Clustering per channel is for convolutions; a dense kernel is clustered as a whole.
        per_channel = plan.cluster_per_channel and row["kind"] == "conv2d"
        held = per_channel or plan.scheme == "tfmot"
        found.append("; ".join(audit.losses(row, parent[name], own[name], codes[name], clusters, per_channel, held)))
    return found
