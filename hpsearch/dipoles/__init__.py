"""Figure 2 and Eq. 4 as an experiment: what a network without vectors cannot learn.

``docs/dipoles.md`` derives what each network can reach.
"""

from hpsearch.dipoles.document import documents, table
from hpsearch.dipoles.experiment import DipoleResults, run

__all__ = ["DipoleResults", "documents", "run", "table"]
