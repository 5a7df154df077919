"""The network of the paper: torch only; of QM9 it knows the elements and the range of distances."""

from hpsearch.config.architecture import Degrees
from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.nn.features import Features
from hpsearch.nn.network import MultiTargetNetwork

__all__ = ["Degrees", "Features", "MultiTargetNetwork", "Neighbourhoods"]
