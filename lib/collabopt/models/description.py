"""What a user's trained model is, as far as its file tells: its size, and the tasks that its output may be for."""

import dataclasses

from collabopt.config.sections import Model
from collabopt.models import custom
from collabopt.models.check import Shape, Shapes, find_inputs


@dataclasses.dataclass(frozen=True)
class Description:
    """A trained model.

    Attributes:
        weights: Number of its weights.
        inputs: Shapes of its inputs, without batch.
        output: Shape of its output, without batch; of the first of several.
        activation: "softmax" or "sigmoid" if it ends in one.
    """

    weights: int
    inputs: tuple[Shape, ...]
    output: Shape
    activation: str | None

    def list_tasks(self) -> list[str]:
        """Return the tasks that the output may be for, the most likely first."""
        if self.output in self.inputs:
            return ["reconstruction", *(["segmentation"] if len(self.output) > 2 else [])]
        if len(self.output) > 2:
            return ["segmentation", "regression"]
        if self.activation == "softmax":
            return ["classification"]
        if self.activation == "sigmoid":
            return ["binary"] if self.output == (1,) else ["multilabel", "classification"]
        return ["binary", "regression"] if self.output == (1,) else ["classification", "regression"]


def describe(section: Model, input_shape: Shapes = (), outputs: Shape | None = None) -> Description:
    """Describe a user's model.

    Args:
        section: The model section of an experiment, with a path or function.
        input_shape: Shape of one input, without batch, for a function; by name if there are several.
        outputs: Shape of one output, without batch, for a function.

    Returns:
        The description.

    Raises:
        ModelError: There is no such file, or the model cannot be imported.
    """
    imported = custom.get_imported(section, input_shape, outputs)
    model, inputs = imported.model, find_inputs(imported.model)
    activation = next(iter(imported.output_activations.values()))
    return Description(model.count_params(), tuple(inputs.values()), tuple(model.outputs[0].shape[1:]), activation)
