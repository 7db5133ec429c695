"""What int8 costs in each layer: where a stage loses accuracy, why, and which layers to leave in float32."""

import dataclasses
import html
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from collabopt.analysis import agreement, sensitivity
from collabopt.analysis.switched_model import SwitchedModel, Unit
from collabopt.config.scores import Score
from collabopt.config.sections import Exclude
from collabopt.config.stages import BASELINE
from collabopt.datasets import Data
from collabopt.datasets.splitting import draw_stratified_order
from collabopt.runtime import progress, tensorflow
from collabopt.runtime.tensorflow import keras, tf
from collabopt.techniques import activation_ranges, calibration, objectives, quantization

EXAMPLES = 1_000
"""Most validation examples that are scored, twice per layer."""
_RECORDED = 16
"""Number of examples whose activations are compared."""
PREFIXES = ("only_int8", "only_float")
COLUMNS = [
    *("layer", "layers", "kernel_snr_db", "kernel_peak", "snr_db", "low", "high", "usual", "factor"),
    *(f"{prefix}_{figure}" for prefix in PREFIXES for figure in ("score", "drop", "error")),
]
"""The table: one row per input and layer.

- layers: the layer, and the batch norm, activation or reshape that belong to it
- kernel_snr_db: signal-to-noise ratio of its kernels after rounding; kernel_peak: largest weight ÷ median magnitude
- snr_db: that of its output, with all layers in int8 against all in float32
- low, high: range of its output; usual: 99 % of the magnitudes are below, in half of the channels; factor: see
  `activation_ranges.compare`
- drops against all layers in float32, in the unit that readers see, and their standard errors, paired by example.

The inputs and outputs of a file are always int8."""


@dataclasses.dataclass(frozen=True, repr=False)
class Diagnosis:
    """Where int8 loses accuracy, why, and what to do.

    Attributes:
        table: One row per input and layer (`COLUMNS`).
        score: The task's score.
        drops: Columns `score`, `drop` and `error` of validation with all layers in int8, and with the proposed ones in
            float32.
        proposed: The layers to leave in float32; empty if int8 lost nothing, or if no layers help.
        exclude: These layers, and those that the experiment already excludes.
        answer: Where, why, and what to do.
    """

    table: pd.DataFrame
    score: Score
    drops: pd.DataFrame
    proposed: tuple[str, ...]
    exclude: Exclude
    answer: str

    @property
    def yaml(self) -> str:
        """The lines of an experiment file that leave the layers in float32."""
        return sensitivity.format_exclude(self.exclude) if self.proposed else "# nothing to add to exclude.quantization"

    def __repr__(self) -> str:
        return self.answer

    def _repr_html_(self) -> str:
        return f'<p class="answer">{html.escape(self.answer)}</p>'


def diagnose(run, name: str | None = None) -> Diagnosis:
    """Return where a stage loses accuracy in int8, why, and what to do.

    Args:
        run: A run (`run.Run`).
        name: The stage; None takes the baseline. Ranges of a stage in float32 are set as before QAT.

    Raises:
        ValueError: The stage is not available.
    """
    finished, experiment, clock = run.stage(name or BASELINE), run.experiment, progress.Clock()
    stage = finished.stage
    if finished.unavailable:
        raise ValueError(f"stage={stage.name}: not available ({finished.unavailable}); choose another stage")
    tensorflow.seed_everything(experiment.seed)  # Keras numbers unnamed layers from one again
    model = run.model(stage.parent if stage.quantizes else stage.name)
    if stage.quantizes:
        tensorflow.seed_everything(experiment.seed)
        wrapped = run.model(stage.name)
    else:
        changes = {"zeros": False, "unquantized": (), "scheme": "collabopt"}
        preservation = dataclasses.replace(quantization.get_preservation(stage, experiment), **changes)
        wrapped = quantization.wrap(model, preservation)
        activation_ranges.calibrate(wrapped, run.data, experiment.seed, experiment.calibration, stage.name)
    names = [layer.name for layer in model.layers]
    found = measure(wrapped, names, run.data, experiment.exclude, experiment.seed)
    took = progress.format_duration(clock.seconds())
    progress.log(f"diagnose: {len(found.table)} layers of {stage.name} took {took}", "diagnose", last=True)
    return found


def measure(wrapped: keras.Model, names: Sequence[str], data: Data, exclude: Exclude, seed: int) -> Diagnosis:
    """Return what int8 costs in each layer of a fake-quantized model.

    Args:
        wrapped: The fake-quantized model with its ranges; its quantizers are replaced.
        names: Layers of the plain model.
        data: Training examples show ranges, validation examples are scored.
        exclude: Layers that the experiment already excludes.
        seed: Decides which examples are drawn.
    """
    sample = calibration.draw_examples(wrapped, data.train, activation_ranges.EXAMPLES, seed)
    ranges = activation_ranges.compare(wrapped, sample).set_index("activation")
    one = _Measurement(SwitchedModel(wrapped, names), data, seed)
    table = one.tabulate(_measure_outputs(one.switched, one.units, sample.inputs, ranges))
    all_int8 = one.compute_scores(())
    chosen = one.propose(table, all_int8) if _is_lost(one.compare(all_int8)) else []
    proposed = one.switched.set_float(chosen)
    drops = pd.DataFrame(map(one.compare, (all_int8, one.compute_scores(chosen))), ["int8", "proposed"])
    exclude = exclude.model_copy(update={"quantization": tuple(dict.fromkeys((*exclude.quantization, *proposed)))})
    answer = _answer(one, table, drops, chosen, proposed)
    return Diagnosis(table, data.task.score, drops, proposed, exclude, answer)


class _Measurement:
    """Scores validation with some units in float32."""

    def __init__(self, switched: SwitchedModel, data: Data, seed: int) -> None:
        self.switched, self.task = switched, data.task
        validation = data.validation.take_counted()
        self.split = validation.take(np.sort(draw_stratified_order(validation.labels, seed)[:EXAMPLES]))
        self.units = {name: unit for name, unit in switched.units.items() if unit.rounds}
        self.names = [name for name, unit in self.units.items() if not unit.is_input]
        self.exact, self.only_float = self.compute_scores(switched.everything), {}

    def compute_scores(self, floats: Collection[str], switches: Sequence[tf.Variable] = ()) -> np.ndarray:
        """Score of each example (n,) with these units in float32, and with these switches on."""
        self.switched.set_float(floats)
        for switch in switches:
            switch.assign(True)
        return objectives.score_model(self.switched.model, self.split, self.task)

    def compare(self, scores: np.ndarray, prefix: str = "", reference: np.ndarray | None = None) -> dict[str, float]:
        """Mean score; drop against a reference (all layers in float32) and its standard error."""
        reference = self.exact if reference is None else reference
        columns = sensitivity.compute_drop(prefix, reference, scores, self.task.score)
        return {column.removeprefix("_"): value for column, value in columns.items()}

    def tabulate(self, outputs: dict[str, dict[str, float]]) -> pd.DataFrame:
        rows, everything = [], self.switched.everything
        for number, (name, unit) in enumerate(self.units.items(), start=1):
            progress.log(f"diagnose: layer {number} of {len(self.units)}, {name}", "diagnose")
            row = {"layer": name, "layers": ", ".join(unit.layers)} | _describe_kernels(unit) | outputs[name]
            row |= self.compare(self.compute_scores(everything - {name}), "only_int8")
            if not unit.is_input:
                self.only_float[name] = self.compute_scores({name})
                row |= self.compare(self.only_float[name], "only_float")
            rows.append(row)
        return pd.DataFrame(rows, columns=COLUMNS)

    def propose(self, table: pd.DataFrame, all_int8: np.ndarray) -> list[str]:
        """The fewest layers in float32 that help as much as all of them, as far as a greedy search finds them."""
        best = self.compute_scores(self.names)

        def is_worse(scores: np.ndarray) -> bool:
            return _is_lost(self.compare(scores, reference=best))

        if not is_worse(all_int8):
            return []
        enough = [name for name in self.names if not is_worse(self.only_float[name])]
        costs = table.set_index("layer").loc[enough or self.names]
        if enough:
            return [costs["only_float_drop"].idxmin()]
        chosen: list[str] = []
        for name in costs["only_int8_drop"].sort_values(ascending=False, kind="stable").index:
            chosen.append(name)
            if not is_worse(self.compute_scores(chosen)):
                break
        for name in chosen[-2::-1]:
            rest = [one for one in chosen if one != name]
            chosen = chosen if is_worse(self.compute_scores(rest)) else rest
        return chosen

    def find_cause(self, name: str) -> str | None:
        """What of a unit costs most: None for its kernel, or the unit whose output it writes or reads."""
        tensors = [one for one, unit in self.units.items() if unit.has_range and (one == name or name in unit.readers)]
        switches = {one: self.units[one].range_switch for one in tensors}
        switches |= {None: self.units[name].kernel_switch} if self.units[name].kernels else {}
        everything = self.switched.everything
        costs = {one: self.compare(self.compute_scores(everything, [on]))["drop"] for one, on in switches.items()}
        return max(costs, key=costs.get)


def _is_lost(compared: dict[str, float] | pd.Series) -> bool:
    """Whether a drop exceeds two standard errors."""
    return bool(compared["drop"] > 2 * compared["error"])


def _describe_kernels(unit: Unit) -> dict[str, float]:
    if not unit.kernels:
        return {}
    exact = [quantization.get_unrounded(*kernel).numpy().ravel() for kernel in unit.kernels]
    rounded = [quantizer(values, False, weights=state).numpy().ravel() for values, quantizer, state in unit.kernels]
    magnitudes = np.abs(np.concatenate(exact))
    peak = magnitudes.max() / (np.median(magnitudes[magnitudes > 0]) if magnitudes.any() else 1)
    snr = agreement.compute_snr(np.concatenate(exact), np.concatenate(rounded))
    return {"kernel_snr_db": snr, "kernel_peak": float(peak)}


def _measure_outputs(
    switched: SwitchedModel, units: dict[str, Unit], inputs: calibration.Inputs, ranges: pd.DataFrame
) -> dict[str, dict[str, float]]:
    """Signal-to-noise ratio and range of each unit's output."""
    tensors, _ = agreement.read_graph(switched.model)
    recorder = keras.Model(switched.model.inputs, [tensors[unit.parts[-1]] for unit in units.values()])
    some, recorded, found = tf.nest.map_structure(lambda one: tf.constant(one[:_RECORDED]), inputs), [], {}
    for floats in (switched.everything, ()):
        switched.set_float(floats)
        recorded.append([one.numpy() for one in tf.nest.flatten(recorder(some, training=False))])
    for (name, unit), exact, rounded in zip(units.items(), *recorded, strict=True):
        usual = float(np.median(np.quantile(np.abs(exact).reshape(-1, exact.shape[-1]), 0.99, axis=0)))
        own = ranges[ranges.index.isin([part.removeprefix("quant_") for part in unit.parts])].tail(1)
        bounds = own[["low", "high", "factor"]].to_dict("records")
        found[name] = {"snr_db": agreement.compute_snr(exact, rounded), "usual": usual} | (bounds[0] if bounds else {})
    return found


def _answer(
    one: _Measurement, table: pd.DataFrame, drops: pd.DataFrame, chosen: list[str], proposed: tuple[str, ...]
) -> str:
    score, rows = one.task.score, table.set_index("layer")

    def tell(row: pd.Series) -> str:
        return f"{row['drop']:.{score.digits}f} ± {2 * row['error']:.{score.digits}f} {score.drop_unit}".rstrip()

    before, after = drops.loc["int8"], drops.loc["proposed"]
    values = [score.format(value) for value in (one.exact.mean(dtype=float), before["score"])]
    title = score.title[0].upper() + score.title[1:]
    total = f"{title} on {len(one.split):,} validation examples is {values[0]} in float32 and {values[1]} in int8"
    total += f", a drop of {tell(before)} (two standard errors)"
    if not _is_lost(before):
        return f"{total}. Int8 lost nothing that can be told from chance, and no layer needs float32."
    worst = max(chosen or one.units, key=lambda name: rows.loc[name, "only_int8_drop"])
    cause = one.find_cause(worst)
    why = _explain(rows.loc[cause or worst], cause)
    cost = rows.loc[worst].filter(like="only_int8_").rename(lambda column: column.removeprefix("only_int8_"))
    place = worst if _is_lost(cost) else f"in no single layer for sure; most in {worst}"
    where = f"{total}. Where: {place}, which costs {tell(cost)} if it alone is int8"
    if chosen:
        todo = f"leave {', '.join(proposed)} in float32; the drop is {tell(after)} then"
    else:
        todo = "no choice of float32 layers helps; try calibration: percentile, or scale the inputs"
    return f"{where}. Why: {why}. What to do: {todo}."


def _explain(row: pd.Series, cause: str | None) -> str:
    if cause is None:
        peak = f"its largest weight is {row['kernel_peak']:,.0f} times the median magnitude"
        return f"rounding its kernel leaves {row['kernel_snr_db']:.0f} dB of signal-to-noise ratio; {peak}"
    bounds, usual = f"{row['low']:.4g} to {row['high']:.4g}", f"{row['usual']:.3g}"
    wide = f"the output of {cause} has the range {bounds}, while half of its channels hardly exceed {usual}"
    return f"{wide}; one int8 step is {(row['high'] - row['low']) / 255:.2g}"
