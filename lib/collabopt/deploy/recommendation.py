"""The recommended file of a report without targets: the smallest that is about as good as the float32 baseline."""

import dataclasses
import html
import os
from pathlib import Path
from typing import Any

import pandas as pd

from collabopt.config.metrics import get_metric
from collabopt.config.scores import find_score
from collabopt.deploy import targets


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The recommended file of a finished report. A notebook shows it as a sentence with links.

    Attributes:
        tflite: The file.
        variant: Its row of variants.csv.
        baseline: The row of the float32 baseline.
        report: The index page of the report.
        warning: A sentence if there are too few validation examples for this choice, else empty.
        experiment: The experiment file, if it is known.
    """

    tflite: Path
    variant: dict[str, Any]
    baseline: dict[str, Any]
    report: Path
    warning: str = ""
    experiment: Path | None = None

    @property
    def file(self) -> str:
        """Path of the file in its report directory."""
        return self.tflite.relative_to(self.report.parent).as_posix()

    def __str__(self) -> str:
        score, size = find_score(self.variant), get_metric("gzip_bytes")
        small, large = (f"{size.format(row[size.name])} {size.unit}" for row in (self.variant, self.baseline))
        factor = self.baseline[size.name] / self.variant[size.name]
        before, after = (score.format(row[score.validation]) for row in (self.baseline, self.variant))
        on_test, before_on_test = (score.format(row[score.test]) for row in (self.variant, self.baseline))
        return (
            f"Recommended: {targets.format_variant(self.variant)}, {small} after gzip instead of {large} ({factor:.1f} "
            f"times smaller); {score.title} on {self.variant['validation_examples']:,.0f} validation examples {after} "
            f"instead of {before}; on test {on_test} instead of {before_on_test}"
        )

    def _repr_html_(self) -> str:
        links = " · ".join(
            f'<a href="{html.escape(os.path.relpath(path))}">{html.escape(path.name)}</a>'
            for path in filter(None, (self.tflite, self.report, self.experiment))
        )
        lines = [f"{self}.", *([f"{self.warning}."] if self.warning else [])]
        return "".join(f"<p>{html.escape(line)}</p>" for line in lines) + f"<p>{links}</p>"


def recommend(report: Path) -> Recommendation | None:
    """Recommend the file of a finished report that `targets.recommend` names.

    Args:
        report: The report directory, with variants.csv.

    Returns:
        The recommendation; None if variants.csv is older than its column of validation examples.
    """
    rows = pd.read_csv(report / "variants.csv")
    if "validation_examples" not in rows:
        return None
    label = targets.recommend(rows)
    chosen, base = rows.loc[label].to_dict(), rows.loc[targets.find_baseline(rows)].to_dict()
    return Recommendation(
        report / chosen["tflite"], chosen, base, report / "index.html", targets.find_noise(rows, label)
    )
