"""A Ray cluster of two nodes on this machine; a line on standard input removes the second one. Run by its own process.

Prints the address. Ends with its standard input.
"""

import sys

from ray.cluster_utils import Cluster

MEMORY = 100_000_000


def main() -> None:
    cluster = Cluster(True, False, {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(other, allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
