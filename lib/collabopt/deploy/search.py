"""The walk down the deployment tree: level by level, until a leaf meets all targets.

TFMOT's guide recommends it (guide/combine/collaborative_optimization: the deployment tree): take a technique, see
whether the model meets its accuracy, size and latency, and optimize further only if it does not. Every choice goes by
validation; test is read once, of the leaf that is chosen.
"""

import dataclasses

import pandas as pd

from collabopt.config.experiment import Targets
from collabopt.deploy import targets, variants
from collabopt.deploy.variants import Variant
from collabopt.run import Finished, Run
from collabopt.runtime import progress
from collabopt.storage import atomic


@dataclasses.dataclass(frozen=True)
class Search:
    """Where a walk led. run: whose stages they are. table: a row a leaf that was tried, in order (`leaves.COLUMNS`).
    chosen: the label of the first that met all targets, None where none did or there were no targets. nearest: that of
    the leaf that misses least, the chosen one where there is one."""

    run: Run
    tried: dict[str, Variant]
    table: pd.DataFrame
    chosen: str | None
    nearest: str

    @property
    def targets(self) -> Targets:
        """What was asked."""
        return self.run.experiment.targets

    @property
    def stages(self) -> list[str]:
        """The stages that the walk came to, in order."""
        return list(dict.fromkeys(leaf.stage.name for leaf in self.tried.values()))

    @property
    def finished(self) -> list[Finished]:
        """The same as they were measured: on validation alone where there are targets."""
        return self.run.stages(*self.stages)

    @property
    def results(self) -> pd.DataFrame:
        """A row a stage, as in results.csv."""
        return self.run.results(*self.stages)

    @property
    def layers(self) -> pd.DataFrame:
        """A row a stage and kernel, as in layers.csv."""
        return self.run.layers(*self.stages)

    @property
    def verdicts(self) -> pd.DataFrame | None:
        """The leaves with what each misses; None where there are no targets."""
        return targets.judge(self.table, self.targets) if self.run.experiment.has_targets else None

    def misses(self, leaf: str) -> dict[str, float]:
        """By how much the leaf exceeds each target that it does not meet."""
        return targets.find_misses(self.table.loc[leaf], self.targets, targets.get_baseline_accuracy(self.table))


def search(run: Run) -> Search:
    """Go down the tree of the run, training the stages that it comes to, and write leaves.csv.

    Without targets it comes to every leaf, and test is read of each.
    """
    run = run.without_test() if run.experiment.has_targets else run
    tried, chosen = {}, None
    for stage in variants.list_levels():
        for kind in variants.list_formats(stage) if chosen is None else ():
            leaf = variants.measure(run, stage, kind)
            tried[leaf.name] = leaf
            if run.experiment.has_targets and not _missed(leaf, tried, run.experiment.targets):
                chosen = leaf.name
                progress.log(f"{leaf.name} meets all targets", about=leaf.name)
                break
    table = variants.make_table(list(tried.values()))
    nearest = chosen or str(targets.find_nearest(table, run.experiment.targets))
    read = [nearest] if run.experiment.has_targets else list(tried)
    table["accuracy"] = pd.Series({name: variants.measure_on_test(run, tried[name]) for name in read})
    walk = Search(run, tried, table, chosen, nearest)
    _record(walk)
    return walk


def _missed(leaf: Variant, tried: dict[str, Variant], wanted: Targets) -> dict[str, float]:
    return targets.find_misses(leaf.row, wanted, tried["baseline-float32"].row["validation_accuracy"])


def _record(walk: Search) -> None:
    """Write leaves.csv and the leaves' files."""
    directory, files = walk.run.directory, {}
    if directory is None:
        return
    for name, leaf in walk.tried.items():
        # The int8 file of a stage has the stage's own name.
        files[name] = f"models/{leaf.stage.name if leaf.format == 'int8' else name}.tflite"
        atomic.write(directory / files[name], leaf.tflite.read_bytes())
    atomic.write(directory / "leaves.csv", walk.table.assign(tflite=files).to_csv(index=False))
