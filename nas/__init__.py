"""The search: Optuna over a space's networks, supernet training, reports, and the commands.

Importing this page imports nothing else; what it lists is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.accuracy import Accuracy, SupernetAccuracy
    from nas.constraints import constraints_from_mapping
    from nas.data import load_data
    from nas.job import search_from_mapping
    from nas.objectives import METRICS
    from nas.pareto import hypervolume, pareto_front
    from nas.report import print_summary, write_report
    from nas.result import Candidate, SearchResult
    from nas.storage import open_journal
    from nas.study import SearchTask, open_study, run_search
    from nas.training import Recipe, train_supernet

_MODULES = {
    "Accuracy": "accuracy",
    "Candidate": "result",
    "METRICS": "objectives",
    "Recipe": "training",
    "SearchResult": "result",
    "SearchTask": "study",
    "SupernetAccuracy": "accuracy",
    "constraints_from_mapping": "constraints",
    "hypervolume": "pareto",
    "load_data": "data",
    "open_journal": "storage",
    "open_study": "study",
    "pareto_front": "pareto",
    "print_summary": "report",
    "run_search": "study",
    "search_from_mapping": "job",
    "train_supernet": "training",
    "write_report": "report",
}

__all__ = [
    "METRICS",
    "Accuracy",
    "Candidate",
    "Recipe",
    "SearchResult",
    "SearchTask",
    "SupernetAccuracy",
    "constraints_from_mapping",
    "hypervolume",
    "load_data",
    "open_journal",
    "open_study",
    "pareto_front",
    "print_summary",
    "run_search",
    "search_from_mapping",
    "train_supernet",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"nas.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
