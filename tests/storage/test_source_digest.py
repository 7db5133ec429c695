"""The digest of code changes with the computation and with nothing else."""

import importlib
import itertools
import sys
import textwrap

import pytest

from collabopt.storage import source_digest
from collabopt.storage.source_digest import compute_digest, compute_module_digest
from collabopt.techniques import quantization

MODULE = '''
"""Scale and shift."""

import math

import numpy as np

from collabopt.runtime import progress

STEP = 2


def shift(values: np.ndarray, by: float = 1.0) -> np.ndarray:
    """Shift the values."""
    # Exact.
    if by < 0:
        raise ValueError(f"by={by}: expected 0 or more")
    total = [value + by for value in values]
    progress.log("shifted")
    return np.array(total)


def scale(values, factor):
    return shift(values, by=factor) * math.pi * STEP
'''
_numbers = itertools.count()


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """Computes the digest of `scale` in a module of the given text and name."""
    monkeypatch.syspath_prepend(tmp_path)

    def compute(text: str, root: str = "scale", name: str = "") -> str:
        name = name or f"module_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        try:
            return compute_digest(getattr(module, root))
        finally:
            del sys.modules[name]

    return compute


def replaced(*pairs: tuple[str, str]) -> str:
    text = MODULE
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    "text",
    [
        MODULE,
        replaced(('"""Shift the values."""', '"""Move the values."""\n    """Twice."""')),
        replaced(("    # Exact.\n", "")),
        replaced((": np.ndarray, by: float", ", by"), (" -> np.ndarray", "")),
        replaced(("expected 0 or more", "must not be negative"), ("ValueError", "RuntimeError")),
        replaced(('    progress.log("shifted")\n', "")),
        replaced(("total", "shifted_values")),
        replaced(("for value in values", "for one in values"), ("[value +", "[one +")),
        replaced(
            ("by: float", "more: float"), ("by <", "more <"), ("+ by", "+ more"), ("by=f", "more=f"), ("{by}", "{more}")
        ),
        replaced(("def shift(", "def move("), ("return shift(", "return move(")),
        replaced(("STEP", "STRIDE")),
        replaced(("import numpy as np", "import numpy as numerics"), ("np.", "numerics.")),
        replaced(("import math\n", "from math import pi\n"), ("math.pi", "pi")),
        replaced(("def shift", "def unused():\n    return 1\n\n\ndef shift")),
    ],
)
def test_prose_and_names_do_not_change_the_digest(digest_of, text):
    assert digest_of(text) == digest_of(MODULE)


@pytest.mark.parametrize(
    "pair",
    [
        ("STEP = 2", "STEP = 3"),
        ("by: float = 1.0", "by: float = 2.0"),
        ("value + by", "by + value"),
        ("if by < 0", "if by <= 0"),
        ("* math.pi", "/ math.pi"),
        ("math.pi", "math.e"),
        ("np.array(total)", "np.asarray(total)"),
        ("by=factor", "by=-factor"),
        ("for value in values", "for value in values[1:]"),
    ],
)
def test_a_changed_computation_changes_the_digest(digest_of, pair):
    assert digest_of(replaced(pair)) != digest_of(MODULE)


def test_the_same_name_of_another_library_changes_the_digest(digest_of):
    bare = (": np.ndarray", ""), (" -> np.ndarray", "")
    assert digest_of(replaced(*bare, ("import numpy as np", "import math as np"))) != digest_of(MODULE)


def test_a_renamed_module_keeps_the_digest(digest_of):
    assert digest_of(MODULE, name="here") == digest_of(MODULE, name="there")


def test_swapped_variables_are_not_taken_for_renamed_ones(digest_of):
    text = "def scale(a, b):\n    return a - b\n"
    assert digest_of("def scale(x, y):\n    return x - y\n") == digest_of(text)
    assert digest_of("def scale(a, b):\n    return b - a\n") != digest_of(text)


def test_methods_defaults_and_bases_of_a_class_count(digest_of):
    text = textwrap.dedent('''
        import dataclasses

        @dataclasses.dataclass
        class scale:
            """Scale."""

            factor: float = 2.0

            def __call__(self, values):
                """Multiply."""
                return values * self.factor
        ''')
    kept = text.replace('"""Multiply."""', '"""Times."""').replace("values", "numbers")
    assert digest_of(kept) == digest_of(text)
    for old, new in (("2.0", "3.0"), ("* self", "+ self"), ("class scale:", "class scale(Exception):")):
        assert digest_of(text.replace(old, new)) != digest_of(text)


def test_functions_that_call_each_other_have_a_digest(digest_of):
    text = "def scale(n):\n    return other(n - 1) if n else 0\n\n\ndef other(n):\n    return scale(n - 1)\n"
    assert digest_of(text) != digest_of(text.replace("scale(n - 1)", "scale(n - 2)"))


def test_a_module_imported_inside_a_function_is_followed(digest_of):
    text = "def scale(n):\n    from collabopt.techniques import kmeans\n    return kmeans.find_nearest(n, n)\n"
    assert digest_of(text) != digest_of(text.replace("find_nearest", "fit_centroids"))


def test_a_module_digest_ignores_comments_and_docstrings_only(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MODULE)
    digest = compute_module_digest(file)
    file.write_text(replaced(('"""Shift the values."""', '"""Move."""'), ("    # Exact.\n", "")))
    assert compute_module_digest(file) == digest
    digests = {digest}
    for line in (
        "from steps import small as step\n",
        "from steps import large as step\n",
        "import steps.large as step\n",
    ):
        file.write_text(line + MODULE)
        assert compute_module_digest(file) not in digests
        digests.add(compute_module_digest(file))
    file.write_text(replaced(("STEP = 2", "STEP = 3")))
    assert compute_module_digest(file) != digest


def test_the_digest_of_a_trainer_covers_the_classes_and_functions_that_compute():
    reader = source_digest._Reader(frozenset())
    reader.number((quantization.__name__, "train"))
    read = 0
    while read < len(reader.numbers):
        reader.read(list(reader.numbers)[read])
        read += 1
    assert {"KernelQuantizer", "fit", "wrap", "look_up"} <= {name for _, name in reader.numbers}
