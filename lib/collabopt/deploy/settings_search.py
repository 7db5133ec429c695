"""The search over settings for the smallest int8 file that meets all targets.

Each step trains one stage more, until the budget is spent or no candidate is left that is likely to be smaller and good
enough: the first one on the way to the candidate with the most bytes saved per training, times the chance that it meets
all targets. Predictions are what each setting costs without training, corrected by trained files of the same stage. The
order depends on validation only, and stages come from the store, so a search that breaks off continues where it was.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable

import pandas as pd

from collabopt.analysis import comparison
from collabopt.config.experiment import ExperimentError
from collabopt.config.stages import BASELINE, get_lineage
from collabopt.deploy import targets, variants
from collabopt.deploy.candidates import Candidate, list_candidates
from collabopt.deploy.search import Search, record
from collabopt.deploy.variants import Variant
from collabopt.run import Run
from collabopt.runtime import progress
from collabopt.storage import results

_SHARE, _POINTS = 0.05, 10
"""Before a stage is trained, its training is taken to leave this share of the drop. It counts as much as trained files
whose drops without training add up to this many times the tolerance."""

_SPREAD, _LEAST_DROP = 0.7, 0.1
"""The drop is taken to be lognormal: standard deviation of its logarithm, and least drop in tolerances."""

_LEAST_SAVING = 0.02
"""A candidate is worth a training if its file is predicted to be smaller than the best one by this share."""


@dataclasses.dataclass(frozen=True)
class SettingsSearch(Search):
    """A finished search over settings. Its table has the column `setting`, and one row per file that was tried.

    Attributes:
        trials: One row per trained stage in order: stage, setting, trainings (its number, with stages
            that are not available), score and drop on validation,
            noise (two standard errors of the drop), gzip_bytes, predicted_drop, predicted_bytes (NaN for the baseline),
            verdict, best (whether it is the smallest so far that meets all targets).
        ended: Why the search ended.
    """

    trials: pd.DataFrame
    ended: str


@dataclasses.dataclass(frozen=True)
class _Trial:
    candidate: Candidate
    variant: Variant
    drop: float
    noise: float
    misses: dict[str, float]
    predicted: tuple[float, float]

    @property
    def bytes(self) -> float:
        return self.variant.row.get("gzip_bytes", math.nan) if self.variant.tflite else math.nan


def search_settings(run: Run) -> SettingsSearch:
    """Search settings and stages for the smallest int8 file that meets all targets, and return the finished search.

    It writes variants.csv, and results.csv and layers.csv with the rows of the chosen file and its ancestors. Where no
    file is chosen, the nearest takes its place. The run of the returned search has the settings of this file.

    Raises:
        ExperimentError: The experiment has no search.
    """
    if not run.experiment.search.is_given:
        raise ExperimentError(
            "search: nothing to search; give search.sparsity, search.number_of_clusters or search.filter_sparsity a "
            'list of values, such as SET="search.sparsity=[0.5,0.8] max_accuracy_drop=0.01"'
        )
    found = _Searching(run)
    while (candidate := found.choose()) is not None:
        found.try_one(candidate)
    return found.finish()


class _Searching:
    """A search that goes on: the candidates, and the trials so far."""

    def __init__(self, run: Run) -> None:
        self.run, self.budget, self.limits = run.without_test(), run.experiment.search, run.experiment.targets
        self.score, self.ended, self.minutes = run.data.task.score, "", 0.0
        self.candidates, self.trials = list_candidates(self.run), dict[str, _Trial]()
        self.trained = set[str]()
        first, *_ = self.candidates.values()
        float32 = variants.measure(self._start(first), first.stage, "float32")
        self.float32, self.base = float32, float32.row[self.score.validation]
        self.tolerance = self.score.get_tolerance(self.base)
        self.try_one(first)
        size = self.trials[first.key].bytes
        self.overhead = 0.0 if math.isnan(size) else size - first.kernel_bytes
        self.largest = self.overhead + first.kernel_bytes

    def choose(self) -> Candidate | None:
        """The next candidate to train, whose ancestors are trained; None at the end, with the reason in `ended`."""
        best = self._find_best()
        left = [one for key, one in self.candidates.items() if key not in self.trials and not self._is_hopeless(one)]
        if best:
            left = [one for one in left if self.predict_bytes(one) < (1 - _LEAST_SAVING) * best.bytes]
        affordable = [one for one in left if len({*self.trained, *one.trainings}) <= self.budget.max_trainings]
        is_late = self.budget.max_minutes is not None and self.minutes >= self.budget.max_minutes
        if not affordable or is_late:
            smaller = "smaller " if best else ""
            self.ended = f"no {smaller}file is left that is likely to meet all targets"
            if left:
                trainings = f"{len(self.trained)} of {self.budget.max_trainings} trainings"
                self.ended = f"the budget is spent: {trainings}, {self.minutes:.1f} minutes"
            return None
        chosen = max(affordable, key=self._expect_saving)
        return next(self.candidates[key] for key in chosen.trainings if key not in self.trials)

    def try_one(self, candidate: Candidate) -> None:
        """Train a candidate, and measure its int8 file on validation."""
        run, predicted = self._start(candidate), (math.nan, math.nan)
        if self.trials:
            predicted = self.predict_drop(candidate), self.predict_bytes(candidate)
        variant, result = variants.measure(run, candidate.stage, "int8"), run.stage(candidate.stage.name).result
        self.minutes += sum(result.get(name) or 0.0 for name in ("setup_seconds", "fit_seconds")) / 60
        drop, noise, misses = math.inf, math.nan, {"unavailable": math.inf}
        if variant.tflite:
            drop = self.score.compute_drop(self.base, variant.row[self.score.validation])
            error = comparison.compute_standard_error((self.float32.scores - variant.scores)[None])
            noise = self.score.get_noise(error, len(variant.scores))
            misses = targets.find_misses(variant.row, self.limits, self.base)
        if not run.stage(candidate.stage.name).unavailable:
            self.trained.add(candidate.key)
        self.trials[candidate.key] = _Trial(candidate, variant, drop, noise, misses, predicted)
        verdict = "meets all targets" if not misses else "misses targets"
        about = f"{candidate.stage.label} {candidate.setting}".rstrip()
        progress.log(f"search: training {len(self.trained)}, {about}: {verdict}", "search", last=True)

    def predict_bytes(self, candidate: Candidate) -> float:
        """File size after gzip: the entropy of its kernels, scaled as in the trained ancestor with these kernels, or
        else as in the trials of its stage, its last trained ancestor, or all trials."""
        ancestor, trained = self._find_ancestor(candidate), self._list_trained()
        known = self._list_alike(candidate) or ([ancestor] if ancestor.candidate.stage.name != BASELINE else trained)
        if ancestor.candidate.kernel_bytes == candidate.kernel_bytes:
            known = [ancestor]
        sizes = [(one.bytes, self.overhead + one.candidate.kernel_bytes) for one in known if one.bytes > 0]
        ratio = sum(size / expected for size, expected in sizes) / len(sizes) if sizes else 1.0
        return ratio * (self.overhead + candidate.kernel_bytes)

    def predict_drop(self, candidate: Candidate) -> float:
        """Drop on validation: the share of the last trained ancestor's drop that this stage kept so far, and of what is
        lost without training beyond it, the share that training left so far. It is no less than where the same stage
        compresses less, and no more than where it compresses more."""
        known = [one for one in self._list_trained() if math.isfinite(one.drop)]
        before = _POINTS * self.tolerance + _sum_losses(one.candidate.drop for one in known)
        after = _SHARE * _POINTS * self.tolerance + _sum_losses(one.drop for one in known)
        alike = [one for one in self._list_alike(candidate) if math.isfinite(one.drop)]
        pairs = [(one.drop, self.trials[one.candidate.trainings[-2]].drop) for one in alike]
        pairs = [(self.tolerance, self.tolerance), *(pair for pair in pairs if math.isfinite(pair[1]))]
        own, parents = map(_sum_losses, zip(*pairs, strict=True))
        ancestor, kept = self._find_ancestor(candidate), min(own / parents, 1)
        start = kept * max(ancestor.drop, 0) if math.isfinite(ancestor.drop) else 0.0
        drop = start + after / before * max(candidate.drop - ancestor.candidate.drop, 0)
        low = max((one.drop for one in alike if candidate.compresses_as_much_as(one.candidate)), default=-math.inf)
        high = min((one.drop for one in alike if one.candidate.compresses_as_much_as(candidate)), default=math.inf)
        return max(low, min(drop, high))

    def _find_ancestor(self, candidate: Candidate) -> _Trial:
        """The last trained ancestor."""
        *_, last = (self.trials[key] for key in candidate.trainings if key in self.trials)
        return last

    def _list_trained(self) -> list[_Trial]:
        """The trials but for the baseline."""
        return [one for one in self.trials.values() if one.candidate.stage.name != BASELINE]

    def _list_alike(self, candidate: Candidate) -> list[_Trial]:
        """The trials of a candidate's stage. Others train longer or from another parent: a clustered file can be good
        where the pruned one before it is not."""
        return [one for one in self._list_trained() if one.candidate.stage.name == candidate.stage.name]

    def _is_hopeless(self, candidate: Candidate) -> bool:
        """Whether a file that compresses less has lost more than chance explains, or one that compresses more is still
        too large."""
        for one in self._list_alike(candidate):
            lost = {*one.misses} & {*targets.DROPS, *targets.UNUSABLE}
            is_certain = any(not one.misses[name] <= one.noise for name in lost)
            if is_certain and candidate.compresses_as_much_as(one.candidate):
                return True
            if {*one.misses} - lost and one.variant.tflite and one.candidate.compresses_as_much_as(candidate):
                return True
        return False

    def _expect_saving(self, candidate: Candidate) -> float:
        """Bytes that each training on the way to a candidate is expected to save."""
        size, limits = self.predict_bytes(candidate), targets.list_targets(self.limits)
        least, limit = _LEAST_DROP * self.tolerance, min(limits.get(name, math.inf) for name in targets.DROPS)
        margin = math.log(max(limit, least) / max(self.predict_drop(candidate), least))
        chance = statistics.NormalDist(0, _SPREAD).cdf(margin)
        over = max(size / limits.get("max_gzip_bytes", math.inf) - 1, 0)
        best, number = self._find_best(), len({*candidate.trainings} - {*self.trials})
        return chance * math.exp(-over) * ((best.bytes if best else self.largest) - size) / number

    def _find_best(self) -> _Trial | None:
        fit = [one for one in self.trials.values() if not one.misses]
        return min(fit, key=lambda one: one.bytes, default=None)

    def _start(self, candidate: Candidate) -> Run:
        """The run with the settings of a candidate, measured on validation. It shares data, store and report."""
        run = self.run.without_test()
        run.experiment = candidate.experiment
        return run

    def finish(self) -> SettingsSearch:
        """Read test for the chosen file, or else the nearest, and write variants.csv."""
        found = [one for one in self.trials.values() if one.variant.tflite]
        table = variants.make_table([self.float32, *(one.variant for one in found)])
        labels = [f"{one.variant.name}, {one.candidate.setting}".removesuffix(", ") for one in found]
        table.index = [self.float32.name, *labels]
        table["setting"] = ["", *(one.candidate.setting for one in found)]
        chosen = targets.choose(table, self.limits)
        nearest = chosen or str(targets.find_nearest(table, self.limits))
        tried = dict(zip(table.index, [self.float32, *(one.variant for one in found)], strict=True))
        run = self._start(found[labels.index(nearest)].candidate) if nearest in labels else self.run
        if run.directory:  # trials of one stage replace each other's rows: keep those of the chosen file
            run.stage(tried[nearest].stage.name)
            lineage = get_lineage(tried[nearest].stage.name, run.experiment.tree)
            results.keep_stages(run.directory, [stage.name for stage in lineage])
        variants.add_test_scores(table, self.run, {nearest: tried[nearest]})
        missing = [one.variant for one in self.trials.values() if not one.variant.tflite]
        unavailable = pd.DataFrame([one.row for one in missing], [one.name for one in missing])
        unavailable = unavailable.reindex(columns=table.columns)
        progress.log(f"search: {nearest} {'meets all targets' if chosen else 'is nearest'}; {self.ended}", "search")
        search = SettingsSearch(run, tried, table, unavailable, chosen, nearest, self._tabulate(), self.ended)
        files = {label: f"models/trial_{number}-{one.name}.tflite" for number, (label, one) in enumerate(tried.items())}
        record(search, files)
        return search

    def _tabulate(self) -> pd.DataFrame:
        rows, best = [], math.inf
        for number, one in enumerate(self.trials.values(), start=1):
            is_best = not one.misses and one.bytes < best
            best = one.bytes if is_best else best
            words = [targets.describe_miss(*miss) for miss in one.misses.items() if one.variant.tflite]
            verdict = ", ".join(words) or ("meets all targets" if one.variant.tflite else "not available")
            row = {"stage": one.candidate.stage.name, "setting": one.candidate.setting, "trainings": number}
            row |= {"score": one.variant.row.get(self.score.validation), "drop": one.drop, "gzip_bytes": one.bytes}
            row["noise"] = one.noise
            row |= dict(zip(("predicted_drop", "predicted_bytes"), one.predicted, strict=True))
            rows.append(row | {"verdict": verdict, "best": is_best})
        return pd.DataFrame(rows)


def _sum_losses(drops: Iterable[float]) -> float:
    return sum(max(drop, 0) for drop in drops)
