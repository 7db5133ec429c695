"""Collaborative model optimization: prune, cluster and quantize Keras models so that each step keeps the previous one.

A run takes an experiment: one of the workbook, or a YAML file of your own. Each stage is trained when it is first asked
for, and comes from the store after that. Parameters replace the experiment's own.

    >>> from collabopt import figures, start, tables
    >>> run = start("digits", sparsity=0.8, settings={"stages.pruned.epochs": 6})
    >>> pruned, pqat = run.stages("pruned", "pqat")
    >>> pqat.result["preserved"]  # every zero of the pruned model is still there, also in the int8 file
    True
    >>> print(tables.stages([pruned, pqat]))  # a notebook shows an HTML table
    Stages...
    >>> pqat.kernels().keys() == pqat.int8_values().keys()  # NumPy arrays by layer
    True
    >>> figures.draw_training(run.histories("pruned", "pqat")).savefig("training.png")

`export` writes a folder for others: a Keras model, the .tflite file, C source, test vectors and a model card.

    >>> folder = run.export("pqat", directory="exported")
    >>> from collabopt import load_model
    >>> load_model(folder / "digits-pqat.keras").output_shape  # tf_keras.models.load_model does, too
    (None, 10)

`search` finds the file to deploy. With targets it stops at the first stages that meet them.

    >>> from collabopt import model_card, search
    >>> found = search.search(start("digits", max_gzip_bytes=50_000))
    >>> model_card.write(found).tflite.name
    'digits.tflite'

A function from Keras model to Keras model becomes a stage of your own. It is stored, audited, converted and drawn like
the others.

    >>> import collabopt
    >>> @collabopt.stage("rounded", parent="pruned", keeps_zeros=True)
    ... def round_weights(model):
    ...     model.set_weights([array.round(2) for array in model.get_weights()])
    ...     return model
    >>> run.stage("rounded").result["preserved"]
    True

`import_model` and `shrink` take models of your own. `help(collabopt.start)`, `help(type(run))` and `help(tables)` say
more. Importing the package is cheap: what is named is imported when it is first named.
"""

import importlib
import sys

_PUBLIC = {
    "allocation": "collabopt.analysis.allocation",
    "answers": "collabopt.report.answers",
    "comparison": "collabopt.analysis.comparison",
    "file_comparison": "collabopt.analysis.file_comparison",
    "quantization_sensitivity": "collabopt.analysis.quantization_sensitivity",
    "sensitivity": "collabopt.analysis.sensitivity",
    "changes": "collabopt.deploy.changes",
    "compare": "collabopt.report.report_comparison",
    "model_card": "collabopt.deploy.model_card",
    "search": "collabopt.deploy.search",
    "settings_search": "collabopt.deploy.settings_search",
    "shape": "collabopt.deploy.shape",
    "figures": "collabopt.figures",
    "explorer": "collabopt.figures.explorer",
    "overview": "collabopt.batch.overview",
    "tables": "collabopt.report.tables",
}
_FUNCTIONS = {
    "start": "collabopt.run",
    "shrink": "collabopt.batch.shrink",
    "import_model": "collabopt.models.importing",
    "load_model": "collabopt.deploy.export",
    "stage": "collabopt.techniques.user_stage",
}
__all__ = [*_PUBLIC, *_FUNCTIONS]

importlib.import_module("collabopt.runtime.user_modules")  # notes when the user's modules are imported
if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():  # a notebook
    importlib.import_module("collabopt.config.notebook_parameters").check()
    importlib.import_module("collabopt.batch.by_hand").write_pages_later()


def __getattr__(name: str):
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _PUBLIC:
        return importlib.import_module(_PUBLIC[name])
    raise AttributeError(f"module collabopt has no attribute {name}; expected one of {', '.join(__all__)}")
