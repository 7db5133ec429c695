"""A digest of what functions compute, for the keys of stored results.

The digest covers the syntax trees of the functions and of everything in the library that they use, followed through
imports. It ignores docstrings, comments, annotations, error messages, progress lines, and the names of modules,
functions, parameters and local variables. So a move, a rename or a new docstring keeps stored stages, and a changed
computation does not. Names of attributes and methods count, and so does the order of statements.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
from pathlib import Path

_PACKAGE = "collabopt"
_OPAQUE = ("collabopt.runtime.", "collabopt.config.", "collabopt.storage.")
"""Modules whose own code decides no result. The values of experiments and stages are part of each key."""

_SKIPPED_FIELDS = {"annotation", "returns", "type_comment", "type_params", "ctx", "kind", "simple", "msg"}

_PROGRESS = "Expr(opaque)"
"""The form of a statement that only calls opaque code, such as a progress line."""

_Definition = tuple[str, str]
"""Module and name."""


def compute_digest(*roots: object) -> str:
    """Return a digest (16 hex digits) of functions and classes with everything in the library that they use.

    Args:
        *roots: Functions or classes, of the library or of a module of the user. A nested function or a method stands
            for the whole definition around it. "module:name" is one of the library that need not be imported.
    """
    return _compute_digest(tuple(_find_definition(root) for root in roots))


@functools.cache
def _compute_digest(definitions: tuple[_Definition, ...]) -> str:
    reader = _Reader(frozenset(module for module, _ in definitions))
    for definition in definitions:
        reader.number(definition)
    # Reading a form numbers further definitions, in an order that depends on no name.
    forms = []
    while len(forms) < len(reader.numbers):
        forms.append(reader.read(list(reader.numbers)[len(forms)]))
    return hashlib.blake2b("\n".join(forms).encode(), digest_size=8).hexdigest()


def compute_module_digest(path: Path) -> str:
    """Return a digest (16 hex digits) of the Python file `path`, without docstrings, comments and error messages."""
    return compute_tree_digest(ast.parse(path.read_bytes()).body)


def compute_tree_digest(tree: ast.AST | list[ast.AST]) -> str:
    """Return a digest (16 hex digits) of a syntax `tree` or statements as `compute_module_digest` does."""
    form = _Reader(frozenset()).form(tree, _Scope("", frozenset(), keeps_names=True))
    return hashlib.blake2b(form.encode(), digest_size=8).hexdigest()


def compute_package_digest(folder: Path) -> str:
    """Return a digest (16 hex digits) of all Python files of a `folder`, without docstrings and comments."""
    files = {str(path.relative_to(folder)): compute_module_digest(path) for path in sorted(folder.rglob("*.py"))}
    return hashlib.blake2b(repr(files).encode(), digest_size=8).hexdigest()


@dataclasses.dataclass
class _Scope:
    """The names of a definition: its module, imports and local names, numbered in the order of their first use."""

    module: str
    local: frozenset[str]
    imports: dict[str, str] = dataclasses.field(default_factory=dict)
    numbers: dict[str, int] = dataclasses.field(default_factory=dict)
    keeps_names: bool = False

    def name(self, name: str) -> str:
        return name if self.keeps_names else f"local {self.numbers.setdefault(name, len(self.numbers))}"


@dataclasses.dataclass
class _Reader:
    """Reads definitions as text in which names are numbers.

    Attributes:
        modules: Modules outside the package that count as ours.
        numbers: The definitions met so far, in order.
    """

    modules: frozenset[str]
    numbers: dict[_Definition, int] = dataclasses.field(default_factory=dict)

    def number(self, definition: _Definition) -> int:
        return self.numbers.setdefault(definition, len(self.numbers))

    def read(self, definition: _Definition) -> str:
        module, name = definition
        node = _parse(module)[0][name]
        if isinstance(node, ast.ClassDef):
            return self._class(node, module)
        if isinstance(node, ast.FunctionDef):
            return self._function(node, _scope(node, module))
        return self.form(node.value, _scope(node.value, module))

    def _class(self, node: ast.ClassDef, module: str) -> str:
        parts = [self.form([node.bases, node.keywords, node.decorator_list], _scope(node, module))]
        for statement in node.body:
            scope = _scope(statement, module)
            if isinstance(statement, ast.FunctionDef):
                parts.append(f"{statement.name} {self._function(statement, scope)}")
            elif not _is_prose(statement):
                scope.keeps_names = True
                parts.append(self.form(statement, scope))
        return f"class {parts}"

    def _function(self, node: ast.FunctionDef, scope: _Scope) -> str:
        return self.form([node.args, node.body, node.decorator_list], scope)

    def form(self, node: object, scope: _Scope) -> str:
        """The text of a syntax tree, of a list of them, or of a constant."""
        if isinstance(node, list):
            forms = [self.form(one, scope) for one in node if not _is_prose(one)]
            return f"[{', '.join(form for form in forms if form != _PROGRESS)}]"
        match node:
            case ast.Import() | ast.ImportFrom() if scope.keeps_names:
                return ast.dump(node)
            case ast.Raise() | ast.Import() | ast.ImportFrom():
                return type(node).__name__
            case ast.arg():
                return scope.name(node.arg)
            case ast.FunctionDef():
                return f"{scope.name(node.name)} {self._function(node, scope)}"
            case ast.ExceptHandler():
                name = scope.name(node.name) if node.name else None
                return f"except {self.form(node.type, scope)} {name} {self.form(node.body, scope)}"
            case ast.Name() | ast.Attribute():
                return self._reference(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.AST():
                fields = [self.form(value, scope) for key, value in ast.iter_fields(node) if key not in _SKIPPED_FIELDS]
                return f"{type(node).__name__}({', '.join(fields)})"
        return repr(node)

    def _reference(self, node: ast.Name | ast.Attribute, scope: _Scope) -> str:
        found = self._resolve(node, scope)
        if isinstance(found, tuple):
            return "opaque" if found[0].startswith(_OPAQUE) else f"definition {self.number(found)}"
        if found is not None:
            return found
        if isinstance(node, ast.Attribute):
            return f"{self.form(node.value, scope)}.{node.attr}"
        return scope.name(node.id) if node.id in scope.local else node.id

    def _call(self, node: ast.Call, scope: _Scope) -> str:
        found = self._resolve(node.func, scope)
        module, name = found if isinstance(found, tuple) else ("", "")
        if module.startswith(_OPAQUE):
            return "opaque"
        names = _parameters(_parse(module)[0][name]) if module else []
        keywords = [
            f"{names.index(one.arg) if one.arg in names else one.arg}={self.form(one.value, scope)}"
            for one in node.keywords
        ]
        return f"{self.form(node.func, scope)}({self.form(node.args, scope)}, {sorted(keywords)})"

    def _resolve(self, node: ast.expr, scope: _Scope) -> _Definition | str | None:
        """The definition that a dotted name stands for, the full name of anything imported, or None."""
        match node:
            case ast.Attribute(value, attribute):
                base = self._resolve(value, scope)
                return self._follow(f"{base}.{attribute}") if isinstance(base, str) else None
            case ast.Name(name) if name in scope.imports:
                return self._follow(scope.imports[name])
            case ast.Name(name) if name not in scope.local:
                return self._look_up(scope.module, name)
        return None

    def _look_up(self, module: str, name: str) -> _Definition | str | None:
        definitions, imports = _parse(module) if module else ({}, {})
        if name in definitions:
            return module, name
        return self._follow(imports[name]) if name in imports else None

    def _follow(self, full_name: str) -> _Definition | str:
        """The definition behind the full name of an import, through re-exports; the name itself if it is not ours."""
        module, _, name = full_name.rpartition(".")
        is_ours = module in self.modules or _path(module)
        return (is_ours and not _path(full_name) and self._look_up(module, name)) or full_name


def _find_definition(root: object) -> _Definition:
    if isinstance(root, str):
        module, _, name = root.partition(":")
    else:
        root = inspect.unwrap(root)
        module, name = root.__module__, root.__qualname__.split(".")[0]
    return module, name


def _is_prose(node: object) -> bool:
    """Whether a statement is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _parameters(node: ast.AST) -> list[str]:
    """Names of the parameters of a function, or of a class's `__init__`."""
    match node:
        case ast.ClassDef():
            inits = (one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
            return [name for init in inits for name in _parameters(init)[1:]]
        case ast.FunctionDef():
            return [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return []


def _scope(node: ast.AST, module: str) -> _Scope:
    """The scope of a definition: every name that is bound anywhere in it is local."""
    return _Scope(module, *_list_names(node))


@functools.cache
def _list_names(node: ast.AST) -> tuple[frozenset[str], dict[str, str]]:
    """The names that a tree binds, and local name -> full name of what its statements import."""
    local, imports = set(), {}
    for one in ast.walk(node):
        match one:
            case ast.arg():
                local.add(one.arg)
            case ast.Name(ctx=ast.Store() | ast.Del()):
                local.add(one.id)
            case ast.FunctionDef() | ast.ExceptHandler() if one is not node and one.name:
                local.add(one.name)
            case ast.ImportFrom(module, names):
                imports |= {name.asname or name.name: f"{module}.{name.name}" for name in names}
            case ast.Import(names):
                imports |= {name.asname: name.name for name in names if name.asname}
                imports |= {root: root for root in (name.name.partition(".")[0] for name in names if not name.asname)}
    return frozenset(local), imports


@functools.cache
def _path(module: str) -> Path | None:
    """The file of a module of the package; None for all others."""
    if module.partition(".")[0] != _PACKAGE:
        return None
    place = Path(__file__).parents[__name__.count(".") - 1].joinpath(*module.split(".")[1:])
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@functools.cache
def _parse(module: str) -> tuple[dict[str, ast.AST], dict[str, str]]:
    """The definitions of a module by name, and what it imports."""
    path = _path(module) or Path(sys.modules[module].__file__)
    tree, definitions = ast.parse(path.read_bytes()), {}
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                definitions[node.name] = node
            case ast.Assign(targets=[ast.Name()]):
                definitions[node.targets[0].id] = node
            case ast.AnnAssign(target=ast.Name()) if node.value:
                definitions[node.target.id] = node
    return definitions, _list_names(tree)[1]
