"""Hyperparameter search for equivariant molecular networks (arXiv 2008.08461).

The names in ``__all__`` are the Python interface (docs/python.md). All others are private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "Ablation",
    "Callback",
    "HpsearchError",
    "InputError",
    "Model",
    "Store",
    "Study",
    "TensorBoard",
    "__version__",
    "ablate",
    "build_network",
    "launch",
    "load_model",
    "load_molecules",
    "open_store",
    "read_configuration",
    "read_data",
    "read_space",
]

if TYPE_CHECKING:
    from hpsearch.api.callbacks import Callback
    from hpsearch.api.stored import Ablation, Store, Study
    from hpsearch.api.tensorboard import TensorBoard
    from hpsearch.api.verbs import (
        ablate,
        build_network,
        launch,
        load_model,
        load_molecules,
        open_store,
        read_configuration,
        read_data,
        read_space,
    )
    from hpsearch.models.model import Model
    from hpsearch.system.errors import HpsearchError, InputError
else:  # a type checker would otherwise accept any attribute of this module

    def __getattr__(name: str) -> Any:
        """Return a name of the interface. Its module is imported now, so `import` stays fast."""
        if name not in __all__:
            raise AttributeError(f"module 'hpsearch' has no attribute '{name}'")
        found: Any
        if name == "Model":
            from hpsearch.models.model import Model

            found = Model
        elif name == "TensorBoard":
            from hpsearch.api.tensorboard import TensorBoard

            found = TensorBoard
        elif name in ("HpsearchError", "InputError"):
            from hpsearch.system import errors

            found = getattr(errors, name)
        else:
            from hpsearch.api import verbs

            found = getattr(verbs, name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted(__all__)
