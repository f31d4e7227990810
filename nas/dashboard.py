"""What optuna-dashboard needs to name the axes of a study: names of the objectives, and units as user attributes."""

import warnings
from collections.abc import Sequence

from optuna import Study
from optuna.exceptions import ExperimentalWarning

from nas.objectives import metric_named

UNITS = "units"
"""User attribute of a study: unit of each objective's values as they are stored, which is SI."""

_SUFFIXES = {"_s": "s", "_bytes": "bytes", "_j": "J"}
_PLAIN = {"error": "share of wrong answers", "macs": "multiply-accumulates", "num_params": "parameters"}


def describe_study(study: Study, objectives: Sequence[str]) -> None:
    """Give a study its objectives' names and units; nothing is written if it has them.

    >>> from optuna import create_study
    >>> study = create_study(directions=["minimize", "minimize"])
    >>> describe_study(study, ["error", "mobile_cpu.latency_s"])
    >>> study.metric_names
    ['error', 'mobile_cpu.latency_s']
    >>> study.user_attrs["units"]
    {'error': 'share of wrong answers', 'mobile_cpu.latency_s': 's'}
    """
    if study.metric_names != list(objectives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(objectives))
    units = {name: stored_unit(name) for name in objectives}
    if study.user_attrs.get(UNITS) != units:
        study.set_user_attr(UNITS, units)


def stored_unit(name: str) -> str:
    """Unit of a metric's figures in a study."""
    metric = metric_named(name)
    plain = name.rpartition(".")[2]
    suffixes = [unit for suffix, unit in _SUFFIXES.items() if plain.endswith(suffix)]
    return suffixes[0] if suffixes else _PLAIN.get(plain, metric.unit)
