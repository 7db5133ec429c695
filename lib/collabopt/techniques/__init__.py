"""The compression techniques: pruning, clustering and quantization-aware training, alone and combined.

Plain Keras models travel between the techniques. Each module clones, wraps, trains and unwraps by itself.
"""

import collabopt.runtime.tensorflow  # noqa: F401  demands Keras 2, before a module of this package imports TFMOT
