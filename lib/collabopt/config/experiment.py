"""The schema of an experiment: a data set, a model and the hyper-parameters of every stage.

`loading` reads experiments from files. Nothing here imports TensorFlow, so a batch is checked at once.
"""

import functools
import importlib.util
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from collabopt.config import metrics, per_layer, sections, tasks
from collabopt.config.formats import FORMATS, FURTHER
from collabopt.config.stages import BASELINE, OPTIONAL_STAGES, Stage, build_tree, list_stages

_MACS = {"ethos-u55": (32, 64, 128, 256), "ethos-u65": (256, 512), "ethos-u85": (128, 256, 512, 1024, 2048)}
ACCELERATORS = tuple(f"{family}-{macs}" for family, sizes in _MACS.items() for macs in sizes)
"""Family and multiply-accumulates per cycle: every Ethos-U that Vela 5.2 knows."""


class ExperimentError(ValueError):
    """What is wrong with an experiment: one line per mistake, with the key, its value and what would be right."""


def _get_limit_type(metric: metrics.Metric) -> Any:
    """The type of a target's limit: bytes are counts, a drop in accuracy is a fraction."""
    if metric.name.endswith("_bytes"):
        return sections.Count
    if metric.name.endswith("_drop"):
        return sections.Fraction if metric.unit == "points" else sections.NotNegative
    return sections.Positive


Targets = create_model(
    "Targets",
    __base__=sections.Section,
    **{target: (_get_limit_type(metric) | None, None) for target, metric in metrics.get_targets().items()},
)
Targets.__doc__ = """Upper limits for the deployed file, one per metric with a target.

A drop is measured on validation against the float32 baseline: `max_accuracy_drop` is a fraction, `max_metric_drop` how
much worse the task's metric may be, in its own unit. NPU figures are estimates by Vela for the `accelerator`.
"""


_RATE, _FEW_CLUSTERS = 0.03, 8
"""What one bit costs with up to eight clusters: chosen on the validation split of `digits`."""


def compute_rate(number: int) -> float:
    """Return the default `cluster_rate` of a kernel of some `number` of clusters.

    The squared error of k clusters is proportional to 1 / k² (Panter and Dite 1951), and so is the rate beyond eight
    clusters. At one rate for all, the error would stay that of about sixteen clusters, however many there are.
    """
    return _RATE * min(_FEW_CLUSTERS / number, 1) ** 2


def _choose_rate(values: dict[str, Any]) -> float | dict[str, float]:
    number = values.get("number_of_clusters", _FEW_CLUSTERS)  # missing if it is wrong
    if isinstance(number, Mapping):
        return {layer: compute_rate(one) for layer, one in number.items()}
    return compute_rate(number)


class Experiment(sections.Section):
    """An experiment.

    Attributes:
        calibration: How the range of an input is taken from training examples (`calibration.compute_range`). "auto"
            takes min_max, but chooses on validation if one example is far outside.
        clustering: Whether training moves weights between clusters (moving), or each weight keeps its cluster (fixed).
        cluster_rate: What one bit of a weight's code costs beside its error, when kernels are clustered. A higher value
            makes files smaller and less accurate; 0 assigns each weight to the nearest centroid, and so do symmetric
            clusters and TFMOT's scheme. It may differ by layer. The default follows number_of_clusters
            (`compute_rate`).
        devices: Number of GPUs that share each batch.
        filter_sparsity: Fraction of the filters that the stage filter_pruned removes; None leaves the stage out.
        rank_energy: Share of a kernel's squared singular values that the stage factorized keeps.
        max_flops: Share of the multiplications that may remain after the stage factorized. Without either, the
            experiment has no such stage.
        sparsity_pattern: Which weights pruning sets to zero in groups of four neighbouring input channels
            (`techniques.patterns`): any, two of four (sparsity is then 0.5), or all of them.
        distill: Distillation in every stage after the baseline whose own section has no `distill`.
        sparsity: Fraction of zeros in each kernel that is pruned, or fractions by layer, {default: 0.5, conv_1: 0}.
        number_of_clusters: Values per kernel that is clustered, zero included, or values by layer.
        weight_bits: Bits per weight in quantization-aware training, 8 or 4, or bits by layer. Depthwise kernels have 8.
        further_formats: Formats that float stages are deployed in beside the standard ones.
        search: Settings whose values a search tries for the smallest file that meets the targets.
        repeat_seeds: Further seeds that every stage is trained with, to tell effects from chance.
        deploy_nearest: Whether the nearest file is deployed if no file meets all targets.
        symmetric: Whether the two or three values of a kernel are {−α, α} (binary) or {−α, 0, α} (ternary). Each weight
            then takes the nearest value, whatever the cluster_rate.
        stages: One `Training` or `Pruning` section per registered stage.
    """

    name: str
    dataset: sections.Dataset
    model: sections.Model
    task: Literal[tuple(tasks.TASKS)] | sections.CustomTask = "classification"
    initial_weights: sections.InitialWeights | None = None
    seed: sections.Seed = 0
    repeat_seeds: Annotated[tuple[sections.Seed, ...], Field(strict=False)] = ()
    threads: sections.Count = 1
    devices: sections.Count = 1
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    calibration_examples: sections.Count = 200
    calibration: Literal["auto", "min_max", "percentile", "mse"] = "auto"
    filter_sparsity: sections.Fraction | None = None
    rank_energy: sections.Share | None = None
    max_flops: sections.Share | None = None
    sparsity: per_layer.make_type(sections.Fraction) = 0.5
    sparsity_pattern: Literal["unstructured", "2:4", "block"] = "unstructured"
    number_of_clusters: per_layer.make_type(Annotated[int, Field(ge=2, le=1024)]) = 16
    symmetric: bool = False
    weight_bits: per_layer.make_type(Literal[4, 8]) = 8
    cluster_per_channel: bool = False
    clustering: Literal["moving", "fixed"] = "moving"
    cluster_rate: per_layer.make_type(sections.NotNegative) = Field(default_factory=_choose_rate)
    centroid_initialization: Literal["kmeans_plus_plus", "linear", "density_based", "random"] = "kmeans_plus_plus"
    exclude: sections.Exclude = sections.Exclude()
    distill: sections.Distillation | None = None
    scheme: Literal["collabopt", "tfmot"] = "collabopt"
    strict: bool = False
    targets: Targets = Targets()
    search: sections.Search = sections.Search()
    deploy_nearest: bool = False
    accelerator: Literal[ACCELERATORS] = "ethos-u55-128"
    stages: Any
    density_kernel: str | None = None
    further_formats: Annotated[tuple[Literal[FURTHER], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        self._check_seeds()
        self._check_pattern()
        self._check_clusters()
        self._check_teacher()
        self._check_packages()
        self._check_search()
        self._check_task()
        return self

    def _check_seeds(self) -> None:
        if len({self.seed, *self.repeat_seeds}) <= len(self.repeat_seeds):
            raise ValueError(f"repeat_seeds={list(self.repeat_seeds)}: expected seeds that differ, without {self.seed}")

    def _check_pattern(self) -> None:
        unfit = {*per_layer.list_layers(self.sparsity).values()} - {0, 0.5} or per_layer.get_value(self.sparsity) != 0.5
        wrong = self.sparsity if unfit else {*(self.search.sparsity or ())} - {0.5}
        if self.sparsity_pattern == "2:4" and (unfit or wrong):
            raise ValueError(
                f"sparsity={wrong}: expected 0.5 (0 for single layers), because sparsity_pattern=2:4 "
                "sets two of four weights to zero"
            )

    def _check_clusters(self) -> None:
        for number in (self.number_of_clusters, *(self.search.number_of_clusters or ())):
            given = f"number_of_clusters={number}"
            if self.symmetric and number not in (2, 3):
                raise ValueError(f"{given}: expected 2 for binary or 3 for ternary weights, because symmetric=true")
            if not self.symmetric and min(per_layer.list_values(number)) < 3:
                raise ValueError(f"{given}: expected greater than or equal to 3, or symmetric=true for binary weights")
        if self.symmetric and self.scheme == "tfmot":
            raise ValueError("symmetric=true: TFMOT has no such clusters; set scheme=collabopt")
        if self.has_int4_weights and self.scheme == "tfmot":
            raise ValueError(f"weight_bits={self.weight_bits}: TFMOT's schemes have 8; set scheme=collabopt")

    @property
    def has_int4_weights(self) -> bool:
        """Whether quantization-aware stages have kernels of 4-bit weights."""
        return 4 in per_layer.list_values(self.weight_bits)

    @property
    def has_binary_weights(self) -> bool:
        """Whether clustered kernels hold {−α, α}, and therefore no zero."""
        return self.symmetric and self.number_of_clusters == 2

    def _check_teacher(self) -> None:
        if getattr(self.stages, BASELINE).distill or (self.initial_weights and self.initial_weights.training.distill):
            raise ValueError(
                f"{BASELINE}: distill: the {BASELINE} is the teacher and has none itself; give distill to another "
                "stage, or to the experiment for all others"
            )

    def _check_packages(self) -> None:
        for name in self.further_formats:
            for package in FORMATS[name].packages:
                if importlib.util.find_spec(package) is None:
                    only = " under Python 3.11, the only one for nncf" if package == "nncf" else ""
                    raise ValueError(
                        f"further_formats={name}: needs the package {package}, which is not installed; run "
                        f"make formats{only}, or leave out {name}"
                    )

    def _check_search(self) -> None:
        if self.search.is_given and not self.has_targets:
            raise ValueError(
                "search: needs targets, which tell when a file is good enough; give one, such as max_accuracy_drop=0.01"
            )

    def _check_task(self) -> None:
        score = self.get_task().score
        if self.targets.max_accuracy_drop is not None and score.name != "accuracy":
            raise ValueError(
                f"max_accuracy_drop={self.targets.max_accuracy_drop}: the task is scored by {score.title}; set "
                f"max_metric_drop, in units of {score.title}"
            )

    @property
    def tree(self) -> dict[str, Stage]:
        """The stages by name, parents first, with the optional stages that have a setting here."""
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        return build_tree([name for name, stage in OPTIONAL_STAGES.items() if given & {*stage.settings}])

    @property
    def has_targets(self) -> bool:
        """Whether the run chooses a file. It then trains no more than it needs, and reads the test split once."""
        return self.targets != Targets()

    def get_task(self) -> tasks.Task:
        """Return the task, a row of `tasks.TASKS` or the user's own."""
        if isinstance(self.task, str):
            return tasks.TASKS[self.task]
        return tasks.make_custom(**self.task.model_dump())

    def training(self, stage: str) -> sections.Training:
        """Return the training section of a `stage`; of a baseline with initial weights, what follows loading them."""
        if stage == BASELINE and self.initial_weights:
            return self.initial_weights.training
        # A stage that is registered after the experiment is loaded has the section of its row.
        section = getattr(self.stages, stage, None) or sections.Training(**list_stages()[stage].training)
        if stage == BASELINE or section.distill or not self.distill:
            return section
        return section.model_copy(update={"distill": self.distill})


def get_schema() -> type[Experiment]:
    """Return the schema of an experiment with a training section for every stage that is registered now."""
    return _make_schema(tuple(list_stages().values()))


@functools.cache
def _make_schema(rows: tuple[Stage, ...]) -> type[Experiment]:
    trainings = {row.name: (sections.Pruning if row.prunes else sections.Training, ...) for row in rows}
    stages = create_model("Stages", __base__=sections.Section, **trainings)
    return create_model("Experiment", __base__=Experiment, stages=(stages, ...))


def validate(values: Mapping[str, Any]) -> Experiment:
    """Return the experiment of `values`. A stage's section is laid over the defaults of the stage's row.

    Raises:
        ValidationError: A key is unknown or missing, or a value is of the wrong type or out of range.
    """
    defaults = {stage.name: stage.training for stage in list_stages().values()}
    return get_schema().model_validate({**values, "stages": merge_stages(defaults, values.get("stages", {}))})


def merge_stages(base: Any, sections: Any) -> Any:
    """Return training `sections` by stage, laid over `base` key by key; unchanged if they are not a mapping."""
    if not (isinstance(base, Mapping) and isinstance(sections, Mapping)):
        return sections
    merged = {
        name: {**base.get(name, {}), **section} if isinstance(section, Mapping) else section
        for name, section in sections.items()
    }
    return {**base, **merged}
