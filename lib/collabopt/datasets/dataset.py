"""A data set as it is stored, before validation is split off."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from collabopt.config.tasks import Task
from collabopt.datasets.presentation import PLAIN, Presentation
from collabopt.datasets.split import Split

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What a data set asks of a model.

    Attributes:
        input_shape: Shape of one model input without batch, or shapes by input name.
        outputs: Shape of one model output without batch; None if the task leaves it open.
        task: What the outputs mean.
    """

    input_shape: Shape | dict[str, Shape]
    outputs: Shape | None
    task: Task

    def with_channel_axis(self, *inputs: str) -> "Shapes":
        """Return the shapes for `inputs` with a last axis of size 1; the output of a reconstruction gets it too."""
        if isinstance(self.input_shape, dict):
            changed = {name: (*self.input_shape[name], 1) for name in inputs}
            return dataclasses.replace(self, input_shape=self.input_shape | changed)
        shape = (*self.input_shape, 1)
        outputs = shape if self.task.name == "reconstruction" else self.outputs
        return dataclasses.replace(self, input_shape=shape, outputs=outputs)


class DatasetError(ValueError):
    """A data set cannot be used. Each line names the parameter, array or file, its value, and what would be right.

    Attributes:
        shapes: What the data set asks of a model, where this is known in spite of the mistakes.
    """

    shapes: Shapes | None = None


class Mistakes(list[str]):
    """Lines about what is wrong, collected so that all are reported at once.

    Attributes:
        shapes: Those of the error that is raised.
    """

    shapes: Shapes | None = None

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Add the lines of a `DatasetError` that the block raises."""
        try:
            yield
        except DatasetError as error:
            self.extend(str(error).splitlines())
            self.shapes = self.shapes or error.shapes

    def raise_any(self) -> None:
        """Raise the lines as one error.

        Raises:
            DatasetError: There is at least one.
        """
        if self:
            error = DatasetError("\n".join(dict.fromkeys(self)))
            error.shapes = self.shapes
            raise error


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a stored data set.

    Attributes:
        train: Training examples.
        validation: Validation examples, or None to split them off `train`.
        test: Test examples.
        classes: Names of the classes, by label; empty for tasks without classes.
        fingerprint: Hex digest of all examples and labels.
        input_shape: Shape of one model input, as `Split.prepare` returns it, without batch; a dict for several inputs.
        outputs: Shape of one model output without batch; None if the task leaves it open.
        groups: Group of each training example (n,), such as its speaker. Validation is then split off by group.
        presentation: How readers see the examples.
    """

    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    input_shape: Shape | dict[str, Shape]
    outputs: Shape | None = None
    groups: np.ndarray | None = None
    presentation: Presentation = PLAIN

    def get_shapes(self, task: Task) -> Shapes:
        """Return what the data set asks of a model for a `task`."""
        return Shapes(self.input_shape, self.outputs, task)


def compute_fingerprint(splits: Iterable[Split | None], classes: Iterable[str]) -> str:
    """Return the digest, 32 hex digits, of the `splits` of a data set in their order and of its `classes`."""
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        digest.update(b"-" if split is None else split.fingerprint().encode())
    digest.update(repr(tuple(classes)).encode())
    return digest.hexdigest()
