"""The deployment tree as data: one row per stage.

baseline ─┬─ qat
          ├─ pruned ─┬─ pqat
          │          └─ sparse_clustered ── pcqat
          └─ clustered ── cqat

Optional stages change the shape of the network. Those that an experiment has stand between the baseline and the rest.

To add a stage, write a module in `techniques` with its trainer, register a row here, and explain it in a notebook.
Order, colours, tables, sweeps and jobs read these rows. Nothing here imports TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

BASELINE = "baseline"
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
        reshapes: Whether it changes layers. The trainer's module then also has `restore(parent model, arrays)`.
        is_optional: Whether an experiment has it only if it gives one of its settings. The other stages that would
            start from its parent then start from it.
        has_schemes: Whether TFMOT has a scheme of its own for it.
        guide: The columns of the results table in TFMOT's guide to this stage.
        function: The user's function from Keras model to Keras model (`techniques.user_stage`); None for other stages.
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
    reshapes: bool = False
    is_optional: bool = False
    has_schemes: bool = False
    guide: tuple[str, ...] = ()
    function: Callable | None = None

    @property
    def title(self) -> str:
        """Name as a heading."""
        return self.label[0].upper() + self.label[1:]


STAGES: dict[str, Stage] = {}
"""Every stage that is not optional by name, parents first: the tree of an experiment without optional stages."""

OPTIONAL_STAGES: dict[str, Stage] = {}
"""Every optional stage by name, in the order in which they follow each other."""


def register(stage: Stage) -> Stage:
    """Add a stage, whose parent must be registered, to the deployment tree, and return it.

    Raises:
        ValueError: Another stage has the name, the parent does not exist, or the trainer is not "module:function".
    """
    if stage.name in list_stages():
        raise ValueError(f"stage name={stage.name!r}: registered twice; give the second row another name")
    for stage_name in (stage.parent, *stage.guide):
        if stage_name not in (None, stage.name, *STAGES):
            raise ValueError(f"stage {stage.name}: {stage_name!r} is unknown; expected one of {', '.join(STAGES)}")
    if stage.trainer.count(":") != 1:
        raise ValueError(f"stage {stage.name}: trainer={stage.trainer!r}: expected module:function")
    (OPTIONAL_STAGES if stage.is_optional else STAGES)[stage.name] = stage
    return stage


def list_stages() -> dict[str, Stage]:
    """Return every registered stage by name, parents first. Optional stages follow their parent."""
    found = {}
    for stage in STAGES.values():
        found[stage.name] = stage
        found |= {name: one for name, one in OPTIONAL_STAGES.items() if one.parent == stage.name}
    return found


def build_tree(optional: Collection[str]) -> dict[str, Stage]:
    """Return the stages with some `optional` ones by name, parents first. The last optional one takes the children."""
    tree, ends = {}, {}
    for stage in list_stages().values():
        if stage.is_optional and stage.name not in optional:
            continue
        parent = ends.get(stage.parent, stage.parent)
        tree[stage.name] = stage if parent == stage.parent else dataclasses.replace(stage, parent=parent)
        if stage.is_optional:
            ends[stage.parent] = stage.name
    return tree


def get_lineage(name: str, tree: Mapping[str, Stage]) -> list[Stage]:
    """Return a stage of this `name` in `tree` and its ancestors, the root first."""
    stage = tree[name]
    return [*(get_lineage(stage.parent, tree) if stage.parent else []), stage]


def get_level(name: str, tree: Mapping[str, Stage]) -> int:
    """Return how many stages of `tree` lead to the stage `name`: 0 for the baseline."""
    return len(get_lineage(name, tree)) - 1


def get_leaves(tree: Mapping[str, Stage]) -> list[Stage]:
    """Return the stages of `tree` that no other stage starts from."""
    parents = {stage.parent for stage in tree.values()}
    return [stage for stage in tree.values() if stage.name not in parents]


def get_label(name: str) -> str:
    """Return the `name` of a stage within a sentence: `sparse_clustered` becomes "sparse clustered"."""
    stages = list_stages()
    return stages[name].label if name in stages else name


def list_core_notebooks(tree: Mapping[str, Stage]) -> list[str]:
    """Return the notebooks of a report for which none is named: those of the stages of `tree`, and of the whole."""
    core = {stage.notebook for stage in tree.values()} | {"deployment_tree"}
    return [name for name in get_notebooks(tree) if name in core]


def list_notebooks(tree: Mapping[str, Stage]) -> list[str]:
    """Return every notebook of an experiment with this `tree`. Those of optional stages need their stages; `compare`,
    which needs another report, runs only by its name.
    """
    absent = {stage.notebook for stage in OPTIONAL_STAGES.values()} - {stage.notebook for stage in tree.values()}
    return [name for name in get_notebooks(tree) if name not in absent | {"compare"}]


def sort_notebooks(names: Collection[str]) -> list[str]:
    """Return the notebooks `names` in the order of reading. Others follow by name."""
    place = {name: position for position, name in enumerate(get_notebooks(build_tree(OPTIONAL_STAGES)))}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


def get_notebooks(tree: Mapping[str, Stage]) -> dict[str, list[str]]:
    """Return all notebooks in order, also those of stages absent in `tree`, each with those that it waits for.

    A notebook waits for the baseline, and for the notebook that ends with the stage it starts from. Otherwise both
    would wait for each other's training.
    """
    ends = {stage.notebook: stage for stage in tree.values()}  # the last stage that a notebook explains
    root, *others = ends
    waits = {root: [], "sensitivity": [root]}
    for notebook in others:
        parent = tree[ends[notebook].parent]
        waits[notebook] = [parent.notebook] if ends[parent.notebook] is parent else [root]
    everything = list(dict.fromkeys(stage.notebook for stage in get_leaves(tree) if stage.notebook != root))
    waits = {stage.notebook: [root] for stage in OPTIONAL_STAGES.values()} | waits
    waits = {root: waits.pop(root)} | waits
    return waits | {
        "preservation": list(dict.fromkeys(name for one in everything for name in waits[one] if name != root)),
        "published": everything,
        "deployment_tree": everything,
        **{name: [root] for name in ("diagnose", "fewer_bits")},
        "search": [],
        "compare": [],
    }


_RESHAPED = FINE_TUNING | {"epochs": 8, "learning_rate": 1e-3, "schedule": "cosine"}
_MOVING = ("cluster_per_channel", "clustering", "symmetric")
_CLUSTERING = ("number_of_clusters", "centroid_initialization", "cluster_rate", *_MOVING)
_KEEPS_CLUSTERS = {"clusters": True, "has_schemes": True}
_KEEPS_ZEROS = {"keeps_zeros": True, "has_schemes": True}
_QAT = {"trainer": "quantization:train", "quantizes": True}
_BITS = ("weight_bits",)

_SHAPE = {"parent": BASELINE, "notebook": "shape", "reshapes": True, "is_optional": True}

for _stage in (
    Stage(BASELINE, "baseline", "#8a8a8a", None, "training:train", "baseline", training=FINE_TUNING | {"epochs": 20}),
    Stage("filter_pruned", "filter pruned", "#009e73", trainer="filter_pruning:train", settings=("filter_sparsity",),
          training=_RESHAPED, **_SHAPE),
    Stage("factorized", "factorized", "#5b4ea8", trainer="low_rank:train", settings=("rank_energy", "max_flops"),
          training=_RESHAPED, **_SHAPE),
    Stage("qat", "QAT", "#333333", BASELINE, notebook="baseline", settings=_BITS, **_QAT),
    Stage("pruned", "pruned", "#e69f00", BASELINE, "pruning:train", "pqat", ("sparsity", "sparsity_pattern"),
          prunes=True),
    Stage("pqat", "PQAT", "#a34700", "pruned", notebook="pqat", settings=_BITS, **_QAT, **_KEEPS_ZEROS,
          guide=(BASELINE, "pruned", "qat", "pqat")),
    Stage("clustered", "clustered", "#56b4e9", BASELINE, "clustering:train", "cqat", _CLUSTERING, **_KEEPS_CLUSTERS),
    Stage("cqat", "CQAT", "#0063a3", "clustered", notebook="cqat", settings=_MOVING + _BITS, **_QAT, **_KEEPS_CLUSTERS,
          guide=(BASELINE, "clustered", "qat", "cqat")),
    Stage("sparse_clustered", "sparse clustered", "#cc79a7", "pruned", "clustering:train", "sparse_clustering",
          _CLUSTERING, **_KEEPS_CLUSTERS, keeps_zeros=True),
    Stage("pcqat", "PCQAT", "#8a2065", "sparse_clustered", notebook="pcqat", settings=_MOVING + _BITS, **_QAT,
          **_KEEPS_CLUSTERS, keeps_zeros=True, guide=(BASELINE, "pruned", "qat", "sparse_clustered", "pcqat")),
):  # fmt: skip
    register(_stage)
