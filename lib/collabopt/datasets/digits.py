"""Handwritten digits: 1,797 pictures of 8×8 pixels that come with scikit-learn (UCI optdigits, Alpaydin and Kaynak)."""

from pathlib import Path

import numpy as np

from collabopt.datasets.carve import stratified_order
from collabopt.datasets.parts import Parts, fingerprint_of
from collabopt.datasets.split import Split

TEST_FRACTION = 0.2
# Of the test split alone, and never the experiment's: results of two seeds are on the same test pictures.
_TEST_SEED = 1797


def read(data_directory: Path | None = None) -> Parts:  # noqa: ARG001 - called as every other data set is
    """The digits as (n, 8, 8, 1) float32 in [0, 1]; test is a fixed fifth, by class."""
    from sklearn.datasets import load_digits  # only here: it takes a second

    pictures, labels = load_digits(return_X_y=True)
    # Pixels count, 0 to 16, the dark points of a 4×4 block.
    everything = Split((pictures / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(np.int64))
    order = stratified_order(labels, _TEST_SEED)
    count = round(TEST_FRACTION * len(labels))
    test, train = everything.take(np.sort(order[:count])), everything.take(np.sort(order[count:]))
    classes = tuple("0123456789")
    return Parts(train, None, test, classes, fingerprint_of((train, test), classes), (8, 8, 1))
