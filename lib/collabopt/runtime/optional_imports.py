"""Hides installed packages from others, which would import them for seconds and can do without."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def hide(*packages: str) -> Iterator[None]:
    """Make the import of top-level `packages` fail inside the block, except those that are already imported."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
