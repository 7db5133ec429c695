"""TFMOT's four guides to collaborative optimization as they stand: four chains that share nothing with each other.

    python benchmarks/chains.py digits                  # all four, one after another, a process each; prints JSON
    python benchmarks/chains.py digits --chain pqat     # one, in this process

A chain trains a baseline of its own with `model.fit` on arrays in memory, wraps models by TFMOT's API, converts them,
and runs its int8 files on one test example at a time. Data, network, epochs, batch sizes, rates, sparsity, clusters and
the number of threads of training are those of an experiment of ours that leaves no layer out, so that both sides train
the same. Which models a chain makes from which, converts and evaluates is what the guides do
(tensorflow/model-optimization, guide/combine/{pqat,cqat,sparse_clustering,pcqat}_example.ipynb); the int8 files have
our kind, int8 in and out.
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
    """What a guide does. stages: each with its parent, in order; of which of them it asks the test accuracy in Keras,
    which it converts to int8, and which of these files it evaluates."""

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
    """Seconds by what they went into."""

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add what the block takes."""
        began = time.perf_counter()
        yield
        self[what] = self.get(what, 0.0) + time.perf_counter() - began


def run(name: str, seed: int, chain: Chain) -> dict:
    """One chain: its parts in seconds, and what came out, by stage. `settings` is what a guide has no use for."""
    parts, training_parts = Parts(), Parts()
    with parts.timed("import"):
        from collabopt.runtime.tensorflow import seed_everything, tf
    with parts.timed("settings"):
        from collabopt import datasets
        from collabopt.config import loading
        from collabopt.techniques import registry
        from collabopt.tflite import convert

        plan = loading.load(name, seed=seed)
        tf.config.threading.set_intra_op_parallelism_threads(plan.threads)
        tf.config.threading.set_inter_op_parallelism_threads(plan.threads)
        seed_everything(plan.seed)
    with parts.timed("data"):
        data = datasets.load(plan)
        train, validation, test = (in_memory(split) for split in (data.train, data.validation, data.test))
    models, found = {}, {key: {} for key in ("validation_accuracy", "accuracy", "accuracy_int8", "gzip_bytes")}
    for stage, parent in chain.stages.items():
        how = plan.training(stage)
        steps = math.ceil(len(train[0]) / how.batch_size)
        with training_parts.timed(stage):
            model = _wrapped(stage, models[parent], plan, steps) if parent else registry.build_initial_model(plan, data)
            found["validation_accuracy"][stage] = _fit(stage, model, how, steps, train, validation)
        if stage in chain.tested:
            with parts.timed("Keras evaluation"):
                found["accuracy"][stage] = model.evaluate(*test, verbose=0)[1]
        models[stage] = _stripped(stage, model)
    for stage in chain.converted:
        with parts.timed("conversion"):
            if stage.endswith("qat"):
                tflite = convert.convert_as_trained(models[stage])
            else:
                tflite = convert.convert_to_int8(models[stage], train[0][: plan.calibration_examples])
            found["gzip_bytes"][stage] = len(gzip.compress(tflite))
        if stage in chain.evaluated:
            with parts.timed("int8 evaluation"):
                right = one_by_one(tflite, test[0]) == test[1]
                found["accuracy_int8"][stage] = float(right.mean())
    return {"parts": {**parts, "training": training_parts}, **found}


def in_memory(split) -> tuple[np.ndarray, np.ndarray]:
    """Model inputs (n, ...) float32 and labels (n,) of a split."""
    return split.prepare(split.examples).numpy(), split.labels


def _wrapped(stage: str, parent, plan, steps: int):
    """A copy of the parent in a stage's wrappers, as TFMOT puts them around a whole model."""
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    from collabopt.runtime.tensorflow import tfmot
    from collabopt.techniques import layers, pruning

    model, combine = layers.clone_model(parent), tfmot.experimental.combine
    clusters = {
        "number_of_clusters": plan.number_of_clusters,
        "cluster_centroids_init": tfmot.clustering.keras.CentroidInitialization[plan.centroid_initialization.upper()],
        "cluster_per_channel": plan.cluster_per_channel,
    }
    if stage == "pruned":
        schedule = pruning.make_schedule(plan.sparsity, plan.stages.pruned, steps)
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


def _fit(stage: str, model, how, steps: int, train: tuple, validation: tuple) -> float:
    """Train in place; the validation accuracy after the last epoch."""
    from collabopt.runtime.tensorflow import keras, tfmot
    from collabopt.techniques import training

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.make_optimizer(how, steps), loss, metrics=["accuracy"])
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()] if stage == "pruned" else []
    sizes = {"batch_size": how.batch_size, "epochs": how.epochs}
    history = model.fit(*train, **sizes, validation_data=validation, callbacks=callbacks, verbose=0)
    return history.history["val_accuracy"][-1]


def _stripped(stage: str, model):
    from collabopt.runtime.tensorflow import tfmot

    if stage == "pruned":
        return tfmot.sparsity.keras.strip_pruning(model)
    return tfmot.clustering.keras.strip_clustering(model) if stage.endswith("clustered") else model


def one_by_one(tflite: bytes, inputs: np.ndarray) -> np.ndarray:
    """The class (n,) that an int8 file gives each of `inputs` (n, ...) float32, run on one at a time.

    By as many threads as LiteRT takes unasked, which is one: the guides ask for none."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero_point), classes = entry["quantization"], []
    for example in inputs:
        codes = np.clip(np.round(example / scale) + zero_point, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], codes[None])
        interpreter.invoke()
        classes.append(interpreter.get_tensor(exit_["index"])[0].argmax())
    return np.array(classes)


def all_four(name: str, seed: int) -> dict:
    """Each chain in a process of its own, one after another: seconds, of each and together, and what `run` gives."""
    chains = {}
    for chain in CHAINS:
        began = time.perf_counter()
        found = in_process(__file__, name, "--seed", str(seed), "--chain", chain)
        chains[chain] = {"seconds": time.perf_counter() - began - found["parts"]["settings"], **found}
    return {"seconds": sum(found["seconds"] for found in chains.values()), "chains": chains}


def in_process(file: str, *words: str) -> dict:
    """The JSON that a benchmark prints last, in a process of its own."""
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
    print(json.dumps(run(*given, CHAINS[words.chain]) if words.chain else all_four(*given)))
