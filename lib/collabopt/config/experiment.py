"""The schema of an experiment: a data set, a model and the hyper-parameters of every stage.

`loading` reads experiments from files. Nothing here imports TensorFlow, so a batch is checked at once.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from collabopt.config import metrics, tasks
from collabopt.config.stages import BASELINE, STAGES, Stage

_MACS = {"ethos-u55": (32, 64, 128, 256), "ethos-u65": (256, 512), "ethos-u85": (128, 256, 512, 1024, 2048)}
ACCELERATORS = tuple(f"{family}-{macs}" for family, sizes in _MACS.items() for macs in sizes)
"""Family and multiply-accumulates per cycle: every Ethos-U that Vela 5.2 knows."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class ExperimentError(ValueError):
    """What is wrong with an experiment: one line per mistake, with the key, its value and what would be right."""


class Section(BaseModel):
    """A part of an experiment. Unknown keys are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Source(Section):
    """A part that has exactly one source: a built-in `name`, a `function` ("module:function") or a `path`."""

    @model_validator(mode="after")
    def _check_source(self) -> "_Source":
        if sum(source is not None for source in (self.name, self.function, self.path)) != 1:
            raise ValueError("expected exactly one of name, function and path")
        return self


Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class Dataset(_Source):
    """A built-in data set by `name`, or the user's own: a `function` ("module:function") or a `path`.

    The path is that of an .npz file, a table (.csv, .parquet), or a folder with one folder of pictures or WAV files per
    class. `datasets.custom` says which source takes which of the other keys.

    Attributes:
        directory: Folder of the built-in data set imagenet.
        image_size: Side of a model input in pixels, or [height, width].
        pixel_range: Values of black and white in a model input.
        audio: Model inputs from WAV files: MFCC features, or the samples.
        seconds: Length to which sounds are cut or padded.
        target: Column of a table, or columns.
        features: Columns that are the model input, or columns by input name. By default all others.
        group: Column of a table, or regular expression in the paths of a folder, that tells the group of an example.
        test_fraction: Share of the examples for the test split, if the data has none.
    """

    name: Literal["digits", "mnist", "cifar10", "speech_commands", "imagenet"] | None = None
    function: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    path: str | None = None
    directory: str | None = None
    image_size: Count | Annotated[tuple[Count, Count], Field(strict=False)] | None = None
    pixel_range: Annotated[tuple[float, float], Field(strict=False)] | None = None
    audio: Literal["mfcc", "samples"] | None = None
    seconds: Positive | None = None
    target: str | Names | None = None
    features: Names | dict[str, Names] | None = None
    group: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None


class Model(_Source):
    """A built-in model by `name`, or the user's own: `function` ("module:function") or `path` (.keras, .h5, .hdf5)."""

    name: (
        Literal["digits_cnn", "mnist_cnn", "ds_cnn_s", "ds_cnn_m", "ds_cnn_l", "mobilenet_v1", "mobilenet_v2"] | None
    ) = None
    function: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    path: str | None = Field(None, pattern=r"\.(keras|h5|hdf5)$")


class Training(Section):
    """How a stage is trained. `learning_rate` is the peak rate, which rises linearly over `warmup_epochs`."""

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Count
    optimizer: Literal["adam", "sgd"]
    learning_rate: Positive
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: NotNegative = 0.0
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    label_smoothing: Fraction = 0.0
    augment: bool = False

    @model_validator(mode="after")
    def _check_consistency(self) -> "Training":
        if self.optimizer != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(f"optimizer={self.optimizer}: momentum and nesterov go with sgd")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs}: expected fewer than epochs={self.epochs}")
        return self


class Pruning(Training):
    """Training while pruning.

    A `constant` schedule holds the target sparsity from `begin_epoch`. A `polynomial` one rises to it with a cubic
    curve between `begin_epoch` and `end_epoch` (Zhu and Gupta 2017). The mask is updated every `frequency` steps.
    """

    sparsity_schedule: Literal["constant", "polynomial"] = "constant"
    initial_sparsity: Fraction = 0.0
    begin_epoch: NotNegative = 0.0
    end_epoch: Positive | None = None
    frequency: Count = 100

    @model_validator(mode="after")
    def _check_schedule(self) -> "Pruning":
        if not self.epochs:
            raise ValueError("epochs=0: pruning needs at least one epoch")
        if self.sparsity_schedule == "polynomial" and self.end_epoch is None:
            raise ValueError("sparsity_schedule=polynomial: expected an end_epoch")
        if not self.begin_epoch < (self.end_epoch or self.epochs) <= self.epochs:
            raise ValueError(
                f"begin_epoch={self.begin_epoch}, end_epoch={self.end_epoch}: expected "
                f"begin_epoch < end_epoch <= epochs={self.epochs}"
            )
        return self


class InitialWeights(Section):
    """Weights that the baseline starts from, and how it is trained after loading them.

    `path` is an .npz keyed layer/variable. `validation_indices` (.npy, indices into the training split) are examples
    that those weights have not seen.
    """

    path: str
    validation_indices: str | None = None
    training: Training


class CustomTask(Section):
    """A task of the user's own: two functions (labels, outputs) -> values (batch,), each "module:function"."""

    loss: str = Field(pattern=r"^[\w.]+:\w+$")
    metric: str = Field(pattern=r"^[\w.]+:\w+$")
    higher_is_better: bool


class Exclude(Section):
    """Names of layers that a technique leaves unchanged."""

    pruning: Annotated[tuple[str, ...], Field(strict=False)] = ()
    clustering: Annotated[tuple[str, ...], Field(strict=False)] = ()


def _get_limit_type(metric: metrics.Metric) -> Any:
    """The type of a target's limit: bytes are counts, a drop in accuracy is a fraction."""
    if metric.name.endswith("_bytes"):
        return Count
    if metric.name.endswith("_drop"):
        return Fraction if metric.unit == "points" else NotNegative
    return Positive


Targets = create_model(
    "Targets",
    __base__=Section,
    **{target: (_get_limit_type(metric) | None, None) for target, metric in metrics.get_targets().items()},
)
Targets.__doc__ = """Upper limits for the deployed file, one per metric with a target.

A drop is measured on validation against the float32 baseline: `max_accuracy_drop` is a fraction, `max_metric_drop` how
much worse the task's metric may be, in its own unit. NPU figures are estimates by Vela for the `accelerator`.
"""


class Experiment(Section):
    """An experiment.

    Attributes:
        devices: Number of GPUs that share each batch.
        repeat_seeds: Further seeds that every stage is trained with, to tell effects from chance.
        stages: One `Training` or `Pruning` section per registered stage.
    """

    name: str
    dataset: Dataset
    model: Model
    task: Literal[tuple(tasks.TASKS)] | CustomTask = "classification"
    initial_weights: InitialWeights | None = None
    seed: Seed = 0
    repeat_seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = ()
    threads: Count = 1
    devices: Count = 1
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    calibration_examples: Count = 200
    sparsity: Fraction = 0.5
    number_of_clusters: Annotated[int, Field(ge=3, le=1024)] = 16
    cluster_per_channel: bool = False
    centroid_initialization: Literal["kmeans_plus_plus", "linear", "density_based", "random"] = "kmeans_plus_plus"
    exclude: Exclude = Exclude()
    scheme: Literal["collabopt", "tfmot"] = "collabopt"
    strict: bool = False
    targets: Targets = Targets()
    accelerator: Literal[ACCELERATORS] = "ethos-u55-128"
    stages: Any
    density_kernel: str | None = None

    @model_validator(mode="after")
    def _check_seeds(self) -> "Experiment":
        if len({self.seed, *self.repeat_seeds}) <= len(self.repeat_seeds):
            raise ValueError(f"repeat_seeds={list(self.repeat_seeds)}: expected seeds that differ, without {self.seed}")
        return self

    @model_validator(mode="after")
    def _check_task(self) -> "Experiment":
        score = self.get_task().score
        if self.targets.max_accuracy_drop is not None and score.name != "accuracy":
            raise ValueError(
                f"max_accuracy_drop={self.targets.max_accuracy_drop}: the task is scored by {score.title}; set "
                f"max_metric_drop, in units of {score.title}"
            )
        return self

    @property
    def has_targets(self) -> bool:
        """Whether the run chooses a file. It then trains no more than it needs, and reads the test split once."""
        return self.targets != Targets()

    def get_task(self) -> tasks.Task:
        """Return the task, a row of `tasks.TASKS` or the user's own."""
        if isinstance(self.task, str):
            return tasks.TASKS[self.task]
        return tasks.make_custom(**self.task.model_dump())

    def training(self, stage: str) -> Training:
        """Return the training section of a stage.

        Args:
            stage: Name of the stage. A baseline with initial weights has the section that follows loading them.
        """
        if stage == BASELINE and self.initial_weights:
            return self.initial_weights.training
        return getattr(self.stages, stage)


def get_schema() -> type[Experiment]:
    """Return the schema of an experiment with a training section for every stage that is registered now."""
    return _make_schema(tuple(STAGES.values()))


@functools.cache
def _make_schema(rows: tuple[Stage, ...]) -> type[Experiment]:
    sections = {row.name: (Pruning if row.prunes else Training, ...) for row in rows}
    stages = create_model("Stages", __base__=Section, **sections)
    return create_model("Experiment", __base__=Experiment, stages=(stages, ...))


def validate(values: Mapping[str, Any]) -> Experiment:
    """Make an experiment of the content of its file.

    Args:
        values: Keys and values. A stage's section is laid over the defaults of the stage's row.

    Returns:
        The experiment.

    Raises:
        ValidationError: A key is unknown or missing, or a value is of the wrong type or out of range.
    """
    defaults = {stage.name: stage.training for stage in STAGES.values()}
    return get_schema().model_validate({**values, "stages": merge_stages(defaults, values.get("stages", {}))})


def merge_stages(base: Any, sections: Any) -> Any:
    """Lay training sections over others, key by key.

    Args:
        base: Sections by stage.
        sections: Sections by stage that take precedence; returned unchanged if they are not a mapping.

    Returns:
        The merged sections by stage.
    """
    if not (isinstance(base, Mapping) and isinstance(sections, Mapping)):
        return sections
    merged = {
        name: {**base.get(name, {}), **section} if isinstance(section, Mapping) else section
        for name, section in sections.items()
    }
    return {**base, **merged}
