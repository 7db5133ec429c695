"""Where two `.tflite` files of one network, such as a float and an int8 file, begin to differ."""

import dataclasses
import html
from typing import Any

import numpy as np
import pandas as pd

from collabopt.analysis import agreement, scoring
from collabopt.config import loading
from collabopt.config.tasks import Task
from collabopt.datasets import Split
from collabopt.techniques import registry
from collabopt.tflite import convert, interpreter

_EXAMPLES = 8
LEAST_SNR = 20.0
"""dB. Below it, tensors differ: the noise is more than a tenth of the signal."""


@dataclasses.dataclass(frozen=True, repr=False)
class FileComparison:
    """Two files on the same examples.

    Attributes:
        tensors: What `compare_tensors` returned.
        answer: Scores, agreement, and where the files begin to differ.
    """

    tensors: pd.DataFrame
    answer: str

    def __repr__(self) -> str:
        return self.answer

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.answer)}</p>"


def compare_with_stage(run, stage: str, first: str | None = None, second: str | None = None) -> FileComparison:
    """Return the comparison of two files on the validation examples of a run.

    Args:
        run: A run (`run.Run`).
        stage: Name of the stage whose files stand in for missing ones.
        first: Path, relative to the workbook's root; None takes the stage's (or its parent's) network in float32.
        second: Path likewise; None takes the stage's int8 file.

    Raises:
        ValueError: A file does not exist, is no `.tflite` file or takes other inputs; the stage has no int8 file.
    """
    files = {}
    for parameter, path in {"first": first, "second": second}.items():
        files[parameter] = _make_file(run, stage, parameter) if path is None else _read(parameter, path)
    return compare(files, run.data.validation, run.data.task, run.experiment.threads)


def compare(files: dict[str, bytes], split: Split, task: Task, threads: int = 1) -> FileComparison:
    """Return the comparison of two files.

    Args:
        files: The contents of two files by name.
        split: Examples, all of which are scored. Tensors of the first few are compared, by LiteRT's reference kernels.
        threads: Number of threads.

    Raises:
        ValueError: A file takes other inputs than the examples.
    """
    inputs = _take_inputs(split)
    for name, content in files.items():
        shapes = [tuple(one["shape"][1:].tolist()) for one in interpreter.open_interpreter(content).get_input_details()]
        expected = [tuple(one.shape[1:]) for one in (inputs.values() if isinstance(inputs, dict) else [inputs])]
        if sorted(shapes) != sorted(expected):
            raise ValueError(f"{name}: takes inputs {shapes}; expected {expected}, as the experiment's examples are")
    judged = [scoring.judge_file(one, split, task, threads, _is_probability(one)) for one in files.values()]
    tensors = compare_tensors(*files.values(), split)
    scores = [task.score.format(scoring.summarize(one, split)) for one, _ in judged]
    pairs = " and ".join(f"{score} ({name})" for name, score in zip(files, scores, strict=True))
    title, count = f"{task.score.title[0].upper()}{task.score.title[1:]}", len(split.take_counted())
    answer = f"{title} on {count:,} validation examples: {pairs}."
    if judged[0][1] is not None:
        answer += f" The files predict the same class for {np.mean(judged[0][1] == judged[1][1]):.1%} of them."
    if tensors.empty:
        return FileComparison(tensors, f"{answer} No tensor has the same name and shape in both.")
    below = tensors[tensors["snr_db"] < LEAST_SNR]
    place = (below.iloc[0] if len(below) else tensors.loc[tensors["snr_db"].idxmin()]).to_dict()
    where = "They begin to differ at" if len(below) else f"No tensor falls below {LEAST_SNR:.0f} dB; the least is at"
    return FileComparison(
        tensors, f"{answer} {where} {place['tensor']} ({place['operator']}, {place['snr_db']:.1f} dB)."
    )


def compare_tensors(first: bytes, second: bytes, split: Split) -> pd.DataFrame:
    """Compare the outputs of the operators of two files of one network, `first` and `second`, on a few examples.

    Returns:
        One row per operator of the second file whose output the first has too: `tensor`, `operator`, `snr_db`, and
        `output`, the whole name of the tensor.
    """
    inputs = _take_inputs(split)
    rows, by_parts = [], [(split_name(name), values) for name, _, values in _record(first, inputs)]
    for name, kind, values in _record(second, inputs):
        parts = split_name(name)
        same = [one for others, one in by_parts if others & parts and one.shape == values.shape]
        if same:
            rows.append([max(parts, key=len), kind, agreement.compute_snr(same[-1], values), name])
    return pd.DataFrame(rows, columns=["tensor", "operator", "snr_db", "output"])


def _make_file(run, stage: str, parameter: str) -> bytes:
    finished = run.stage(stage)
    if parameter == "first":
        model = run.model(finished.stage.parent if finished.stage.quantizes else stage)
        return convert.convert(model, "float32", activations=registry.get_output_activations(run.experiment, run.data))
    if not finished.tflite:
        raise ValueError(f"stage={stage}: has no int8 file ({finished.result['unavailable']}); give `second`")
    return finished.tflite.read_bytes()


def _read(parameter: str, path: str) -> bytes:
    file = loading.ROOT / path
    if not file.is_file():
        raise ValueError(f"{parameter}={path}: no such file; expected the path of a .tflite file")
    content = file.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"{parameter}={path}: is no .tflite file; convert the model first")
    return content


def _is_probability(content: bytes) -> bool:
    """Whether a file ends in softmax or sigmoid, and perhaps a conversion to another type or shape."""
    operators = [one["op_name"] for one in interpreter.open_interpreter(content, reference=True)._get_ops_details()]
    computing = [name for name in operators if name not in ("QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE")]
    return bool(computing) and computing[-1] in ("SOFTMAX", "LOGISTIC")


def _record(content: bytes, inputs: Any) -> list[tuple[str, str, np.ndarray]]:
    """Name of the output, operator and output (n, ...) float32 of each operator; that of the file is "output"."""
    opened = interpreter.open_interpreter(content, reference=True)
    details = {one["index"]: one for one in opened.get_tensor_details()}
    (end,) = opened.get_output_details()
    operators = [(one["op_name"], details[one["outputs"][0]]) for one in opened._get_ops_details()]
    known = [(kind, one) for kind, one in operators if one["dtype"] == np.float32 or one["quantization"][0]]
    values = interpreter.record(opened, inputs, [one["index"] for _, one in known])
    names = ["output" if one["index"] == end["index"] else one["name"] for _, one in known]
    return [(name, kind, one) for name, (kind, _), one in zip(names, known, values, strict=True)]


def _take_inputs(split: Split) -> Any:
    """The first few examples as model inputs."""
    ((inputs, _),) = split.take(slice(_EXAMPLES)).batches(_EXAMPLES)
    return inputs


def split_name(name: str) -> set[str]:
    """Return the Keras operators of a tensor's `name`, such as "conv/Relu", without the prefix of model and QAT."""
    return {(part.partition("/")[2] or part).removeprefix("quant_") for part in name.split(";")}
