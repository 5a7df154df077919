"""The network of the paper: torch only, without molecules."""

from hpsearch.config.architecture import Degrees
from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.nn.features import Features
from hpsearch.nn.network import MultiTargetNetwork

__all__ = ["Degrees", "Features", "MultiTargetNetwork", "Neighbourhoods"]
