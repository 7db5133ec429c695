"""Imports a model alone: `python -m collabopt.models.importing FILE`."""

import argparse
import json
import sys

from collabopt.models import importing


def main(words: list[str] | None = None) -> int:
    """Import a model, and print the result as one line of JSON.

    Args:
        words: The words of the command line; None takes those of the process.

    Returns:
        The exit status: 0 if the model is accepted, 3 if it is refused.
    """
    parser = argparse.ArgumentParser(prog="python -m collabopt.models.importing", description="Import a trained model.")
    parser.add_argument("source", help=".keras, .h5 or .hdf5 file, folder of a SavedModel, or module:function")
    parser.add_argument("--weights", help="file of weights for the model of a function")
    parser.add_argument("--trust-code", action="store_true", help="run code that the file holds")
    parser.add_argument("--custom-object", action="append", default=[], help="class of a layer, module:Class")
    arguments = parser.parse_args(words)
    classes = {place.partition(":")[2]: place for place in arguments.custom_object}
    try:
        imported = importing.import_model(
            arguments.source, trust_code=arguments.trust_code, custom_objects=classes, weights=arguments.weights
        )
    except importing.ImportRefused as error:
        print(json.dumps({"accepted": False, "reason": error.reason, "remedy": error.remedy}))
        return 3
    result = {
        "accepted": True,
        "largest_difference": imported.largest_difference,
        "rewrites": imported.rewrites,
        "without_qat": list(imported.without_qat),
        "output_activation": imported.output_activation,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
