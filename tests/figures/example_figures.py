"""Kernels and tables for the tests of figures, and what a figure shows."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

PNG = b"\x89PNG\r\n\x1a\n"


def make_kernels() -> dict[str, np.ndarray]:
    """Make weights (3, 3, 4, 64): continuous, half zero, 8 clusters of which one is zero, and their int8 values."""
    random = np.random.default_rng(0)
    baseline = random.normal(0, 0.1, (3, 3, 4, 64)).astype(np.float32)
    pruned = np.where(np.abs(baseline) < np.median(np.abs(baseline)), 0, baseline).astype(np.float32)
    centroids = np.array([-0.3, -0.2, -0.1, 0, 0.1, 0.15, 0.2, 0.3], np.float32)
    clustered = centroids[np.abs(pruned[..., None] - centroids).argmin(-1)]
    return {
        "baseline FP32": baseline,
        "pruned": pruned,
        "sparse clustered": clustered,
        "PCQAT int8": np.round(clustered / 0.3 * 127).astype(np.int8),
    }


def make_results() -> pd.DataFrame:
    """Make rows of results.csv."""
    rows = [
        ("baseline", "", "", 0.9448, 434_879, ""),
        ("qat", "", "baseline", 0.9472, 403_261, ""),
        ("pruned", "", "baseline", 0.938, 334_154, ""),
        ("pqat", "", "pruned", 0.9413, 303_997, True),
        ("sparse_clustered", "", "pruned", 0.9321, 231_000, True),
        ("pcqat", "tfmot", "sparse_clustered", 0.93, 231_728, False),
        ("pcqat", "collabopt", "sparse_clustered", 0.9406, 200_533, True),
    ]
    return pd.DataFrame(rows, columns=["stage", "scheme", "parent", "accuracy_int8", "gzip_bytes", "preserved"])


def make_variants() -> pd.DataFrame:
    """Make variants on a path of the tree, in the order of the search. Float files have no NPU metrics."""
    rows = [
        ("baseline", "float32", "", 0.98, 4000, 3600, 1.0, None, None),
        ("baseline", "int8", "", 0.97, 1000, 900, 0.4, 1.4, 489.0),
        ("pruned", "float32", "", 0.975, 4000, 2000, 1.01, None, None),
        ("pruned", "float16", "", 0.975, 2000, 1100, 1.0, None, None),
        ("pruned", "int8", "", 0.965, 1000, 600, 0.4, 1.1, 296.0),
        ("sparse_clustered", "float32", "", 0.96, 4000, 700, 1.0, None, None),
        ("pcqat", "int8", "tfmot", 0.95, 1000, 800, 0.4, 1.2, 250.0),
        ("pcqat", "int8", "collabopt", 0.955, 1000, 400, 0.41, 1.1, 179.0),
    ]
    columns = "stage format scheme validation_accuracy tflite_bytes gzip_bytes latency_ratio npu_ms npu_flash_kib"
    return pd.DataFrame(rows, columns=columns.split()).assign(accelerator="ethos-u55-128", npu_sram_kib=None)


def draw_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def get_texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))
