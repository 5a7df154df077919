"""A search: it launches a study, assigns its trials, and reads the stored results."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.search.study import Study as Study


def __getattr__(name: str) -> Any:
    """Return `Study`, for users' own pages; imported on first use, because it loads Optuna."""
    if name == "Study":
        from hpsearch.search.study import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
