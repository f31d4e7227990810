"""Work shared among processes of one thread each."""

import multiprocessing
import os
from collections.abc import Callable, Sequence

from tqdm import tqdm

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_all(work: Sequence[Callable[[], object]], num_processes: int) -> None:
    """Call all of them, each in one of so many fresh processes. The first error ends all.

    Args:
        work: picklable, e.g. `functools.partial` of a module's function.
    """
    if not work:
        return
    # Libraries read these when they are imported, which a spawned process does anew.
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        with multiprocessing.get_context("spawn").Pool(min(num_processes, len(work)), _quiet) as pool:
            finished = pool.imap_unordered(_call, work)
            for _ in tqdm(finished, total=len(work), desc="benchmark", unit="seed", disable=None):
                pass
            pool.close()
            pool.join()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ------------------------------------------------------------------------------------------------------------ private


def _quiet() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _call(work: Callable[[], object]) -> None:
    work()
