"""Loads a file with Keras 3 in a process of its own, and writes its model as data.

    python worker.py request.json

The request holds: `file`, `folder` (for the results), `trust_code`, `custom_objects` ("module:Class" by name),
`activation_names`, `examples` (.npz of arrays 0, 1, … or null) and `intermediates`. The results are `model.json` and
`arrays.npz`, or `refusal.json` with a reason and a remedy.
"""

import json
import os
import sys
import types
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "0"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

# The packages' own modules import Keras 2; here they are empty, and only give the path to the modules below.
_HERE = Path(__file__).resolve().parent
for _name, _folder in zip(
    ("collabopt.models.importing", "collabopt.models", "collabopt"), (_HERE, *_HERE.parents), strict=False
):
    sys.modules[_name] = types.ModuleType(_name)
    sys.modules[_name].__path__ = [str(_folder)]

from collabopt.models.importing import evaluation, extraction  # noqa: E402


def main(request: dict) -> None:
    """Answer a request.

    Args:
        request: See the module's docstring.
    """
    folder = Path(request["folder"])
    try:
        model = _load(request)
        data = extraction.extract(model)
        write(data, model, request, folder)
    except extraction.ExtractionError as error:
        (folder / "refusal.json").write_text(json.dumps(error.args))


def _load(request: dict):
    import keras

    sys.path[0] = str(Path.cwd())  # instead of this folder: custom classes are looked up as the caller would
    classes = {name: _import(place) for name, place in request["custom_objects"].items()}
    try:
        return keras.models.load_model(
            request["file"], custom_objects=classes, compile=False, safe_mode=not request["trust_code"]
        )
    except Exception as error:  # damaged files and unknown classes raise various types
        text = " ".join(str(error).split())[:300]
        raise extraction.ExtractionError(
            f"Keras {keras.__version__} cannot load it: {text}",
            "Open it with keras.models.load_model in your own environment, and save it again.",
        ) from error


def _import(place: str):
    module, _, name = place.partition(":")
    return getattr(__import__(module, fromlist=[name]), name)


def write(data: dict, model, request: dict, folder: Path) -> None:
    """Write a model's data and its outputs.

    Args:
        data: What `extraction.extract` returned.
        model: The model.
        request: See the module's docstring.
        folder: Folder of `model.json` and `arrays.npz`.
    """
    groups = {"random": evaluation.draw_inputs(data)}
    if request["examples"]:
        with np.load(request["examples"]) as archive:
            groups["examples"] = [archive[name] for name in archive.files]
    arrays = {}
    for index, entry in enumerate(data["layers"]):
        arrays |= {f"weight/{index}/{number}": weight for number, weight in enumerate(entry["weights"])}
        entry["weights"] = len(entry["weights"])
    for group, inputs in groups.items():
        given, logits = evaluation.compute_outputs(model, inputs, tuple(request["activation_names"]))
        for kind, outputs in (("given", given), ("logits", logits)):
            arrays |= {f"{group}/{kind}/{index}": array for index, array in enumerate(outputs)}
    if request["intermediates"]:
        first = [array[:2] for array in groups["random"]]
        arrays |= {f"tensor/{name}": array for name, array in evaluation.compute_intermediates(model, first).items()}
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "model.json").write_text(json.dumps(data))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
