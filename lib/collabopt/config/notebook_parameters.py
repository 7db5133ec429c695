"""The check of a notebook that papermill runs by hand: papermill itself only warns about a parameter that it lacks."""

import ast
import itertools
import sys

from collabopt.config import loading
from collabopt.config.experiment import ExperimentError

_INJECTED = "# Parameters\n"
"""How papermill begins the cell with the given parameters, which follows the cell of the notebook's own."""


def check() -> None:
    """Check the parameters that papermill gave to the notebook of this kernel.

    Raises:
        ExperimentError: The notebook has no such parameter.
    """
    check_cells(sys.modules["IPython"].get_ipython().user_ns.get("In", []))


def check_cells(cells: list[str]) -> None:
    """Check the parameters in the `cells` that a notebook has run, given by their sources in order.

    Raises:
        ExperimentError: The notebook has no such parameter.
    """
    for own, injected in itertools.pairwise(cells):
        if not injected.startswith(_INJECTED):
            continue
        known = read_assignments(own)
        for name, value in read_assignments(injected).items():
            if name not in known:
                raise ExperimentError(
                    f"{name}={value}: this notebook has no such parameter{loading.suggest(name, known)}"
                )


def read_assignments(cell: str) -> dict[str, str]:
    """Return the source of each value that a `cell` assigns, by name."""
    lines = [line for line in ast.parse(cell).body if isinstance(line, ast.Assign)]
    return {ast.unparse(line.targets[0]): ast.unparse(line.value) for line in lines}
