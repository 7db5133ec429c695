"""Modules of the user, named "module:function" in an experiment.

They are found next to the experiment's file, in the user's directory, or among the installed ones, in this order.
"""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIRECTORY = "COLLABOPT_DIRECTORY"
"""Environment variable in which a batch passes the user's current directory to its jobs, which run in another one."""

_folders: list[Path] = []
_imported: dict[Path, bytes] = {}
"""The user's files that this process has imported, with their content then."""
_import_times: dict[str, int] = {}
"""When each module was imported, in ns, if that was after this one."""
_BEGAN = time.time_ns()


class UserModuleError(ValueError):
    """A module or function of the user cannot be found. The message says where it was looked for."""


def get_directory() -> Path:
    """Return the user's current directory."""
    return Path(os.environ.get(DIRECTORY) or Path.cwd())


def add_folder(folder: Path) -> None:
    """Make the modules of an experiment's `folder` importable inside `allow_imports`."""
    if folder not in _folders:
        _folders.append(folder)


@contextlib.contextmanager
def allow_imports() -> Iterator[None]:
    """Put the folders of the experiments and the user's directory first on the import path, inside the block."""
    path, first = sys.path[:], [str(folder) for folder in (*_folders, get_directory())]
    sys.path[:0] = first
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path


def find_source(place: str) -> Path:
    """Return the file of the module of a `place`, "module:function".

    Raises:
        UserModuleError: There is no such module, or it cannot be told from another.
    """
    name = place.partition(":")[0]
    if name.startswith("."):
        raise UserModuleError("the module is relative; expected its full name, such as package.module")
    own = _find_beside(name)
    with allow_imports():
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # an import of the package itself failed
            spec = None
        except ValueError:  # __main__ in a notebook, which has no file
            spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        folders = " or ".join(str(folder) for folder in dict.fromkeys([*_folders[-1:], get_directory()]))
        raise UserModuleError(f"no module {name}; expected one that is installed or in {folders}")
    source = Path(spec.origin).resolve()
    if own and not any(source.is_relative_to(folder) for folder in own):
        raise UserModuleError(
            f"module {name} is already imported from {source}, so that in {own[0]} cannot be; give it another name, "
            "and restart the kernel"
        )
    return source


def list_sources(place: str) -> list[Path]:
    """Return the files that decide what a `place` is: its module, and all that this imports from the user's folders.

    Raises:
        UserModuleError: There is no such module, or a file changed after this process imported it. Python keeps what
            it has imported, and results are stored under what the files say.
    """
    return _follow([find_source(place)], is_imported=place.partition(":")[0] in sys.modules)


def list_imports(tree: ast.AST, source: Path | None) -> list[Path]:
    """Return the user's files that a syntax `tree` imports, and all that these import.

    Args:
        tree: The tree, such as that of a function.
        source: Its file; None in a notebook.

    Raises:
        UserModuleError: A file changed after this process imported it.
    """
    return _follow([*dict.fromkeys(_find_imports(tree, source))], is_imported=False)


def _follow(sources: list[Path], is_imported: bool) -> list[Path]:
    """The sources and all of the user's that they import. Each imported one must be as it was then."""
    for source in sources:
        if source.suffix == ".py" and not is_installed(source):
            with contextlib.suppress(SyntaxError, ValueError):  # the import says so
                found = _find_imports(ast.parse(source.read_bytes()), source)
                sources += [one for one in dict.fromkeys(found) if one not in sources]
    loaded = _find_loaded({source.name for source in sources})
    for source in sources:
        module, content = loaded.get(source.resolve()), source.read_bytes()
        is_changed = _imported.get(source, content) != content
        if source not in _imported and (is_imported or module) and not is_installed(source):
            is_changed = module and source.stat().st_mtime_ns > _import_times.get(module.__name__, _BEGAN)
            if not is_changed:
                _imported[source] = content
        if is_changed:
            raise UserModuleError(f"{source.name} changed after it was imported; restart the kernel")
    return sources


def _find_loaded(names: set[str]) -> dict[Path, Any]:
    """The imported modules whose files have one of these names, by file."""
    found = {}
    for module in [*sys.modules.values()]:
        file = getattr(module, "__dict__", {}).get("__file__")  # another access would import a lazy module
        if isinstance(file, str) and Path(file).name in names:
            found[Path(file).resolve()] = module
    return found


class _ImportClock:
    """Notes when each module is imported; the first finder on `sys.meta_path`, which finds none."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:  # noqa: ARG004
        _import_times[name] = time.time_ns()


sys.meta_path.insert(0, _ImportClock)


def is_installed(source: Path) -> bool:
    """Return whether a file belongs to Python or an installed package, whose version is known."""
    return "site-packages" in source.parts or source.is_relative_to(sysconfig.get_path("stdlib"))


def find_line(error: Exception) -> str:
    """Return the line of the user's code that raised an `error`, "steps.py, line 3"; "" if none did."""
    library = Path(__file__).parents[1]
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines += re.findall(r'File "([^"]+)", line (\d+)', str(error))  # of AutoGraph
    for name, line in reversed(lines):
        file, is_generated = Path(name), name.startswith("<") or "__autograph" in name
        if not is_generated and not is_installed(file) and not file.is_relative_to(library):
            return f"{file}, line {line}"
    return ""


def _find_imports(tree: ast.AST, source: Path | None) -> Iterator[Path]:
    """The files of the user that a tree imports, with the `__init__` files of their packages."""
    folder = root = source.parent if source else get_directory()
    while (root / "__init__.py").is_file():
        root = root.parent
    package, nodes = folder.relative_to(root).parts, [*ast.walk(tree)]
    names = [alias.name.split(".") for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            module = [*package[: len(package) + 1 - node.level]] if node.level else []
            module += node.module.split(".") if node.module else []
            names += [[*module, alias.name] for alias in node.names]
    library = Path(__file__).parents[2]
    others = [one for one in map(Path, filter(None, sys.path)) if one != library and not is_installed(one)]
    for folder in dict.fromkeys([root, *_folders, get_directory(), *others]):
        for parts in names:
            for end in range(1, len(parts) + 1):
                stem = folder.joinpath(*parts[:end])
                yield from filter(Path.is_file, (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"))


def import_object(place: str) -> Any:
    """Return the function or class at a `place`, "module:function".

    Errors that the module raises are passed on.

    Raises:
        UserModuleError: There is no such module or function, or a file changed after its import.
    """
    module_name, _, name = place.partition(":")
    source = find_source(place)
    with allow_imports():
        module = importlib.import_module(module_name)
    list_sources(place)
    if not callable(getattr(module, name, None)):
        found = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise UserModuleError(f"{source.name} has no function {name}; it has {', '.join(found) or 'none'}")
    return getattr(module, name)


def _find_beside(name: str) -> list[Path]:
    """Return the folders of experiments that have a module.

    Raises:
        UserModuleError: They have different modules of this name, of which one process can import only one.
    """
    top = name.partition(".")[0]
    files = [file for folder in _folders for file in (folder / f"{top}.py", folder / top / "__init__.py")]
    files = [file for file in files if file.is_file()]
    if len({file.read_bytes() for file in files}) > 1:
        raise UserModuleError(
            f"{' and '.join(map(str, files))} differ, but have one name; rename one, and restart the kernel"
        )
    return [folder for folder in _folders if any(file.is_relative_to(folder) for file in files)]
