"""Names of classes, files, layers and settings come from users: no page takes them for markup."""

import json
from pathlib import Path

import bs4
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from collabopt import figures
from collabopt.config import loading
from collabopt.report import front_page, index_page, notebook_page, report_comparison, sweep_page, tables
from collabopt.storage import results

KINDS = "experiment", "class", "predicted", "file", "layer", "column", "commit", "model", "data", "notebook"


def mark(kind: str) -> str:
    """A name with markup for elements, for attributes, and for matplotlib's mathematics."""
    return f"<script>{kind}</script>\"'><img src=x onerror={kind}()>$\\{kind}$&amp;"


@pytest.fixture
def report(tmp_path, monkeypatch) -> Path:
    """A report and its override whose every name has markup."""
    monkeypatch.setattr(loading, "REPORTS", tmp_path)
    monkeypatch.setattr(loading, "DATA", tmp_path / "data")
    for place in (tmp_path / "mine", tmp_path / "mine" / "seed=1"):
        (place / "figures").mkdir(parents=True)
        write_tables(place)
    return tmp_path / "mine"


def write_tables(place: Path) -> None:
    stages = {"stage": ["baseline", "pcqat"], "scheme": ["", "collabopt"], "seed": 0, "experiment": mark("experiment")}
    scores = {"validation_accuracy": [0.9, 0.8], "validation_examples": 100, "validation_drop_error": 0.01}
    sizes = {"tflite_bytes": [4000, 1000], "gzip_bytes": [3000, 900], "accuracy_int8": 0.9, "accuracy": 0.9}
    rows = pd.DataFrame(stages | scores | sizes | {"preserved": ["", "False"], "train_fraction": 1.0})
    results_rows = rows.assign(validation_accuracy_int8=0.9, options=mark("class")).reindex(
        columns=dict.fromkeys([*results.KEY, *rows, "validation_accuracy_int8"])
    )
    results_rows.to_csv(place / "results.csv", index=False)
    about = {"format": ["float32", "int8"], "tflite": ["models/<b>.tflite", "models/pcqat.tflite"], "unavailable": ""}
    rows.assign(**about, npu_note=mark("layer"), accelerator=mark("model")).to_csv(place / "variants.csv", index=False)
    layers = pd.DataFrame(
        {"stage": ["baseline", "pcqat"], "layer": mark("layer"), "kind": "dense", "seed": 0, "weights": 9}
    )
    layers.assign(sparsity=0.5, unique_tensor=8).to_csv(place / "layers.csv", index=False)
    made = list_changes()
    for name, changed in made.items():
        changed.to_csv(place / f"changed_{name}.csv", index=False)
    times = {"began": "2026-01-01T00:00:01+00:00", "ended": "2026-01-01T00:00:09+00:00", "origin": "trained"}
    line = {"notebook": mark("notebook"), "stage": "pcqat", "scheme": "", "seed": 0} | times
    pd.DataFrame([line]).to_csv(place / "timeline.csv", index=False)
    experiment = {"name": mark("experiment"), "seed": 0, "note": f"{mark('column')} {place.name}"}
    experiment |= {"model": {"name": mark("model")}, "dataset": {"path": mark("data")}}
    run = {"experiment": experiment, "commit": mark("commit"), "start": "2026-01-01T00:00:00+00:00", "seed": 0}
    (place / "run.json").write_text(json.dumps(run))
    curve = {"stage": "pcqat", "epoch": [1, 2], "val_accuracy": 0.5}
    pd.DataFrame(curve).to_csv(place / "figures" / "pcqat-training.csv", index=False)
    density = {"label": mark("layer"), "value": [0.0, 1.0], "width": 1.0, "count": 1, "share": 0.5}
    pd.DataFrame(density).to_csv(place / "figures" / "pcqat-density.csv", index=False)


def list_changes() -> dict[str, pd.DataFrame]:
    file, count = mark("file"), {"count": 3}
    classes = {"class": mark("class"), "examples": 3, "before": 1, "after": 0, "newly_wrong": 1, "newly_right": 0}
    flip = {"example": 1, "file": file, "picture": '"><img src=x onerror=picture()>', "features": mark("column")}
    flip |= {"class": mark("class"), "before": mark("class"), "after": mark("predicted"), "verdict": "newly wrong"}
    confusion = [{"file": "a", "class": mark("class"), "predicted": mark("predicted")} | count]
    many = [
        {"file": file, "class": f"{mark('class')}{number}", "predicted": mark("predicted")} | count
        for number in range(20)
    ]
    layer = {"layer": mark("layer"), "tensor": "t", "operator": mark("layer"), "shape": "1×1", "chosen": file}
    layer |= {"parameters": 1, "multiplications": 1, "bytes": 1, "gzip_bytes": 1, "baseline_bytes": 1, "snr_db": 1.0}
    tables_ = {"classes": [classes | {"file": file}], "flips": [flip | {"count": 1}]}
    tables_ |= {"confusion": confusion + many, "layers": [layer]}
    return {name: pd.DataFrame(rows) for name, rows in tables_.items()}


def write_notebook(report: Path) -> Path:
    """The page of a notebook whose outputs are the tables and figures of these names."""
    made = list_changes()
    shown = [tables.classes(made["classes"]), tables.flips(made["flips"]), tables.changed_layers(made["layers"])]
    outputs = [new_output("display_data", {"text/html": table._repr_html_()}) for table in shown]
    drawn = [figures.draw_confusion(made["confusion"]), figures.draw_tree(pd.read_csv(report / "results.csv"))]
    rows = pd.read_csv(report / "variants.csv").assign(stage=[mark("layer"), "pcqat"])
    drawn += [figures.draw_costs(rows), figures.draw_density({mark("layer"): np.arange(3.0)}, mark("layer"))]
    for figure in drawn:
        about = {"alt": figure.alt} | ({"inline_svg": figure.svg()} if figure.hovers else {})
        outputs.append(new_output("display_data", make_png(), metadata=about))
    cells = [new_markdown_cell("# Does markup stay text?"), new_code_cell("1", outputs=outputs)]
    nbformat.write(new_notebook(cells=cells), str(report / "pcqat.ipynb"))
    notebook_page.write_page(report / "pcqat.ipynb", report / "pcqat.html", {"index.html": "All results"})
    return report / "pcqat.html"


def make_png() -> dict[str, str]:
    import base64

    figure = figures.draw_density({"a": np.arange(3.0)}, "a")
    return {"image/png": base64.b64encode(figure.png()).decode()}


def test_no_page_takes_a_name_for_markup(report):
    pages = [write_notebook(report), index_page.write(report, f"# {mark('data')}\nseed: 0\n", {"x": mark("notebook")})]
    (report / "sweep,seed=0+1").mkdir()
    (report / "seed=1").rename(report / "sweep,seed=0+1" / "seed=1")
    pages.append(sweep_page.write(report / "sweep,seed=0+1", "digits", {"seed=1": mark("notebook")}))
    (report / "sweep,seed=0+1" / "seed=1").rename(report / "seed=1")
    pages += [front_page.write(report.parent), report_comparison.write(["mine", "mine/seed=1"])]
    told = ""
    for path in pages:
        page = bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        told += page.get_text() + " ".join(tag["alt"] for tag in page.find_all(alt=True))
        told += " ".join(tag["aria-label"] for tag in page.find_all("svg"))
        assert len(page.find_all("script")) == 1, path
        assert page.find("img", src="x") is None, path
        assert not [tag for tag in page.find_all(True) if any(name.startswith("on") for name in tag.attrs)], path
        ids = [tag["id"] for tag in page.find_all(id=True)]
        assert len(ids) == len(set(ids)), path
    for kind in KINDS:
        assert f"<script>{kind}</script>" in told, f"the test shows no {kind}"
