"""Float files with sparse tensors, which hold the nonzero weights of a kernel and their places.

LiteRT expands a sparse kernel when it loads the file, or skips its zeros: XNNPACK skips those of 1×1 convolutions on
Arm, in networks that suit it (`tfmot.sparsity.keras.PruneForLatencyOnXNNPack`). On x86 with AVX it never does, since
its dense kernels are faster there (`xnn_is_chw_compatible_config` in its source).
"""

from collections.abc import Sequence

from collabopt.runtime.tensorflow import keras, tf
from collabopt.tflite import convert, interpreter
from collabopt.tflite.graphs import list_tensors, open_graphs


def convert_to_sparse(
    model: keras.Model, dense: bytes, inputs: convert.Inputs, activations: Sequence[str | None] = ()
) -> bytes:
    """Return a float model as a float32 file with sparse tensors.

    The converter decides by kernel. It stores a kernel sparsely if enough of its weights are zero.

    Args:
        model: The float model.
        dense: The content of its float32 file.
        inputs: Model inputs (n, ...) float32 on which both files are run.
        activations: As in `convert.convert`.

    Raises:
        ConversionRefused: No kernel becomes sparse, the file is not smaller than the dense one, LiteRT cannot run it,
            or its outputs differ from those of the dense file.
    """
    infer, module = convert.trace(model, activations)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([infer], module)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    content = convert.run_converter(converter, "float32")
    if not count_sparse_tensors(content):
        raise convert.ConversionRefused("the converter makes no kernel sparse: too few of its weights are zero")
    if len(content) >= len(dense):
        raise convert.ConversionRefused(
            f"sparse tensors make the file no smaller: {len(content):,} bytes instead of {len(dense):,}"
        )
    interpreter.check_equal(content, dense, inputs)
    return content


def count_sparse_tensors(tflite: bytes) -> int:
    """Return the number of sparse tensors of `tflite`."""
    _, graphs = open_graphs(tflite)
    return sum(tensor.Sparsity() is not None for graph in graphs for tensor in list_tensors(graph))
