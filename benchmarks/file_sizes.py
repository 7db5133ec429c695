"""Sizes of the ImageNet models' int8 files beside the published ones.

The weights are random, because the raw size of a file depends on the network only. The compressed size would depend on
the trained weights.
"""

import numpy as np
import table

PUBLISHED = {  # model, stage: table, metric and its unit in bytes
    ("mobilenet_v1", "baseline"): ("pqat", "tflite_bytes", 1),
    ("mobilenet_v1", "qat"): ("pqat", "tflite_bytes", 1),
    ("mobilenet_v2", "baseline"): ("tflite_guide", "tflite_int8_megabytes", 1_000_000),
}


def measure_figures() -> list[dict]:
    """One row per file: our bytes ÷ the published ones."""
    from collabopt import models
    from collabopt.config import published, sections
    from collabopt.techniques import quantization
    from collabopt.tflite import convert

    rows, known = [], published.read()
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    for (name, stage), (source, metric, unit) in PUBLISHED.items():
        model = models.build(sections.Model(name=name), (224, 224, 3), (1000,))
        if stage == "qat":
            content = convert.convert_as_trained(quantization.wrap(model, quantization.Preservation()))
        else:
            content = convert.convert_to_int8(model, pictures)
        same = known[(known["model"] == name) & (known["table"] == source) & (known["dataset"] == "imagenet")]
        theirs = unit * published.find_value(same, stage, metric)
        about = f"{name} 224×224, {stage}: {len(content):,} against {theirs:,.0f}"
        rows.append(table.make_row("int8 file, bytes ÷ published", about, len(content) / theirs))
    return rows


if __name__ == "__main__":
    table.record(measure_figures())
