"""Opens a saved model with Keras 3, in the worker process or in one that exists for a single import.

Like `extraction`, it imports neither TensorFlow nor what needs it.
"""

from collabopt.models.importing.extraction import ExtractionError
from collabopt.runtime import optional_imports


def load(path: str, classes: dict[str, type], trust_code: bool):
    """Return the checked file at `path`, loaded with Keras 3, with the user's `classes` by name and `trust_code`.

    Raises:
        ExtractionError: Keras 3 cannot load it.
    """
    with optional_imports.hide("sklearn", "matplotlib"):  # for wrappers and figures of Keras, which nothing here uses
        import keras

    try:
        return keras.models.load_model(path, custom_objects=classes, compile=False, safe_mode=not trust_code)
    except Exception as error:  # damaged files and unknown classes raise various types
        text = " ".join(str(error).split())[:300]
        raise ExtractionError(
            f"Keras {keras.__version__} cannot load it: {text}",
            "Open it with keras.models.load_model in your own environment, and save it again.",
        ) from error
