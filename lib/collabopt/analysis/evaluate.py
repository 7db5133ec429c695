"""What a finished stage is worth: accuracy, size, and what its kernels hold. Test is read here and nowhere else."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.analysis import audit
from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage, get_lineage
from collabopt.datasets import Data, Split
from collabopt.runtime.tensorflow import drop_log_records, drop_native_notices, keras
from collabopt.techniques import layers, quantization
from collabopt.tflite import convert, flatbuffer, sizes
from collabopt.tflite.interpreter import predict_classes


def predict_correct(model: keras.Model, split: Split) -> np.ndarray:
    """Whether each example (n,) bool is given its label."""
    # Each stage is another model and is traced once; TensorFlow takes that for one model traced again and again.
    with drop_log_records("triggered tf.function retracing"), drop_native_notices():
        return model.predict(split.batches(256), verbose=0).argmax(axis=-1) == split.labels


@dataclasses.dataclass(frozen=True)
class _Kernels:
    """The kernels of a model by layer: what fake quantization sees of them, their kinds, and their quantizers."""

    weights: dict[str, np.ndarray]
    kinds: dict[str, str]
    quantizers: dict[str, str] | None


def write_measurements(
    directory: Path,
    stage: Stage,
    model: keras.Model,
    data: Data,
    plan: Experiment,
    parent: dict[str, np.ndarray] | None,
    reads_test: bool = True,
) -> None:
    """Convert and measure the model of a stage, plain or quantize-wrapped, and write what was found to `directory`.

    parent: the kernels whose zeros must be there still, None where the stage has nothing to preserve. reads_test: no
    where a choice is still to be made, which goes by validation; what is found on test is None then.
    Files: int8.tflite, and where channels share a range there int8-channel_ranges.tflite, where each has its own;
    result.json, columns of results.csv; layers.csv; kernels.npz, float32 kernels by layer; correct.npz, bool (n,) on
    `validation` and `test`, and by the int8 file `validation_int8`, `test_int8` and `test_int8_channel_ranges`.
    """
    kernels = _read_kernels(model)
    shared = _sharing_ranges(stage, plan, kernels.kinds)
    content, by_channel = _converted(model, data, plan, {name: kernels.weights[name] for name in shared})
    (directory / "int8.tflite").write_bytes(content)
    if by_channel:
        (directory / "int8-channel_ranges.tflite").write_bytes(by_channel)
    is_correct = _score(model, content, by_channel, data, plan, reads_test)
    np.savez_compressed(directory / "correct.npz", **is_correct)
    codes = flatbuffer.read_layer_kernels(content, {name: kernel.shape for name, kernel in kernels.weights.items()})
    layers = audit.audit_layers(
        kernels.kinds, kernels.weights, codes, kernels.quantizers, _skipped(stage, plan, kernels.kinds)
    )
    layers["defect"] = _defects(layers, kernels.weights, codes, parent, plan, stage.clusters)
    np.savez_compressed(directory / "kernels.npz", **kernels.weights)
    layers.to_csv(directory / "layers.csv", index=False)
    accuracies = {name: float(ones.mean()) for name, ones in is_correct.items()}
    result = (
        _accuracies(accuracies)
        | _sizes(directory / "int8.tflite")
        | _summary(layers, kernels.weights, codes, plan)
        | {"preserved": None if parent is None else bool((layers["defect"] == "").all())}
        | _with_channel_ranges(accuracies, directory / "int8-channel_ranges.tflite")
    )
    (directory / "result.json").write_text(json.dumps(result))


def _read_kernels(model: keras.Model) -> _Kernels:
    if quantization.is_wrapped(model):
        return _Kernels(
            quantization.read_kernels(model), quantization.read_kinds(model), quantization.read_quantizers(model)
        )
    return _Kernels(layers.read_kernels(model), layers.read_kinds(model), None)


def _score(
    model: keras.Model, content: bytes, by_channel: bytes | None, data: Data, plan: Experiment, reads_test: bool
) -> dict[str, np.ndarray]:
    """Whether each example (n,) is given its label, by split and file, as `write` says of correct.npz."""
    is_correct = {}
    for name, split in {"validation": data.validation, **({"test": data.test} if reads_test else {})}.items():
        is_correct[name] = predict_correct(model, split)
        is_correct[f"{name}_int8"] = predict_classes(content, split, plan.threads) == split.labels
    if by_channel and reads_test:
        predicted = predict_classes(by_channel, data.test, plan.threads)
        is_correct["test_int8_channel_ranges"] = predicted == data.test.labels
    return is_correct


def _accuracies(found: dict[str, float]) -> dict[str, float | None]:
    return {
        "validation_accuracy": found["validation"],
        "validation_accuracy_int8": found["validation_int8"],
        "accuracy": found.get("test"),
        "accuracy_int8": found.get("test_int8"),
    }


def _sizes(file: Path) -> dict[str, int]:
    return {"tflite_bytes": sizes.raw(file), "gzip_bytes": sizes.gzipped(file), "zip_bytes": sizes.zipped(file)}


def _summary(
    layers: pd.DataFrame, weights: dict[str, np.ndarray], codes: dict[str, np.ndarray], plan: Experiment
) -> dict[str, float | int]:
    """Sparsity and unique weights over the kernels that pruning and clustering may touch."""
    eligible = layers[layers["kind"] != "depthwise"]
    prunable = eligible[~eligible["layer"].isin(plan.exclude.pruning)]["layer"]
    clusterable = eligible[~eligible["layer"].isin(plan.exclude.clustering)]
    return {
        "sparsity": audit.compute_sparsity(np.concatenate([weights[name].ravel() for name in prunable])),
        "unique_weights": int(clusterable["unique_channel" if plan.cluster_per_channel else "unique_tensor"].max()),
        "rounded_to_zero": audit.compute_rounded_to_zero(
            [weights[name] for name in prunable], [codes[name] for name in prunable]
        ),
    }


def _with_channel_ranges(found: dict[str, float], file: Path) -> dict[str, float | int | None]:
    return {
        "accuracy_int8_channel_ranges": found.get("test_int8_channel_ranges"),
        "gzip_bytes_channel_ranges": sizes.gzipped(file) if file.is_file() else None,
    }


def _sharing_ranges(stage: Stage, plan: Experiment, kinds: dict[str, str]) -> list[str]:
    """The layers whose channels share a range in the int8 file: those clustered as a whole.

    Channels that were clustered on their own have k codes each as they are.
    """
    if not stage.clusters or plan.scheme == "tfmot":
        return []
    as_a_whole = {"dense"} if plan.cluster_per_channel else {"dense", "conv2d"}
    return [name for name, kind in kinds.items() if kind in as_a_whole and name not in plan.exclude.clustering]


def _converted(
    model: keras.Model, data: Data, plan: Experiment, shared: dict[str, np.ndarray]
) -> tuple[bytes, bytes | None]:
    """The int8 file in which the channels of the `shared` kernels have one range, and beside it, where there are such
    kernels, the file that gives each channel its own."""
    if quantization.is_wrapped(model):
        content = convert.convert_as_trained(model)
        return content, flatbuffer.rewrite_ranges(content, shared, of="channel") if shared else None
    content = convert.convert_to_int8(model, sample_calibration(data.train, plan.calibration_examples, plan.seed))
    return (flatbuffer.rewrite_ranges(content, shared, of="tensor"), content) if shared else (content, None)


def _skipped(stage: Stage, plan: Experiment, kinds: dict[str, str]) -> dict[str, str]:
    """Why pruning or clustering passed a layer over, on the way to the stage; layers that it touched are not there."""
    way = get_lineage(stage.name)
    passed = {"pruning": plan.exclude.pruning} if any(one.prunes for one in way) else {}
    passed |= {"clustering": plan.exclude.clustering} if any(one.clusters for one in way) else {}
    found = {name: "depthwise, by design" for name, kind in kinds.items() if kind == "depthwise" if passed}
    for what, names in passed.items():
        for name in names:
            found[name] = f"{found[name]} and {what}" if name in found else f"excluded from {what}"
    return found


def sample_calibration(train: Split, examples: int, seed: int) -> np.ndarray:
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
        found.append(
            "; ".join(audit.find_defects(row, parent[name], own[name], codes[name], clusters, per_channel, held))
        )
    return found
