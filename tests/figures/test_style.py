"""The style of figures: stages of labels, pictures in notebooks, cheap import."""

import base64
import subprocess
import sys

import matplotlib.pyplot as plt
from example_figures import make_kernels, make_variants

from collabopt import figures
from collabopt.config.stages import STAGES
from collabopt.figures import style


def test_figures_are_not_kept_open():
    figures.draw_density(make_kernels(), "conv")
    assert plt.get_fignums() == []


def test_find_stage_of_a_label():
    assert style.find_stage("PCQAT int8") is STAGES["pcqat"]
    assert style.find_stage("sparse_clustered") is STAGES["sparse_clustered"]
    assert style.find_stage("sparse clustered FP32") is STAGES["sparse_clustered"]
    assert style.find_stage("mine") is None
    assert len({stage.colour for stage in STAGES.values()}) == len(STAGES)


def test_import_is_cheap():
    code = "import sys, collabopt.figures, collabopt.report.notebook_page; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_notebook_shows_the_drawn_picture_and_draws_a_changed_figure_again(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: shown.append((data, metadata, raw)))
    figure = figures.draw_waterfall(make_variants(), csv=tmp_path / "waterfall.csv")
    assert "10.0 times smaller" in figure.alt
    for title in (None, None, "another"):
        if title:
            figure.suptitle(title)
        figure._ipython_display_()
    pictures = [base64.b64decode(data.pop("image/png")) for data, _, _ in shown]
    assert shown == [({"text/plain": figure.alt}, {"alt": figure.alt}, True)] * 3
    assert pictures[0] == pictures[1] == (tmp_path / "waterfall.png").read_bytes() != pictures[2]
    assert figure.png() is figure.png()
