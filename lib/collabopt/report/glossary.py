"""What the terms in the heads of tables mean: tooltips, and the glossary of an index."""

GLOSSARY = {
    "Stage": "A node of the deployment tree: a model that was trained, and the techniques that led to it.",
    "Format": "File format of the weights and activations of a variant.",
    "Level": "How many techniques lead to the stage; the baseline is level 0.",
    "Parent": "The stage that this stage starts from.",
    "Scheme": "Who implements the technique: collabopt (ours) or tfmot (TFMOT's own).",
    "Accuracy": "Share of examples whose class is right; of the Keras model on test unless the head says otherwise.",
    "INT8 accuracy": "Accuracy of the full-integer .tflite file.",
    "Validation accuracy": "Accuracy on the examples that decide between files. The test split only reports.",
    "Validation drop": "Loss against the float32 baseline on validation, with two standard errors, paired by example.",
    "Fake-INT8 (*)": "A star marks accuracy that Keras measures while it simulates int8 (fake quantization).",
    "±": "Two standard errors over the examples, or the standard deviation over seeds if there are several.",
    "≈": "The drop is within noise of the float32 baseline: chance alone explains it.",
    "File": "The .tflite file: its size, or a link to it.",
    "ZIP": "Size after deflate, which TFMOT's guides publish.",
    "gzip": "Size after gzip, level 9.",
    "zstd": "Size after Zstandard.",
    "int8 weights": "Bytes of the int8 weights before compression.",
    "Entropy": "Zero-order entropy of the int8 weights: the least that a coder of single weights can reach.",
    "Latency": "Median time per inference on the host of the run, one thread, one example at a time.",
    "÷ float32 baseline": "Latency as a multiple of the float32 baseline's.",
    "Cycles": "NPU cycles per inference, estimated by Arm's Vela compiler.",
    "NPU time": "Time per inference on the NPU, estimated by Vela.",
    "SRAM": "Working memory on the NPU, estimated by Vela.",
    "Flash": "Read-only memory on the NPU: weights as Vela encodes them.",
    "Encoded weights": "Bytes of the weights as Vela encodes them.",
    "Operators on NPU": "Share of the file's operators that run on the NPU; the others run on the CPU.",
    "Sparsity": "Share of zeros among the weights that pruning may touch.",
    "Unique weights": "Largest count of distinct values in a clusterable kernel.",
    "Entropy bits": "Bits per int8 weight that a coder of single weights needs at least (zero-order entropy).",
    "Lookup bits": "Bits per int8 weight as an index into a table of its kernel's distinct values; without the table.",
    "Gained zeros": "Zeros that clustering added to those of pruning.",
    "Rounded to zero": "Weights that int8 rounding made zero, apart from those of pruning.",
    "Preserved": "Whether every zero and cluster of the parent stage is still present.",
    "Pareto front": "No other file is at least as small and as good on validation, and better in one of the two.",
}
"""Definition by term, in the order of a table's columns."""


def explain(column: str) -> str:
    """Return the definition of a table's `column`, its head with group and unit; empty if there is none."""
    title = column.rpartition(": ")[2].partition(" (")[0]
    if column.startswith("INT8 file →"):
        return "The full-integer file: bytes before and after gzip, and the share that gzip saves."
    return GLOSSARY.get(title, "")
