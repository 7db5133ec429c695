"""The sentence that answers the question in a notebook's title, with the figures of the run.

The page of the notebook repeats it below the title.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from collabopt.analysis import comparison, judgement
from collabopt.config.metrics import get_metric
from collabopt.config.scores import ACCURACY, SCORES, find_score
from collabopt.config.stages import BASELINE, get_label
from collabopt.deploy import recommendation, targets
from collabopt.report.verdict import describe_drop

if TYPE_CHECKING:  # these import TensorFlow, which pages do without
    from collabopt.analysis.finished import Finished
    from collabopt.deploy.search import Search
    from collabopt.deploy.settings_search import SettingsSearch

_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Answer:
    """A sentence. A notebook shows it as a paragraph.

    Attributes:
        text: The sentence.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<p class="answer">{html.escape(self.text)}</p>'


def describe_quantization(baseline: Finished, qat: Finished) -> Answer:
    """Return what plain int8 quantization of the `baseline` costs and saves, after `qat`."""
    if baseline.tflite is None:
        return Answer(f"The baseline has no int8 file: {baseline.result['unavailable']}.")
    weights, size = _FLOAT_BYTES * int(baseline.layers["weights"].sum()), get_metric("tflite_bytes")
    small = f"{size.format(baseline.result['tflite_bytes'])} {size.unit}, {_format_gzip(baseline)}"
    return Answer(
        f"Post-training quantization turns {size.format(weights)} {size.unit} of float32 kernels into a file of "
        f"{small}, and {_describe_cost(baseline, baseline, 'the float32 model')}; QAT "
        f"{_describe_cost(baseline, qat, 'the float32 model')}."
    )


def describe_preservation(parent: Finished, stage: Finished, baseline: Finished) -> Answer:
    """Return whether `stage` kept zeros and clusters of `parent`, and what that costs and saves against `baseline`."""
    if stage.unavailable or parent.unavailable:
        return Answer(f"Not known: {stage.stage.label} is not available ({stage.unavailable or parent.unavailable}).")
    if stage.stage.keeps_zeros and not parent.result["sparsity"]:
        return Answer(f"There was nothing to preserve: no kernel of {parent.stage.label} has zeros from pruning.")
    is_clustered = stage.stage.clusters and stage.result["unique_weights"] is not None
    if not (stage.stage.keeps_zeros or is_clustered):
        return Answer("There was nothing to preserve: no kernel is clustered.")
    found = []
    if stage.stage.keeps_zeros:
        sparsity = get_metric("sparsity")
        before, after = (sparsity.format(one.result["sparsity"]) for one in (parent, stage))
        found.append(f"sparsity {before} → {after} %")
    if is_clustered:
        found.append(f"at most {stage.result['unique_weights']:,.0f} distinct values per kernel")
    failing = stage.layers.loc[stage.layers["defect"].ne(""), "layer"]
    verdict = "Yes" if stage.result["preserved"] else f"No: {len(failing)} kernels fail, {failing.iloc[0]} first"
    return Answer(
        f"{verdict}: {stage.stage.label} has {' and '.join(found)}, "
        f"{_describe_cost(baseline, stage, 'the float32 baseline')}, and takes {_format_gzip(stage)} (baseline: "
        f"{_format_gzip(baseline)})."
    )


def describe_losses(ours: Sequence[Finished], theirs: Sequence[Finished]) -> Answer:
    """Return which of the finished stages lose zeros or clusters by TFMOT's schemes (`theirs`) and by `ours`."""
    texts = []
    for name, stages in (("TFMOT's schemes", theirs), ("ours", ours)):
        failing = [one for one in stages if one.result["preserved"] is False]
        labels = ", ".join(
            f"{one.stage.label} ({one.layers['defect'].ne('').sum()} of {len(one.layers)} kernels)" for one in failing
        )
        texts.append(
            f"{name} lose zeros or clusters in {len(failing)} of {len(stages)} stages" + f": {labels}" * bool(labels)
        )
    return Answer(f"{'; '.join(texts)}.")


def describe_sensitivity(table: pd.DataFrame) -> Answer:
    """Return which layer of the `table` of `sensitivity.measure` pays most for pruning and for clustering."""
    from collabopt.analysis import sensitivity

    texts, score = [], SCORES[table["score"].iloc[0]] if len(table) else ACCURACY
    for prefix, technique in sensitivity.TECHNIQUES.items():
        known = table.dropna(subset=f"{prefix}_drop")
        if known.empty:
            continue
        row = known.loc[known[f"{prefix}_drop"].idxmax()]
        drop, noise = row[f"{prefix}_drop"], 2 * row[f"{prefix}_error"]
        within = ", within noise of nothing" if abs(drop) <= noise else ""
        share = 100 * row["weights"] / table["weights"].sum()
        texts.append(
            f"{row['layer']} pays most for {technique}: a drop of "
            + score.format_spread(drop * score.scale, noise * score.scale, is_drop=True)
            + f"{within}, with {share:.1f} % of the weights"
        )
    return Answer(f"{'; '.join(texts)}." if texts else "No layer is pruned or clustered.")


def describe_shape(table: pd.DataFrame) -> Answer:
    """Return what the stages in the `table` of `shape.measure` save and cost, against the baseline of their format."""
    rows = table.set_index(["stage", "format"])
    told, score = [], find_score(table.columns)
    for stage in [name for name in dict.fromkeys(table["stage"]) if name != BASELINE]:
        row, base = (rows.loc[name, "float32"] for name in (stage, BASELINE))
        drop = score.compute_drop(base[score.test], row[score.test])
        noise = targets.find_drop_noise(row, score, "test")
        ratios = {name: row[name] / base[name] for name in ("parameters", "multiplications", "latency_ms")}
        told.append(
            f"{get_label(stage)} keeps {ratios['parameters']:.0%} of the parameters and "
            f"{ratios['multiplications']:.0%} of the multiplications, takes {ratios['latency_ms']:.2f} times as long "
            f"in float32, and costs {score.format_spread(drop, noise, is_drop=True)} of {score.title} on test"
        )
    text = "; ".join(told) or "no setting changes the shape of the network"
    return Answer(f"{text[0].upper()}{text[1:]}.")


def describe_few_values(baseline: Finished, clustered: Mapping[str, Finished]) -> Answer:
    """Return what kernels of few values cost and save.

    Args:
        baseline: The baseline.
        clustered: Clustered stages by the name of their values, such as "binary".
    """
    told = [
        f"{name} kernels {_describe_cost(baseline, one, 'the float32 baseline')}, and takes {_format_gzip(one)}"
        for name, one in clustered.items()
    ]
    return Answer(f"The network with {'; with '.join(told)} (baseline: {_format_gzip(baseline)}).")


def describe_reproduction(compared: pd.DataFrame) -> Answer:
    """Return how many published figures in `comparison.compare`'s rows, `compared`, the run reproduces."""
    rows = compared[compared["published"].notna()]
    if rows.empty:
        return Answer("Nothing is published for this model and data set.")
    counts = judgement.judge(rows)["verdict"].value_counts()
    words = [f"{counts[verdict]} {verdict}" for verdict in judgement.VERDICTS if verdict in counts]
    figures = "1 published figure" if counts.sum() == 1 else f"{counts.sum()} published figures"
    return Answer(f"Of {figures}: {', '.join(words)}.")


def describe_deployment(found: Search) -> Answer:
    """Return which file of a search, `found`, to deploy, or by how much the nearest one misses its targets."""
    if found.run.directory is None:
        return Answer(targets.describe(targets.judge(found.table, found.targets), found.targets))
    return Answer(f"{recommendation.recommend(found.run.directory)}.")


def describe_comparison(places: dict[str, Path]) -> Answer:
    """Return which report of `places` (by name) recommends the smallest file, and what that costs."""
    found = {name: recommendation.recommend(place) for name, place in places.items()}
    known = {name: one for name, one in found.items() if one}
    if len(known) < 2:
        return Answer("Fewer than two of these reports recommend a file, so the notebook deployment_tree is missing.")
    size = get_metric("gzip_bytes")
    recommended = {name: one for name, one in known.items() if not one.misses}
    if not recommended:
        return Answer("None of these reports has a file that meets all of its targets.")
    best = min(recommended, key=lambda name: recommended[name].variant[size.name])
    verbs = {True: "has no file that meets all targets, and is nearest with", False: "recommends"}
    told = [
        f"{name} {verbs[bool(one.misses)]} {one.name}, {size.format(one.variant[size.name])} {size.unit} after "
        f"gzip, whose {one.score.title} on validation {describe_drop(one, one.variant)}"
        for name, one in known.items()
    ]
    sizes = [one.variant[size.name] for one in recommended.values()]
    head = (
        f"{best} has the smallest recommended file" if sizes.count(min(sizes)) == 1 else "The smallest files are equal"
    )
    return Answer(f"{head}: {'; '.join(told)}.")


def describe_search(found: SettingsSearch) -> Answer:
    """Return which file a search over settings `found`, after how many trainings, and why it ended."""
    best, size = found.trials[found.trials["best"]], get_metric("gzip_bytes")
    path = f"No file met all targets in {len(found.trials)} trainings"
    if len(best):
        first, last = best.iloc[0], best.iloc[-1]
        path = (
            f"The first file that met all targets came after training {first['trainings']} "
            f"({size.format(first['gzip_bytes'])} {size.unit}), the smallest one after training {last['trainings']} "
            f"({size.format(last['gzip_bytes'])} {size.unit})"
        )
    return Answer(f"{describe_deployment(found).text} {path}. The search ended because {found.ended}.")


def _describe_cost(base: Finished, stage: Finished, base_name: str) -> str:
    """What the int8 file of a stage loses against the float32 model of another on the split that was read."""
    if stage.tflite is None:
        return f"has no int8 file ({stage.result['unavailable']})"
    score, scores, base_scores = find_score(stage.result), stage.scores(), base.scores()
    split = "test" if "test" in base_scores and "test_int8" in scores else "validation"
    column, int8 = (score.test, score.test_int8) if split == "test" else (score.validation, score.validation_int8)
    drop = score.compute_drop(base.result[column], stage.result[int8])
    error = comparison.compute_standard_error((base_scores[split] - scores[f"{split}_int8"])[None])
    noise = score.get_noise(error, len(base_scores[split]))
    verb = "costs" if drop > 0 else "gains" if drop < 0 else "costs"
    within = f", within noise of {base_name}" if math.isfinite(noise) and abs(drop) <= noise else ""
    amount = score.format_spread(abs(drop), noise, is_drop=True)
    return f"{verb} {amount} of {score.title} on {split}{within}"


def _format_gzip(one: Finished) -> str:
    metric = get_metric("gzip_bytes")
    return f"{metric.format(one.result['gzip_bytes'], 'not known')} {metric.unit} after gzip"
