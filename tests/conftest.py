import os

# Tiny networks gain nothing from a second thread, and lose much where processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
