"""The main job from a plain mapping: check everything, train or reuse a supernet, search, report."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from torch import nn

from nas.accuracy import check_data_fits
from nas.constraints import constraints_from_mapping, other_devices
from nas.data import ImageData, data_from_mapping
from nas.files import locked, one_at_a_time, write_text
from nas.ledger import ForgetfulLedger, Ledger
from nas.objectives import objectives_from_mapping
from nas.proposals import MakeSampler, sampler_from_mapping
from nas.result import Ending, SearchResult
from nas.scoring import AccuracySource, Scoring
from nas.storage import check_storage, shown_url, storage_from_mapping
from nas.study import opened_ledger, search_task
from nas.task import SearchTask
from nas.training import Recipe, is_first_process, recipe_from_mapping, train_supernet
from nas.warm_start import EarlierTrial, read_earlier, trials_of
from nas.yardstick import Distance, yardstick_of
from predictors.device import Device, DeviceNotMeasuredError, available_devices, device_from_mapping, load_device
from predictors.fusion import runtime_from_mapping
from predictors.latency import LatencyPredictor
from predictors.mapping import check_keys
from predictors.paths import home
from search_spaces.loading import instance_from_mapping, space_from_mapping
from search_spaces.space import Arch, Space

_NUM_PROFILED_NETWORKS = 30
"""Random networks that stand for the space where this machine is measured."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is searched for and with what, read and checked; nothing has been trained or written.

    `data` and `recipe` are None where the accuracies need none.
    """

    task: SearchTask
    data: ImageData | None
    recipe: Recipe | None
    source: AccuracySource
    sampler: MakeSampler

    def identity(self, config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
        """What determines a result beside the task, JSON-able: some keys of the config, unless they have no effect."""
        unused = {"data": self.data is None, "training": self.recipe is None}
        found = {key: config.get(key) for key in keys if not unused.get(key)}
        return found | {"weights": self.source.digest(self.task.space, self.data, self.recipe)}

    def load(self) -> Scoring:
        """What judges archs; trains what has to be trained for it."""
        return self.source.load(self.task.space, self.data, self.recipe)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A search whose every input has been read and checked; nothing has been trained or written."""

    inputs: Inputs
    num_trials: int
    num_workers: int
    warm_start: tuple[EarlierTrial, ...]
    seed: int
    storage: Mapping[str, Any]
    study_name: str
    identity: Mapping[str, Any]
    folder: Path


def search_from_mapping(config: Mapping[str, Any], *, command: str) -> SearchResult:
    """Run or continue the search that a composed `configs/search.yaml` describes, and write its report.

    Raises:
        ValueError: anything that is wrong with the config; nothing has been written then.
        KeyboardInterrupt: Ctrl-C; the report of what was there has been written, if there was anything.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job = job_from_mapping(config)
    with _ledger_of(job) as ledger:
        config_text = saved_config(config)
        write_text(job.folder / "config.yaml", config_text)
        scoring = job.inputs.load()
        result = search_task(
            job.inputs.task,
            scoring.accuracy,
            ledger,
            num_trials=job.num_trials,
            sampler=job.inputs.sampler,
            num_workers=job.num_workers,
            warm_start=job.warm_start,
            seed=job.seed,
            progress=True,
        )
        result = replace(result, judgement=scoring.judgement)
        if result.candidates:
            waits = result.ending is not Ending.INTERRUPTED  # after Ctrl-C nobody wants to
            yardstick = yardstick_of(job.inputs.task, result, scoring.accuracy) if waits else None
            with one_at_a_time(job.folder / ".report.lock"):  # commands that search together may share the folder
                report(
                    result, job, command=command, config_text=config_text, extract=scoring.extract, yardstick=yardstick
                )
    if result.ending is Ending.INTERRUPTED:
        raise KeyboardInterrupt
    return result


def check_device_name(name: str | None) -> None:
    """Refuse what Hydra composes without a word.

    Raises:
        ValueError: no device was chosen, or a user's own device has the name of a shipped one and hides behind it.
    """
    if name is None:
        raise ValueError(f"no device was given; add hw=NAME, with one of {available_devices()}")
    with suppress(DeviceNotMeasuredError):
        load_device(name)


def train_from_mapping(config: Mapping[str, Any]) -> None:
    """Train the supernet that a composed `configs/train.yaml` describes, or go on where it stopped."""
    space, data = space_from_mapping(config["space"]), data_from_mapping(config["data"])
    check_data_fits(space, data)
    folder = home() / "supernets"
    train_supernet(space, data, recipe_from_mapping(config["training"]), folder)
    if is_first_process():
        print(f"The supernet of {space.name} on {data.name} is trained and kept in {folder}")


def job_from_mapping(config: Mapping[str, Any]) -> Job:
    """Read and check everything that a search needs.

    Raises:
        ValueError: the first thing that is wrong.
    """
    for key in ("num_trials", "num_workers"):
        if config[key] < 1:
            raise ValueError(f"{key} must be at least 1, found {config[key]}")
    if config["seed"] < 0:
        raise ValueError(f"seed must not be negative, found {config['seed']}")
    check_storage(config["storage"])
    inputs = inputs_from_mapping(config, objectives_from_mapping(config["objectives"]))
    space = inputs.task.space
    warm_start = tuple(trials_of(read_earlier(source, space) for source in config["warm_start"]))
    determining = ("hw", "runtime", "space", "data", "training", "accuracy", "sampler", "deploy", "seed", "warm_start")
    identity = inputs.identity(config, determining)
    folder = _folder(config, inputs.task, inputs.data, identity)
    return Job(
        inputs=inputs,
        num_trials=config["num_trials"],
        num_workers=config["num_workers"],
        warm_start=warm_start,
        seed=config["seed"],
        identity=identity,
        storage=config["storage"],
        study_name=config["study_name"] or folder.name,
        folder=folder,
    )


def inputs_from_mapping(config: Mapping[str, Any], objectives: Sequence[str]) -> Inputs:
    """Read and check what any search needs: the groups hw, runtime, space, data, training, accuracy, sampler, and the
    keys deploy, constraints, hard_constraints.

    Raises:
        ValueError: the first thing that is wrong.
    """
    check_keys(config["deploy"], ("resolution", "batch", "dtype"), (), "deploy")
    constraints = constraints_from_mapping(config["constraints"])
    sampler = sampler_from_mapping(config["sampler"])
    source: AccuracySource = instance_from_mapping(config["accuracy"], "source", "accuracy")
    recipe = recipe_from_mapping(config["training"]) if source.needs_training else None
    space = space_from_mapping(config["space"])
    deployed_space = space.deployed(config["deploy"]["resolution"], config["deploy"]["batch"])
    runtime = runtime_from_mapping(config["runtime"]) if config.get("runtime") else None
    predictor = LatencyPredictor(
        _device(config["hw"], deployed_space), dtype=config["deploy"]["dtype"], runtime=runtime
    )
    data = data_from_mapping(config["data"]) if source.needs_data else None
    source.check(space, data)
    task = SearchTask(
        space=space,
        deployed_space=deployed_space,
        predictor=predictor,
        objectives=tuple(objectives),
        constraints=constraints,
        hard=config["hard_constraints"],
        other_predictors={name: LatencyPredictor(load_device(name)) for name in other_devices(objectives, constraints)},
    )
    _ = task.feasible_arch
    return Inputs(task=task, data=data, recipe=recipe, source=source, sampler=sampler)


def judge_name(config: Mapping[str, Any], data: ImageData | None) -> str:
    """Of the data or the source of the accuracies, as folders are named."""
    return data.name if data else str(config["accuracy"]["source"]).rpartition(".")[2].removeprefix("From").lower()


def saved_config(config: Mapping[str, Any]) -> str:
    """The config as YAML, without the password of a storage."""
    shown = dict(config)
    if config.get("storage", {}).get("url"):
        shown["storage"] = {**config["storage"], "url": shown_url(config["storage"]["url"])}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def report(
    result: SearchResult,
    job: Job,
    *,
    command: str,
    config_text: str,
    extract: Callable[[Arch], nn.Module] | None,
    yardstick: Distance | None = None,
) -> None:
    """Write the report of a search into its folder and print the summary."""
    from nas.report import print_summary, write_report

    write_report(
        result,
        job.folder,
        command=command,
        config_text=config_text,
        extract=extract,
        data=job.inputs.data,
        yardstick=yardstick,
    )
    print_summary(result, job.folder)


# ------------------------------------------------------------------------------------------------------------ private


@contextmanager
def _ledger_of(job: Job) -> Iterator[Ledger | ForgetfulLedger]:
    """Where the search keeps its trials. What lies in the run's folder is this process's alone."""
    kind = job.storage["kind"]
    shared = kind in ("url", "grpc")
    taken = f"another search is running in {job.folder}; wait for it, or choose another run_dir"
    with nullcontext() if shared else locked(job.folder, taken):
        storage = None if kind == "memory" else storage_from_mapping(job.storage, job.folder)
        with opened_ledger(storage, job.study_name, job.inputs.task, job.identity, shared=shared) as ledger:
            yield ledger


def _device(mapping: Mapping[str, Any], deployed_space: Space) -> Device:
    """The device of a composed `hw`; this machine is measured the first time, on networks of the space."""
    try:
        return device_from_mapping(mapping, source="hw")
    except DeviceNotMeasuredError:
        from predictors.profile import profile_host

        print(f"{mapping['name']} has not been measured yet: measuring it now, once.")
        rng = np.random.default_rng(0)
        graphs = [deployed_space.graph(deployed_space.sample(rng)) for _ in range(_NUM_PROFILED_NETWORKS)]
        device = profile_host(graphs=graphs)
        print(f"Its file and its table lie in {home() / 'hw'}.")
        return device


def _folder(config: Mapping[str, Any], task: SearchTask, data: ImageData | None, identity: Mapping[str, Any]) -> Path:
    """The folder that the user names, or one whose name is the same whenever the same is asked."""
    if config["run_dir"] is not None:
        return Path(config["run_dir"]).expanduser()
    asked = json.dumps({**task.fingerprint, **identity}, sort_keys=True)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
    name = f"{task.space.name}-{judge_name(config, data)}-{config['objectives']['name']}-{digest}"
    return Path("outputs") / task.predictor.device.name / name
