"""A comparison from a plain mapping: check everything, train or reuse a supernet, search, judge, report."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from nas.compare.comparing import check_budget, check_strategies, compare_strategies
from nas.compare.records import Comparison, Strategy, Yardstick
from nas.compare.remembered import RememberedAccuracy
from nas.compare.statistics import seeds_needed
from nas.compare.strategies import strategies_from_names
from nas.compare.yardsticks import YardstickSource, usual_yardstick
from nas.files import locked, one_at_a_time, write_text
from nas.job import Inputs, inputs_from_mapping, judge_name, saved_config
from nas.surrogate import SurrogateAccuracy
from nas.tabular import TableAccuracy
from search_spaces.loading import instance_from_mapping
from search_spaces.space import Arch

QUESTION_FILE = "question.json"
FEWEST_SEEDS = 2

_QUESTION = ("space", "data", "training", "accuracy", "sampler", "constraints", "hard_constraints", "num_trials")
"""Keys that are the same for all devices of a table."""
_JUDGED = ("space", "data", "training", "accuracy")
"""Keys that determine the accuracy of a network."""


def compare_from_mapping(config: Mapping[str, Any], *, command: str) -> Comparison:
    """Run or continue the comparison that a composed `configs/compare.yaml` describes, and write its reports.

    Raises:
        ValueError: anything that is wrong with the config; nothing has been written then.
        KeyboardInterrupt: Ctrl-C; finished searches are kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    strategies = strategies_from_names(config["strategies"])
    seeds = range(config["seed"], config["seed"] + config["num_seeds"])
    check_strategies(strategies, config["baseline"])
    _check_seeds(config, strategies)
    check_budget(config["num_trials"], seeds)
    if config["jobs"] < 1:
        raise ValueError(f"jobs must be at least 1, found {config['jobs']}")
    inputs = inputs_from_mapping(config, _all_objectives(strategies))
    title = title_of(config, inputs)
    question = inputs.identity(config, _QUESTION) | {"resolution": config["deploy"]["resolution"]}
    parent = _parent(config, inputs, question)
    folder = parent / re.sub(r"[^\w.-]+", "-", title)
    yardstick = _yardstick(config, inputs, title, folder)
    taken = f"another comparison is running in {folder}; wait for it, or choose another run_dir"
    with locked(folder, taken):
        _check_question(parent, question)
        config_text = saved_config(config)
        write_text(folder / "config.yaml", config_text)
        scoring = inputs.load()
        is_surrogate = isinstance(scoring.accuracy, SurrogateAccuracy)
        found = compare_strategies(
            inputs.task,
            _remembered(scoring.accuracy, inputs, config, parent),
            strategies,
            baseline=config["baseline"],
            sampler=inputs.sampler,
            sampler_name=str(config["sampler"]["class"]).rpartition(".")[2],
            num_trials=config["num_trials"],
            seeds=seeds,
            folder=folder,
            yardstick=yardstick,
            judged="top-1" if is_surrogate else scoring.judgement.name,
            title=title,
            jobs=config["jobs"],
            sweep=config["sweep"],
        )
        report(found, folder, command=command, config_text=config_text)
    return found


def title_of(config: Mapping[str, Any], inputs: Inputs) -> str:
    """The device as deployed, as a person calls it: "v100, batch 32"."""
    deploy, runtime = config["deploy"], config.get("runtime")
    parts = [
        inputs.task.predictor.device.name,
        f"batch {deploy['batch']}" if deploy["batch"] != 1 else "",
        inputs.task.predictor.runtime.name if runtime else "",
        deploy["dtype"] or "",
    ]
    return ", ".join(part for part in parts if part)


def report(comparison: Comparison, folder: Path, *, command: str, config_text: str) -> None:
    """Write the report of a device and that of all devices beside it, and print the summary."""
    from nas.compare.report import print_comparison, write_devices, write_report

    write_report(comparison, folder, command=command, config_text=config_text)
    write_devices(folder.parent)
    print_comparison(comparison, folder)


# ------------------------------------------------------------------------------------------------------------ private


def _check_seeds(config: Mapping[str, Any], strategies: Sequence[Strategy]) -> None:
    """Refuse what has no spread, and say where the rank test cannot tell anything."""
    num_seeds, num_others = config["num_seeds"], len(strategies) - 1
    needed = seeds_needed(num_others)
    others = f"{num_others} strategies" if num_others > 1 else "a strategy"
    needs = f"with {others} held against {config['baseline']}, the rank test needs {needed} seeds to tell anything"
    if config["seed"] < 0:
        raise ValueError(f"seed must not be negative, found {config['seed']}")
    if num_seeds < FEWEST_SEEDS:
        raise ValueError(f"num_seeds must be at least {FEWEST_SEEDS}, found {num_seeds}; {needs}")
    if num_seeds < needed:
        warnings.warn(
            f"num_seeds={num_seeds}: {needs}; there will be figures with intervals, and no difference will be claimed",
            stacklevel=2,
        )


def _all_objectives(strategies: Sequence[Strategy]) -> tuple[str, ...]:
    """Each once, with what all are judged by."""
    return tuple(dict.fromkeys(("error", "latency_s", *(name for each in strategies for name in each.objectives))))


def _parent(config: Mapping[str, Any], inputs: Inputs, question: Mapping[str, Any]) -> Path:
    """The folder of all devices: that of the user, or one whose name is the same whenever the same is asked."""
    if config["run_dir"] is not None:
        return Path(config["run_dir"]).expanduser()
    judged = judge_name(config, inputs.data)
    return Path("outputs") / "compare" / f"{inputs.task.space.name}-{judged}-{_digest(question)}"


def _check_question(parent: Path, question: Mapping[str, Any]) -> None:
    """Note what the devices of a folder are compared for.

    Raises:
        ValueError: it is for something else.
    """
    path, asked = parent / QUESTION_FILE, json.loads(json.dumps(question))
    with one_at_a_time(parent / ".question.lock"):
        if not path.exists():
            write_text(path, json.dumps(asked, indent=1) + "\n")
            return
        found = json.loads(path.read_text(encoding="utf-8"))
    for key in sorted({*found, *asked}):
        if found.get(key) != asked.get(key):
            raise ValueError(
                f"{parent} was begun with {key} {found.get(key)}, and {asked.get(key)} is asked now; continue it as "
                "it was begun, or choose another run_dir"
            )


def _yardstick(config: Mapping[str, Any], inputs: Inputs, title: str, folder: Path) -> Yardstick:
    if config.get("yardstick") is None:
        return usual_yardstick(inputs.task, title, folder)
    source: YardstickSource = instance_from_mapping(config["yardstick"], "source", "yardstick")
    return source.load(inputs.task, title, folder)


def _remembered(
    accuracy: Callable[[Arch], float], inputs: Inputs, config: Mapping[str, Any], parent: Path
) -> Callable[[Arch], float]:
    """The accuracy itself where it costs nothing; else one that is kept beside the folder, for other questions, too."""
    if isinstance(accuracy, (SurrogateAccuracy, TableAccuracy)):
        return accuracy
    judged = judge_name(config, inputs.data)
    digest = _digest(inputs.identity(config, _JUDGED))
    place = parent if config["run_dir"] is not None else parent.parent
    space = inputs.task.space
    return RememberedAccuracy(accuracy, space, place / f"{space.name}-{judged}-{digest}.accuracies.jsonl")


def _digest(described: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
