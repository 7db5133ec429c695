"""The sections of an experiment: data set, model, training, initial weights, and excluded layers."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_PLACE = r"^[\w.]+:\w+$"

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


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

    The path is that of an .npz file, a table (.csv, .tsv, .parquet), or a folder with one folder of pictures or WAV
    files per class. The function is called without arguments, or with the folder of the data sets if it has a parameter
    `data_directory`. `datasets.custom` says which source takes which of the other keys.

    Attributes:
        directory: Folder of the built-in data set imagenet.
        image_size: Side of a model input in pixels, or [height, width].
        channels: 1 reads pictures as gray, 3 in colour. By default gray if all are.
        pixel_range: Values of black and white in a model input.
        audio: Model inputs from WAV files: MFCC features, or the samples.
        seconds: Length to which sounds are cut or padded.
        target: Column of a table, or columns.
        features: Columns that are the model input, or columns by input name. By default all others.
        group: Column of a table, or regular expression in the paths of a folder, that tells the group of an example.
        test_fraction: Share of the examples for the test split, if the data has none.
    """

    name: Literal["digits", "mnist", "fashion_mnist", "cifar10", "speech_commands", "imagenet"] | None = None
    function: str | None = Field(None, pattern=_PLACE)
    path: str | None = None
    directory: str | None = None
    image_size: Count | Annotated[tuple[Count, Count], Field(strict=False)] | None = None
    channels: Literal[1, 3] | None = None
    pixel_range: Annotated[tuple[float, float], Field(strict=False)] | None = None
    audio: Literal["mfcc", "samples"] | None = None
    seconds: Positive | None = None
    target: str | Names | None = None
    features: Names | dict[str, Names] | None = None
    group: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None


def _name_classes(places: Any) -> Any:
    """["module:Class"] as {"Class": "module:Class"}."""
    return {str(place).partition(":")[2]: place for place in places} if isinstance(places, list | tuple) else places


def _check_model_path(path: str) -> str:
    if not re.search(r"\.(keras|h5|hdf5)$|(^|/)[^./]+/?$", path):
        raise ValueError(
            f"{path}: expected a .keras, .h5 or .hdf5 file, or the folder of a SavedModel. Save the trained model with "
            "model.save('mine.keras')"
        )
    return path


class Model(_Source):
    """A built-in model by `name`, or the user's own: `function` ("module:function") or `path`.

    The path is a .keras, .h5 or .hdf5 file, or the folder of a SavedModel. The function is called with the shape of an
    input and the number of classes, or without arguments if all its parameters have defaults and the first is not
    `input_shape`. The user's model is imported; the other keys say how.

    Attributes:
        weights: File of weights for the model that `function` returns.
        custom_objects: The user's own classes, {Name: "module:Class"} or ["module:Class"].
        trust_code: Whether Python code inside the file at `path` may run.
        output: Whether deployed files end in the model's own softmax or sigmoid, or return logits.
        head: Name of the output that is trained, scored and deployed, of a model with several.
    """

    name: (
        Literal["digits_cnn", "mnist_cnn", "ds_cnn_s", "ds_cnn_m", "ds_cnn_l", "mobilenet_v1", "mobilenet_v2"] | None
    ) = None
    function: str | None = Field(None, pattern=_PLACE)
    path: Annotated[str, AfterValidator(_check_model_path)] | None = None
    weights: str | None = None
    custom_objects: Annotated[dict[str, Annotated[str, Field(pattern=_PLACE)]], BeforeValidator(_name_classes)] = {}
    trust_code: bool = False
    output: Literal["as_given", "logits"] = "as_given"
    head: str | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the model brings trained weights."""
        return bool(self.path or self.weights)

    @model_validator(mode="after")
    def _check_import(self) -> "Model":
        given = sorted(self.model_fields_set - {"name", "function", "path"})
        if self.name and given:
            raise ValueError(f"{', '.join(given)}: for a function or path; the model {self.name} is built in")
        if self.weights and not self.function:
            raise ValueError(f"weights={self.weights}: goes with function; a path holds its weights itself")
        if self.trust_code and not self.path:
            raise ValueError("trust_code=True: goes with path; a function's code runs in any case")
        return self


class Distillation(Section):
    """How the outputs of the baseline count in a stage's training, at a temperature; `weight` is their share."""

    temperature: Positive = 4.0
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5


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
    distill: Distillation | None = None

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
                f"begin_epoch < end_epoch <= epochs={self.epochs}; give end_epoch, too"
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

    loss: str = Field(pattern=_PLACE)
    metric: str = Field(pattern=_PLACE)
    higher_is_better: bool


def _check_not_empty(values: tuple) -> tuple:
    if not values:
        raise ValueError("[]: expected at least one value, or no such key")
    return values


_VALUES = Field(strict=False), AfterValidator(_check_not_empty)


class Search(Section):
    """A search over settings for the smallest file that meets the targets.

    Attributes:
        sparsity: Values of the experiment's sparsity that are tried; None keeps its own.
        number_of_clusters: Likewise.
        filter_sparsity: Likewise; 0 tries the network without filter pruning.
        per_layer: Whether values per layer are tried, too (`analysis.allocation`).
        max_trainings: Trained stages that the search may use, the baseline and those of the store included.
        max_minutes: Minutes of training that it may use, those of stages of the store included.
    """

    sparsity: Annotated[tuple[Fraction, ...], *_VALUES] | None = None
    number_of_clusters: Annotated[tuple[Annotated[int, Field(ge=2, le=1024)], ...], *_VALUES] | None = None
    filter_sparsity: Annotated[tuple[Fraction, ...], *_VALUES] | None = None
    per_layer: bool = False
    max_trainings: Count = 12
    max_minutes: Positive | None = None

    @property
    def grid(self) -> dict[str, tuple[float, ...]]:
        """The values that are tried, by setting."""
        names = "filter_sparsity", "sparsity", "number_of_clusters"
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def is_given(self) -> bool:
        """Whether the experiment searches over settings."""
        return bool(self.grid) or self.per_layer

    @model_validator(mode="after")
    def _check_values(self) -> "Search":
        if self.model_fields_set and not self.is_given:
            given = ", ".join(f"{name}={getattr(self, name)}" for name in sorted(self.model_fields_set))
            raise ValueError(
                f"{given}: nothing to search; give sparsity, number_of_clusters or filter_sparsity a list of values, "
                "or per_layer: true"
            )
        return self


class Exclude(Section):
    """Names of layers that a technique leaves unchanged. `quantization` leaves them in float32 in QAT stages."""

    pruning: Annotated[tuple[str, ...], Field(strict=False)] = ()
    clustering: Annotated[tuple[str, ...], Field(strict=False)] = ()
    quantization: Annotated[tuple[str, ...], Field(strict=False)] = ()
