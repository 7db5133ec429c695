"""Every figure of a stage or a file, defined once: its column, unit, format and the target that bounds it.

To add a target, give a metric a `target`, and the notebook `deployment_tree` a parameter of that name. A score becomes
five metrics: on validation and test, of the model and of its int8 file (`validation_accuracy_int8`), and the drop.
"""

import dataclasses
import difflib
import math

from collabopt.config.scores import ACCURACY, PLAIN, SCORES, Score


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        name: Column in results.csv or variants.csv.
        title: Name as readers see it.
        unit: Unit as readers see it; empty for counts and ratios.
        description: Name on a model card, which stands alone.
        group: Heading above this and its neighbouring columns in a wide table.
        scale: The shown unit in units of the column, for example 1000 where bytes are shown in kB.
        digits: Decimals shown.
        significant: Digits that a small value keeps, by more decimals.
        target: Parameter that bounds the metric from above; None if nothing does.
        missing: Text where the metric is not available.
        lower_is_better: Direction of improvement.
    """

    name: str
    title: str
    unit: str = ""
    description: str = ""
    group: str = ""
    scale: float = 1.0
    digits: int = 0
    significant: int = 0
    target: str | None = None
    missing: str = ""
    lower_is_better: bool = True

    @property
    def heading(self) -> str:
        """Title with the unit, for a table head or an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def format(self, value: float | None, missing: str | None = None) -> str:
        """Return a `value` without its unit; where it is None or NaN, `missing` or else the metric's own text."""
        if value is None or not math.isfinite(value):
            return self.missing if missing is None else missing
        return f"{value / self.scale:,.{self.count_decimals(value)}f}".replace("-", "−")

    def count_decimals(self, value: float) -> int:
        """Return how many decimals `format` shows of a `value` of the column."""
        if not value or not self.significant:
            return self.digits
        before = 1 + math.floor(math.log10(abs(value / self.scale)))
        return min(max(self.digits, self.significant - before), self.significant)

    def describe_excess(self, excess: float) -> str:
        """Return an `excess` over a limit: "gzip 34.1 kB over", or "SRAM not known" if it is infinite."""
        if not math.isfinite(excess):
            return f"{self.title} not known"
        least = 10.0**-self.digits
        rounded = dataclasses.replace(self, significant=0).format(excess)
        amount = rounded if excess >= least * self.scale else f"< {least:g}"
        return f"{self.title} {amount} {self.unit} over"


METRICS: dict[str, Metric] = {}
"""Every metric by name, in the order of table columns."""


def register(metric: Metric) -> Metric:
    """Add a metric, and return it.

    Raises:
        ValueError: Another metric has the name or the target, or the search does not measure the metric.
    """
    if metric.name in METRICS:
        raise ValueError(f"metric name={metric.name!r}: registered twice; give the second row another name")
    if metric.target and metric.group == _HOST["group"]:
        raise ValueError(
            f"metric {metric.name}: target={metric.target!r}: latency is measured after the search; remove it"
        )
    if metric.target and metric.target in get_targets():
        raise ValueError(f"metric {metric.name}: target={metric.target!r} bounds another metric; choose another name")
    METRICS[metric.name] = metric
    return metric


def get_metric(name: str) -> Metric:
    """Return the metric whose column is `name`.

    Raises:
        ValueError: There is no such metric.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 1) or list(METRICS)
        raise ValueError(f"metric={name!r}: unknown; expected {' or '.join(near)}")
    return METRICS[name]


def get_targets() -> dict[str, Metric]:
    """Return the metric that each target bounds, by name of the target."""
    return {metric.target: metric for metric in METRICS.values() if metric.target}


_BUILT_IN: set[str] = set()  # names of the scores below


def register_score(score: Score) -> Score:
    """Add a score and its metrics before all other metrics, and return it. It replaces one of the user's of its name.

    Raises:
        ValueError: Another score or metric has the name.
    """
    known, rows = SCORES.get(score.name), _list_score_metrics(score)
    if known == score:
        return score
    replaced = [] if known is None or known.name in _BUILT_IN else [row.name for row in rows]
    others = {name: metric for name, metric in METRICS.items() if name not in replaced}
    for row in rows:
        if row.name in others:
            raise ValueError(f"{score.name}: the workbook has a figure {row.name} of its own; rename your function")
    METRICS.clear()
    METRICS.update({row.name: row for row in rows} | others)
    SCORES[score.name] = score
    return score


def _list_score_metrics(score: Score) -> list[Metric]:
    form = {"unit": score.unit, "scale": score.scale, "digits": score.digits, "lower_is_better": score.lower_is_better}
    form |= {"group": score.title, "missing": "not read"}
    is_accuracy = score.name == "accuracy"
    return [
        Metric(score.validation, f"validation {score.title}", **form),
        Metric(score.validation_int8, f"INT8 validation {score.title}", **form),
        Metric(score.test, score.title, **form),
        Metric(score.test_int8, f"INT8 {score.title}", **form),
        Metric(
            *(score.drop, f"{score.title} {'rise' if score.lower_is_better else 'drop'}", score.drop_unit),
            scale=score.scale, digits=score.digits, target="max_accuracy_drop" if is_accuracy else None,
        ),
    ]  # fmt: skip


_PERCENT = {"unit": "%", "scale": 0.01, "digits": 2, "lower_is_better": False, "missing": "not read"}
_KB = {"unit": "kB", "scale": 1000, "digits": 1, "significant": 3}
_FILE, _WEIGHTS = {"group": "file", **_KB}, {"group": "weights", "missing": "not int8", **_KB}
_HOST, _NPU = {"group": "latency on this host", "missing": "not timed"}, {"group": "NPU", "missing": "–"}

for _metric in (
    Metric("validation_auc", "validation AUC", digits=4, lower_is_better=False),
    Metric("validation_auc_int8", "INT8 validation AUC", digits=4, lower_is_better=False),
    Metric("auc", "AUC", digits=4, lower_is_better=False),
    Metric("auc_int8", "INT8 AUC", digits=4, lower_is_better=False),
    Metric("validation_balanced_accuracy", "validation balanced accuracy", group="accuracy", **_PERCENT),
    Metric("validation_balanced_accuracy_int8", "INT8 validation balanced accuracy", group="accuracy", **_PERCENT),
    Metric("balanced_accuracy", "balanced accuracy", group="accuracy", **_PERCENT),
    Metric("balanced_accuracy_int8", "INT8 balanced accuracy", group="accuracy", **_PERCENT),
    Metric("metric_drop", "drop", digits=4, target="max_metric_drop"),
    Metric("saved", "saved", "%", scale=0.01, digits=1, lower_is_better=False),
    Metric("tflite_bytes", "file", description="File", target="max_tflite_bytes", **_FILE),
    Metric("zip_bytes", "ZIP", description="File after ZIP", **_FILE),
    Metric("gzip_bytes", "gzip", description="File after gzip", target="max_gzip_bytes", **_FILE),
    Metric("zstd_bytes", "zstd", description="File after Zstandard", **_FILE),
    Metric("weight_bytes", "int8 weights", description="int8 weights", **_WEIGHTS),
    Metric("entropy_bytes", "entropy", description="Zero-order entropy of the int8 weights", **_WEIGHTS),
    Metric("latency_ms", "latency", "ms", "Inference on the host of the run, one thread, median", digits=3, **_HOST),
    Metric("latency_ratio", "÷ float32 baseline", digits=2, **_HOST),
    Metric("npu_cycles", "cycles", description="NPU cycles per inference (Vela)", group="NPU", missing="not compiled"),
    Metric("npu_ms", "NPU time", "ms", "NPU time per inference (Vela)", digits=3, target="max_npu_ms", **_NPU),
    Metric("npu_sram_kib", "SRAM", "KiB", "SRAM (Vela)", digits=1, target="max_sram_kib", **_NPU),
    Metric("npu_flash_kib", "flash", "KiB", "Flash (Vela)", digits=1, target="max_flash_kib", **_NPU),
    Metric("npu_weight_bytes", "encoded weights", description="Encoded weights (Vela)", **_NPU, **_KB),
    Metric("npu_operators", "operators on NPU", "%", "Operators on the NPU", scale=0.01, lower_is_better=False, **_NPU),
    Metric("sparsity", "sparsity", "%", scale=0.01, digits=1, lower_is_better=False),
    Metric("unique_weights", "unique weights"),
    Metric("entropy_bits", "entropy bits", digits=2),
    Metric("lookup_bits", "lookup bits", digits=2),
    Metric("gained_zeros", "gained zeros", "%", scale=0.01, digits=1),
    Metric("rounded_to_zero", "rounded to zero", "%", scale=0.01, digits=2),
    Metric("setup_seconds", "set-up", "s", digits=1),
    Metric("fit_seconds", "fit", "s", digits=1),
    Metric("epochs", "epochs"),
):
    register(_metric)

for _score in (
    Score("mse", "MSE", lower_is_better=True, **PLAIN),
    Score("mae", "MAE", lower_is_better=True, **PLAIN),
    Score("miou", "mean IoU"),
    Score("f1", "F1"),
    ACCURACY,
):
    register_score(_score)
    _BUILT_IN.add(_score.name)
