"""Makes a cluster of several nodes with declared GPUs, in a process of its own.

    python ray_cluster.py NODES

Prints the address, kills the last node at a line ``kill`` on its standard input, and ends the rest
when that is closed. A process of its own, because Ray reads its settings when it is imported, and
those of `hpsearch.executor` are others than those of its cluster utility.
"""

from __future__ import annotations

import os
import sys

os.environ.update(
    RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_prestart_worker_first_driver="0"
)

from ray.cluster_utils import Cluster

NODE = {
    "num_cpus": 1,
    "num_gpus": 1,
    "object_store_memory": 80 * 2**20,
    "include_log_monitor": False,
}


def main() -> None:
    """Make it, obey, end it."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "include_dashboard": False, "no_monitor": True},
        shutdown_at_exit=False,
    )
    try:
        nodes = [cluster.add_node(**NODE) for _ in range(int(sys.argv[1]) - 1)]
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
