"""The network of the paper: torch only, without knowledge of any data set."""

from hpsearch.nn.features import Degrees, Features
from hpsearch.nn.neighbourhoods import Neighbourhoods
from hpsearch.nn.network import MultiTargetNetwork

__all__ = ["Degrees", "Features", "MultiTargetNetwork", "Neighbourhoods"]
