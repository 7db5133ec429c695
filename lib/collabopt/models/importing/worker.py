"""Loads a file with Keras 3 in a process of its own, and writes its model as data.

    python worker.py request.json

The request holds: `file`, `folder` (for the results, and of `examples.npz`, if there are any), `trust_code`,
`custom_objects` ("module:Class" by name), `search_path` (of modules) and `intermediates`. The
results are `weights.npz`, `model.json` and `outputs.npz` or `intermediates.npz`; or `refusal.json` with a reason and a
remedy.
"""

import json
import os
import sys
import types
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "0"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # GPUs round differently, and their memory is for training
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

# The packages' own modules import Keras 2; here they are empty, and only give the path to the modules below.
_HERE = Path(__file__).resolve().parent
for _name, _folder in zip(
    ("collabopt.models.importing", "collabopt.models", "collabopt"), (_HERE, *_HERE.parents), strict=False
):
    sys.modules[_name] = types.ModuleType(_name)
    sys.modules[_name].__path__ = [str(_folder)]

from collabopt.models.importing import evaluation, extraction, opening  # noqa: E402


def main(request: dict) -> None:
    """Answer a `request` (see the module's docstring)."""
    folder = Path(request["folder"])
    try:
        sys.path[:] = request["search_path"]  # custom classes are looked up as the caller would
        classes = {name: _import(place) for name, place in request["custom_objects"].items()}
        model = opening.load(request["file"], classes, request["trust_code"])
        data = extraction.extract(model)
        _write_model(data, folder)
        _write_outputs(data, model, request, folder)
    except extraction.ExtractionError as error:
        (folder / "refusal.part").write_text(json.dumps(error.args))
        (folder / "refusal.part").rename(folder / "refusal.json")


def _import(place: str):
    module, _, name = place.partition(":")
    return getattr(__import__(module, fromlist=[name]), name)


def _write_model(data: dict, folder: Path) -> None:
    """Write what `extraction.extract` returned to `weights.npz` and `model.json`."""
    weights = {
        f"{index}/{number}": weight
        for index, entry in enumerate(data["layers"])
        for number, weight in enumerate(entry["weights"])
    }
    _write_arrays(folder, "weights", weights)
    layers = [entry | {"weights": len(entry["weights"])} for entry in data["layers"]]
    (folder / "model.part").write_text(json.dumps(data | {"layers": layers}))
    (folder / "model.part").rename(folder / "model.json")


def _write_outputs(data: dict, model, request: dict, folder: Path) -> None:
    """Write a model's outputs to `outputs.npz`, or the outputs of its layers to `intermediates.npz`."""
    groups = {"random": evaluation.draw_inputs(data)}
    if request["intermediates"]:
        first = [array[:2] for array in groups["random"]]
        _write_arrays(folder, "intermediates", evaluation.compute_intermediates(model, first))
        return
    if (folder / "examples.npz").exists():
        with np.load(folder / "examples.npz") as archive:
            groups["examples"] = [archive[name] for name in archive.files]
    arrays = {}
    for group, inputs in groups.items():
        given, logits = evaluation.compute_outputs(model, inputs)
        for kind, outputs in (("given", given), ("logits", logits)):
            arrays |= {f"{group}/{kind}/{index}": array for index, array in enumerate(outputs)}
    _write_arrays(folder, "outputs", arrays)


def _write_arrays(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write an archive under its final name only when it is complete."""
    np.savez(folder / f"{name}.part.npz", **arrays)
    (folder / f"{name}.part.npz").rename(folder / f"{name}.npz")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
