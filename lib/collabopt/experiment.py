"""An experiment: a data set, a model and the hyper-parameters of every stage, as one validated YAML file.

    digits = experiment.load("digits", sparsity=0.8)

Nothing here imports TensorFlow, so that a batch is checked in a moment.
"""

import difflib
import hashlib
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from collabopt.npu import ACCELERATORS

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "notebooks" / "experiments"
DATA = Path(os.environ.get("COLLABOPT_DATA", ROOT / "data"))
REPORTS = Path(os.environ.get("COLLABOPT_REPORTS", ROOT / "reports"))

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


KNOBS = (
    "seed",
    "threads",
    "devices",
    "train_fraction",
    "calibration_examples",
    "sparsity",
    "number_of_clusters",
    "cluster_per_channel",
    "centroid_initialization",
    "scheme",
    "strict",
    "accelerator",
    *Targets.model_fields,
)
"""What `load` can override; a batch what of it the notebooks have as parameters."""


class _Loader(yaml.SafeLoader):
    """YAML whose `1e-3` is a number and whose repeated keys are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ExperimentError(f"{key}: given twice (line {node.start_mark.line + 1} on); keep one")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def value(text: str, key: str) -> Any:
    """The value that `text` stands for in an experiment file: 5e-1 and true are no words there.

    Raises ExperimentError, naming the `key` it is for.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        raise ExperimentError(f"{key}={text}: expected a value as in an experiment file, such as 0.5 or true") from None


def path_of(name: str) -> Path:
    """The experiment file of a name ("digits"), or the path of a file of your own ("mine.yaml").

    Raises ExperimentError when there is no such file.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in EXPERIMENTS.glob("*.yaml"))
        raise ExperimentError(f"experiment={name}: no such file; expected a path ending in .yaml or one of {known}")
    return path.resolve()


def sources(name: str) -> list[Path]:
    """The experiment's file and the one it `extends`, whose keys hold where its own file has none.

    Raises ExperimentError when a file is missing or the extended one extends another.
    """
    path = path_of(name)
    base = _read(path).get("extends")
    if base is None:
        return [path]
    beside = path.with_name(f"{base}.yaml")
    extended = beside if beside.is_file() else path_of(str(base))
    if "extends" in _read(extended):
        raise ExperimentError(f"{path.name}: extends={base}: which extends another itself; extend that one")
    return [path, extended]


def digest(name: str) -> str:
    """SHA-256, in hex, of the experiment's files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources(name))).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """The keys and values of an experiment file."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except ExperimentError as error:
        raise ExperimentError(f"{path.name}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # also what is not UTF-8, and dates that do not exist
        raise ExperimentError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ExperimentError(f"{path.name}: expected keys and values, found {type(values).__name__}")
    return values


def load(name: str, **overrides: Any) -> Experiment:
    """The experiment of that name or path with knobs overridden; `None` keeps the experiment's own value.

    A seed that is asked for is asked for alone, without `repeat_seeds`.

    Raises ExperimentError with a line for every unknown key, wrong type or value out of range.
    """
    path, *extended = sources(name)
    values = {key: value for file in (*extended, path) for key, value in _read(file).items() if key != "extends"}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    for key in overrides:
        if key not in KNOBS:
            raise ExperimentError(f"{key}={overrides[key]!r}: unknown parameter{hint(key, KNOBS)}")
    wanted = {key: overrides.pop(key) for key in Targets.model_fields if key in overrides}
    if wanted:
        own = values.get("targets", {})
        overrides["targets"] = {**own, **wanted} if isinstance(own, dict) else own
    if "seed" in overrides:
        overrides["repeat_seeds"] = ()
    try:
        return Experiment.model_validate({"name": path.stem, **values, **overrides})
    except ValidationError as error:
        raise ExperimentError("\n".join(f"{path.name}: {_explain(mistake)}" for mistake in error.errors())) from None


def overridden(name: str, **overrides: Any) -> dict[str, Any]:
    """The overrides that differ from the experiment's own values, in the order of `KNOBS`."""
    own, changed = load(name), load(name, **overrides)
    before, after = (plan.model_dump() | plan.targets.model_dump() for plan in (own, changed))
    different = {knob for knob in KNOBS if after[knob] != before[knob]}
    if changed.repeat_seeds != own.repeat_seeds:
        different.add("seed")
    return {knob: after[knob] for knob in KNOBS if knob in different}


def report_directory(name: str, **overrides: Any) -> Path:
    """Where a run's tables and pages go: reports/<experiment>/, or a directory below named by its overrides."""
    changed = overridden(name, **overrides)
    directory = REPORTS / path_of(name).stem
    return directory / ",".join(f"{knob}={value}" for knob, value in changed.items()) if changed else directory


def _explain(mistake: dict) -> str:
    at = [str(part) for part in mistake["loc"]]
    key, value = ".".join(at), mistake["input"]
    if mistake["type"] == "extra_forbidden":
        return f"{key}={value!r}: unknown key{hint(at[-1], _keys_beside(at))}"
    if mistake["type"] == "missing":
        return f"{key}: missing; this key is needed"
    if mistake["type"] == "value_error":
        return f"{key}: {mistake['ctx']['error']}" if key else str(mistake["ctx"]["error"])
    message = mistake["msg"].replace("Input should be", "expected")
    message = message.replace("String should match pattern", "expected what matches")
    if isinstance(value, float) and not math.isfinite(value):
        message = "expected a finite number"
    return f"{key}={value!r}: {message}"


def _keys_beside(at: list[str]) -> list[str]:
    section: Any = Experiment
    for part in at[:-1]:
        annotation = section.model_fields[part].annotation
        section = next(
            (kind for kind in (annotation, *getattr(annotation, "__args__", ())) if hasattr(kind, "model_fields")),
            Experiment,
        )
    return list(section.model_fields)


def hint(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(known)}"
