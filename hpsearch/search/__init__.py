"""A search: launching a study, handing out its trials, and reading what is stored of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.search.study import Study as Study


def __getattr__(name: str) -> Any:
    """`Study`, for people's own pages; read when it is asked for, since it loads Optuna."""
    if name == "Study":
        from hpsearch.search.study import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
