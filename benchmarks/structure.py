"""The structure of the library in figures: entries, lines, cycles, docstrings and prose. `make metrics` prints them."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp

from collabopt.config import loading

LIBRARY = loading.ROOT / "lib" / "collabopt"
ODD = re.compile(
    r"\b[Aa]n? (?:row|value|int8 value|line|job|figure|bit|range|file|page|interpreter|notebook|panel|point) an? "
    r"(?:stage|tensor|channel|kernel|layer|seed|variant|weight|run|cell|notebook|report|file|step|core|mistake|row)\b"
)
"""Phrases such as "a row a stage", which should say "one row per stage"."""

HOOKS = re.compile(r"build|call|compute_output_shape|on_\w+_begin|[gs]et_\w*quantize\w+")
"""Methods that Keras and TFMOT call, whose parameters these describe."""


def main() -> None:
    """Print the figures."""
    files = {path: ast.parse(path.read_text()) for path in sorted(LIBRARY.rglob("*.py"))}
    functions = [function for path, tree in files.items() for function in list_public_functions(path, tree)]
    documented = [function for function in functions if not find_gaps(function)]
    lines = {path: count_lines(path) for path in files}
    core = {path: count for path, count in lines.items() if path.relative_to(LIBRARY).parts[0] not in SEPARATE}
    prose = sum(count_docstring_lines(files[path]) for path in core)
    rows = [
        ("entries at the top of lib/collabopt", len(list_entries()), "≤ 16"),
        ("modules over 300 lines", sum(count > 300 for count in lines.values()), "0"),
        ("import cycles", count_cycles(), "0"),
        ("imports against the order", count_broken_contracts(), "0"),
        ("library lines outside datasets and models", sum(core.values()), "≤ 7,500"),
        ("of these, docstrings", prose, ""),
        ("of these, not docstrings", sum(core.values()) - prose, ""),
        ("public functions", len(functions), ""),
        ("of these with Google docstrings (%)", round(100 * len(documented) / len(functions), 1), "100"),
        ('phrases such as "a row a stage"', count_odd_phrases(), "0"),
    ]
    print("| figure | value | goal |\n| --- | ---: | ---: |")
    for name, value, goal in rows:
        print(f"| {name} | {value:,} | {goal} |")
    for function in functions:
        for gap in find_gaps(function):
            print(f"{function.name}: {gap}", file=sys.stderr)


SEPARATE = {"datasets", "models"}


def list_entries() -> list[Path]:
    """Return the modules and packages at the top of the library."""
    return [path for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]


def count_lines(path: Path) -> int:
    """Count the lines of a file.

    Args:
        path: The file.
    """
    return len(path.read_text().splitlines())


def count_docstring_lines(tree: ast.Module) -> int:
    """Count the lines of docstrings, those of constants among them.

    Args:
        tree: A module.
    """
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    texts = (value for value in strings if isinstance(value, ast.Constant) and isinstance(value.value, str))
    return sum(text.end_lineno - text.lineno + 1 for text in texts)


def count_cycles() -> int:
    """Count the modules on an import cycle; 0 or the length of the first cycle."""
    graph = grimp.build_graph("collabopt", cache_dir=None)
    try:
        graphlib.TopologicalSorter(
            {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        ).prepare()
    except graphlib.CycleError as error:
        return len(error.args[1]) - 1
    return 0


def count_broken_contracts() -> int:
    """Return 1 if a package imports from one above it, else 0 (`[tool.importlinter]` in pyproject.toml)."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=loading.ROOT, capture_output=True, check=False).returncode


def list_public_functions(path: Path, tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the public functions of a module, and the public methods of its public classes.

    Args:
        path: The module's file.
        tree: Its syntax tree.

    Yields:
        Functions whose `name` is preceded by module and class.
    """
    module = ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
    for node in tree.body:
        is_class = isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for function in node.body if is_class else [node]:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                function.is_method = is_class
                function.name = ".".join([module, *([node.name] if is_class else []), function.name])
                yield function


def find_gaps(function: ast.FunctionDef) -> list[str]:
    """Return what the docstring of a function lacks of Google's form.

    Args:
        function: A public function.
    """
    text = ast.get_docstring(function) or ""
    if not text:
        return ["no docstring"]
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    if HOOKS.fullmatch(function.name.rpartition(".")[2]):
        return []
    names = [one.arg for one in arguments[1 if function.is_method else 0 :] if not is_named_as_type(one)]
    names += [one.arg for one in (function.args.vararg, function.args.kwarg) if one]
    # A parameter has a line of its own, or stands in the text as `name`.
    said = {name for name in names if re.search(rf"^ +\*{{0,2}}{name}: |`{name}`", text, re.MULTILINE)}
    gaps = [f"no Args: {name}" for name in names if name not in said]
    caught = {
        id(node)
        for one in ast.walk(function)
        if isinstance(one, ast.Try)
        for part in one.body
        for node in ast.walk(part)
    }
    raised = [node for node in ast.walk(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    if any(id(node) not in caught for node in raised) and "Raises:" not in text:
        gaps.append("no Raises")
    decorators = [getattr(one, "id", getattr(one, "attr", "")) for one in function.decorator_list]
    is_property = any(name.endswith("property") for name in decorators)
    returns = function.returns is not None and ast.unparse(function.returns) not in ("None", "Iterator[None]")
    says_it = re.search(r"\b(?:return|yield)", text.partition("\n\n")[0], re.IGNORECASE) or re.search(
        r"^(?:Returns|Yields):", text, re.MULTILINE
    )
    if returns and not is_property and not says_it:
        gaps.append("no Returns")
    return gaps


def is_named_as_type(argument: ast.arg) -> bool:
    """Return whether name and type are one word, such as `stage: Stage`, which say it all where no more is to say.

    Args:
        argument: A parameter.
    """
    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
    return argument.arg.replace("_", "") == annotation.rpartition(".")[2].lower()


def count_odd_phrases() -> int:
    """Count odd phrases in the library, notebooks, pages and README."""
    suffixes = {".py", ".ipynb", ".md", ".j2", ".yaml"}
    tracked = subprocess.run(["git", "ls-files"], cwd=loading.ROOT, capture_output=True, text=True, check=True)
    files = [loading.ROOT / name for name in tracked.stdout.splitlines() if Path(name).suffix in suffixes]
    return sum(len(ODD.findall(file.read_text())) for file in files if file.is_file() and file != Path(__file__))


if __name__ == "__main__":
    main()
