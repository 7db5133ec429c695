"""The deployment tree as data: one row per stage.

baseline ─┬─ qat
          ├─ pruned ─┬─ pqat
          │          └─ sparse_clustered ── pcqat
          └─ clustered ── cqat

To add a stage, write a module in `techniques` with its trainer, register a row here, and explain it in a notebook.
Order, colours, tables, sweeps and jobs read these rows. Nothing here imports TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

BASELINE = "baseline"
OPTIONAL_NOTEBOOKS = {"diagnose", "fewer_bits"}
"""Notebooks that a report has only if they are named."""
FINE_TUNING = {"epochs": 4, "batch_size": 32, "optimizer": "adam", "learning_rate": 1e-4}
"""Training of a stage where neither its row nor the experiment says otherwise."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A node of the deployment tree.

    Attributes:
        name: Name in files and parameters.
        label: Name within a sentence or a figure.
        colour: Colour in figures. A stage and its quantization-aware child share a hue.
        parent: Name of the stage it starts from; None for the root.
        trainer: "module:function" that trains it: (stage, parent model, data, experiment, checkpoint) -> (model, fit).
            The module is one of `techniques`, or any other.
        notebook: The notebook that explains it.
        settings: Parameters of the experiment that decide it, besides its own training section.
        training: Values of its training section where the experiment has none.
        prunes: Whether it sets weights to zero.
        clusters: Whether its kernels hold few values.
        quantizes: Whether it trains with fake quantization. It is then deployed in int8 only.
        keeps_zeros: Whether the zeros of its parent must survive.
        has_schemes: Whether TFMOT has a scheme of its own for it.
        guide: The columns of the results table in TFMOT's guide to this stage.
    """

    name: str
    label: str
    colour: str
    parent: str | None
    trainer: str
    notebook: str
    settings: tuple[str, ...] = ()
    training: Mapping[str, Any] = dataclasses.field(default_factory=lambda: FINE_TUNING, hash=False)
    prunes: bool = False
    clusters: bool = False
    quantizes: bool = False
    keeps_zeros: bool = False
    has_schemes: bool = False
    guide: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name as a heading."""
        return self.label[0].upper() + self.label[1:]


STAGES: dict[str, Stage] = {}
"""Every stage by name, parents first."""


def register(stage: Stage) -> Stage:
    """Add a stage to the deployment tree.

    Args:
        stage: The row; its parent must be registered.

    Returns:
        The same row.

    Raises:
        ValueError: Another stage has the name, the parent does not exist, or the trainer is not "module:function".
    """
    if stage.name in STAGES:
        raise ValueError(f"stage name={stage.name!r}: registered twice; give the second row another name")
    for stage_name in (stage.parent, *stage.guide):
        if stage_name not in (None, stage.name, *STAGES):
            raise ValueError(f"stage {stage.name}: {stage_name!r} is unknown; expected one of {', '.join(STAGES)}")
    if stage.trainer.count(":") != 1:
        raise ValueError(f"stage {stage.name}: trainer={stage.trainer!r}: expected module:function")
    STAGES[stage.name] = stage
    return stage


def get_lineage(name: str) -> list[Stage]:
    """Return a stage and its ancestors, the root first.

    Args:
        name: Name of the stage.
    """
    stage = STAGES[name]
    return [*(get_lineage(stage.parent) if stage.parent else []), stage]


def get_level(name: str) -> int:
    """Return how many stages lead to a stage: 0 for the baseline.

    Args:
        name: Name of the stage.
    """
    return len(get_lineage(name)) - 1


def get_leaves() -> list[Stage]:
    """Return the stages that no other stage starts from."""
    parents = {stage.parent for stage in STAGES.values()}
    return [stage for stage in STAGES.values() if stage.name not in parents]


def get_label(name: str) -> str:
    """Return the name of a stage within a sentence: `sparse_clustered` becomes "sparse clustered".

    Args:
        name: Name of a stage, or any other name, which is returned unchanged.
    """
    return STAGES[name].label if name in STAGES else name


def get_notebooks() -> dict[str, list[str]]:
    """Return all notebooks in order, those of `OPTIONAL_NOTEBOOKS` included, each with the notebooks that it waits for.

    A notebook waits for the baseline, and for the notebook that ends with the stage it starts from. Otherwise both
    would wait for each other's training.
    """
    ends = {stage.notebook: stage for stage in STAGES.values()}  # the last stage that a notebook explains
    root, *others = ends
    waits = {root: [], "sensitivity": [root]}
    for notebook in others:
        parent = STAGES[ends[notebook].parent]
        waits[notebook] = [parent.notebook] if ends[parent.notebook] is parent else [root]
    everything = list(dict.fromkeys(stage.notebook for stage in get_leaves() if stage.notebook != root))
    return waits | {
        "preservation": list(dict.fromkeys(name for one in everything for name in waits[one] if name != root)),
        "published": everything,
        "deployment_tree": everything,
        "diagnose": [root],
        "fewer_bits": [root],
    }


_MOVING = ("cluster_per_channel", "clustering", "symmetric")
_CLUSTERING = ("number_of_clusters", "centroid_initialization", "cluster_rate", *_MOVING)
_KEEPS_CLUSTERS = {"clusters": True, "has_schemes": True}
_KEEPS_ZEROS = {"keeps_zeros": True, "has_schemes": True}
_QAT = {"trainer": "quantization:train", "quantizes": True}

for _stage in (
    Stage(BASELINE, "baseline", "#8a8a8a", None, "training:train", "baseline", training=FINE_TUNING | {"epochs": 20}),
    Stage("qat", "QAT", "#333333", BASELINE, notebook="baseline", **_QAT),
    Stage("pruned", "pruned", "#e69f00", BASELINE, "pruning:train", "pqat", ("sparsity", "sparsity_pattern"),
          prunes=True),
    Stage("pqat", "PQAT", "#a34700", "pruned", notebook="pqat", **_QAT, **_KEEPS_ZEROS,
          guide=(BASELINE, "pruned", "qat", "pqat")),
    Stage("clustered", "clustered", "#56b4e9", BASELINE, "clustering:train", "cqat", _CLUSTERING, **_KEEPS_CLUSTERS),
    Stage("cqat", "CQAT", "#0063a3", "clustered", notebook="cqat", settings=_MOVING, **_QAT, **_KEEPS_CLUSTERS,
          guide=(BASELINE, "clustered", "qat", "cqat")),
    Stage("sparse_clustered", "sparse clustered", "#cc79a7", "pruned", "clustering:train", "sparse_clustering",
          _CLUSTERING, **_KEEPS_CLUSTERS, keeps_zeros=True),
    Stage("pcqat", "PCQAT", "#8a2065", "sparse_clustered", notebook="pcqat", settings=_MOVING, **_QAT,
          **_KEEPS_CLUSTERS, keeps_zeros=True, guide=(BASELINE, "pruned", "qat", "sparse_clustered", "pcqat")),
):  # fmt: skip
    register(_stage)
