"""Tables as readers see them. Numbers are formatted here and nowhere else."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from collabopt.analysis import audit, comparison
from collabopt.analysis.preflight import Finding
from collabopt.config import published
from collabopt.config.stages import STAGES
from collabopt.run import Finished, Run
from collabopt.tflite import sizes

_BAD = "color: #b3261e; font-weight: 600"


def percent(fraction: float | None, digits: int = 2) -> str:
    return "" if fraction is None or pd.isna(fraction) else f"{fraction:.{digits}%}"


def compression(raw: float | None, compressed: float | None) -> str:
    """528,128 → 434,879 (17.66%), the share that is saved; empty where a size is unknown."""
    if not raw or not compressed:
        return ""
    return f"{int(raw):,} → {int(compressed):,} ({1 - compressed / raw:.2%})"


def stages(finished: Sequence[Finished]) -> Styler:
    """A row a stage: accuracy (* fake-INT8), that of the int8 file, its size, sparsity, unique weights, preserved.

    Accuracies are those on test, where it was read, else on validation, and the column says so.
    """
    unread = any(one.result["accuracy"] is None for one in finished)
    split, on = ("validation_", " (validation)") if unread else ("", "")
    rows = pd.DataFrame(
        {
            f"Accuracy, FP32 or fake-INT8{on}": percent(one.result[f"{split}accuracy"])
            + (" *" if one.stage.quantizes else ""),
            f"Accuracy, INT8 file{on}": percent(one.result[f"{split}accuracy_int8"]),
            "INT8 file, raw → gzip, bytes (saved)": compression(one.result["tflite_bytes"], one.result["gzip_bytes"]),
            "Sparsity": percent(one.result["sparsity"], 1),
            "Unique weights": f"{one.result['unique_weights']:,}",
            "Preserved": {None: "", True: "yes", False: "NO"}[one.result["preserved"]],
        }
        for one in finished
    )
    rows.index = pd.Index([one.stage.title for one in finished])
    return _flagged(rows, "Preserved")


def layers(finished: Finished) -> Styler:
    """A row a kernel: sparsity and unique values in Keras and in the int8 file, and what was not preserved."""
    frame = finished.layers
    rows = pd.DataFrame(
        {
            "Kind": frame["kind"],
            "Shape": frame["shape"],
            "Sparsity": [percent(value, 1) for value in frame["sparsity"]],
            "INT8 sparsity": [percent(value, 1) for value in frame["int8_sparsity"]],
            "Values a tensor": frame["unique_tensor"].map("{:,}".format),
            "Values a channel": frame["unique_channel"].map("{:,}".format),
            "INT8 codes a tensor": frame["int8_unique_tensor"],
            "INT8 codes a channel": frame["int8_unique_channel"],
            "Quantizer": frame["quantizer"],
            "Passed over": frame["skipped"],
            "Not preserved": frame["defect"],
        }
    )
    rows.index = pd.Index(frame["layer"])
    empty = [column for column in ("Quantizer", "Passed over", "Not preserved") if (rows[column] == "").all()]
    rows = rows.drop(columns=empty)
    return _flagged(rows, "Not preserved") if "Not preserved" in rows else rows.style


def findings(found: Sequence[Finding]) -> Styler:
    """A row a finding of the pre-flight check; one empty row where all is well."""
    rows = pd.DataFrame(
        [{"Layer": one.layer, "What": one.reason, "Remedy": one.remedy} for one in found]
        or [{"Layer": "all layers", "What": "nothing found", "Remedy": ""}]
    )
    return rows.style.hide(axis="index").set_properties(**{"white-space": "normal", "text-align": "left"})


def schemes(ours: Sequence[Finished], theirs: Sequence[Finished]) -> Styler:
    """A row a stage: TFMOT's scheme beside ours."""
    rows = {}
    for own, other in zip(ours, theirs, strict=True):
        for name, one in (("TFMOT", other), ("ours", own)):
            rows[own.stage.title, name] = {
                "Accuracy, INT8 file": percent(one.result["accuracy_int8"]),
                "INT8 file, raw → gzip, bytes (saved)": compression(
                    one.result["tflite_bytes"], one.result["gzip_bytes"]
                ),
                "Most values in a kernel": f"{one.result['unique_weights']:,}",
                "Set-up (s)": f"{one.result['setup_seconds']:.1f}",
                "Fit (s)": f"{one.result['fit_seconds']:.1f}",
                "Preserved": "yes" if one.result["preserved"] else "NO",
            }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(rows)
    return _flagged(frame, "Preserved")


def kernel_by_kernel(ours: Finished, theirs: Finished) -> Styler:
    """A row a kernel that pruning and clustering touch: what it holds after TFMOT's scheme and after ours."""
    frames = {"TFMOT": theirs.layers.set_index("layer"), "ours": ours.layers.set_index("layer")}
    touched = ours.eligible_layers()
    columns = {"Sparsity": "sparsity", "Values": "unique_tensor", "INT8 codes": "int8_unique_tensor"}
    rows = pd.DataFrame(
        {
            (title, name): [_cell(frame.loc[layer, column]) for layer in touched]
            for title, column in columns.items()
            for name, frame in frames.items()
        },
        index=touched,
    )
    rows["TFMOT did not preserve", ""] = list(frames["TFMOT"].loc[touched, "defect"])
    return _flagged(rows, ("TFMOT did not preserve", ""))


def coding(finished: Sequence[Finished]) -> Styler:
    """A row a stage: bytes of its int8 kernels raw, after gzip, and at their zero-order entropy."""
    rows = {one.stage.title: _coded([one.int8_values()[name] for name in one.eligible_layers()]) for one in finished}
    return pd.DataFrame.from_dict(rows, orient="index").style


def ranges(finished: Sequence[Finished]) -> Styler:
    """A row a stage whose int8 kernels share a range in the tensor, beside the file with a range a channel: accuracy,
    bytes, and what gzip and the zero-order entropy make of the kernels."""
    rows = {}
    for one in finished:
        if pd.isna(one.result["gzip_bytes_channel_ranges"]):
            continue
        kept, other = one.result, one.int8_values_with_channel_ranges()
        for where, accuracy, size, codes in (
            ("one a channel", kept["accuracy_int8_channel_ranges"], kept["gzip_bytes_channel_ranges"], other),
            ("one a kernel", kept["accuracy_int8"], kept["gzip_bytes"], one.int8_values()),
        ):
            rows[one.stage.title, where] = {
                "Accuracy, INT8 file": percent(accuracy),
                "Most codes in a kernel": max(audit.count_unique(codes[name]) for name in one.eligible_layers()),
                "INT8 file, gzip, bytes": f"{size:,}",
            } | _coded([codes[name] for name in one.eligible_layers()])
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(rows, names=["Stage", "Ranges"])
    return frame.style


def _coded(codes: list[np.ndarray]) -> dict[str, str]:
    bound, packed = sizes.compute_entropy_bytes(codes), sizes.compute_gzip_bytes(codes)
    return {
        "Kernels, bytes": f"{sum(code.size for code in codes):,}",
        "Entropy, bytes": f"{bound:,.0f}",
        "gzip, bytes": f"{packed:,}",
        "gzip ÷ entropy": f"{packed / bound:.3f}",
    }


def _cell(value: float) -> str:
    return percent(value, 1) if isinstance(value, float) else f"{value:,}"


def times(finished: Sequence[Finished]) -> Styler:
    """A row a stage: epochs, set-up and fit time in seconds, as when the stage was trained."""
    rows = pd.DataFrame(
        {
            "Epochs": one.result["epochs"],
            "Set-up (s)": f"{one.result['setup_seconds']:.1f}",
            "Fit (s)": f"{one.result['fit_seconds']:.1f}",
        }
        for one in finished
    )
    rows.index = pd.Index([one.stage.title for one in finished])
    return rows.style


def verdicts(finished: Sequence[Finished]) -> Styler:
    """A row a stage that must keep something: what it must keep, whether it did, and where it did not."""
    keeping = [one for one in finished if one.stage.keeps_zeros or one.stage.clusters]
    if not keeping:
        return pd.DataFrame({"": ["no stage here has anything to keep"]}).style.hide(axis="index")
    rows = pd.DataFrame(
        {
            "Must keep": " and ".join(
                ["every zero of its parent"] * one.stage.keeps_zeros + ["the clusters"] * one.stage.clusters
            ),
            "Preserved": "yes" if one.result["preserved"] else "NO",
            "Kernels at fault": ", ".join(one.layers[one.layers["defect"] != ""]["layer"]) or "none",
            "First of them": next((defect for defect in one.layers["defect"] if defect), ""),
        }
        for one in keeping
    )
    rows.index = pd.Index([one.stage.title for one in keeping], name="Stage")
    return _flagged(rows, "Preserved")


def guide(run: Run, table: str) -> Styler:
    """A results table as TFMOT's guides print it, the published figures of the same model and data above ours."""
    columns, known = STAGES[table].guide, published.read_table(run.experiment, table)
    ours = {stage: run.stage(stage).result for stage in columns}
    accuracy, int8 = "FP32 or fake-INT8 top-1 accuracy", "INT8 top-1 accuracy"
    zipped, gzipped = "INT8 file, raw → ZIP, bytes (saved)", "INT8 file, raw → gzip, bytes (saved)"
    rows = {
        (accuracy, "published"): [percent(published.find_value(known, stage, "accuracy")) for stage in columns],
        (accuracy, "ours"): [percent(ours[stage]["accuracy"]) for stage in columns],
        (int8, "published"): [percent(published.find_value(known, stage, "accuracy_int8")) for stage in columns],
        (int8, "ours"): [percent(ours[stage]["accuracy_int8"]) for stage in columns],
        (zipped, "published"): [_published_size(known, stage) for stage in columns],
        (zipped, "ours"): [compression(ours[stage]["tflite_bytes"], ours[stage]["zip_bytes"]) for stage in columns],
        (gzipped, "ours"): [compression(ours[stage]["tflite_bytes"], ours[stage]["gzip_bytes"]) for stage in columns],
    }
    rows = {name: cells for name, cells in rows.items() if any(cells)}  # nothing published: no empty row
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[STAGES[stage].title for stage in columns])
    frame.index = pd.MultiIndex.from_tuples(rows)
    caption = f"{table.upper()} table: {run.experiment.name}, seed {run.experiment.seed}"
    return frame.style.set_table_attributes('class="guide"').set_caption(caption)


def compared(rows: pd.DataFrame, *figures: str) -> Styler:
    """A row a published stage: those figures of `comparison.figures`, published and ours (± standard deviation over
    seeds), with the verdict where a figure is judged."""
    judged = comparison.judge(rows)
    cells: dict[tuple, dict] = {}
    chosen = rows[rows["figure"].isin(figures)]
    if chosen["published"].isna().all():
        return pd.DataFrame({"": ["nothing is published of this model and data set"]}).style.hide(axis="index")
    for index, row in chosen.iterrows():
        line = cells.setdefault((row["table"], comparison.format_setting(row)), {})
        name = comparison.NAMES[row["figure"]]
        line[name, "published"] = comparison.format_points(row["published"])
        line[name, "ours"] = comparison.format_with_deviation(row)
        if index in judged.index and pd.notna(row["published"]):
            line[name, "verdict"] = comparison.format_verdict(judged.loc[index])
    cells = {at: line for at, line in cells.items() if any(line[name] for name in line if name[1] == "published")}
    columns = [(comparison.NAMES[one], kind) for one in figures for kind in ("published", "ours", "verdict")]
    frame = pd.DataFrame.from_dict(cells, orient="index").reindex(columns=pd.MultiIndex.from_tuples(columns))
    frame = frame.dropna(axis="columns", how="all").fillna("")
    frame.index = pd.MultiIndex.from_tuples(cells, names=["Table", "Stage"])
    bad = frame.map(lambda cell: _BAD if cell == "worse" else "")
    return frame.style.apply(lambda _: bad, axis=None).set_table_attributes('class="guide"')


def _published_size(known: pd.DataFrame, stage: str) -> str:
    megabytes = published.find_value(known, stage, "compressed_megabytes")
    if megabytes is not None:
        return f"{megabytes:g} MB compressed"
    return compression(
        published.find_value(known, stage, "tflite_bytes"), published.find_value(known, stage, "compressed_bytes")
    )


def _flagged(rows: pd.DataFrame, column: str) -> Styler:
    """Red, and in words, where the column says that something was not preserved."""
    bad = ~rows[column].isin(["", "yes"])
    return rows.style.apply(lambda cells: [_BAD if bad[index] else "" for index in cells.index], subset=[column])
