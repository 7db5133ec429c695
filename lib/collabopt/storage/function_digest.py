"""A digest of a user's function, which may be defined in a notebook, for the keys of stored results."""

import ast
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from collabopt.runtime import tensorflow, user_modules
from collabopt.storage.source_digest import compute_digest, compute_module_digest, compute_tree_digest

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def compute_function_digest(function: Callable) -> str:
    """Return a digest (16 hex digits) of a `function` with the functions, numbers, texts and arrays that it uses.

    Docstrings, comments and decorators do not count.

    Raises:
        ValueError: Its source cannot be read or changed after its import, or it uses a value whose content cannot be
            described.
    """
    parts, waiting = [], [function]
    for one in waiting:
        if file := _find_file(one):
            user_modules.list_sources(one.__module__)  # refuses a file that changed after its import
        tree = _parse(one)
        parts.append(compute_tree_digest(tree))
        parts += map(compute_module_digest, user_modules.list_imports(tree, file))
        if isinstance(one, types.FunctionType):
            defaults = [*(one.__defaults__ or ()), *sorted((one.__kwdefaults__ or {}).items())]
            parts.append(_describe(defaults, f"{one.__name__}: its defaults"))
        for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
            for value in _find_values(one, name):
                if _is_users(value):
                    waiting += [value] if value not in waiting else []
                else:
                    parts.append(f"{name} {_describe(value, f'{function.__name__}: it uses {name}')}")
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _is_users(value: Any) -> bool:
    """Whether a value is a function or class of a notebook, of `exec`, or of a module of the user."""
    if not isinstance(value, types.FunctionType | type):
        return False
    return value.__module__ in ("__main__", None) or _is_users_module(sys.modules.get(value.__module__))


def _is_users_module(module: Any) -> bool:
    """Whether a value is a module that is neither installed nor of the library."""
    file = getattr(module, "__file__", None) if isinstance(module, types.ModuleType) else None
    return bool(file) and not module.__name__.startswith("collabopt") and not user_modules.is_installed(Path(file))


def _find_file(function: Callable) -> Path | None:
    """The file of a function or class in a module of the user; None in a notebook."""
    module = sys.modules.get(function.__module__)
    return Path(module.__file__) if function.__module__ != "__main__" and _is_users_module(module) else None


def _parse(function: Callable) -> ast.AST:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        tree.decorator_list = []
    except (OSError, TypeError, SyntaxError, ValueError, AttributeError):
        raise ValueError(
            f"{function}: its source cannot be read; define it by def in a notebook's cell or in a module"
        ) from None
    return tree


def _find_values(function: Any, name: str) -> list[Any]:
    """What a name means outside of a function; empty if it is local or built in."""
    if not isinstance(function, types.FunctionType):  # the methods of a class have the globals of its module
        methods = [one for one in vars(function).values() if isinstance(one, types.FunctionType)]
        return _find_values(methods[0], name) if methods else []
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in cells:
        return [cells[name].cell_contents]
    is_local = name in function.__code__.co_varnames
    return [function.__globals__[name]] if name in function.__globals__ and not is_local else []


def _describe(value: Any, what: str) -> str:
    """Text that changes with a value."""
    if _is_users_module(value):
        return " ".join(compute_module_digest(one) for one in user_modules.list_sources(value.__name__))
    if isinstance(value, types.ModuleType | type(tensorflow.keras)):  # which is imported when it is first used
        return f"module {vars(value).get('_name') or value.__name__}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {[_describe(one, what) for one in value]}"
    if isinstance(value, dict):
        return f"dict {[(_describe(key, what), _describe(one, what)) for key, one in value.items()]}"
    if isinstance(value, types.FunctionType | type) and value.__module__.startswith("collabopt"):
        return compute_digest(value)
    if hasattr(value, "__qualname__") and hasattr(value, "__module__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, _PLAIN):
        return repr(value)
    raise ValueError(f"{what}, a {type(value).__name__}; expected functions, numbers, texts, arrays, or lists of these")
