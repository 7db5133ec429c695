"""The size waterfall: the steps, their sizes, and variants that are missing."""

import numpy as np
import pandas as pd
import pytest
from example_figures import PNG, draw_png, get_texts, make_variants

from collabopt import figures


@pytest.fixture
def variants() -> pd.DataFrame:
    return make_variants()


def test_waterfall_goes_from_the_float_file_to_the_int8_file(variants, tmp_path):
    figure = figures.draw_waterfall(variants, csv=tmp_path / "waterfall.csv")
    steps = pd.read_csv(tmp_path / "waterfall.csv")
    assert steps["stage"].tolist() == ["baseline", "baseline", "pruned", "sparse_clustered", "pcqat"]
    # This library's scheme, not TFMOT's.
    assert (1000 * steps["kilobytes"]).tolist() == [4000, 3600, 2000, 700, 400]
    assert np.prod(1 - steps["saved"].dropna()) == pytest.approx(400 / 4000)
    shown = get_texts(figure)
    assert "10.0 times smaller" in shown
    assert "−44 %" in shown
    assert draw_png(figure).startswith(PNG)


def test_waterfall_ends_at_the_last_variant(variants):
    steps = get_texts(figures.draw_waterfall(variants[variants["stage"].isin(["baseline", "pruned"])])).splitlines()
    assert "(int8 PTQ)" in steps
    assert "pruned" in steps
    assert "clustered" not in steps
    assert "4.4 times smaller" in get_texts(figures.draw_waterfall(variants, stage="baseline"))


@pytest.mark.parametrize(
    ("count", "steps"),
    [
        (1, ["float32 file", "compressed (gzip)"]),
        (2, ["float32 file", "compressed (gzip)", "quantized (int8 PTQ)"]),
        (3, ["float32 file", "compressed (gzip)", "pruned"]),
        (4, ["float32 file", "compressed (gzip)", "pruned", "quantized (float16 PTQ)"]),
        (5, ["float32 file", "compressed (gzip)", "pruned", "quantized (int8 PTQ)"]),
        (6, ["float32 file", "compressed (gzip)", "pruned", "clustered"]),
    ],
)
def test_waterfall_of_a_search_that_ended_early(variants, count, steps, tmp_path):
    figures.draw_waterfall(variants.head(count), csv=tmp_path / "waterfall.csv")
    assert pd.read_csv(tmp_path / "waterfall.csv")["step"].tolist() == steps


def test_waterfall_shows_a_size_that_grew(variants):
    variants.loc[variants["stage"] == "pruned", "gzip_bytes"] = 3800
    assert "+6 %" in get_texts(figures.draw_waterfall(variants))


def test_waterfall_names_a_missing_variant(variants):
    with pytest.raises(ValueError, match="clustered float32, clustered int8"):
        figures.draw_waterfall(variants, stage="clustered")
    with pytest.raises(ValueError, match="baseline float32"):
        figures.draw_waterfall(variants[variants["format"] == "int8"])
