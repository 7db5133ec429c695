"""The cost of preservation: set-up, step and memory of CQAT and PCQAT beside plain QAT, and the kernels afterwards.

    python benchmarks/schemes.py            # everything, within 15 minutes on two cores
    python benchmarks/schemes.py --one ds_cnn_l cqat collabopt
    python benchmarks/schemes.py --steps ds_cnn_l

Set-up and peak memory are measured in one process per stage. Steps are timed in turn within one process, so that other
load on the machine affects all alike. Parents are clustered and pruned without training, because their accuracy does
not affect the times.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import table

ROUNDS = 20
"""Timed steps per stage."""
STEPS = 5
"""Training steps before the values in kernels are counted."""
SUBJECTS = {  # model: experiment, and whether its trained weights are used
    "ds_cnn_l": ("speech_commands-ds_cnn_l", True),
    "mobilenet_v1": ("cifar10-mobilenet_v1", True),
    "mobilenet_v1, fresh weights": ("cifar10-mobilenet_v1", False),
}
K = 8


def _prepare(subject: str, stage: str, scheme: str, steps: int) -> tuple:
    """The wrapped and compiled model of a stage, its kernels before, training batches, and the start of wrapping."""
    from collabopt import datasets
    from collabopt.config import loading
    from collabopt.config.stages import STAGES
    from collabopt.runtime import tensorflow
    from collabopt.techniques import layers, quantization, registry, settling, training

    name, trained = SUBJECTS[subject]
    experiment = loading.load(name, number_of_clusters=K, scheme=scheme)
    experiment = experiment if trained else experiment.model_copy(update={"initial_weights": None})
    tensorflow.configure(experiment.threads)
    tensorflow.seed_everything(experiment.seed)
    data = datasets.load(experiment)
    model = _make_parent(registry.build_initial_model(experiment, data), stage, K)
    before, section = layers.read_kernels(model), getattr(experiment.stages, stage)
    batches = list(data.train.training_batches(section.batch_size, experiment.seed, range(section.epochs)).take(steps))
    began = time.perf_counter()
    wrapped = training.compile_model(
        quantization.wrap(model, quantization.get_preservation(STAGES[stage], experiment)), data, section
    )
    settling.set_reassigning(wrapped, True)
    return wrapped, before, batches, began


def _time_step(wrapped, batch: tuple) -> float:
    from collabopt.runtime import tensorflow

    start = time.perf_counter()
    with tensorflow.drop_native_notices(), tensorflow.drop_log_records("Gradients do not exist"):
        wrapped.train_on_batch(*batch)
    return time.perf_counter() - start


def compare_steps(subject: str) -> dict[str, float]:
    """The time of our CQAT and PCQAT step ÷ that of the plain QAT step beside it, the median over `ROUNDS`."""
    kinds = {stage: _prepare(subject, stage, "collabopt", ROUNDS + 1) for stage in ("qat", "cqat", "pcqat")}
    seconds = {stage: [_time_step(one[0], batch) for batch in one[2][:1]] for stage, one in kinds.items()}
    for index in range(1, ROUNDS + 1):
        for stage, (wrapped, _, batches, _) in kinds.items():
            seconds[stage].append(_time_step(wrapped, batches[index]))
    plain_seconds = seconds.pop("qat")[1:]
    return {
        stage: statistics.median(one / plain for one, plain in zip(took[1:], plain_seconds, strict=True))
        for stage, took in seconds.items()
    }


def measure(subject: str, stage: str, scheme: str) -> dict:
    """Set-up and median step in seconds, peak memory, and the values in kernels after `STEPS` steps."""
    from collabopt.analysis import audit
    from collabopt.techniques import quantization
    from collabopt.tflite import convert, flatbuffer

    wrapped, before, batches, began = _prepare(subject, stage, scheme, STEPS + 1)
    _time_step(wrapped, batches[0])
    setup = time.perf_counter() - began
    took = [_time_step(wrapped, batch) for batch in batches[1:]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    is_eligible = _find_eligible(wrapped)
    after = {layer: kernel for layer, kernel in quantization.read_kernels(wrapped).items() if is_eligible[layer]}
    int8_values = flatbuffer.read_layer_kernels(
        convert.convert_as_trained(wrapped), {layer: kernel.shape for layer, kernel in after.items()}
    )
    zeros = {layer: before[layer] == 0 for layer in after}
    return {
        "setup": setup,
        "step": statistics.median(took),
        "peak": peak,
        "values": max(audit.count_unique(kernel) for kernel in after.values()),
        "int8_values": max(audit.count_unique(kernel) for kernel in int8_values.values()),
        "zeros_lost": max(
            float(np.mean(zeros[layer] & ((after[layer] != 0) | (int8_values[layer] != 0)))) for layer in after
        ),
        "zeros_gained": max(float(np.mean(~zeros[layer] & (after[layer] == 0))) for layer in after),
    }


def _find_eligible(wrapped) -> dict[str, bool]:
    from collabopt.techniques import quantization

    return {layer: kind != "depthwise" for layer, kind in quantization.read_kinds(wrapped).items()}


def _make_parent(model, stage: str, k: int):
    """The model pruned and clustered like the stage's parent, without training."""
    from collabopt.techniques import kmeans, layers
    from collabopt.techniques.layers import is_eligible

    model = layers.make_gammas_positive(model)
    for layer in filter(is_eligible, model.layers):
        kernel = layer.kernel.numpy()
        if stage == "pcqat":
            kernel = np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel).astype(np.float32)
        if stage in ("cqat", "pcqat"):
            layer.kernel.assign(kmeans.cluster_kernel(kernel, k, preserve_zeros=stage == "pcqat"))
    return model


def run_in_process(*words: str) -> dict:
    """Run this file with arguments in its own process, and return the JSON of its last line."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


RATIOS = {
    "setup": ("set-up ÷ plain QAT's", 1.3),
    "step": ("step ÷ plain QAT's", 1.2),
    "peak": ("peak memory ÷ plain QAT's", 1.5),
}
BESIDE = ("ds_cnn_l", "cqat")
"""The only pair for which TFMOT's scheme is measured too; elsewhere it takes minutes."""


def measure_figures() -> list[dict]:
    """One row per figure; ratios are relative to plain QAT in the same run."""
    rows = []
    for subject in SUBJECTS:
        plain, step = run_in_process("--one", subject, "qat", "collabopt"), run_in_process("--steps", subject)
        for stage in ("cqat", "pcqat"):
            ours, about = run_in_process("--one", subject, stage, "collabopt"), f"{subject}, {stage}"
            for key, (name, goal) in RATIOS.items():
                ratio = step[stage] if key == "step" else ours[key] / plain[key]
                rows.append(table.make_bounded_row(name, about, ratio, goal))
            rows.append(table.make_bounded_row("unique values per kernel, Keras", about, ours["values"], K))
            rows.append(table.make_bounded_row("unique int8 values per kernel", about, ours["int8_values"], K))
            rows.append(table.make_bounded_row("zeros lost, Keras and int8 (%)", about, 100 * ours["zeros_lost"], 0))
            rows.append(table.make_row("zeros gained, Keras (%)", about, 100 * ours["zeros_gained"]))
            if (subject, stage) == BESIDE:
                theirs = run_in_process("--one", subject, stage, "tfmot")
                about = f"{about} by TFMOT"
                rows += [table.make_row(name, about, theirs[key] / plain[key]) for key, (name, _) in RATIOS.items()]
                rows.append(table.make_row("unique values per kernel, Keras", about, theirs["values"]))
                rows.append(table.make_row("unique int8 values per kernel", about, theirs["int8_values"]))
            print(f"{subject}, {stage}: measured", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("SUBJECT", "STAGE", "SCHEME"))
    parser.add_argument("--steps", metavar="SUBJECT")
    words = parser.parse_args()
    print(
        json.dumps(
            measure(*words.one) if words.one else compare_steps(words.steps) if words.steps else measure_figures()
        )
    )
