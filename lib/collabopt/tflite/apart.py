"""A process that converts one SavedModel to a calibrated format, started by `convert`: directory and format.

The directory holds calibration.npz and gets model.tflite. If the converter fails, the last line of stderr says why.
"""

import sys
from pathlib import Path

import numpy as np

from collabopt.runtime.tensorflow import tf
from collabopt.tflite import convert, interpreter


def main(directory: str, format: str) -> int:
    """Convert the SavedModel in `directory` to `format`, run the file, since LiteRT may crash; return the status."""
    with np.load(Path(directory) / "calibration.npz") as file:
        calibration = dict(file)
    converter = tf.lite.TFLiteConverter.from_saved_model(directory)
    convert.set_calibration(converter, format, calibration)
    try:
        content = convert.run_converter(converter, format)
    except convert.ConversionRefused as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    interpreter.open_interpreter(content).invoke()
    (Path(directory) / "model.tflite").write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
