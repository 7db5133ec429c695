"""TFMOT's four combine guides as scripts: four chains that share nothing with each other.

    python benchmarks/chains.py digits                  # all four, one process per chain; prints JSON
    python benchmarks/chains.py digits --chain pqat     # one chain, in this process

A chain trains its own baseline with `model.fit` on arrays in memory, wraps models with TFMOT's API, converts them, and
runs its int8 files on one test example at a time. An experiment of ours that excludes no layer gives the data, network,
epochs, batch sizes, learning rates, sparsity, clusters and training threads, so both sides train the same. The guides
decide which models a chain trains, converts and evaluates (tensorflow/model-optimization,
guide/combine/{pqat,cqat,sparse_clustering,pcqat}_example.ipynb). The int8 files have int8 inputs and
outputs, like ours.
"""

import argparse
import contextlib
import dataclasses
import gzip
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chain:
    """A guide.

    Attributes:
        stages: The parent of each stage, in training order.
        tested: Stages whose test accuracy is measured in Keras.
        converted: Stages that are converted to int8.
        evaluated: Stages whose int8 file is evaluated on test.
    """

    stages: dict[str, str | None]
    tested: tuple[str, ...]
    converted: tuple[str, ...]
    evaluated: tuple[str, ...]


CHAINS = {
    "pqat": Chain(
        {"baseline": None, "pruned": "baseline", "qat": "pruned", "pqat": "pruned"},
        tested=("baseline", "pruned"),
        converted=("qat", "pqat", "pruned"),
        evaluated=("pqat", "pruned"),
    ),
    "cqat": Chain(
        {"baseline": None, "clustered": "baseline", "qat": "clustered", "cqat": "clustered"},
        tested=("baseline", "clustered"),
        converted=("qat", "cqat", "clustered"),
        evaluated=("cqat", "clustered"),
    ),
    "sparse_clustering": Chain(
        {"baseline": None, "pruned": "baseline", "clustered": "pruned", "sparse_clustered": "pruned"},
        tested=("baseline", "sparse_clustered"),
        converted=("sparse_clustered",),
        evaluated=("sparse_clustered",),
    ),
    "pcqat": Chain(
        {
            "baseline": None,
            "pruned": "baseline",
            "sparse_clustered": "pruned",
            "qat": "sparse_clustered",
            "pcqat": "sparse_clustered",
        },
        tested=("baseline",),
        converted=("qat", "pcqat"),
        evaluated=("pcqat",),
    ),
}


class Parts(dict):
    """Seconds by activity."""

    @contextlib.contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Add the duration of the block."""
        began = time.perf_counter()
        yield
        self[activity] = self.get(activity, 0.0) + time.perf_counter() - began


def run_chain(name: str, seed: int, chain: Chain) -> dict:
    """Run one chain: seconds by part, and results by stage. A guide has no counterpart of the part `settings`."""
    parts, training_parts = Parts(), Parts()
    with parts.timed("import"):
        from collabopt.runtime.tensorflow import seed_everything, tf
    with parts.timed("settings"):
        from collabopt import datasets
        from collabopt.config import loading
        from collabopt.techniques import registry
        from collabopt.tflite import convert

        experiment = loading.load(name, seed=seed)
        tf.config.threading.set_intra_op_parallelism_threads(experiment.threads)
        tf.config.threading.set_inter_op_parallelism_threads(experiment.threads)
        seed_everything(experiment.seed)
    with parts.timed("data"):
        data = datasets.load(experiment)
        train, validation, test = (make_arrays(split) for split in (data.train, data.validation, data.test))
    models, found = {}, {key: {} for key in ("validation_accuracy", "accuracy", "accuracy_int8", "gzip_bytes")}
    for stage, parent in chain.stages.items():
        section = experiment.training(stage)
        steps = math.ceil(len(train[0]) / section.batch_size)
        with training_parts.timed(stage):
            model = (
                _wrap(stage, models[parent], experiment, steps)
                if parent
                else registry.build_initial_model(experiment, data)
            )
            found["validation_accuracy"][stage] = _fit(stage, model, section, steps, train, validation)
        if stage in chain.tested:
            with parts.timed("Keras evaluation"):
                found["accuracy"][stage] = model.evaluate(*test, verbose=0)[1]
        models[stage] = _strip(stage, model)
    for stage in chain.converted:
        with parts.timed("conversion"):
            if stage.endswith("qat"):
                tflite = convert.convert_as_trained(models[stage])
            else:
                tflite = convert.convert_to_int8(models[stage], train[0][: experiment.calibration_examples])
            found["gzip_bytes"][stage] = len(gzip.compress(tflite))
        if stage in chain.evaluated:
            with parts.timed("int8 evaluation"):
                is_correct = predict_one_by_one(tflite, test[0]) == test[1]
                found["accuracy_int8"][stage] = float(is_correct.mean())
    return {"parts": {**parts, "training": training_parts}, **found}


def make_arrays(split) -> tuple[np.ndarray, np.ndarray]:
    """Model inputs (n, ...) float32 and labels (n,) of a split."""
    return split.prepare(split.examples).numpy(), split.labels


def _wrap(stage: str, parent, experiment, steps: int):
    """A copy of the parent in TFMOT's wrappers for a stage, applied to the whole model."""
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    from collabopt.runtime.tensorflow import tfmot
    from collabopt.techniques import layers, pruning

    model, combine = layers.clone_model(parent), tfmot.experimental.combine
    clusters = {
        "number_of_clusters": experiment.number_of_clusters,
        "cluster_centroids_init": tfmot.clustering.keras.CentroidInitialization[
            experiment.centroid_initialization.upper()
        ],
        "cluster_per_channel": experiment.cluster_per_channel,
    }
    if stage == "pruned":
        schedule = pruning.make_schedule(experiment.sparsity, experiment.stages.pruned, steps)
        return tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    if stage == "clustered":
        return tfmot.clustering.keras.cluster_weights(model, **clusters)
    if stage == "sparse_clustered":
        return experimental.cluster_weights(model, preserve_sparsity=True, **clusters)
    if stage == "qat":
        return tfmot.quantization.keras.quantize_model(model)
    scheme = {
        "pqat": combine.Default8BitPrunePreserveQuantizeScheme,
        "cqat": combine.Default8BitClusterPreserveQuantizeScheme,
        "pcqat": lambda: combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True),
    }[stage]
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    return tfmot.quantization.keras.quantize_apply(annotated, scheme())


def _fit(stage: str, model, section, steps: int, train: tuple, validation: tuple) -> float:
    """Train in place, and return the validation accuracy after the last epoch."""
    from collabopt.runtime.tensorflow import keras, tfmot
    from collabopt.techniques import training

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.make_optimizer(section, steps), loss, metrics=["accuracy"])
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()] if stage == "pruned" else []
    sizes = {"batch_size": section.batch_size, "epochs": section.epochs}
    history = model.fit(*train, **sizes, validation_data=validation, callbacks=callbacks, verbose=0)
    return history.history["val_accuracy"][-1]


def _strip(stage: str, model):
    from collabopt.runtime.tensorflow import tfmot

    if stage == "pruned":
        return tfmot.sparsity.keras.strip_pruning(model)
    return tfmot.clustering.keras.strip_clustering(model) if stage.endswith("clustered") else model


def predict_one_by_one(tflite: bytes, inputs: np.ndarray) -> np.ndarray:
    """Classes (n,) that an int8 file predicts for `inputs` (n, ...) float32, one example at a time.

    LiteRT uses its default of one thread, as in the guides.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (entry,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero_point), classes = entry["quantization"], []
    for example in inputs:
        int8_values = np.clip(np.round(example / scale) + zero_point, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], int8_values[None])
        interpreter.invoke()
        classes.append(interpreter.get_tensor(output["index"])[0].argmax())
    return np.array(classes)


def run_all(name: str, seed: int) -> dict:
    """Run the chains one after another, one process per chain: total seconds, and seconds and results of each."""
    chains = {}
    for chain in CHAINS:
        began = time.perf_counter()
        found = run_in_process(__file__, name, "--seed", str(seed), "--chain", chain)
        chains[chain] = {"seconds": time.perf_counter() - began - found["parts"]["settings"], **found}
    return {"seconds": sum(found["seconds"] for found in chains.values()), "chains": chains}


def run_in_process(file: str, *words: str) -> dict:
    """Run a benchmark in its own process, and return the JSON of its last line."""
    done = subprocess.run([sys.executable, file, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", nargs="?", default="digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chain", choices=list(CHAINS))
    words = parser.parse_args()
    given = words.experiment, words.seed
    print(json.dumps(run_chain(*given, CHAINS[words.chain]) if words.chain else run_all(*given)))
