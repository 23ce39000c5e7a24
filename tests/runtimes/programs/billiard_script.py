"""Children of billiard, Celery's copy of multiprocessing: processes, or the workers of a pool."""

import sys

import billiard
from clients import track


def work(first):
    """Track five events."""
    for n in range(first, first + 5):
        track(n)


if __name__ == "__main__":
    if "pool" in sys.argv:
        pool = billiard.Pool(2)
        pool.map(work, range(0, 20, 5))
        pool.close()
        pool.join()
    else:
        processes = [billiard.Process(target=work, args=(n,)) for n in range(0, 20, 5)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
