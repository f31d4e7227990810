"""The search: Optuna over a space's networks, supernet training, reports, and the commands.

Importing this page imports nothing else; what it lists is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.accuracy import Accuracy, SupernetAccuracy
    from nas.compare.comparing import compare_strategies
    from nas.constraints import constraints_from_mapping
    from nas.data import load_data
    from nas.finishing import finish_run
    from nas.job import search_from_mapping
    from nas.objectives import METRICS
    from nas.pareto import hypervolume, pareto_front
    from nas.report import print_summary, write_report
    from nas.result import Candidate, SearchResult
    from nas.run_folder import read_run
    from nas.storage import open_journal
    from nas.study import opened_ledger, run_search, search_task
    from nas.task import SearchTask
    from nas.training import Recipe, train_network, train_supernet
    from nas.verifying import subject_of, verify_run

_MODULES = {
    "Accuracy": "accuracy",
    "Candidate": "result",
    "METRICS": "objectives",
    "Recipe": "training",
    "SearchResult": "result",
    "SearchTask": "task",
    "SupernetAccuracy": "accuracy",
    "compare_strategies": "compare.comparing",
    "constraints_from_mapping": "constraints",
    "finish_run": "finishing",
    "hypervolume": "pareto",
    "load_data": "data",
    "open_journal": "storage",
    "opened_ledger": "study",
    "pareto_front": "pareto",
    "print_summary": "report",
    "read_run": "run_folder",
    "run_search": "study",
    "search_from_mapping": "job",
    "search_task": "study",
    "subject_of": "verifying",
    "train_network": "training",
    "train_supernet": "training",
    "verify_run": "verifying",
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
    "compare_strategies",
    "constraints_from_mapping",
    "finish_run",
    "hypervolume",
    "load_data",
    "open_journal",
    "opened_ledger",
    "pareto_front",
    "print_summary",
    "read_run",
    "run_search",
    "search_from_mapping",
    "search_task",
    "subject_of",
    "train_network",
    "train_supernet",
    "verify_run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"nas.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
