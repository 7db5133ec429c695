"""Requirements of TFMOT and of the workbook on a model."""

from __future__ import annotations

from collabopt.runtime.tensorflow import keras

Shape = tuple[int, ...]
Shapes = Shape | dict[str, Shape]
"""Shape of one input without batch; by name where a model has several inputs."""


class ModelError(ValueError):
    """A model or its weights cannot be used. The message names the parameter, its value, and what would be right."""


def check(origin: str, model: keras.Model, input_shape: Shapes, outputs: Shape | None) -> None:
    """Check that a model leads from the inputs of the data to the outputs of the task.

    Args:
        origin: Parameter and value that the model comes from, such as "function=mine:net", for errors.
        model: A flat Keras 2 graph of layers, as the import makes it.
        input_shape: Expected shape of one input, without batch; of each input by name if there are several.
        outputs: Expected shape of the only output, without batch. None allows any shape.

    Raises:
        ModelError: The model does not meet a requirement.
    """
    if mistake := _find_wrong_inputs(model, input_shape) or _find_wrong_outputs(model, outputs):
        raise ModelError(f"{origin}: {mistake}")


def find_inputs(model: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes without batch of the inputs of a Keras 2 `model` by name, in the model's order."""
    return {name: tuple(tensor.shape[1:]) for name, tensor in zip(model.input_names, model.inputs, strict=True)}


def _find_wrong_inputs(model: keras.Model, input_shape: Shapes) -> str | None:
    found = find_inputs(model)
    if not isinstance(input_shape, dict):
        if len(found) > 1:
            return f"found {len(found)} inputs, {', '.join(found)}; expected data with one array for each, by name"
        input_shape = dict.fromkeys(found, tuple(input_shape))
    elif len(found) == 1 == len(input_shape):
        input_shape = dict(zip(found, input_shape.values(), strict=True))
    if found.keys() != input_shape.keys():
        return f"inputs {', '.join(found)}: expected the names of the data's arrays, {', '.join(input_shape)}"
    for (name, shape), tensor in zip(found.items(), model.inputs, strict=True):
        of_name = f" {name}" if len(found) > 1 else ""
        if shape != tuple(input_shape[name]):
            return (
                f"input{of_name} shape={(None, *shape)}: expected {(None, *input_shape[name])}, as the data has. Give "
                "the examples the shape of the model's input (pictures: dataset.image_size and dataset.channels)"
            )
        if tensor.dtype not in ("float32", "int32", "int64"):
            return f"input{of_name} dtype={tensor.dtype.name}: expected float32"
    return None


def _find_wrong_outputs(model: keras.Model, outputs: Shape | None) -> str | None:
    for tensor in model.outputs:
        if tensor.dtype != "float32":
            return f"output dtype={tensor.dtype.name}: expected float32"
    if len(model.outputs) != 1:
        names = ", ".join(model.output_names)
        return f"found {len(model.outputs)} outputs, {names}; name the one to keep, as in head: {model.output_names[0]}"
    if outputs is None:
        return None
    shape = tuple(model.outputs[0].shape)
    if shape == (None, *outputs):
        return None
    remedy = "Take the labels that the model was trained for"
    if len(shape) == 4 == len(outputs) + 1 and shape[1:] == (*outputs[:-1], 1):  # one sigmoid per pixel
        remedy = (
            "Segmentation needs one output per class. For one output per pixel use functions of your own: task: "
            "{loss: 'm:f', metric: 'm:g', higher_is_better: true}. Masks of 0 and 255 must be 0 and 1"
        )
    if len(shape) == 2 and len(outputs) == 1 and shape[1] > outputs[0] > 1:
        remedy = (
            f"If examples of some classes are missing, list all {shape[1]} in an array `classes` (.npz or function)"
        )
    return f"output shape={shape}: expected {(None, *outputs)}, as the data's labels have. {remedy}"
