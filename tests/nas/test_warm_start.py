"""Earlier studies as a start: from a run, a storage or a study, for any device, never of other spaces."""

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from nas.storage import JOURNAL_NAME
from nas.study import run_search
from nas.task import SearchTask
from nas.warm_start import EarlierTrial, best_starts, read_earlier, trials_of
from predictors.device import load_device
from predictors.latency import LatencyPredictor
from search_spaces.loading import load_space
from search_spaces.space import Arch

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = load_space("mobilenet_v3_tiny")
PREDICTOR = LatencyPredictor(load_device("mobile_cpu"))
TASK = SearchTask(space=SPACE, deployed_space=SPACE, predictor=PREDICTOR, objectives=("error", "latency_s"))


def accuracy(arch: Arch) -> float:
    return 0.5 + 0.4 * SPACE.graph(arch).macs / SPACE.graph(SPACE.largest()).macs


def searched(folder: Path) -> Path:
    """An earlier search for another device and other objectives."""
    folder.mkdir()
    v100 = LatencyPredictor(load_device("v100"))
    run_search(SPACE, v100, accuracy, ("error", "macs"), num_trials=6, storage=folder / JOURNAL_NAME)
    return folder


def plain_study(archs: list[Arch], errors: list[float]) -> optuna.Study:
    study = optuna.create_study(directions=["minimize", "minimize"])
    distributions = {knob: CategoricalDistribution(values) for knob, values in SPACE.choices.items()}
    for arch, error in zip(archs, errors, strict=True):
        study.add_trial(create_trial(values=[1.0, error], params=dict(arch), distributions=distributions))
    return study


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_search_for_another_device_is_read_with_its_errors(tmp_path: Path, form: str) -> None:
    folder = searched(tmp_path / "run")
    earlier = read_earlier(folder if form == "folder" else folder / JOURNAL_NAME, SPACE)
    assert len(earlier.trials) == 6
    assert earlier.source == str(folder)
    for trial in trials_of([earlier]):
        assert trial.arch == SPACE.canonical(trial.arch)
        assert trial.error == pytest.approx(1.0 - accuracy(trial.arch))
        assert trial.source == str(folder)


def test_a_storage_with_several_studies_needs_a_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nas.db'}"
    for name in ("one", "two"):
        run_search(SPACE, PREDICTOR, accuracy, num_trials=3, storage=url, study_name=name)
    with pytest.raises(ValueError, match=r"it has 2 studies, \['one', 'two'\]; name one of them"):
        read_earlier(url, SPACE)
    with pytest.raises(ValueError, match=r"it has no study 'three'; it has \['one', 'two'\]"):
        read_earlier(url, SPACE, study_name="three")
    assert len(read_earlier(url, SPACE, study_name="two").trials) == 3


@pytest.mark.filterwarnings("ignore:.*set_metric_names is experimental")
def test_any_optuna_study_that_names_its_error_is_read() -> None:
    study = plain_study([SPACE.smallest(), SPACE.largest()], [0.4, 0.2])
    with pytest.raises(ValueError, match=r"which of its 2 values is the error\?"):
        read_earlier(study, SPACE)
    study.set_metric_names(["cost", "error"])
    assert [trial.error for trial in read_earlier(study, SPACE).trials] == [0.4, 0.2]


def test_another_space_is_refused_by_what_differs(tmp_path: Path) -> None:
    folder = searched(tmp_path / "run")
    with pytest.raises(ValueError, match=r"of another space than 'mobilenet_v3_tiny': knob '.*' takes .* there and"):
        read_earlier(folder, load_space("mobilenet_v3_tiny", expansions=[2, 5]))
    with pytest.raises(ValueError, match="of another space than 'nasbench201'"):
        read_earlier(folder, load_space("nasbench201"))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; give the folder of a run"):
        read_earlier(tmp_path / "nowhere", SPACE)
    with pytest.raises(ValueError, match=f"has no {JOURNAL_NAME}"):
        read_earlier(tmp_path, SPACE)
    with pytest.raises(ValueError, match="has no finished trial"):
        read_earlier(optuna.create_study(), SPACE)


def test_the_best_starts_are_the_fronts_under_the_new_costs_best_first() -> None:
    small, large = SPACE.smallest(), SPACE.largest()
    middle = {**small, next(knob for knob, values in SPACE.choices.items() if "expansion" in knob): 3}
    middle = SPACE.canonical(
        {knob: SPACE.choices[knob][-1] if knob in middle and "stage1" in knob else small[knob] for knob in small}
    )
    # The large network is dominated: slower than the small one and no better.
    pairs = [(large, 0.5), (small, 0.5), (middle, 0.1)]
    assert best_starts(TASK, pairs, 5) == [middle, small]
    assert best_starts(TASK, pairs, 1) == [middle]
    # Under a bound that only the small one meets.
    bounded = SearchTask(
        space=SPACE, deployed_space=SPACE, predictor=PREDICTOR, objectives=TASK.objectives,
        constraints={"latency_s": TASK.costs(small)["latency_s"] * 1.0001},
    )  # fmt: skip
    assert best_starts(bounded, pairs, 5) == [small]


def test_studies_take_turns() -> None:
    small, large = SPACE.smallest(), SPACE.largest()
    pairs = [EarlierTrial(small, 0.5, "a"), EarlierTrial(large, 0.9, "b"), EarlierTrial(large, 0.1, "a")]
    starts = best_starts(TASK, pairs, 2)
    assert {tuple(arch.values()) for arch in starts} == {tuple(small.values()), tuple(large.values())}


def test_a_search_begins_with_the_best_of_an_earlier_one(tmp_path: Path) -> None:
    earlier = read_earlier(searched(tmp_path / "run"), SPACE)
    starts = best_starts(TASK, earlier.trials, 10)
    result = run_search(SPACE, PREDICTOR, accuracy, num_trials=len(starts) + 3, warm_start=trials_of([earlier]))
    archs = [candidate.arch for candidate in result.candidates]
    assert all(arch in archs for arch in starts)
