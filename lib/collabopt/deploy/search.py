"""The search over variants, level by level, until one meets all targets.

TFMOT's guide recommends it (guide/combine/collaborative_optimization, the deployment tree): apply a technique, check
whether the model meets its accuracy, size and latency, and optimize further only if it does not. Every choice uses the
validation split. The test split is read once, for the chosen variant.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import pandas as pd

from collabopt.analysis.finished import Finished
from collabopt.config.experiment import Targets
from collabopt.config.formats import FORMATS
from collabopt.config.stages import get_level
from collabopt.deploy import targets, variants
from collabopt.deploy.variants import Variant
from collabopt.run import Run
from collabopt.runtime import progress
from collabopt.storage import atomic


@dataclasses.dataclass(frozen=True)
class Search:
    """A finished search.

    Attributes:
        run: The run whose stages were tried. With targets it measures them on validation only.
        tried: The variants with a file by label, in the order of the search.
        table: One row per variant, with the columns of `variants.list_columns`.
        unavailable: The same columns, one row per variant that has no file.
        chosen: Label of the variant that `targets.choose` returns; None if none meets all targets.
        nearest: Label of the chosen variant, or else of the one that misses the targets by least.
    """

    run: Run
    tried: dict[str, Variant]
    table: pd.DataFrame
    unavailable: pd.DataFrame
    chosen: str | None
    nearest: str

    @property
    def targets(self) -> Targets:
        """The targets of the experiment."""
        return self.run.experiment.targets

    @property
    def stages(self) -> list[str]:
        """Names of the stages that were tried, in order, and then of those that are not available."""
        return list(dict.fromkeys([*self.table["stage"], *self.unavailable["stage"]]))

    @property
    def finished(self) -> list[Finished]:
        """The stages that were tried."""
        return self.run.stages(*self.stages)

    @property
    def results(self) -> pd.DataFrame:
        """One row per stage, as in results.csv."""
        return self.run.results(*self.stages)

    @property
    def layers(self) -> pd.DataFrame:
        """One row per stage and kernel, as in layers.csv."""
        return self.run.layers(*self.stages)

    @property
    def verdicts(self) -> pd.DataFrame | None:
        """The variants with their misses, as `targets.judge` returns them; None without targets."""
        return targets.judge(self.table, self.targets) if self.run.experiment.has_targets else None

    def find_misses(self, label: str) -> dict[str, float]:
        """Return by how much the variant of this `label` exceeds each target that it does not meet."""
        return targets.find_misses(self.table.loc[label], self.targets, targets.get_baseline_score(self.table))


def search(run: Run) -> Search:
    """Search the variants of a run, train the stages that it reaches, write variants.csv, and return the search.

    The search ends with the first level that has a variant which meets all targets. Without targets every variant is
    tried and measured on the test split.
    """
    has_targets = run.experiment.has_targets
    run = run.without_test() if has_targets else run
    tried, missing = _try_variants(run)
    table = variants.make_table(list(tried.values()))
    chosen = targets.choose(table, run.experiment.targets)
    if has_targets and chosen:
        progress.log(f"{chosen} meets all targets", about=chosen)
    labels = [variant.name for variant in missing]
    unavailable = pd.DataFrame([variant.row for variant in missing], labels).reindex(columns=table.columns)
    nearest = chosen or str(targets.find_nearest(table, run.experiment.targets))
    tested = [nearest] if has_targets else list(tried)
    variants.add_test_scores(table, run, {label: tried[label] for label in tested})
    found = Search(run, tried, table, unavailable, chosen, nearest)
    # The int8 file of a stage has the name of the stage.
    stems = {label: one.stage.name if one.format == "int8" else label for label, one in tried.items()}
    record(found, {label: f"models/{stem}{FORMATS[tried[label].format].suffix}" for label, stem in stems.items()})
    return found


def _try_variants(run: Run) -> tuple[dict[str, Variant], list[Variant]]:
    """The variants up to the first level with one that meets all targets, and those among them without a file."""
    tried: dict[str, Variant] = {}
    missing: list[Variant] = []
    tree = run.experiment.tree
    for _, level in itertools.groupby(variants.list_levels(tree), lambda stage: get_level(stage.name, tree)):
        found = variants.measure_stages(run, level)
        tried |= {variant.name: variant for variant in found if variant.tflite}
        missing += [variant for variant in found if not variant.tflite]
        base = next(iter(tried.values())).row[run.data.task.score.validation]  # the float32 baseline comes first
        rows = [variant.row for variant in found if variant.tflite and run.experiment.has_targets]
        if not all(targets.find_misses(row, run.experiment.targets, base) for row in rows):
            break
    return tried, missing


def record(found: Search, files: Mapping[str, str]) -> None:
    """Write variants.csv and the files of the variants, if the run has a report.

    Args:
        found: The search.
        files: Path of each file in the report directory, by label of the variant.
    """
    directory = found.run.directory
    if directory is None:
        return
    for label, variant in found.tried.items():
        atomic.write(directory / files[label], variant.tflite.read_bytes())
    rows = pd.concat([found.table.assign(tflite=files), *([found.unavailable] if len(found.unavailable) else [])])
    atomic.write(directory / "variants.csv", rows.to_csv(index=False))
