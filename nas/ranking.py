"""How alike two sources of accuracy rank the networks of a space."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, rankdata
from tqdm import tqdm

from nas.data import ImageData, data_from_mapping
from nas.files import locked, write_text
from nas.proxies import FromProxy
from nas.scoring import AccuracySource, Scoring
from nas.training import Recipe, recipe_from_mapping
from search_spaces.loading import instance_from_mapping, space_from_mapping
from search_spaces.space import Arch, Space

VALUES_FILE = "values.csv"
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of two judges over the same archs: rank correlations in -1..1, and the intervals that hold 95 % of those of
    resampled archs.
    """

    kendall: float
    kendall_interval: tuple[float, float]
    spearman: float
    spearman_interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A column of the table. `load` trains or reads what is needed, and is not called when every value is known."""

    name: str
    load: Callable[[], Callable[[Arch], float]]


def rank_from_mapping(config: Mapping[str, Any]) -> dict[str, Agreement]:
    """Run or continue the comparison that a composed `configs/rank.yaml` describes; print and write it.

    Raises:
        ValueError: anything that is wrong with the config; nothing has been written then.
    """
    for name, least in (("num_archs", 3), ("num_resamples", 1), ("seed", 0)):
        if config[name] < least:
            raise ValueError(f"{name} must be at least {least}, found {config[name]}")
    space = space_from_mapping(config["space"])
    sources: dict[str, AccuracySource] = {
        key: instance_from_mapping(config[key], "source", key) for key in ("accuracy", "against")
    }
    baselines = {name: _baseline(name, sources["accuracy"]) for name in config["baselines"]}
    needed = [*sources.values(), *baselines.values()]
    data = data_from_mapping(config["data"]) if any(each.needs_data for each in needed) else None
    recipe = recipe_from_mapping(config["training"]) if any(each.needs_training for each in needed) else None
    judges, identity = {}, {"space": dict(space.identity), "seed": config["seed"]}
    for key, source in sources.items():
        judges[key], identity[key] = _judge(key, source, space, data, recipe, config[key])
    for name, source in baselines.items():
        judges[name], identity[name] = _judge(name, source, space, data, recipe, {})
    folder = _folder(config, space, identity)
    archs = sampled(space, config["num_archs"], config["seed"])
    with ExitStack() as stack:
        stack.enter_context(
            locked(folder, f"another comparison is running in {folder}; wait for it, or choose another run_dir")
        )
        write_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        values, seconds = judged(space, archs, list(judges.values()), folder / VALUES_FILE)
    reference = values["against"]
    rng_seed = config["seed"]
    found = {
        name: agreement(values[name], reference, config["num_resamples"], rng_seed)
        for name in judges
        if name != "against"
    }
    titles = {key: _title(source) for key, source in sources.items()}
    _print(found, titles, seconds, len(archs), space, folder)
    write_text(folder / "agreement.csv", _agreement_csv(found, titles))
    return found


def sampled(space: Space, num: int, seed: int) -> list[Arch]:
    """Different random archs; with a larger `num` the first ones stay the same.

    Raises:
        ValueError: the space seems to have fewer.
    """
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], Arch] = {}
    for _ in range(100 * num):
        arch = space.sample(rng)
        found.setdefault(tuple(arch.values()), arch)
        if len(found) == num:
            return list(found.values())
    raise ValueError(f"num_archs {num}: space {space.name!r} seems to have only {len(found)} different networks")


def judged(
    space: Space, archs: Sequence[Arch], judges: Sequence[Judge], file: Path, *, progress: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What every judge says of every arch, and median seconds an arch of those judged now.

    The file has what was known before, and gets each value as soon as it is known.
    """
    rows = _read(file, space, [judge.name for judge in judges])
    seconds = {}
    for judge in judges:
        open_archs = [arch for arch in archs if judge.name not in rows.setdefault(_key(arch), {})]
        if not open_archs:
            continue
        judge_arch = judge.load()
        times = []
        for arch in tqdm(open_archs, desc=judge.name, unit="arch", disable=not progress):
            started = time.perf_counter()
            rows[_key(arch)][judge.name] = float(judge_arch(dict(arch)))
            times.append(time.perf_counter() - started)
            _write(file, space, rows, [each.name for each in judges])
        seconds[judge.name] = float(np.median(times))
    values = {judge.name: np.array([rows[_key(arch)][judge.name] for arch in archs]) for judge in judges}
    return values, seconds


def agreement(one: np.ndarray, other: np.ndarray, num_resamples: int, seed: int = 0) -> Agreement:
    """Kendall's tau-b and Spearman's rho of two arrays of shape (num_archs,), with percentile bootstrap intervals.

    Raises:
        ValueError: one of them is the same for all archs, so there is no rank.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    for values in (one, other):
        if len(np.unique(values)) < 2:
            raise ValueError(f"all {len(values)} archs get {values[0]:g}, so they have no ranks; take more archs")
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(num_resamples):
        chosen = rng.integers(len(one), size=len(one))
        if len(np.unique(one[chosen])) > 1 and len(np.unique(other[chosen])) > 1:
            resampled.append(_correlations(one[chosen], other[chosen]))
    tails = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    (kendall_low, spearman_low), (kendall_high, spearman_high) = np.quantile(resampled, tails, axis=0)
    kendall, spearman = _correlations(one, other)
    return Agreement(
        kendall=kendall,
        kendall_interval=(float(kendall_low), float(kendall_high)),
        spearman=spearman,
        spearman_interval=(float(spearman_low), float(spearman_high)),
    )


# ------------------------------------------------------------------------------------------------------------ private


def _correlations(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    return float(kendalltau(one, other).statistic), float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _baseline(name: str, accuracy: AccuracySource) -> FromProxy:
    """The proxy of that name, with the images and inits of the proxy that is compared, if it is one."""
    source = replace(accuracy, proxy=name) if isinstance(accuracy, FromProxy) else FromProxy(proxy=name)
    _ = source.needs_data  # an unknown name is refused here
    return source


def _judge(
    name: str,
    source: AccuracySource,
    space: Space,
    data: ImageData | None,
    recipe: Recipe | None,
    config: Mapping[str, Any],
) -> tuple[Judge, dict[str, Any]]:
    """The judge, and what determines its values, JSON-able."""
    own_data = data if source.needs_data else None
    own_recipe = recipe if source.needs_training else None
    source.check(space, own_data)

    def load() -> Callable[[Arch], float]:
        scoring: Scoring = source.load(space, own_data, own_recipe)
        return scoring.accuracy

    images = own_data.valid.digest if own_data is not None else None
    identity = {"config": dict(config), "digest": source.digest(space, own_data, own_recipe), "images": images}
    return Judge(name=name, load=load), identity


def _title(source: AccuracySource) -> str:
    """'supernet', or 'proxy naswot'."""
    name = type(source).__name__.removeprefix("From").lower()
    return f"{name} {source.proxy}" if isinstance(source, FromProxy) else name


def _folder(config: Mapping[str, Any], space: Space, identity: Mapping[str, Any]) -> Path:
    if config["run_dir"] is not None:
        return Path(config["run_dir"]).expanduser()
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]
    names = [
        str(config[key]["source"]).rpartition(".")[2].removeprefix("From").lower() for key in ("accuracy", "against")
    ]
    return Path("outputs") / "rank" / f"{space.name}-{names[0]}-{names[1]}-{digest}"


def _key(arch: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(arch.values())


def _read(file: Path, space: Space, judges: Sequence[str]) -> dict[tuple[int, ...], dict[str, float]]:
    if not file.exists():
        return {}
    rows: dict[tuple[int, ...], dict[str, float]] = {}
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.DictReader(text)
        wanted = [*space.choices, *judges]
        if reader.fieldnames != wanted:
            raise ValueError(f"{file} has columns {reader.fieldnames}, expected {wanted}; choose another run_dir")
        for number, row in enumerate(reader, start=2):
            try:
                key = tuple(int(row[knob]) for knob in space.choices)
                rows[key] = {judge: float(row[judge]) for judge in judges if row[judge]}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file}:{number}: {error}; delete the line to judge its arch again") from None
    return rows


def _write(
    file: Path, space: Space, rows: Mapping[tuple[int, ...], Mapping[str, float]], judges: Sequence[str]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*space.choices, *judges])
    for key, values in rows.items():
        writer.writerow([*key, *(repr(values[judge]) if judge in values else "" for judge in judges)])
    write_text(file, text.getvalue())


def _agreement_csv(found: Mapping[str, Agreement], titles: Mapping[str, str]) -> str:
    lines = ["judge,kendall,kendall_low,kendall_high,spearman,spearman_low,spearman_high"]
    for name, each in found.items():
        numbers = (each.kendall, *each.kendall_interval, each.spearman, *each.spearman_interval)
        lines.append(",".join([titles.get(name, name), *(f"{number:.4f}" for number in numbers)]))
    return "\n".join(lines) + "\n"


def _print(
    found: Mapping[str, Agreement],
    titles: Mapping[str, str],
    seconds: Mapping[str, float],
    num_archs: int,
    space: Space,
    folder: Path,
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (f"against {titles['against']}", "Kendall", "95 %", "Spearman", "95 %", "s an arch"):
        table.add_column(name, justify="left" if name.startswith("against") else "right", no_wrap=True)
    for name, each in found.items():
        table.add_row(
            titles.get(name, name),
            f"{each.kendall:.3f}",
            "{:.3f} to {:.3f}".format(*each.kendall_interval),
            f"{each.spearman:.3f}",
            "{:.3f} to {:.3f}".format(*each.spearman_interval),
            f"{seconds[name]:.3g}" if name in seconds else "kept",
        )
    console = Console()
    console.print(f"{num_archs} networks of {space.name}", soft_wrap=True)
    console.print(table)
    console.print(f"values  {folder / VALUES_FILE}", soft_wrap=True)
