""""""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MACS = {"ethos-u55": (32, 64, 128, 256), "ethos-u65": (256, 512), "ethos-u85": (128, 256, 512, 1024, 2048)}
ACCELERATORS = tuple(f"{family}-{macs}" for family, sizes in _MACS.items() for macs in sizes)
"""Family and multiply-accumulates per cycle: every Ethos-U that Vela 5.2 knows."""

Fraction = Annotated[float, Field(ge=0, lt=1)]


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


Count = Annotated[int, Field(ge=1)]


Seed = Annotated[int, Field(ge=0, lt=2**31)]


class ExperimentError(ValueError):
    """What is wrong with an experiment: a line a mistake, with the key, its value and what would be right."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Dataset(Section):
    """`name` is a data set of `collabopt.datasets`, or `function` ("module:function") or `path` (.npz) is your own."""

    name: Literal["digits", "mnist", "cifar10", "speech_commands", "imagenet"] | None = None
    function: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    path: str | None = None
    directory: str | None = None
    image_size: Count | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Dataset":
        if sum(source is not None for source in (self.name, self.function, self.path)) != 1:
            raise ValueError("expected exactly one of name, function and path")
        return self


class Model(Section):
    """`name` is one of `collabopt.models`, or `function` ("module:function") or `path` (.keras, .h5) is your own."""

    name: (
        Literal["digits_cnn", "mnist_cnn", "ds_cnn_s", "ds_cnn_m", "ds_cnn_l", "mobilenet_v1", "mobilenet_v2"] | None
    ) = None
    function: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    path: str | None = Field(None, pattern=r"\.(keras|h5)$")

    @model_validator(mode="after")
    def _one_source(self) -> "Model":
        if sum(source is not None for source in (self.name, self.function, self.path)) != 1:
            raise ValueError("expected exactly one of name, function and path")
        return self


class Training(Section):
    """How a stage is trained. Learning rates are peak rates; `warmup_epochs` climb to it linearly."""

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
    def _consistent(self) -> "Training":
        if self.optimizer != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(f"optimizer={self.optimizer}: momentum and nesterov go with sgd")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs}: expected fewer than epochs={self.epochs}")
        return self


class Pruning(Training):
    """Training while pruning. `constant` holds the target from the first epoch on; `polynomial` climbs to it, cubic,
    between `begin_epoch` and `end_epoch` (Zhu and Gupta 2017). The mask is renewed every `frequency` steps."""

    sparsity_schedule: Literal["constant", "polynomial"] = "constant"
    initial_sparsity: Fraction = 0.0
    begin_epoch: NotNegative = 0.0
    end_epoch: Positive | None = None
    frequency: Count = 100

    @model_validator(mode="after")
    def _prunes(self) -> "Pruning":
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
    """Weights the baseline starts from: an .npz keyed layer/variable, and what is trained after loading them.

    `validation_indices` (.npy, indices into the training images) are examples those weights never saw.
    """

    path: str
    validation_indices: str | None = None
    training: Training


class Stages(Section):
    baseline: Training
    pruned: Pruning
    clustered: Training
    sparse_clustered: Training
    qat: Training
    pqat: Training
    cqat: Training
    pcqat: Training


class Exclude(Section):
    """Names of layers left out."""

    pruning: Annotated[tuple[str, ...], Field(strict=False)] = ()
    clustering: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Targets(Section):
    """What the model that is deployed may cost. The drop in accuracy is a fraction, on validation, from the float32
    baseline; KiB of SRAM and flash, and milliseconds an inference, are Vela's for the `accelerator`."""

    max_accuracy_drop: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_tflite_bytes: Count | None = None
    max_gzip_bytes: Count | None = None
    max_sram_kib: Positive | None = None
    max_flash_kib: Positive | None = None
    max_npu_ms: Positive | None = None


class Experiment(Section):
    """`devices` is how many GPUs share each batch. `repeat_seeds` are seeds beside `seed` that every stage is trained
    with again, to tell effects from chance. A file that `extends` another has that one's keys where it has none."""

    name: str
    dataset: Dataset
    model: Model
    initial_weights: InitialWeights | None = None
    seed: Seed = 0
    repeat_seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = ()
    threads: Count = 1
    devices: Count = 1
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    calibration_examples: Count = 200
    sparsity: Fraction
    number_of_clusters: Annotated[int, Field(ge=3, le=1024)]
    cluster_per_channel: bool = False
    centroid_initialization: Literal["kmeans_plus_plus", "linear", "density_based", "random"] = "kmeans_plus_plus"
    exclude: Exclude = Exclude()
    scheme: Literal["collabopt", "tfmot"] = "collabopt"
    strict: bool = False
    targets: Targets = Targets()
    accelerator: Literal[ACCELERATORS] = "ethos-u55-128"
    stages: Stages
    density_kernel: str | None = None

    @model_validator(mode="after")
    def _other_seeds(self) -> "Experiment":
        if len({self.seed, *self.repeat_seeds}) <= len(self.repeat_seeds):
            raise ValueError(f"repeat_seeds={list(self.repeat_seeds)}: expected seeds that differ, without {self.seed}")
        return self

    @property
    def has_targets(self) -> bool:
        """Whether the run is to choose a leaf: it goes down the tree only as far as it must, and test waits for it."""
        return self.targets != Targets()

    def training(self, stage: str) -> Training:
        """The training section of a stage; of a baseline with initial weights, what is trained after loading them."""
        if stage == "baseline" and self.initial_weights:
            return self.initial_weights.training
        return getattr(self.stages, stage)
