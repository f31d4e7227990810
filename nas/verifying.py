"""A search's front, measured on the device and held against its predictions, and the device recalibrated with it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nas.files import replacing, write_text
from nas.report.after import VERIFY_FILE, VERIFY_PICTURE, VERIFY_SUMMARY, refresh_page
from nas.run_folder import FrontNetwork, Run, chosen_of, front_of, locked_run, read_run
from nas.verify_report import (
    Verification,
    Verified,
    draw_verification,
    print_verification,
    sentences_of,
    verification_csv,
)
from nas.verify_times import ElsewhereError, Measuring, measure_here, read_times, write_models
from predictors.calibration import MIN_NETWORKS, calibrate
from predictors.device import Device, available_devices, device_from_mapping, load_device
from predictors.device_writing import save_device
from predictors.fusion import Runtime, runtime_from_mapping
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.measure.session import Settings
from predictors.paths import shipped, user_device_folders
from predictors.validation.comparison import Scores, scores

MAX_FOLDS = 10
"""So often the device is refitted to judge the refit, each time without some of the networks."""

_CHANGED = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is verified: networks of a run's front, and what is predicted of them.

    Attributes:
        notes: what to be careful about, as sentences without their full stops.
    """

    run: Run
    networks: tuple[FrontNetwork, ...]
    graphs: Mapping[str, Graph]
    predictor: LatencyPredictor
    notes: tuple[str, ...]


def verify_from_mapping(config: Mapping[str, Any]) -> None:
    """Verify the run that a composed `configs/verify.yaml` names, and print what came of it.

    Raises:
        ElsewhereError: this machine is not the device; what to do instead has been printed.
    """
    run = read_run(config["run"])
    measuring = Measuring(
        settings=Settings(precision=config["precision"], budget_s=config["budget_s"]),
        passes=config["passes"],
        threads=config["threads"],
        here=config["here"],
        again=config["again"],
    )
    device = None
    if config["hw"] is not None:
        load_device(str(config["hw"].get("name")))  # refuses one that hides behind a shipped one
        device = device_from_mapping(config["hw"], source="hw")
    runtime = runtime_from_mapping(config["runtime"]) if config["runtime"] is not None else None
    subject = subject_of(run, device=device, runtime=runtime, num_networks=config["num_networks"])
    try:
        found = verify_run(
            subject,
            measured=Path(config["measured"]).expanduser() if config["measured"] else None,
            measuring=measuring,
            recalibrate=config["recalibrate"],
            save_as=config["save_as"],
        )
    except ElsewhereError:
        models = Path(config["models"]).expanduser() if config["models"] else run.folder / "models"
        for line in write_models(subject.graphs, subject.predictor.runtime.name, models):
            Console(highlight=False).print(line, soft_wrap=True)
        raise
    print_verification(found, run.folder)


def subject_of(
    run: Run,
    *,
    device: Device | None = None,
    runtime: Runtime | str | None = None,
    num_networks: int | None = None,
) -> Subject:
    """What to verify.

    Args:
        device: another than the search's, whose file is read as it is today.
        runtime: another than the search's, or than the device's own.
        num_networks: of the front, spread over it by latency; None takes all.

    Raises:
        ValueError: the run has no front, or its device no file and no numbers.
    """
    networks = _some(front_of(run), num_networks)
    own = device is None and runtime is None
    notes: list[str] = []
    if device is None:
        device, runtime = _device(run, notes), runtime or _runtime(run)
    predictor = LatencyPredictor(device, dtype=run.config["deploy"].get("dtype"), runtime=runtime)
    graphs = {each.name: run.deployed_space.graph(each.arch) for each in networks}
    if own:
        notes += _changes(networks, predictor, graphs)
    return Subject(run=run, networks=tuple(networks), graphs=graphs, predictor=predictor, notes=tuple(notes))


def verify_run(
    subject: Subject,
    *,
    measured: Path | None = None,
    measuring: Measuring | None = None,
    recalibrate: bool = True,
    save_as: str | None = None,
) -> Verification:
    """Measure the front of a run, or read its times, compare them with predictions, and recalibrate the device.

    Leaves `verify.csv`, `verify.png`, `verify.json` and a part of the report in the run's folder, and the refitted
    device where the user's own file of it lies, else in `./hw`. A shipped file is never replaced; a file of the user's
    that is stays beside the new one.

    Args:
        measured: CSV of times taken elsewhere; None measures here.
        measuring: how to measure here.
        recalibrate: refit the device; fewer than three networks are too few.
        save_as: name of the refitted device; None takes the device's own, or NAME_verified of a shipped one.

    Raises:
        ElsewhereError: this machine is not the device.
        ValueError: the times are not of these networks or in another unit, or a name is taken.
    """
    run, device = subject.run, subject.predictor.device
    target = _target(device, save_as) if recalibrate else None
    notes = list(subject.notes)
    with locked_run(run):
        if measured is not None:
            times = read_times(measured, list(subject.graphs))
        else:
            times, said = measure_here(run, subject.predictor, subject.graphs, measuring or Measuring())
            notes += said
        subnets = _subnets(run)
        rows = tuple(
            Verified(
                network=each,
                subnet=subnets.get(each.number, ""),
                prediction=subject.predictor.predict(subject.graphs[each.name]),
                measured=times[each.name],
            )
            for each in subject.networks
            if each.name in times
        )
        if left := [name for name in subject.graphs if name not in times]:
            notes.append(f"{len(left)} networks have no time: {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}")
        digest = _digest(rows)
        if _fitted_to(run) == (device.name, digest):
            notes.append(
                f"device {device.name!r} was fitted to these very times, so its errors on them are no test: measure "
                "again (again=true), or others"
            )
        found = Verification(rows=rows, device=device, before=_scores(rows), notes=tuple(notes))
        if target is not None:
            found = _recalibrated(found, subject.predictor, subject.graphs, target)
        _write(run, found, subject.predictor, digest)
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _device(run: Run, notes: list[str]) -> Device:
    """The run's device as its file says today, or as the run's config does where there is no file."""
    mapping = run.config["hw"]
    if not isinstance(mapping, Mapping) or "name" not in mapping:
        raise ValueError(f"{run.folder / 'config.yaml'}: hw names no device; another version wrote it, or it is torn")
    name = str(mapping["name"])
    if name in available_devices():
        return load_device(name)
    notes.append(f"there is no device file {name!r} any more; the copy in the run's config.yaml is used")
    return device_from_mapping(mapping, source=str(run.folder / "config.yaml"))


def _runtime(run: Run) -> Runtime | None:
    mapping = run.config.get("runtime")
    return runtime_from_mapping(mapping) if mapping else None


def _target(device: Device, save_as: str | None) -> Path:
    """File of the refitted device.

    Raises:
        ValueError: the name is that of a shipped device, or none.
    """
    own = [folder / f"{device.name}.yaml" for folder in user_device_folders()]
    existing = next((path for path in own if path.is_file()), None)
    if save_as is None:
        if existing is not None:
            return existing
        is_shipped = (shipped("hw") / f"{device.name}.yaml").is_file()
        save_as = f"{device.name}_verified" if is_shipped else device.name
    if not save_as.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"save_as: a device's name has letters, digits, _ and -, found {save_as!r}")
    if (shipped("hw") / f"{save_as}.yaml").is_file() and not (existing and save_as == device.name):
        raise ValueError(f"save_as: device {save_as!r} is shipped with ridgeline; give yours another name")
    places = [folder / f"{save_as}.yaml" for folder in user_device_folders()]
    return next((path for path in places if path.is_file()), places[0])


def _some(front: Sequence[FrontNetwork], number: int | None) -> list[FrontNetwork]:
    """So many of the front, among them its first and its last, the others evenly between."""
    if number is None or number >= len(front):
        return list(front)
    if number < 1:
        raise ValueError(f"num_networks must be at least 1, found {number}")
    places = np.unique(np.round(np.linspace(0, len(front) - 1, number)).astype(int))
    return [front[place] for place in places]


def _changes(networks: Sequence[FrontNetwork], predictor: LatencyPredictor, graphs: Mapping[str, Graph]) -> list[str]:
    ratios = [predictor.predict(graphs[each.name]).latency_s / each.latency_s for each in networks]
    apart = max(abs(ratio - 1.0) for ratio in ratios)
    if apart <= _CHANGED:
        return []
    return [
        "the device's file or tables have changed since the search, whose predictions were up to "
        f"{apart:.0%} off those of now"
    ]


def _subnets(run: Run) -> dict[int, str]:
    """Names of the subnets that the report chose, by the candidate's number."""
    try:
        return {each["number"]: name for name, each in chosen_of(run).items()}
    except (ValueError, KeyError):
        return {}


def _scores(rows: Sequence[Verified]) -> Scores:
    return scores(
        np.array([each.measured_s for each in rows]),
        np.array([each.prediction.latency_s for each in rows]),
        np.array([each.prediction.std_s for each in rows]),
    )


def _recalibrated(
    found: Verification, predictor: LatencyPredictor, graphs: Mapping[str, Graph], target: Path
) -> Verification:
    """The device refitted to all rows and saved, with what refits predict of the rows that they did not see."""
    rows = found.rows
    if len(rows) < MIN_NETWORKS:
        note = f"{len(rows)} measured networks are too few to recalibrate; it takes {MIN_NETWORKS}, ten are better"
        return replace(found, notes=(*found.notes, note))
    pairs = [(graphs[each.network.name], each.measured_s) for each in rows]
    refitted = _refit(predictor, pairs)
    after, notes = None, list(found.notes)
    if len(rows) > MIN_NETWORKS:
        left_out_s, std_s = np.zeros(len(rows)), np.zeros(len(rows))
        places = np.random.default_rng(0).permutation(len(rows))
        for fold in range(min(MAX_FOLDS, len(rows))):
            held_out = set(places[fold :: min(MAX_FOLDS, len(rows))].tolist())
            seen = [pair for index, pair in enumerate(pairs) if index not in held_out]
            if len(seen) < MIN_NETWORKS:
                break
            other = LatencyPredictor(_refit(predictor, seen), dtype=predictor.dtype)
            for index in held_out:
                prediction = other.predict(pairs[index][0])
                left_out_s[index], std_s[index] = prediction.latency_s, prediction.std_s
        rows = tuple(replace(row, left_out_s=float(seconds)) for row, seconds in zip(rows, left_out_s))
        after = scores(np.array([each.measured_s for each in rows]), left_out_s, std_s)
        if after.mape > found.before.mape:
            notes.append(
                "the refitted device predicts networks that it has not seen worse than the old one did: they are too "
                "few or too alike; keep the old file unless you know better"
            )
    kept = None
    if target.is_file():
        kept = target.with_name(f"{target.name}.until-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}")
        with replacing(kept) as temporary:
            temporary.write_bytes(target.read_bytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    save_device(_named(refitted, target.stem, target.parent), target)
    return replace(found, rows=rows, after=after, saved=target, kept=kept, notes=tuple(notes))


def _named(device: Device, name: str, folder: Path) -> Device:
    """The device under another name, with copies of its tables in a folder, since tables say whose they are."""
    if name == device.name:
        return device

    def copied(path: Path) -> Path:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        header = {**json.loads(first), "device": name}
        copy = folder / f"{name}-{header['runtime']}-{header['dtype']}.jsonl"
        write_text(copy, f"{json.dumps(header)}\n{rest}")
        return copy.resolve()

    runtimes = {
        key: replace(numbers, tables=tuple(map(copied, numbers.tables))) for key, numbers in device.runtimes.items()
    }
    return replace(device, name=name, tables=tuple(map(copied, device.tables)), runtimes=runtimes)


def _refit(predictor: LatencyPredictor, pairs: Sequence[tuple[Graph, float]]) -> Device:
    return calibrate(predictor.device, pairs, dtype=predictor.dtype, runtime=predictor.runtime, tables=None)


def _digest(rows: Sequence[Verified]) -> str:
    times = sorted((each.network.name, f"{each.measured_s:.9g}") for each in rows)
    return hashlib.sha256(json.dumps(times).encode()).hexdigest()


def _fitted_to(run: Run) -> tuple[str, str] | None:
    """Name of the device that an earlier verification wrote, and the digest of the times that it was fitted to."""
    try:
        found = json.loads((run.folder / VERIFY_SUMMARY).read_text(encoding="utf-8"))
        return str(found["saved_device"]), str(found["times"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(run: Run, found: Verification, predictor: LatencyPredictor, digest: str) -> None:
    write_text(run.folder / VERIFY_FILE, verification_csv(found, predictor))
    summary = {
        "sentences": sentences_of(found),
        "device": found.device.name,
        "runtime": predictor.runtime.name,
        "dtype": predictor.dtype,
        "date": date.today().isoformat(),
        "times": digest,
        "saved_device": found.saved.stem if found.saved else (_fitted_to(run) or (None,))[0],
        "mean_error": found.before.mape,
        "mean_error_left_out": found.after.mape if found.after else None,
    }
    write_text(run.folder / VERIFY_SUMMARY, json.dumps(summary, indent=2) + "\n")
    title = f"{run.space.name} on {found.device.name}, {predictor.runtime.name}, {predictor.dtype}"
    draw_verification(run.folder / VERIFY_PICTURE, title, found)
    refresh_page(run.folder)
