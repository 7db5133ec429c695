"""Accuracy of the ImageNet baselines on official validation pictures of 20 classes, over 1,000 classes and over 20.

    python benchmarks/imagenet_head.py          # needs data/imagenet20 and data/weights; some minutes on two cores

The head with 1,000 classes may name any class. The cut head of the experiments imagenet20 chooses among the 20. Rows
are for 224 pixels, at which the weights were trained, and for the 160 of the experiments.
"""

import sys

import numpy as np
import table

from collabopt.config import loading
from collabopt.datasets import imagenet
from collabopt.models import mobilenet, weights

sys.path.insert(0, str(loading.EXPERIMENTS))
import imagenet20

MODELS = "mobilenet_v1", "mobilenet_v2"
SIZES = 224, 160


def measure_size(size: int) -> list[dict]:
    """Rows of both models at one size of the pictures (pixels per side)."""
    test, rows = imagenet.read(loading.DATA / "imagenet20", size).test, []
    columns = np.array(list(imagenet20.CLASSES.values()))
    models = [getattr(mobilenet, name)((size, size, 3), mobilenet.IMAGENET_CLASSES) for name in MODELS]
    for name, model in zip(MODELS, models, strict=True):
        weights.assign(model, weights.read(loading.DATA / "weights" / f"{name}_imagenet.npz"))
    correct = np.zeros((len(models), 2))
    for begin in range(0, len(test.labels), 100):
        pictures, labels = test.prepare(test.examples[begin : begin + 100]), test.labels[begin : begin + 100]
        for model, counts in zip(models, correct, strict=True):
            logits = model.predict_on_batch(pictures)
            counts += (logits.argmax(1) == columns[labels]).sum(), (logits[:, columns].argmax(1) == labels).sum()
    for name, counts in zip(MODELS, correct, strict=True):
        over_all, over_part = 100 * counts / len(test.labels)
        about = f"{name}, {size} pixels"
        rows += [
            table.make_row("accuracy over 1,000 classes (%)", about, over_all),
            table.make_row("accuracy over 20 classes (%)", about, over_part),
        ]
    return rows


if __name__ == "__main__":
    table.record(row for size in SIZES for row in measure_size(size))
