"""Released reports agree with what is committed: the experiment's file, the README's table, and themselves."""

import json
import os
import subprocess
from pathlib import Path

import bs4
import pandas as pd
import pytest

import remove_dead_links as dead_links
from collabopt.analysis import comparison
from collabopt.config import loading
from collabopt.config.stages import get_label
from collabopt.storage import results

REPORTS = loading.ROOT / "reports"
MEGABYTES = 1_000_000


def git(*words: str) -> list[str]:
    """The lines that git prints; none where this is no clone."""
    done = subprocess.run(["git", *words], cwd=loading.ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def released() -> list[Path]:
    """The report directories that are committed."""
    return [(loading.ROOT / path).parent for path in git("ls-files", "reports/*/run.json")]


@pytest.fixture(params=released(), ids=lambda path: path.name)
def report(request) -> Path:
    return request.param


def test_a_report_is_there():
    if not (loading.ROOT / ".git").exists():
        pytest.skip("not a clone: git does not tell what is committed")
    assert "speech_commands-ds_cnn_l" in [path.name for path in released()]


def test_a_report_is_of_the_experiment_as_it_is(report):
    run = json.loads((report / "run.json").read_text(encoding="utf-8"))
    assert run["experiment_sha256"] == loading.compute_digest(report.name), f"run make report EXPERIMENT={report.name}"
    assert not run["commit"].endswith("+changes")


def test_a_report_is_whole_and_small(report):
    commit = json.loads((report / "run.json").read_text(encoding="utf-8"))["commit"]
    notebooks = {Path(path).stem for path in git("ls-tree", "--name-only", commit, "notebooks/") if "." in path}
    # Not every run runs every notebook: TFMOT's schemes, beside ours, may want more memory than there is.
    assert {"index", "deployment_tree"} <= {path.stem for path in report.glob("*.html")} <= notebooks | {"index"}
    files = git("ls-files", str(report))
    assert sum((loading.ROOT / path).stat().st_size for path in files) < 5 * MEGABYTES


def test_no_link_of_a_report_is_dead(report):
    committed = {str(loading.ROOT / path) for path in git("ls-files", "reports")}
    for page in report.glob("*.html"):
        body = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        found = {page.parent / target for target in dead_links.targets(body)}
        dead = {os.path.normpath(target) for target in found} - committed
        assert not dead, f"{page.name}: commit these, or run lib/remove_dead_links.py where only the committed are"


def test_every_stage_of_our_scheme_is_preserved_in_a_report(report):
    rows = results.read(report / "results.csv")
    ours = rows[rows["scheme"] == "collabopt"]
    assert set(ours["stage"]) == {"pqat", "clustered", "cqat", "sparse_clustered", "pcqat"}
    assert set(ours["preserved"].astype(str)) == {"True"}
    assert rows.loc[rows["scheme"].isna(), "preserved"].isna().all()


def test_a_comparison_is_of_the_rows_beside_it(report):
    rows = results.read(report / "results.csv")
    ours = rows[rows["scheme"] != "tfmot"].groupby("stage")
    compared = comparison.read(report)
    for figure in ("accuracy", "accuracy_int8"):
        of = compared[(compared["figure"] == figure) & compared["ours"].notna()]
        pd.testing.assert_series_equal(
            of["ours"].reset_index(drop=True),
            of["stage"].map(ours[figure].mean()).reset_index(drop=True),
            check_names=False,
        )


@pytest.mark.parametrize("name", ["speech_commands-ds_cnn_l", "cifar10-mobilenet_v1"])
def test_the_tables_of_the_readme_are_those_of_the_reports(name):
    if not (REPORTS / name / "comparison.csv").is_file():
        pytest.skip(f"no report of {name} is released")
    text = (loading.ROOT / "README.md").read_text(encoding="utf-8")
    table = comparison.format_markdown(comparison.judge(comparison.read(REPORTS / name)))
    assert table in text, f"put the output of make verify EXPERIMENT={name} into the README"


CLUSTERS = {
    "8 a tensor": "speech_commands-ds_cnn_l",
    "8 a channel": "speech_commands-ds_cnn_l-per_channel",
    "4 a tensor": "speech_commands-ds_cnn_l-4_clusters",
    "4 a channel": "speech_commands-ds_cnn_l-per_channel-4_clusters",
}


def clusters_table() -> str:
    """INT8 accuracy, mean ± standard deviation over seeds, and gzip size of what clustering leaves of DS-CNN-L."""
    stages = {"clustered": "clustered", "cqat": "CQAT", "sparse_clustered": "sparse clustered", "pcqat": "PCQAT"}
    lines = [f"| clusters | {' | '.join(f'{title}, INT8 (%)' for title in stages.values())} | PCQAT, gzip (kB) |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for title, name in CLUSTERS.items():
        rows = results.read(REPORTS / name / "results.csv")
        of = rows[rows["scheme"] == "collabopt"].groupby("stage")
        mean, deviation = 100 * of["accuracy_int8"].mean(), 100 * of["accuracy_int8"].std()
        cells = [f"{mean[stage]:.2f} ± {deviation[stage]:.2f}" for stage in stages]
        lines.append(f"| {title} | {' | '.join(cells)} | {of['gzip_bytes'].mean()['pcqat'] / 1000:.1f} |")
    return "\n".join(lines)


def test_the_table_of_clusters_in_the_readme_is_that_of_the_reports():
    missing = [name for name in CLUSTERS.values() if not (REPORTS / name / "results.csv").is_file()]
    if missing:
        pytest.skip(f"no report of {', '.join(missing)} is released")
    assert clusters_table() in (loading.ROOT / "README.md").read_text(encoding="utf-8"), clusters_table()
    rows = {name: results.read(REPORTS / name / "results.csv") for name in CLUSTERS.values()}
    assert {tuple(sorted(set(one["seed"]))) for one in rows.values()} == {(0, 1, 2)}


WHOLE = (
    "all four techniques",
    "batch wall time",
    "training step",
    "int8 evaluation",
    "all notebooks, cold",
    "nothing to do",
    "sweep of 8",
    "two Slurm slots",
    "peak memory of a notebook's kernel",
)


def speed_table() -> str:
    """The figures of whole batches and sweeps that have a goal."""
    rows = pd.read_csv(REPORTS / "benchmarks.csv").dropna(subset=["goal"])
    rows = rows[rows["figure"].str.startswith(WHOLE)].sort_values(
        "figure", kind="stable", key=lambda names: names.map(_place)
    )
    lines = ["| figure | of | measured | goal |", "| --- | --- | ---: | ---: |"]
    for row in rows.itertuples():
        value = f"{row.value:.2f}" if row.value < 10 else f"{row.value:.0f}"
        lines.append(f"| {row.figure} | {row.subject} | {value if row.met else f'**{value}**'} | {row.goal} |")
    return "\n".join(lines)


def _place(figure: str) -> int:
    return next(position for position, name in enumerate(WHOLE) if figure.startswith(name))


def test_the_table_of_speed_in_the_readme_is_that_of_the_benchmarks():
    assert speed_table() in (loading.ROOT / "README.md").read_text(encoding="utf-8"), speed_table()


def npu_table() -> str:
    """What Vela estimates of the int8 files of DS-CNN-L by our scheme, seed 0."""
    leaves = pd.read_csv(REPORTS / "speech_commands-ds_cnn_l" / "leaves.csv")
    rows = leaves[leaves["format"].eq("int8") & leaves["seed"].eq(0) & leaves["scheme"].ne("tfmot")]
    lines = ["| int8 file | weights, encoded (bytes) | flash (KiB) | SRAM (KiB) | cycles | inference (ms) |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows.itertuples():
        memory = f"{row.npu_flash_kib:,.0f} | {row.npu_sram_kib:,.0f}"
        lines.append(
            f"| {get_label(row.stage)} | {row.npu_weight_bytes:,.0f} | {memory} | {row.npu_cycles:,.0f} "
            f"| {row.npu_ms:.2f} |"
        )
    return "\n".join(lines)


def test_the_table_of_the_npu_in_the_readme_is_that_of_the_report():
    assert npu_table() in (loading.ROOT / "README.md").read_text(encoding="utf-8"), npu_table()
