"""Fashion-MNIST: 70,000 pictures of clothing of 28×28 pixels in ten classes (Xiao, Rasul and Vollgraf 2017, MIT)."""

from pathlib import Path

import numpy as np

from collabopt.datasets import idx
from collabopt.datasets.arrays import check_images, make_parts
from collabopt.datasets.dataset import Parts
from collabopt.datasets.download import fetch
from collabopt.datasets.mnist import IMAGE, prepare

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets"
SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
PACKAGE = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs the same files."""
CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def read(data_directory: Path, url: str = URL, sha256: dict[str, str] = SHA256, package: Path = PACKAGE) -> Parts:
    """Read the four files in data/fashion_mnist/, or those of Debian's package, or download them.

    Args:
        data_directory: Folder of the data sets.
        url: Address of the folder that has the files.
        sha256: SHA-256 of each file, in hex.
        package: Folder of Debian's package.

    Returns:
        The data set. Images are (n, 28, 28) uint8, model inputs (n, 28, 28, 1).

    Raises:
        DatasetError: A file cannot be downloaded, is damaged, or holds other arrays.
    """
    directory = data_directory / "fashion_mnist"
    if package.is_dir() and not any(directory.glob("*.gz")):
        directory = package
    for name, digest in sha256.items():
        if not (directory / name).exists():
            fetch(f"{url}/{name}", directory / name, digest, "Fashion-MNIST")
    arrays = {
        f"{kind}_{split}": idx.read(directory / f"{prefix}-{suffix}-ubyte.gz")
        for split, prefix in (("train", "train"), ("test", "t10k"))
        for kind, suffix in (("x", "images-idx3"), ("y", "labels-idx1"))
    }
    check_images(arrays, directory, IMAGE, np.uint8)
    return make_parts(arrays, str(directory), input_shape=(*IMAGE, 1), classes=CLASSES, prepare=prepare)
