"""What preserving costs: set-up, step and memory of CQAT and PCQAT beside plain QAT, and what is left afterwards.

    python benchmarks/schemes.py            # all, within 15 minutes on two cores
    python benchmarks/schemes.py --one ds_cnn_l cqat collabopt
    python benchmarks/schemes.py --steps ds_cnn_l

Set-up and peak memory are each measured in a process of their own. Steps are timed in turn within one process, so that
what else the machine does falls on all alike. Parents are clustered and pruned without training: what is timed does not
depend on how good they are.
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
"""Steps of each kind that are timed."""
STEPS = 5
"""Steps after which kernels and codes are counted."""
SUBJECTS = {  # model: experiment, whether with its trained weights
    "ds_cnn_l": ("speech_commands-ds_cnn_l", True),
    "mobilenet_v1": ("cifar10-mobilenet_v1", True),
    "mobilenet_v1, fresh weights": ("cifar10-mobilenet_v1", False),
}
K = 8


def _started(subject: str, stage: str, scheme: str, steps: int) -> tuple:
    """A model wrapped for the stage and compiled, its kernels before, batches to train on, and when wrapping began."""
    from collabopt import datasets
    from collabopt.config import loading
    from collabopt.config.stages import STAGES
    from collabopt.runtime import tensorflow
    from collabopt.techniques import layers, quantization, registry, training

    name, trained = SUBJECTS[subject]
    plan = loading.load(name, number_of_clusters=K, scheme=scheme)
    plan = plan if trained else plan.model_copy(update={"initial_weights": None})
    tensorflow.configure(plan.threads)
    tensorflow.seed_everything(plan.seed)
    data = datasets.load(plan)
    model = _parent(registry.build_initial_model(plan, data), stage, K)
    before, how = layers.read_kernels(model), getattr(plan.stages, stage)
    batches = list(data.train.training_batches(how.batch_size, plan.seed, range(how.epochs)).take(steps))
    began = time.perf_counter()
    wrapped = training.compile_model(
        quantization.wrap(model, quantization.get_preservation(STAGES[stage], plan)), data, how
    )
    return wrapped, before, batches, began


def _step(wrapped, batch: tuple) -> float:
    from collabopt.runtime import tensorflow

    start = time.perf_counter()
    with tensorflow.drop_native_notices(), tensorflow.drop_log_records("Gradients do not exist"):
        wrapped.train_on_batch(*batch)
    return time.perf_counter() - start


def steps(subject: str) -> dict[str, float]:
    """Median over `ROUNDS` of a step of our CQAT and PCQAT ÷ the step of plain QAT beside it."""
    kinds = {stage: _started(subject, stage, "collabopt", ROUNDS + 1) for stage in ("qat", "cqat", "pcqat")}
    seconds = {stage: [_step(one[0], batch) for batch in one[2][:1]] for stage, one in kinds.items()}
    for index in range(1, ROUNDS + 1):
        for stage, (wrapped, _, batches, _) in kinds.items():
            seconds[stage].append(_step(wrapped, batches[index]))
    own = seconds.pop("qat")[1:]
    return {
        stage: statistics.median(one / plain for one, plain in zip(took[1:], own, strict=True))
        for stage, took in seconds.items()
    }


def measured(subject: str, stage: str, scheme: str) -> dict:
    """Set-up and median step in seconds, peak bytes, and what kernels and codes hold after `STEPS` steps."""
    from collabopt.analysis import audit
    from collabopt.techniques import quantization
    from collabopt.tflite import convert, flatbuffer

    wrapped, before, batches, began = _started(subject, stage, scheme, STEPS + 1)
    _step(wrapped, batches[0])
    setup = time.perf_counter() - began
    took = [_step(wrapped, batch) for batch in batches[1:]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = {layer: kernel for layer, kernel in quantization.read_kernels(wrapped).items() if _touched(wrapped)[layer]}
    codes = flatbuffer.read_layer_kernels(
        convert.convert_as_trained(wrapped), {layer: kernel.shape for layer, kernel in own.items()}
    )
    zeros = {layer: before[layer] == 0 for layer in own}
    return {
        "setup": setup,
        "step": statistics.median(took),
        "peak": peak,
        "values": max(audit.count_unique(kernel) for kernel in own.values()),
        "codes": max(audit.count_unique(code) for code in codes.values()),
        "zeros_lost": max(float(np.mean(zeros[layer] & ((own[layer] != 0) | (codes[layer] != 0)))) for layer in own),
        "zeros_gained": max(float(np.mean(~zeros[layer] & (own[layer] == 0))) for layer in own),
    }


def _touched(wrapped) -> dict[str, bool]:
    from collabopt.techniques import quantization

    return {layer: kind != "depthwise" for layer, kind in quantization.read_kinds(wrapped).items()}


def _parent(model, stage: str, k: int):
    """The model pruned and clustered as the stage's parent is, without training."""
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


def in_process(*words: str) -> dict:
    """What this file prints in a process of its own when it is given the words."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


RATIOS = {
    "setup": ("set-up ÷ plain QAT's", 2),
    "step": ("step ÷ plain QAT's", 1.3),
    "peak": ("peak memory ÷ plain QAT's", 1.5),
}
BESIDE = ("ds_cnn_l", "cqat")
"""Where TFMOT's scheme is measured too; elsewhere it takes minutes."""


def figures() -> list[dict]:
    """A row a figure; ratios are to plain QAT in the same run."""
    rows = []
    for subject in SUBJECTS:
        plain, step = in_process("--one", subject, "qat", "collabopt"), in_process("--steps", subject)
        for stage in ("cqat", "pcqat"):
            own, about = in_process("--one", subject, stage, "collabopt"), f"{subject}, {stage}"
            for what, (name, goal) in RATIOS.items():
                ratio = step[stage] if what == "step" else own[what] / plain[what]
                rows.append(table.at_most(name, about, ratio, goal))
            rows.append(table.at_most("values in a kernel, Keras", about, own["values"], K))
            rows.append(table.at_most("codes in a kernel, int8 file", about, own["codes"], K))
            rows.append(table.at_most("zeros lost, Keras and int8 (%)", about, 100 * own["zeros_lost"], 0))
            rows.append(table.at_most("zeros gained, Keras (%)", about, 100 * own["zeros_gained"], 0.1))
            if (subject, stage) == BESIDE:
                theirs = in_process("--one", subject, stage, "tfmot")
                about = f"{about} by TFMOT"
                rows += [table.seen(name, about, theirs[what] / plain[what]) for what, (name, _) in RATIOS.items()]
                rows.append(table.seen("values in a kernel, Keras", about, theirs["values"]))
                rows.append(table.seen("codes in a kernel, int8 file", about, theirs["codes"]))
            print(f"{subject}, {stage}: measured", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("SUBJECT", "STAGE", "SCHEME"))
    parser.add_argument("--steps", metavar="SUBJECT")
    words = parser.parse_args()
    print(json.dumps(measured(*words.one) if words.one else steps(words.steps) if words.steps else figures()))
