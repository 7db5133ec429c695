"""Published sizes of files beside those in the tables of a report."""

from pathlib import Path

import numpy as np
import pandas as pd

from collabopt.config import published
from collabopt.config.experiment import Experiment
from collabopt.config.stages import BASELINE
from collabopt.storage import results

SETTING = ["stage", "clusters", "cluster_per_channel", "sparsity_pattern"]
"""What a figure was published for."""

COLUMNS = ["table", *SETTING, "figure", "published", "ours", "deviation", "error", "examples", "seeds"]
COLUMNS += ["train_fraction", "subset", "incomparable", "source"]
"""comparison.csv. `deviation` is the standard deviation over seeds, `error` the standard error of the mean over test
`examples`. `subset` says which part of the published classes is ours, if not all of them."""


def compare_sizes(rows: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """Compare published sizes of files with those in results.csv and variants.csv of a report `directory`.

    Args:
        rows: Rows of `compare_figures`, from which each published setting and its difference from ours are taken.
        directory: The directory.

    Returns:
        One row per published setting and size (`COLUMNS`): bytes, or fractions of the baseline's file.
    """
    known = published.read_of_name(published.name_model(results.read_run(directory)["experiment"]))
    values = {key: dict(zip(one["metric"], one["value"], strict=True)) for key, one in _group_settings(known)}
    bases = {(table, source): one for (table, source, stage, *_), one in values.items() if stage == BASELINE}
    ours, found = _measure_sizes(directory), []
    for key, shared in _group_settings(rows[rows["figure"] == "zip_saved"]):
        table, source, stage, *_ = key
        base = bases.get((table, source), {}) if stage != BASELINE else {}
        setting = shared.iloc[0].to_dict() | dict.fromkeys(("ours", "deviation", "error", "examples"), np.nan)
        for figure, size in _derive_sizes(values.get(key, {}), base).items():
            part = setting["subset"]  # a head of fewer classes
            reason = setting["incomparable"] or (f"the network has {part}" if part else "")
            measured = {} if reason else ours.get((stage, figure), {})
            found.append(setting | {"figure": figure, "published": size, "incomparable": reason} | measured)
    return pd.DataFrame(found, columns=COLUMNS).astype({"published": float, "ours": float})


def _group_settings(rows: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """The `rows` of each table, source and setting, by a key that is equal in other tables, too: NaN is "" in it."""
    keys = rows[["table", "source", *SETTING]].astype(object).fillna("")
    return list(rows.groupby([keys[name] for name in keys], sort=False))


def _derive_sizes(values: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """The published sizes of a setting by figure, of which the ratios are to the published baseline, `base`.

    Where the raw file was published, too, `zip_saved` compares the compressed one.
    """
    sizes = {"int8_bytes": values["tflite_bytes"]} if "tflite_bytes" in values else {}
    if {"tflite_int8_megabytes", "tflite_fp32_megabytes"} <= set(values):
        sizes["quantized_ratio"] = values["tflite_int8_megabytes"] / values["tflite_fp32_megabytes"]
    for metric, figure in {
        "compressed_megabytes": "size_ratio",
        "compressed_fp32_megabytes": "float_size_ratio",
    }.items():
        if metric in values and metric in base:
            sizes[figure] = values[metric] / base[metric]
    return sizes


def _measure_sizes(directory: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Mean (`ours`) and standard deviation over seeds, by stage and figure; float32 files are those of one seed."""
    rows = _select_ours(results.read(directory / "results.csv"))
    base, found = rows[rows["stage"] == BASELINE].set_index("seed")["zip_bytes"], {}
    for stage, ones in rows.set_index("seed").groupby("stage"):
        measured = {"size_ratio": ones["zip_bytes"] / base, "int8_bytes": ones["tflite_bytes"]}
        found |= {(stage, figure): {"ours": one.mean(), "deviation": one.std()} for figure, one in measured.items()}
    if (directory / "variants.csv").is_file():
        files = _select_ours(pd.read_csv(directory / "variants.csv")).drop_duplicates(["format", "stage"])
        files = files.set_index(["format", "stage"])
        gzipped, raw = files["gzip_bytes"].to_dict(), files["tflite_bytes"].to_dict()
        whole = "float32", BASELINE
        for stage in {stage for name, stage in gzipped if name == "float32" and whole in gzipped}:
            found[stage, "float_size_ratio"] = {"ours": gzipped["float32", stage] / gzipped[whole]}
        if {whole, ("int8", BASELINE)} <= raw.keys():
            found[BASELINE, "quantized_ratio"] = {"ours": raw["int8", BASELINE] / raw[whole]}
    return found


def _select_ours(rows: pd.DataFrame) -> pd.DataFrame:
    """The `rows` with a file, without those of TFMOT's own scheme."""
    schemes = rows["scheme"].fillna("")
    return rows[rows["zip_bytes"].notna() & schemes.isin(["", Experiment.model_fields["scheme"].default])]
