"""What stages failed to do or to preserve in each kernel, and why layers were skipped, in words."""

import numpy as np
import pandas as pd

from collabopt.analysis import audit
from collabopt.config import per_layer
from collabopt.config.experiment import Experiment
from collabopt.config.stages import Stage, get_lineage
from collabopt.storage import results
from collabopt.techniques import layers, patterns


def explain_skipped(
    stage: Stage, experiment: Experiment, kinds: dict[str, str], frozen: tuple[str, ...], misfits: dict[str, str]
) -> dict[str, str]:
    """Return why kernels were not trained, pruned or clustered, in a stage or its ancestors: the reason by name.

    Args:
        experiment: Gives the layers that are excluded.
        kinds: Kind of each kernel (`layers.get_kind`).
        frozen: Names of frozen layers.
        misfits: Why the pattern of zeros does not fit a layer (`patterns.find_misfits`).
    """
    lineage, exclude = get_lineage(stage.name, experiment.tree), experiment.exclude
    excluded = {"pruning": exclude.pruning} if any(one.prunes for one in lineage) else {}
    excluded |= {"clustering": exclude.clustering} if any(one.clusters for one in lineage) else {}
    reasons = {name: "depthwise, by design" for name, kind in kinds.items() if kind == "depthwise" if excluded}
    excluded |= {"quantization": exclude.quantization} if stage.quantizes else {}
    for name in kinds:
        techniques = [technique for technique, names in excluded.items() if layers.get_layer_name(name) in names]
        if techniques:
            reasons[name] = f"excluded from {' and '.join(techniques)}"
        if layers.get_layer_name(name) in misfits:
            reasons[name] = f"not pruned: {misfits[layers.get_layer_name(name)]}"
    return reasons | {name: results.FROZEN for name in kinds if layers.get_layer_name(name) in frozen}


def describe_defects(
    table: pd.DataFrame,
    kernels: dict[str, np.ndarray],
    int8_values: dict[str, np.ndarray],
    parent: dict[str, np.ndarray] | None,
    experiment: Experiment,
    stage: Stage,
) -> list[str]:
    """Return one text per faulty kernel of a stage: lost zeros, clusters and patterns, in Keras and in the file.

    Args:
        table: The table of `audit.audit_layers`.
        kernels: float32 kernels by name.
        int8_values: int8 kernels by name.
        parent: The parent's kernels by name; None if no zeros or clusters must survive.
        experiment: Gives clusters and pattern, and the layers without them.
        stage: Says whether zeros and clusters must survive.
    """
    return [
        "" if row["kind"] == "depthwise" else "; ".join(_find_defects(row, *arrays, experiment, stage))
        for _, row in table.iterrows()
        for arrays in [(parent and parent[row["layer"]], kernels[row["layer"]], int8_values.get(row["layer"]))]
    ]


def _find_defects(
    row: pd.Series,
    parent: np.ndarray | None,
    kernel: np.ndarray,
    int8_values: np.ndarray | None,
    experiment: Experiment,
    stage: Stage,
) -> list[str]:
    layer, found = layers.get_layer_name(row["layer"]), []
    places = {"": kernel} | ({} if int8_values is None else {" in the int8 file": int8_values})
    if parent is not None:
        # A network may have zeros by itself, as in dead channels. Only stages of a pruned one must keep them.
        zeros = parent if stage.keeps_zeros else None
        is_clustered = stage.clusters and layer not in experiment.exclude.clustering
        clusters = per_layer.get_value(experiment.number_of_clusters, layer) if is_clustered else None
        # Only convolutions are clustered per channel; other kernels are clustered as a whole.
        per_channel = experiment.cluster_per_channel and row["kind"] in ("conv2d", "conv2d_transpose")
        int8_per_channel = per_channel or experiment.scheme == "tfmot"
        found += audit.find_defects(row, zeros, kernel, int8_values, clusters, per_channel, int8_per_channel)
        if clusters and experiment.symmetric:
            wrong = {place: audit.compute_asymmetry(values, clusters, per_channel) for place, values in places.items()}
            found += [
                f"{share:.1%} of the weights are not −α, α{' or zero' * (clusters == 3)}{place}"
                for place, share in wrong.items()
                if share
            ]
    if experiment.sparsity_pattern != "unstructured" and layer not in experiment.exclude.pruning:
        wanted = experiment.sparsity_pattern, per_layer.get_value(experiment.sparsity, layer)
        lacking = {place: patterns.find_defect(values, *wanted) for place, values in places.items()}
        found += [defect + place for place, defect in lacking.items() if defect]
    return found
