"""The verdict of a report: the recommended file, what it costs against the baseline, and what else there is."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config.metrics import get_metric, get_targets
from collabopt.deploy import recommendation, targets
from collabopt.deploy.recommendation import Recommendation
from collabopt.report import provenance

_LINKS = {
    ".md": "model card",
    ".json": "model card as JSON",
    ".h": "C header",
    ".c": "C source",
    ".cc": "C++ source",
    ".npz": "test vectors",
}
_SOURCES = ".h", ".c", ".cc"
_AGAINST_FLOAT = {"gzip_bytes": "file after gzip", "tflite_bytes": "file", "latency_ms": "latency on this host"}
_NPU = "npu_ms", "npu_sram_kib", "npu_flash_kib"
_BASE, _NPU_BASE = "the float32 baseline", "the int8 baseline"
"""The second is for an NPU, which runs no float32."""


def make_verdict(directory: Path, experiment: str) -> dict[str, Any]:
    """Return the variables of `verdict.html.j2` for a report `directory` and commands on its `experiment`.

    Without a table of files they only say how to get one.
    """
    found = recommendation.recommend(directory)
    if found is None:
        return {"command": f"{provenance.format_command(directory, experiment)} NOTEBOOKS=deployment_tree"}
    limit = f"max_gzip_bytes={0.9 * found.variant['gzip_bytes']:.0f}"
    if found.smaller:  # it was refused for its drop, which whoever wants it has to allow
        target = "max_accuracy_drop" if found.score.name == "accuracy" else "max_metric_drop"
        drop = math.ceil(1000 * max(found.get_drop(found.smaller[0])[0], 0)) / 1000
        limit = f"{target}={drop:g} max_gzip_bytes={found.smaller[0]['gzip_bytes']:.0f}"
    figures = _list_figures(found, directory)
    return {
        "name": found.name,
        "misses": found.describe_misses(),
        "sentence": _describe(found),
        "warning": found.warning,
        "figures": figures,
        "has_npu_baseline": any(_NPU_BASE in against for _, _, against in figures),
        "targets": _list_targets(found),
        "others": _list_others(found),
        "links": _list_links(directory, found),
        "command": "" if found.limits else provenance.format_command(directory, experiment, limit),
        "force": provenance.format_command(directory, experiment, "deploy_nearest=true") if found.misses else "",
    }


def make_sweep_verdict(directory: Path, experiment: str, cells: list[str]) -> dict[str, Any]:
    """Return `make_verdict` of the cell in `cells` of a sweep in `directory` whose recommended file is the smallest.

    A file that drops by more than the tolerance against the best baseline of all cells with its seed, and so with its
    validation examples, does not count. `experiment` is named in commands.
    """
    every = {cell: recommendation.recommend(directory / cell) for cell in cells}
    good = {cell: one for cell, one in every.items() if one and not one.misses}
    if not good:
        return {"command": f"make report EXPERIMENT={experiment}"}
    score = next(iter(good.values())).score  # a cell may have a worse baseline, such as one of few examples
    bases: dict[Any, float] = {}
    for one in good.values():
        seed, found = one.baseline.get("seed"), one.baseline[score.validation]
        bases[seed] = min(bases.get(seed, found), found, key=lambda value: score.compute_drop(0.0, value))
    drops, near = {}, []
    for cell, one in good.items():
        base = bases[one.baseline.get("seed")]
        drops[cell] = score.compute_drop(base, one.variant[score.validation])
        near += [cell] if targets.is_within(drops[cell], score.get_tolerance(base)) else []
    best = min(drops, key=drops.get)
    if near:
        best = min(near, key=lambda cell: good[cell].variant["gzip_bytes"])
    verdict = make_verdict(directory / best, experiment)
    links = [(f"{best}/{address}", label) for address, label in verdict["links"]]
    return verdict | {"name": f"{verdict['name']} of {best}", "links": links}


def describe_drop(found: Recommendation, row: dict[str, Any]) -> str:
    """Return the drop on validation of a `row` of what is `found`: "drops by 0.46 ± 0.93 points against the …"."""
    drop, noise = found.get_drop(row)
    verb = "drops" if drop > 0 else "rises"
    if found.score.lower_is_better:
        verb = "rises" if drop > 0 else "drops"
    if drop == 0:
        return f"does not change against {_BASE} ({found.score.format_spread(0.0, noise, is_drop=True)})"
    amount = found.score.format_spread(abs(drop), noise, is_drop=True)
    within = ", within noise" if abs(drop) <= noise else ""
    return f"{verb} by {amount} against {_BASE}{within}"


def _describe(found: Recommendation) -> str:
    size = get_metric("gzip_bytes")
    factor = found.baseline[size.name] / found.variant[size.name]
    shrinks = f"{factor:.1f} times smaller than {_BASE}" if factor > 1.05 else f"as large as {_BASE}"
    return (
        f"{size.format(found.variant[size.name])} {size.unit} after gzip, {shrinks}. On validation, "
        f"{found.score.title} {describe_drop(found, found.variant)}{_describe_test(found)}."
    )


def _describe_test(found: Recommendation) -> str:
    """The drop on test, if it exceeds noise, which validation may not have shown."""
    score, (drop, noise) = found.score, found.get_drop(found.variant, "test")
    if not drop > noise:
        return ""
    verb = "rises" if score.lower_is_better else "drops"
    return f"; on test it {verb} by {score.format_spread(drop, noise, is_drop=True)}, more than noise"


def _list_figures(found: Recommendation, directory: Path) -> list[tuple[str, str, str]]:
    """Title, value and comparison of each figure of the recommended file."""
    row, base, score = found.variant, found.baseline, found.score
    figures = []
    for split, column in (("test", score.test), ("validation", score.validation)):
        examples, error = row.get(f"{split}_examples", math.nan), row.get(f"{column}_error", math.nan)
        if pd.isna(row[column]) or pd.isna(examples):
            continue
        value = f"{score.format_spread(row[column], score.get_noise(error, examples))} (n = {examples:,.0f})"
        drop, noise = found.get_drop(row, split)
        against = "" if pd.isna(drop) else f"drop {score.format_spread(drop, noise, is_drop=True)} against "
        against += "" if pd.isna(drop) else f"{score.format(base[column])} of {_BASE}"
        within = ", within noise" if abs(drop) <= noise else ""
        figures.append((f"{score.title} on {split}", value, against + within))
    figures += [_compare(name, row, base, _BASE, title) for name, title in _AGAINST_FLOAT.items()]
    rows = pd.read_csv(directory / "variants.csv")
    int8 = rows[(rows["stage"] == base["stage"]) & (rows["format"] == "int8")].to_dict("records")
    for name in _NPU:
        title = f"{get_metric(name).title.removeprefix('NPU ')} on {row.get('accelerator')}, by Vela"
        figures.append(_compare(name, row, int8[0] if int8 else {}, _NPU_BASE, title))
    return [figure for figure in figures if figure[1]]


def _compare(name: str, row: dict[str, Any], base: dict[str, Any], base_name: str, title: str) -> tuple[str, str, str]:
    metric, value, other = get_metric(name), row.get(name, math.nan), base.get(name, math.nan)
    if pd.isna(value):
        return title, "", ""
    is_same = all(row[key] == base.get(key) for key in ("stage", "format"))
    against = f"{value / other:.2f} times {base_name}" if other else ""
    return title, f"{metric.format(value)} {metric.unit}", "" if pd.isna(other) or is_same else against


def _list_targets(found: Recommendation) -> list[tuple[str, str, str, bool]]:
    """Title, limit, value and whether it is met, of each target."""
    base, lines = found.baseline[found.score.validation], []
    for name, limit in found.limits.items():
        metric, cost = get_targets()[name], targets.get_cost(found.variant, name, base)
        value = f"{metric.format(cost, 'not known')} {metric.unit}" if math.isfinite(cost) else "not known"
        if metric.name in _NPU and (on_cpu := 1 - found.variant.get("npu_operators", 1)) > 0:
            value += f" (without {100 * on_cpu:.0f} % of the operators, which the NPU cannot run)"
        lines.append((metric.title, f"{metric.format(limit)} {metric.unit}", value, name not in found.misses))
    return lines


def _list_others(found: Recommendation) -> list[tuple[str, str, str]]:
    """Title, name and description of the alternatives."""
    size, lines = get_metric("gzip_bytes"), []
    others = [("On a microcontroller or NPU", found.on_device)] if found.on_device else []
    others += [("Smaller, but", row) for row in found.smaller]
    others += [("More accurate, but", found.more_accurate)] if found.more_accurate else []
    for title, row in others:
        text = f"{size.format(row[size.name])} {size.unit} after gzip ({_format_change(found, row)}); on "
        text += f"validation, {found.score.title} {describe_drop(found, row)}"
        reason = found.explain_refusal(row) if title.startswith("Smaller") else ""
        lines.append((title, targets.format_variant(row), f"{text}: {reason}" if reason else text))
    return lines


def _format_change(found: Recommendation, row: dict[str, Any]) -> str:
    percent = 100 * (row["gzip_bytes"] / found.variant["gzip_bytes"] - 1)
    change = f"{abs(percent):,.{0 if abs(percent) >= 1 else 1}f} % {'less' if percent < 0 else 'more'}"
    return f"{change} than {found.name}"


def _list_links(directory: Path, found: Recommendation) -> list[tuple[str, str]]:
    """Address and label of the file, its card and sources, and the page of the search."""
    more = [path for path in sorted((directory / "deployed").glob("*")) if path.is_file() and path.suffix != ".tflite"]
    more.sort(key=lambda path: [*_LINKS, path.suffix].index(path.suffix))
    shown = [(path.relative_to(directory).as_posix(), _name_link(path)) for path in more]
    pages = [page for page in ("search.html", "deployment_tree.html") if (directory / page).is_file()]
    return [(found.file, "the file"), *shown, *((page, "how it was chosen") for page in pages[:1])]


def _name_link(path: Path) -> str:
    label = _LINKS.get(path.suffix, path.name)
    return f"{label} {path.name}" if path.suffix in _SOURCES else label
