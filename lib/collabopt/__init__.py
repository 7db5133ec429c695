"""Collaborative model optimization: prune, cluster and quantize Keras models so that each step keeps the previous one.

    from collabopt import figures, start, tables

    run = start("digits", sparsity=0.8)
    tables.stages(run.stages("baseline", "pqat"))

Importing the package is cheap. What a notebook uses is imported when it is first named.
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
    "tables": "collabopt.report.tables",
}
_FUNCTIONS = {
    "start": "collabopt.run",
    "shrink": "collabopt.batch.shrink",
    "import_model": "collabopt.models.importing",
}
__all__ = [*_PUBLIC, *_FUNCTIONS]

if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():  # a notebook
    importlib.import_module("collabopt.config.notebook_parameters").check()
    importlib.import_module("collabopt.batch.by_hand").write_pages_later()


def __getattr__(name: str):
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _PUBLIC:
        return importlib.import_module(_PUBLIC[name])
    raise AttributeError(f"module collabopt has no attribute {name}; expected one of {', '.join(__all__)}")
