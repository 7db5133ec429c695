"""What preserving costs: set-up, step and memory of CQAT and PCQAT beside plain QAT, and what is left afterwards.

    python benchmarks/schemes.py            # all, within 15 minutes on two cores
    python benchmarks/schemes.py --one ds_cnn_l cqat collabopt

Each measurement has a process of its own, so that its peak memory is its own. Parents are clustered and pruned without
training: what is timed does not depend on how good they are.
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

STEPS = 20
SUBJECTS = {  # model: experiment, whether with its trained weights
    "ds_cnn_l": ("speech_commands-ds_cnn_l", True),
    "mobilenet_v1": ("cifar10-mobilenet_v1", True),
    "mobilenet_v1, fresh weights": ("cifar10-mobilenet_v1", False),
}
K = 8


def measured(subject: str, stage: str, scheme: str) -> dict:
    """Set-up and median step in seconds, peak bytes, and what kernels and codes hold after `STEPS` steps."""
    from collabopt import audit, backend, datasets, experiment, lite, quantize, training, tree

    name, trained = SUBJECTS[subject]
    plan = experiment.load(name, number_of_clusters=K, scheme=scheme)
    plan = plan if trained else plan.model_copy(update={"initial_weights": None})
    backend.configure(plan.threads)
    backend.seed_everything(plan.seed)
    data = datasets.load(plan)
    model = _parent(tree.initial_model(plan, data), stage, K)
    before, how = audit.kernels(model), getattr(plan.stages, stage)
    batches = data.train.training_batches(how.batch_size, plan.seed, range(how.epochs))
    batches = batches.take(STEPS + 1).cache()
    began, steps = time.perf_counter(), []
    wrapped = quantize.wrap(model, stage, tree.kept(tree.TREE[stage], plan))
    training.compiled(wrapped, data, how)
    with backend.native_notices_dropped(), backend.log_dropped("Gradients do not exist"):
        for inputs, labels in batches:
            start = time.perf_counter()
            wrapped.train_on_batch(inputs, labels)
            steps.append(time.perf_counter() - start)
            if len(steps) == 1:
                setup = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = {layer: kernel for layer, kernel in quantize.kernels(wrapped).items() if _touched(wrapped)[layer]}
    codes = lite.kernels(lite.quantized_as_trained(wrapped), {layer: kernel.shape for layer, kernel in own.items()})
    zeros = {layer: before[layer] == 0 for layer in own}
    return {
        "setup": setup,
        "step": statistics.median(steps[1:]),
        "peak": peak,
        "values": max(audit.unique(kernel) for kernel in own.values()),
        "codes": max(audit.unique(code) for code in codes.values()),
        "zeros_lost": max(float(np.mean(zeros[layer] & ((own[layer] != 0) | (codes[layer] != 0)))) for layer in own),
        "zeros_gained": max(float(np.mean(~zeros[layer] & (own[layer] == 0))) for layer in own),
    }


def _touched(wrapped) -> dict[str, bool]:
    from collabopt import quantize

    return {layer: kind != "depthwise" for layer, kind in quantize.kinds(wrapped).items()}


def _parent(model, stage: str, k: int):
    """The model pruned and clustered as the stage's parent is, without training."""
    from collabopt import centroids, plain
    from collabopt.layers import prunable

    model = plain.with_positive_gammas(model)
    for layer in filter(prunable, model.layers):
        kernel = layer.kernel.numpy()
        if stage == "pcqat":
            kernel = np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel).astype(np.float32)
        if stage in ("cqat", "pcqat"):
            layer.kernel.assign(centroids.clustered(kernel, k, preserve_zeros=stage == "pcqat"))
    return model


def in_process(subject: str, stage: str, scheme: str) -> dict:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, "--one", subject, stage, scheme]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{subject}, {stage}, {scheme}: {done.stderr.strip().splitlines()[-1]}")
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
        plain = in_process(subject, "qat", "collabopt")
        for stage in ("cqat", "pcqat"):
            own, about = in_process(subject, stage, "collabopt"), f"{subject}, {stage}"
            for what, (name, goal) in RATIOS.items():
                rows.append(table.at_most(name, about, own[what] / plain[what], goal))
            rows.append(table.at_most("values in a kernel, Keras", about, own["values"], K))
            rows.append(table.at_most("codes in a kernel, int8 file", about, own["codes"], K))
            rows.append(table.at_most("zeros lost, Keras and int8 (%)", about, 100 * own["zeros_lost"], 0))
            rows.append(table.at_most("zeros gained, Keras (%)", about, 100 * own["zeros_gained"], 0.1))
            if (subject, stage) == BESIDE:
                theirs = in_process(subject, stage, "tfmot")
                about = f"{about} by TFMOT"
                rows += [table.seen(name, about, theirs[what] / plain[what]) for what, (name, _) in RATIOS.items()]
                rows.append(table.seen("values in a kernel, Keras", about, theirs["values"]))
                rows.append(table.seen("codes in a kernel, int8 file", about, theirs["codes"]))
            print(f"{subject}, {stage}: measured", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("SUBJECT", "STAGE", "SCHEME"))
    words = parser.parse_args()
    print(json.dumps(measured(*words.one)) if words.one else json.dumps(figures()))
