"""Released reports agree with what is committed: the experiment's file, the figures in both READMEs, and themselves."""

import hashlib
import json
import math
import os
import subprocess
from pathlib import Path

import bs4
import pandas as pd
import pytest
import yaml

import remove_dead_links as dead_links
from collabopt.analysis import comparison, judgement
from collabopt.config import loading
from collabopt.config.stages import get_label
from collabopt.report import verification
from collabopt.storage import results

REPORTS = loading.ROOT / "reports"
DS_CNN_L = "speech_commands-ds_cnn_l"
README = loading.ROOT / "README.md"
BENCHMARKS = loading.ROOT / "benchmarks" / "README.md"
MEGABYTES = 1_000_000


def git(*words: str) -> list[str]:
    """The lines that git prints; none outside a clone."""
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
        pytest.skip("not a clone: git does not know what is committed")
    assert "speech_commands-ds_cnn_l" in [path.name for path in released()]


def read_at(commit: str, path: Path) -> bytes:
    """A file as a commit has it."""
    command = ["git", "show", f"{commit}:{path.relative_to(loading.ROOT).as_posix()}"]
    return subprocess.run(command, cwd=loading.ROOT, capture_output=True, check=True).stdout


def test_a_report_is_of_the_experiment_as_it_is(report):
    """Since the run, only comments may have changed, and keys been added that hold what was the default then."""
    run = json.loads((report / "run.json").read_text(encoding="utf-8"))
    assert not run["commit"].endswith("+changes")
    files = loading.list_files(report.name)
    then = [read_at(run["commit"], file) for file in files]
    assert run["experiment_sha256"] == hashlib.sha256(b"".join(then)).hexdigest()
    for before, file in zip(map(yaml.safe_load, then), files, strict=True):
        now = yaml.safe_load(file.read_bytes())
        added = {key: run["experiment"][key] for key in now.keys() - before.keys()}
        assert now == before | added, f"run make report EXPERIMENT={report.name}"


def test_a_report_is_whole_and_small(report):
    commit = json.loads((report / "run.json").read_text(encoding="utf-8"))["commit"]
    notebooks = {Path(path).stem for path in git("ls-tree", "--name-only", commit, "notebooks/") if "." in path}
    # Not every run runs every notebook: TFMOT's schemes, beside ours, may want more memory than there is.
    pages = {path.stem for path in report.glob("*.html")}
    assert "index" in pages <= notebooks | {"index"}
    assert pages & {"deployment_tree", "search"}, "one of them chooses the file"
    files = git("ls-files", str(report))
    assert sum((loading.ROOT / path).stat().st_size for path in files) < 5 * MEGABYTES


def test_no_link_of_a_report_is_dead(report):
    committed = {str(loading.ROOT / path) for path in git("ls-files", "reports")}
    for page in report.glob("*.html"):
        links = bs4.SoupStrainer("a")
        body = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser", parse_only=links)
        found = {page.parent / target for target in dead_links.targets(body)}
        dead = {os.path.normpath(target) for target in found} - committed
        assert not dead, f"{page.name}: commit these, or run lib/remove_dead_links.py where only the committed are"


def test_every_stage_of_our_scheme_is_preserved_in_a_report(report):
    rows = results.read(report / "results.csv")
    ours = rows[rows["scheme"] == "collabopt"]
    stages, chosen = {"pqat", "clustered", "cqat", "sparse_clustered", "pcqat"}, report / "deployment_tree.html"
    assert set(ours["stage"]) == stages if chosen.exists() else set(ours["stage"]) <= stages
    assert set(ours["preserved"].astype(str)) == {"True"}
    others = rows[rows["scheme"].isna()]  # only a pattern must survive in these
    kept = others["stage"].eq("pruned") & ("2_of_4" in report.name)
    assert set(others.loc[kept, "preserved"].astype(str)) <= {"True"}
    assert others.loc[~kept, "preserved"].isna().all()


def test_a_comparison_is_of_the_rows_beside_it(report):
    rows = results.read(report / "results.csv")
    ours = rows[rows["scheme"] != "tfmot"].groupby("stage")
    if not (report / "comparison.csv").exists():
        assert not (report / "published.html").exists()
        return
    compared = comparison.read(report)
    for figure in ("accuracy", "accuracy_int8"):
        of = compared[(compared["figure"] == figure) & compared["ours"].notna()]
        pd.testing.assert_series_equal(
            of["ours"].reset_index(drop=True),
            of["stage"].map(ours[figure].mean()).reset_index(drop=True),
            check_names=False,
        )


def verdicts_table() -> str:
    """How many of the comparable published figures each released report reproduces, as `make verify` counts."""
    lines = ["| experiment | verdicts |", "| --- | --- |"]
    for name in (DS_CNN_L, "cifar10-mobilenet_v1", "imagenet20-mobilenet_v1", "imagenet20-mobilenet_v2"):
        counts = judgement.judge(comparison.read(REPORTS / name))["verdict"].value_counts()
        texts = [f"{counts[verdict]} {verdict}" for verdict in judgement.VERDICTS[:-1] if verdict in counts]
        lines.append(f"| `{name}` | {', '.join(texts)} |")
    judged = verification.judge_reports(verification.read_comparisons(REPORTS))
    counted = verification.count_verdicts(judged[judged["verdict"] != judgement.INCOMPARABLE])
    lines.append(f"| all reports, each figure once | {counted.rpartition(', ')[0]} |")
    return "\n".join(lines)


def test_the_verdicts_in_the_readme_are_those_of_the_reports():
    assert verdicts_table() in README.read_text(encoding="utf-8"), verdicts_table()


def gain_line() -> str:
    """What PCQAT gains for DS-CNN-L: size after gzip and INT8 accuracy on test, and flash by Vela; seed 0."""
    report = REPORTS / "speech_commands-ds_cnn_l"
    rows, variants = results.read(report / "results.csv"), pd.read_csv(report / "variants.csv")
    rows = rows[rows["seed"].eq(0) & rows["scheme"].ne("tfmot")].set_index("stage")
    of_int8 = variants["format"].eq("int8") & variants["seed"].eq(0) & variants["scheme"].ne("tfmot")
    flash = variants[of_int8].set_index("stage")["npu_flash_kib"]
    gzip_bytes, accuracy = rows["gzip_bytes"], 100 * rows["accuracy_int8"]
    return (
        f"baseline → PCQAT: gzip {gzip_bytes['baseline']:,.0f} → {gzip_bytes['pcqat']:,.0f} bytes, "
        f"INT8 accuracy {accuracy['baseline']:.2f} → {accuracy['pcqat']:.2f} %, "
        f"NPU flash {flash['baseline']:.0f} → {flash['pcqat']:.0f} KiB"
    )


def test_the_gain_in_the_readme_is_that_of_the_report():
    assert gain_line() in README.read_text(encoding="utf-8").splitlines(), gain_line()


CLUSTERS = {
    "32 per tensor": "speech_commands-ds_cnn_l-32_clusters",
    "8 per tensor": "speech_commands-ds_cnn_l",
    "8 per channel": "speech_commands-ds_cnn_l-per_channel",
    "4 per tensor": "speech_commands-ds_cnn_l-4_clusters",
    "4 per channel": "speech_commands-ds_cnn_l-per_channel-4_clusters",
}


def clusters_table() -> str:
    """INT8 accuracy, mean ± standard deviation over seeds, and gzip size of DS-CNN-L after clustering."""
    stages = {"clustered": "clustered", "cqat": "CQAT", "sparse_clustered": "sparse clustered", "pcqat": "PCQAT"}
    lines = [f"| clusters | {' | '.join(f'{title}, INT8 (%)' for title in stages.values())} | PCQAT, gzip (kB) |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for title, name in CLUSTERS.items():
        rows = results.read(REPORTS / name / "results.csv")
        of = rows[rows["scheme"] == "collabopt"].groupby("stage")
        mean, deviation = 100 * of["accuracy_int8"].mean(), 100 * of["accuracy_int8"].std()
        spread = {stage: f" ± {one:.2f}" for stage, one in deviation.dropna().items()}
        cells = [f"{mean[stage]:.2f}{spread.get(stage, '')}" for stage in stages]
        lines.append(f"| {title} | {' | '.join(cells)} | {of['gzip_bytes'].mean()['pcqat'] / 1000:.1f} |")
    return "\n".join(lines)


def test_the_table_of_clusters_is_that_of_the_reports():
    assert clusters_table() in BENCHMARKS.read_text(encoding="utf-8"), clusters_table()
    *first, _, _, _ = seeds = [{*results.read(REPORTS / name / "results.csv")["seed"]} for name in CLUSTERS.values()]
    assert first == [{0, 1, 2}] * 2, "the text says three seeds"
    assert seeds[2:] == [{0}] * 3, "the text says one seed"


def read_variants(report: str) -> pd.DataFrame:
    """The files of our scheme in a report, seed 0, by stage and format."""
    rows = pd.read_csv(REPORTS / report / "variants.csv")
    rows = rows[rows["seed"].eq(0) & rows["scheme"].ne("tfmot")]
    return rows.set_index(["stage", "format"])


def format_drop(rows: pd.DataFrame, stage: str, format: str) -> str:
    """The drop on test in points, ± two standard errors, against the float32 baseline."""
    drop = 100 * (rows.loc[("baseline", "float32"), "accuracy"] - rows.loc[(stage, format), "accuracy"])
    return f"{drop:.2f} ± {200 * rows.loc[(stage, format), 'test_drop_error']:.2f}"


def techniques_table() -> str:
    """What the techniques beyond the guides reach on DS-CNN-L, from their reports, beside the goals."""
    compared = comparison.read(REPORTS / "speech_commands-ds_cnn_l-2_of_4")
    pattern = compared[compared["sparsity_pattern"].eq("2:4") & compared["figure"].eq("drop")].iloc[0]
    sparse, half, ternary = (
        read_variants(f"{DS_CNN_L}-{name}") for name in ("80_percent", "half_the_filters", "ternary")
    )
    default, few = read_variants(DS_CNN_L), read_variants(f"{DS_CNN_L}-4_clusters")
    found = pd.read_csv(REPORTS / "speech_commands-ds_cnn_l-search" / "variants.csv")
    chosen = found[found["accuracy"].notna()].iloc[-1]
    base, dense, thin = (
        sparse.loc[key] for key in (("baseline", "float32"), ("pruned", "float32"), ("pruned", "float32_sparse"))
    )
    kept = half.loc["filter_pruned", "int8"]
    whole = half.loc["baseline", "int8"]
    limit = default.loc[("baseline", "float32"), "validation_accuracy"] - 0.01
    files = default.xs("int8", level="format")
    best = files.loc[files["validation_accuracy"].ge(limit), "gzip_bytes"].min()
    lines = [
        (
            "2:4 zeros, FP32: drop (points), three seeds",
            f"{100 * pattern['ours']:.2f} ± {200 * pattern['error']:.2f}",
            "≤ 0.90 + 2 SE",
        ),
        ("4 clusters, PCQAT: INT8 accuracy (%)", f"{100 * few.loc[('pcqat', 'int8'), 'accuracy']:.2f}", "≥ 92.6"),
        (
            "80 % zeros, 8 clusters, PCQAT: weights, encoded by Vela (bytes)",
            f"{sparse.loc[('pcqat', 'int8'), 'npu_weight_bytes']:,.0f}",
            "≤ 80,000",
        ),
        ("the same: INT8 drop (points)", format_drop(sparse, "pcqat", "int8"), "≤ 2"),
        (
            "80 % zeros, sparse float32 file ÷ dense file, bytes",
            f"{thin['tflite_bytes'] / dense['tflite_bytes']:.3f}",
            "≤ 0.35",
        ),
        ("the same: latency", f"{thin['latency_ratio'] / dense['latency_ratio']:.2f}", "≤ 0.75"),
        (
            "half of the filters, int8 ÷ the whole network's: latency",
            f"{kept['latency_ratio'] / whole['latency_ratio']:.2f}",
            "≤ 0.45",
        ),
        ("the same: NPU cycles", f"{kept['npu_cycles'] / whole['npu_cycles']:.2f}", "≤ 0.45"),
        ("half of the filters, FP32: drop (points)", format_drop(half, "filter_pruned", "float32"), "≤ 2"),
        ("ternary, PCQAT: file, gzip (bytes)", f"{ternary.loc[('pcqat', 'int8'), 'gzip_bytes']:,.0f}", "≤ 120,000"),
        ("the same: INT8 drop (points)", format_drop(ternary, "pcqat", "int8"), ""),
        (
            "search within a point: gzip bytes ÷ those of the smallest int8 file at default settings",
            f"{chosen['gzip_bytes'] / best:.2f}",
            "≤ 0.8",
        ),
        ("the same: trainings", f"{found['format'].eq('int8').sum()}", "≤ 12"),
        ("the same: FP32 file ÷ the file after gzip", f"{base['tflite_bytes'] / chosen['gzip_bytes']:.1f}", ""),
    ]
    return "\n".join(
        [
            "| figure | value | goal |",
            "| --- | ---: | ---: |",
            *(f"| {' | '.join(line)} |".replace("-", "−") for line in lines),
        ]
    )


def peers_table() -> str:
    """INT8 and INT4 files of the baselines of DS-CNN-L and ResNet8, by our converter and by other tools."""
    models = {"DS-CNN-L": f"{DS_CNN_L}-80_percent", "ResNet8": "cifar10-resnet8"}
    names = {
        "int8": "this workbook, int8",
        "openvino_int8": "NNCF, OpenVINO int8",
        "int4": "ai-edge-quantizer, int4 weights",
    }
    lines = [
        "| baseline of | in | accuracy (%) | file (bytes) | file, gzip (bytes) | latency ÷ float32 |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for model, report in models.items():
        for name, label in names.items():
            row = read_variants(report).loc["baseline", name]
            sizes = f"{row['tflite_bytes']:,.0f} | {row['gzip_bytes']:,.0f}"
            lines.append(f"| {model} | {label} | {100 * row['accuracy']:.2f} | {sizes} | {row['latency_ratio']:.2f} |")
    return "\n".join(lines)


def read_benchmarks() -> pd.Series:
    """Values of benchmarks.csv by figure and subject."""
    return pd.read_csv(REPORTS / "benchmarks.csv").set_index(["figure", "subject"])["value"]


def distillation_table() -> str:
    """Accuracy of DS-CNN-L with and without the teacher, means of three seeds."""
    values = read_benchmarks()
    lines = ["| case | with teacher, test (%) | gain on test | gain on validation |", "| --- | ---: | ---: | ---: |"]
    for case in ("2:4", "80 % zeros", "4 clusters", "binary"):
        figures = (
            "accuracy with distillation, test (%)",
            "accuracy with distillation − without, test (points)",
            "two standard errors of that difference (points)",
            "accuracy with distillation − without, validation (points)",
        )
        accuracy, gain, error, validation = (values[one, f"speech_commands-ds_cnn_l, {case}"] for one in figures)
        cells = f"{accuracy:.2f} | {gain:+.2f} ± {error:.2f} | {validation:+.2f}".replace("-", "−")
        lines.append(f"| {case} | {cells} |")
    return "\n".join(lines)


def test_the_tables_of_techniques_are_those_of_the_reports():
    for table in (techniques_table(), peers_table(), distillation_table()):
        assert table in BENCHMARKS.read_text(encoding="utf-8"), table


WAITS = (
    "first table of a notebook",
    "complete notebook",
    "set-up of QAT ÷",
    "conversion and evaluation in all formats",
    "memory after 40 conversions",
    "224×224 JPEG",
    "page of a network",
)
"""Figures of waiting, in the order of the table."""
BATCHES = (
    "all four techniques",
    "batch wall time",
    "training step",
    "int8 evaluation",
    "default report",
    "nothing to do",
    "peak memory of that batch",
    "sweep of 8",
    "sweep of 24",
    "two Slurm slots",
    "peak memory of a notebook's kernel",
)
"""Figures of whole batches and sweeps, in the order of the table."""
SCHEMES = (
    "set-up ÷ plain QAT's",
    "step ÷ plain QAT's",
    "peak memory ÷ plain QAT's",
    "unique values per kernel, Keras",
    "unique int8 values per kernel",
    "zeros lost, Keras and int8 (%)",
)
"""Figures of our scheme per model and stage, one column each."""
IMPORTS = (
    "models accepted with equal outputs",
    "import (s)",
    "peak memory of an import",
    "all eight stages preserved",
    "DEQUANTIZE operators",
)
"""Figures of users' models, in the order of the table."""
DIFFICULT = (
    "int8 accuracy minus its parent's PTQ",
    "int8 accuracy (%)",
    "int8 values of a ReLU's output",
    "operators on the CPU beside",
    "NPU cycles",
    "evaluation time ÷",
    "trial of all stages",
)
"""Figures of difficult data and of files, in the order of the table."""
BESIDE_TFMOT = {
    "Fashion-MNIST, 0.03": ("fashion_mnist", ""),
    "Fashion-MNIST, 0.06": ("fashion_mnist", ", rate 0.06"),
    "`digits`, 0.03": ("digits", ""),
    "`digits`, 0.06": ("digits", ", rate 0.06"),
    "DS-CNN-L, 0.03": ("speech_commands-ds_cnn_l", ""),
    "ResNet8, 16 clusters, 0.03": ("cifar10-resnet8", ""),
}
"""Label of a row: experiment, and ending of the subject."""
SEARCH_TRAININGS = "trainings until a file within 2 % of the smallest"
SEARCH_SIZE = "best file after 12 trainings ÷ the smallest"
SEARCHED = {
    "digits": "`digits`",
    "fashion_mnist": "Fashion-MNIST, a tenth",
    "speech_commands-ds_cnn_l": "DS-CNN-L, a tenth",
}
KEPT = (
    "unique values per kernel, clustered",
    "unique int8 values per kernel, clustered",
    "kernels that lost zeros or clusters",
)
"""Figures that meet their goal in every row."""


def read_goals() -> pd.DataFrame:
    """The benchmarks that have a goal, with the value as text; bold if it misses the goal."""
    rows = pd.read_csv(REPORTS / "benchmarks.csv").dropna(subset=["goal"])
    texts = [f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.2f}" for value in rows["value"]]
    return rows.assign(text=[text if met else f"**{text}**" for text, met in zip(texts, rows["met"], strict=True)])


def benchmark_table(names: tuple[str, ...]) -> str:
    """The benchmarks whose figure begins with one of the names, in this order, one line per figure and subject."""
    rows = read_goals()
    lines = ["| figure | subject | value | goal |", "| --- | --- | ---: | ---: |"]
    for name in names:
        for row in rows[rows["figure"].str.startswith(name)].itertuples():
            lines.append(f"| {row.figure} | {row.subject} | {row.text} | {row.goal} |")
    return "\n".join(lines)


def scheme_table() -> str:
    """The benchmarks of our scheme, one line per model and stage, one column per figure with its goal."""
    rows = read_goals()
    rows = rows[rows["figure"].isin(SCHEMES)]
    goals = rows.drop_duplicates(["figure", "goal"]).set_index("figure")["goal"]
    cells = rows.set_index(["subject", "figure"])["text"]
    lines = [f"| subject | {' | '.join(f'{name}: {goals[name]}' for name in SCHEMES)} |"]
    lines.append("| --- |" + " ---: |" * len(SCHEMES))
    for subject in rows["subject"].unique():
        lines.append(f"| {subject} | {' | '.join(cells[subject][[*SCHEMES]])} |")
    return "\n".join(lines)


def beside_tfmot_table() -> str:
    """Accuracy and size of our scheme beside TFMOT's, one line per experiment and rate."""
    stages = ("clustered", "CQAT", "sparse clustered", "PCQAT")
    values = read_benchmarks()
    lines = [f"| subject, `cluster_rate` | {' | '.join(stages)} |", "| --- |" + " ---: |" * len(stages)]
    for label, (name, ending) in BESIDE_TFMOT.items():
        cells = []
        for subject in (f"{name}, {stage}{ending}" for stage in stages):
            mean, low, ratio = (
                values[figure, subject]
                for figure in (
                    "INT8 accuracy − TFMOT's (points)",
                    "INT8 accuracy − TFMOT's, lower end of 95 % (points)",
                    "gzip bytes ÷ TFMOT's",
                )
            )
            cells.append(f"{mean:+.2f} ± {2 * (mean - low) / 1.96:.2f}, {ratio:.2f} ×".replace("-", "−"))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def heads_table() -> str:
    """Accuracy of the ImageNet baselines, one line per model and size of the pictures."""
    values = read_benchmarks()
    lines = ["| model | pixels | over 1,000 classes (%) | over 20 classes (%) |", "| --- | ---: | ---: | ---: |"]
    for name in ("mobilenet_v1", "mobilenet_v2"):
        for size in (224, 160):
            found = (
                values[f"accuracy over {classes} classes (%)", f"{name}, {size} pixels"] for classes in ("1,000", "20")
            )
            lines.append(f"| {name} | {size} | {' | '.join(f'{value:.1f}' for value in found)} |")
    return "\n".join(lines)


def search_table() -> str:
    """Our rule of the search beside Optuna's, one line per experiment."""
    values = read_benchmarks()
    lines = ["| experiment | trainings: ours | Optuna | after 12 trainings: ours | Optuna |"]
    lines.append("| --- |" + " ---: |" * 4)
    for name, label in SEARCHED.items():
        cells = [f"{values[SEARCH_TRAININGS, f'{name}, {rule}']:.1f}" for rule in ("ours", "Optuna")]
        sizes = [values[SEARCH_SIZE, f"{name}, {rule}"] for rule in ("ours", "Optuna")]
        cells += [f"{size:.2f} ×" if math.isfinite(size) else "not always found" for size in sizes]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_tables_of_benchmarks_are_those_of_the_data():
    text = BENCHMARKS.read_text(encoding="utf-8")
    tables = map(benchmark_table, (DIFFICULT, WAITS, BATCHES, IMPORTS))
    for table in (*tables, scheme_table(), beside_tfmot_table(), heads_table(), search_table()):
        assert table in text, table


def test_every_benchmark_with_a_goal_is_in_a_table():
    rows = read_goals()
    shown = rows["figure"].isin(SCHEMES) | rows["figure"].str.startswith((*DIFFICULT, *WAITS, *BATCHES, *IMPORTS))
    experiments = tuple(name for name, _ in BESIDE_TFMOT.values())
    beside = rows["figure"].str.contains("TFMOT") & rows["subject"].str.startswith(experiments)
    rest = rows[~shown & ~beside & ~rows["figure"].isin(KEPT)]
    assert set(rest["figure"]) == {"INT8 accuracy (%)", "Vela's encoded bytes"}  # in the text
    assert rows.loc[rows["figure"].isin(KEPT), "met"].all()


def npu_table() -> str:
    """Vela's estimates for the int8 files of DS-CNN-L with our scheme, seed 0."""
    variants = pd.read_csv(REPORTS / "speech_commands-ds_cnn_l" / "variants.csv")
    rows = variants[variants["format"].eq("int8") & variants["seed"].eq(0) & variants["scheme"].ne("tfmot")]
    columns = "entropy of weights (bytes)", "weights, encoded (bytes)", "file, gzip (bytes)"
    lines = [f"| int8 file | {' | '.join(columns)} | flash (KiB) | SRAM (KiB) | cycles | inference (ms) |"]
    lines.append("| --- |" + " ---: |" * 7)
    for row in rows.itertuples():
        memory = f"{row.npu_flash_kib:,.0f} | {row.npu_sram_kib:,.0f}"
        sizes = f"{row.entropy_bytes:,.0f} | {row.npu_weight_bytes:,.0f} | {row.gzip_bytes:,.0f}"
        lines.append(f"| {get_label(row.stage)} | {sizes} | {memory} | {row.npu_cycles:,.0f} | {row.npu_ms:.2f} |")
    return "\n".join(lines)


def test_the_table_of_the_npu_is_that_of_the_report():
    assert npu_table() in BENCHMARKS.read_text(encoding="utf-8"), npu_table()
