"""The deployment tree as data: a stage is a row with its parent, what decides it and what it must keep.

baseline ─┬─ qat
          ├─ pruned ─┬─ pqat
          │          └─ sparse_clustered ── pcqat
          └─ clustered ── cqat

Nothing here imports TensorFlow; how a stage is trained is in `tree`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """A node of the deployment tree.

    knobs: the experiment's values that it takes beside its own section. keeps_zeros, clusters: whether it must keep its
    parent's zeros, hold k values a kernel. has_schemes: whether there is a scheme of ours beside TFMOT's.
    """

    name: str
    title: str
    parent: str | None
    knobs: tuple[str, ...] = ()
    prunes: bool = False
    keeps_zeros: bool = False
    clusters: bool = False
    quantizes: bool = False
    has_schemes: bool = False
    trainer: str = ""


_CLUSTERING = ("number_of_clusters", "cluster_per_channel", "centroid_initialization")

TREE = {
    stage.name: stage
    for stage in (
        Stage("baseline", "Baseline", None, trainer="training:train"),
        Stage("qat", "QAT", "baseline", quantizes=True, trainer="quantize:train"),
        Stage("pruned", "Pruned", "baseline", ("sparsity",), prunes=True, trainer="prune:train"),
        Stage("pqat", "PQAT", "pruned", keeps_zeros=True, quantizes=True, has_schemes=True, trainer="quantize:train"),
        Stage(
            "clustered", "Clustered", "baseline", _CLUSTERING, clusters=True, has_schemes=True, trainer="cluster:train"
        ),
        Stage(
            "cqat",
            "CQAT",
            "clustered",
            ("cluster_per_channel",),
            clusters=True,
            quantizes=True,
            has_schemes=True,
            trainer="quantize:train",
        ),
        Stage(
            "sparse_clustered",
            "Sparse clustered",
            "pruned",
            _CLUSTERING,
            keeps_zeros=True,
            clusters=True,
            has_schemes=True,
            trainer="cluster:train",
        ),
        Stage(
            "pcqat",
            "PCQAT",
            "sparse_clustered",
            ("cluster_per_channel",),
            keeps_zeros=True,
            clusters=True,
            quantizes=True,
            has_schemes=True,
            trainer="quantize:train",
        ),
    )
}
"""Every stage by name, parents first."""


def lineage(name: str) -> list[Stage]:
    """The stage and its ancestors, the baseline first."""
    stage = TREE[name]
    return [*(lineage(stage.parent) if stage.parent else []), stage]
