"""Fixtures of several test modules, and the order in which the workers of xdist run the tests."""

import dataclasses
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The guides' network has two kernels, and TFMOT guesses their granularity right with 32 clusters (defect F2 in
# test_preserving_scheme.py).
TINY = """
dataset: {name: digits}
model: {name: mnist_cnn}
train_fraction: 0.3
calibration_examples: 20
sparsity: 0.5
number_of_clusters: 32
stages:
  baseline: {epochs: 6, batch_size: 16, optimizer: adam, learning_rate: 3e-3}
  pruned: {epochs: 2, batch_size: 16, optimizer: adam, learning_rate: 1e-3, frequency: 5}
  clustered: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  sparse_clustered: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  qat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  pqat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  cqat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
  pcqat: {epochs: 1, batch_size: 16, optimizer: adam, learning_rate: 1e-4}
"""

LONGEST_FIRST = (
    "test_batch",
    "test_run",
    "test_preserving_scheme",
    "test_int8_layers",
    "test_sweep",
    "test_search",
    "test_shape",
    "test_browser",
    "test_unavailable",
    "test_imagenet",
    "test_devices",
    "test_forks",
    "test_tasks",
    "test_jupyterlab",
    "test_user_stage",
    "test_slurm",
    "test_frozen",
)
"""Files of tests by duration, but those that use the shared batch come after it is made. All others are short.
`--dist loadfile` keeps a file on one worker, so that its fixtures are made once."""


def pytest_configure(config: pytest.Config) -> None:
    """Ignore that tf.data runs its own functions traced also where all others run eagerly."""
    config.addinivalue_line("filterwarnings", "ignore:Even though the `tf.config.experimental_run_functions_eagerly`")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so in a shell's background jobs and their children
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Fix threads and kernels before the first operation, as a run does, where a test uses TensorFlow at all."""
    if "collabopt.runtime.tensorflow" in sys.modules:
        from collabopt.runtime import tensorflow

        tensorflow.configure(1)
        tensorflow.seed_everything(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _own_stores(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests share no stored import, and no stored faults of pictures, with earlier runs."""
    for module in ("collabopt.models.custom", "collabopt.datasets.pictures"):
        if module in sys.modules:
            sys.modules[module].STORE = tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module", autouse=True)
def _check_label() -> Iterator[None]:
    """A label that a notebook leaves in this process would make later notebooks parts of a batch, without widgets."""
    before = os.environ.get("COLLABOPT_NOTEBOOK")
    yield
    assert os.environ.get("COLLABOPT_NOTEBOOK") == before


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a directory once per run of pytest: its name and what fills it. The workers of xdist share it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name: str, fill: Callable[[Path], None]) -> Path:
        directory, complete = root / name, root / f"{name}.complete"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete.exists():
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir()
                fill(directory)
                complete.touch()
        return directory

    return get


@pytest.fixture(scope="session")
def _experiments(make_once) -> Path:
    def write(directory: Path) -> None:
        (directory / "tiny.yaml").write_text(TINY)
        small = TINY.replace("name: mnist_cnn", 'function: "example_network:build"')
        (directory / "small.yaml").write_text(small)

    return make_once("experiments", write)


@pytest.fixture(scope="session")
def tiny(_experiments) -> Path:
    """The file of an experiment whose stages take seconds."""
    return _experiments / "tiny.yaml"


@pytest.fixture(scope="session")
def small(_experiments) -> Path:
    """The tiny experiment on `example_network`, which has fewer and smaller kernels."""
    return _experiments / "small.yaml"


@pytest.fixture(scope="session")
def trained_small(make_once, small) -> Path:
    """The small experiment, trained from nothing: its store `stages`, its `report`, and `results.pickle`.

    Tests may read the store. To write, they copy it.
    """

    def train(directory: Path) -> None:
        from collabopt.config import loading
        from collabopt.config.stages import STAGES
        from collabopt.run import Run
        from collabopt.runtime import tensorflow

        tensorflow.configure(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading, "DATA", directory)
            run = Run(loading.load(str(small)), directory / "report", small, directory / "stages")
            run.results(*STAGES).to_pickle(directory / "results.pickle")

    return make_once("small", train)


@pytest.fixture(scope="session")
def searched_small(make_once, trained_small, small) -> Path:
    """A copy of the trained store in `stages`, with every stage in every format. Tests may read it."""

    def measure(directory: Path) -> None:
        from collabopt.config import loading
        from collabopt.deploy import search
        from collabopt.run import Run

        shutil.copytree(trained_small / "stages", directory / "stages")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading, "DATA", directory)
            search.search(Run(loading.load(str(small)), directory / "report", small, directory / "stages"))

    return make_once("searched", measure)


@pytest.fixture(scope="session")
def shared_batch(make_once, tiny) -> Path:
    """The directory of the one batch of the tiny experiment; see `example_batch.make_shared_batch`.

    Tests copy what they need from its `copy`.
    """
    from example_batch import make_shared_batch

    return make_once("batch", lambda directory: make_shared_batch(directory, tiny))


@pytest.fixture(scope="session")
def preservation_report(make_once, shared_batch, tiny) -> Path:
    """The report of `preservation` on the stages of the shared batch, which leaves this notebook out: it takes long."""

    def fill(directory: Path) -> None:
        from example_batch import Place

        place = Place(directory)
        shutil.copytree(shared_batch / "copy" / "data" / "stages", place.data / "stages")
        done = place.run(tiny, "--notebooks", "preservation")
        assert done.status == 0, done.stderr

    return make_once("preservation", fill) / "reports" / tiny.stem


@pytest.fixture(scope="module")
def eagerly() -> Iterator[None]:
    """Runs TensorFlow without tracing, which takes longer than the few steps of a training in a test.

    No module with it uses `trained_small`, whose trainings are traced.
    """
    from collabopt.runtime import tensorflow

    with tensorflow.run_eagerly():
        yield


def skip_trial(patch: pytest.MonkeyPatch) -> None:
    """Leave out the trial of all stages before the baseline is trained: it has tests of its own."""
    patch.setattr("collabopt.analysis.preflight.find_failures", lambda *_: [])


@pytest.fixture(scope="session")
def tiny_data(tiny: Path):
    """The data of the tiny experiment."""
    from collabopt import datasets
    from collabopt.config import loading

    return datasets.load(loading.load(str(tiny)))


@pytest.fixture(scope="session")
def few_data(tiny_data):
    """The same with 128 training examples."""
    return dataclasses.replace(tiny_data, train=tiny_data.train.take(slice(128)))


@pytest.fixture(scope="module")
def place(trained_small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for reports, locks and stores. Its store `stages` is a copy of the trained one."""
    from collabopt.config import loading

    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("place")
        shutil.copytree(trained_small / "stages", path / "stages")
        patch.setattr(loading, "DATA", path)
        yield path


def run_of(small: Path, place: Path, report: str, **overrides: object):
    """A run of the small experiment over the store of `place`."""
    from collabopt.config import loading
    from collabopt.run import Run

    return Run(loading.load(str(small), **overrides), place / report, small, place / "stages")


def plan_of(model: str, dataset: str):
    """An experiment on a model and a data set, by name; nothing in it can be trained well."""
    from collabopt.config import experiment
    from collabopt.config.stages import STAGES

    training = {"epochs": 1, "batch_size": 8, "optimizer": "adam", "learning_rate": 1e-3}
    return experiment.validate(
        {
            "name": "test",
            "dataset": {"name": dataset},
            "model": {"name": model},
            "sparsity": 0.5,
            "number_of_clusters": 8,
            "stages": dict.fromkeys(STAGES, training),
        }
    )


@pytest.fixture(scope="session")
def small_cnn() -> Callable:
    """Builds `example_network` for the digits from `seed`; its convolutions `use_bias` or not."""
    import example_network

    from collabopt.runtime.tensorflow import seed_everything

    def build(seed: int = 0, use_bias: bool = False):
        seed_everything(seed)
        return example_network.build((8, 8, 1), 10, use_bias)

    return build
