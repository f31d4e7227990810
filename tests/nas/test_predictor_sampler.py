"""Our own sampler: what it expects of candidates, what it proposes, and that a study may be cut off anywhere."""

from dataclasses import replace
from itertools import product

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from nas.pareto import hypervolume
from nas.proposals import arch_key, sampler_from_mapping
from nas.samplers import PredictorSampler, batch, error_model
from nas.samplers.canonical import CanonicalForms, keys_of
from nas.samplers.error_model import Features, fit_errors, log_errors, tune
from nas.samplers.gains import expected_gains, undominated
from nas.study import run_search
from nas.task import SearchTask
from predictors.device import load_device
from predictors.latency import LatencyPredictor
from predictors.mapping import read_yaml
from predictors.paths import shipped
from search_spaces.loading import load_space
from search_spaces.space import Arch

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = load_space("mobilenet_v3_tiny")
OBJECTIVES = ("error", "latency_s")


def task_of(objectives: tuple[str, ...] = OBJECTIVES, **constraints: float) -> SearchTask:
    predictor = LatencyPredictor(load_device("mobile_cpu"))
    return SearchTask(
        space=SPACE, deployed_space=SPACE, predictor=predictor, objectives=objectives, constraints=constraints
    )


TASK = task_of()
LARGEST = TASK.costs(SPACE.largest())["macs"]


def error_of(arch: Arch) -> float:
    """Larger networks err less, wide kernels at the end a little less still."""
    arch = SPACE.canonical(arch)
    last = list(SPACE.choices)[-2]
    share = TASK.costs(arch)["macs"] / LARGEST
    return float(0.9 - 0.5 * share**0.5 - 0.02 * (arch[last] > min(SPACE.choices[last])))


def objective(trial: optuna.Trial) -> tuple[float, float]:
    arch = {knob: trial.suggest_categorical(knob, values) for knob, values in SPACE.choices.items()}
    return error_of(arch), TASK.costs(SPACE.canonical(arch))["latency_s"]


def studied(num_trials: int, *, seed: int = 0, study: optuna.Study | None = None) -> optuna.Study:
    sampler = PredictorSampler(SPACE, TASK.costs_many, OBJECTIVES, seed=seed)
    if study is None:
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.sampler = sampler
    study.optimize(objective, n_trials=num_trials)
    return study


def archs_of(study: optuna.Study) -> list[tuple[int, ...]]:
    return [arch_key(SPACE.canonical(trial.params)) for trial in study.get_trials(deepcopy=False)]


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand archs take a second a batch, and this space is tiny."""
    monkeypatch.setattr(batch, "_NUM_SCORED", 3_000)
    monkeypatch.setattr(batch, "_NUM_TAUGHT", 400)
    monkeypatch.setattr(error_model, "_NUM_STEPS", 10)


# --------------------------------------------------------------------------------------------------- expected gains


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4])
def test_of_a_known_error_the_expected_gain_is_the_hypervolume_that_is_added(num_objectives: int) -> None:
    rng = np.random.default_rng(num_objectives)
    front_FM, candidates_NM = rng.random((12, num_objectives)), rng.random((20, num_objectives))
    reference_M = np.full(num_objectives, 0.9)
    logs_NM = candidates_NM.copy()
    logs_NM[:, 0] = np.log(candidates_NM[:, 0])
    before = hypervolume(front_FM, reference_M)
    added_N = [hypervolume(np.vstack([front_FM, each]), reference_M) - before for each in candidates_NM]
    boxes = undominated(front_FM, reference_M)
    assert expected_gains(boxes, logs_NM, 0, np.zeros(20)) == pytest.approx(added_N, abs=1e-7)
    assert expected_gains(boxes, candidates_NM, None, np.zeros(20)) == pytest.approx(added_N, abs=1e-12)


def test_the_expected_gain_is_the_mean_of_the_gains_of_drawn_errors() -> None:
    # Front (0.5, 0.5), reference (1, 1); a candidate of cost 0.25 with ln(error) ~ N(ln 0.6, 0.3).
    reference_M, front_FM = np.ones(2), np.array([[0.5, 0.5]])
    boxes = undominated(front_FM, reference_M)
    expected = expected_gains(boxes, np.array([[np.log(0.6), 0.25]]), 0, np.array([0.3]))[0]
    errors_N = np.exp(np.log(0.6) + 0.3 * np.random.default_rng(0).standard_normal(200_000))
    # Left of cost 0.5 the gain is 0.25 * (1 - e), right of it 0.5 * (0.5 - e), where positive.
    drawn_N = 0.25 * np.maximum(1.0 - errors_N, 0.0) + 0.5 * np.maximum(0.5 - errors_N, 0.0)
    assert expected == pytest.approx(drawn_N.mean(), rel=0.01)


# ------------------------------------------------------------------------------------------------------ error model


def features_of(archs: list[Arch]) -> Features:
    indices_NK = SPACE.encode(archs)
    costs_NC = np.log(np.column_stack(list(TASK.costs_many(indices_NK).values())))
    return Features(indices_NK, costs_NC, np.sin(costs_NC[:, :1]))


def test_the_gradient_of_the_likelihood_is_its_slope() -> None:
    rng = np.random.default_rng(0)
    archs = [SPACE.sample(rng) for _ in range(20)]
    scale = error_model._scale_of(features_of(archs), [len(values) for values in SPACE.choices.values()])
    known = scale.of(features_of(archs))
    target_M = np.array([error_of(arch) for arch in archs])
    at_P = error_model._priors(scale)[0] + 0.2 * rng.standard_normal(len(error_model._priors(scale)[0]))

    def loss(at_P: np.ndarray) -> float:
        return error_model._loss(error_model._unpacked(at_P, scale), scale, known, target_M)[0]

    gradient_P = error_model._loss(error_model._unpacked(at_P, scale), scale, known, target_M)[1]
    slopes_P = [(loss(at_P + step) - loss(at_P - step)) / 2e-5 for step in 1e-5 * np.eye(len(at_P))]
    assert gradient_P == pytest.approx(slopes_P, abs=1e-3)


def test_errors_of_archs_that_were_not_seen_are_ranked_and_their_deviations_are_honest() -> None:
    rng = np.random.default_rng(1)
    archs = list({arch_key(arch): arch for arch in (SPACE.sample(rng) for _ in range(200))}.values())
    errors_N = np.array([error_of(arch) for arch in archs]) * np.exp(0.02 * rng.standard_normal(len(archs)))
    features, sizes = features_of(archs), [len(values) for values in SPACE.choices.values()]
    known, new = slice(0, 40), slice(40, None)
    logs_M = log_errors(errors_N[known])
    model = fit_errors(features.rows(known), logs_M, sizes, tune(features.rows(known), logs_M, sizes))
    mean_N, std_N = model.predict(features.rows(new))
    assert np.corrcoef(mean_N, np.log(errors_N[new]))[0, 1] > 0.9
    away_N = (np.log(errors_N[new]) - mean_N) / np.hypot(std_N, model.noise)
    assert 0.5 < np.sqrt((away_N**2).mean()) < 2.0


def test_networks_that_do_not_work_do_not_set_the_scale_of_those_that_do() -> None:
    errors_N = np.array([*np.linspace(0.25, 0.35, 30), 0.99])
    assert log_errors(errors_N)[-1] < np.log(0.6)
    assert log_errors(errors_N)[:-1] == pytest.approx(np.log(errors_N[:-1]))


# --------------------------------------------------------------------------------------------------- canonical forms


@pytest.mark.parametrize("name", ["mobilenet_v3", "nasbench201", "proxyless", "vit_s", "resnet50d_tiny"])
def test_canonical_forms_of_many_archs_are_those_of_each(name: str) -> None:
    space = load_space(name)
    sizes = [len(values) for values in space.choices.values()]
    indices_NK = np.random.default_rng(7).integers(sizes, size=(200, len(sizes)))
    forms = CanonicalForms.of(space)
    assert forms.tables is not None, "asked arch by arch, which is slow"
    assert np.array_equal(forms(indices_NK), space.encode([space.canonical(arch) for arch in space.decode(indices_NK)]))


def test_keys_tell_archs_apart() -> None:
    indices_NK = np.array(list(product(range(4), repeat=6)), dtype=np.int64)
    assert len(np.unique(keys_of(indices_NK))) == len(indices_NK)


# ----------------------------------------------------------------------------------------------------------- studies


def test_a_plain_study_never_evaluates_a_network_twice_and_finds_more_than_chance() -> None:
    study = studied(40)
    assert len(set(archs_of(study))) == 40
    random = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    random.optimize(objective, n_trials=40)
    ours, theirs = (
        hypervolume(np.array([trial.values for trial in each.trials]), np.array(TASK.reference_point))
        for each in (study, random)
    )
    assert ours > theirs


def test_a_study_that_is_cut_off_in_a_batch_goes_on_as_if_it_had_not_been() -> None:
    whole = studied(31)
    cut = studied(23)
    assert archs_of(cut) == archs_of(whole)[:23]
    assert archs_of(studied(8, study=cut)) == archs_of(whole)
    assert archs_of(studied(8, seed=1)) != archs_of(whole)[:8]


def test_what_runs_elsewhere_is_not_proposed_and_counts_as_what_is_expected_of_it() -> None:
    study = studied(20)
    sampler = PredictorSampler(SPACE, TASK.costs_many, OBJECTIVES, seed=0)
    study.sampler = sampler
    distributions = {knob: CategoricalDistribution(values) for knob, values in SPACE.choices.items()}
    running = [study.ask(distributions) for _ in range(12)]
    keys = {arch_key(SPACE.canonical(trial.params)) for trial in running}
    assert len(keys) == 12
    assert keys.isdisjoint(archs_of(study)[:20])
    another = PredictorSampler(SPACE, TASK.costs_many, OBJECTIVES, seed=0)
    study.sampler = another
    assert arch_key(SPACE.canonical(study.ask(distributions).params)) not in keys


def test_failed_networks_are_not_tried_again() -> None:
    def failing(trial: optuna.Trial) -> tuple[float, float]:
        found = objective(trial)
        if trial.number % 3 == 0:
            raise RuntimeError
        return found

    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=PredictorSampler(SPACE, TASK.costs_many, OBJECTIVES)
    )
    study.optimize(failing, n_trials=24, catch=(RuntimeError,))
    assert len(set(archs_of(study))) == 24
    assert sum(trial.state is TrialState.FAIL for trial in study.trials) == 8


@pytest.mark.parametrize(
    "objectives", [("error",), ("latency_s", "macs"), ("error", "latency_s", "arithmetic_intensity")]
)
def test_any_objectives(objectives: tuple[str, ...]) -> None:
    task = task_of(objectives)
    result = run_search(
        SPACE, task.predictor, lambda arch: 1.0 - error_of(arch), objectives, num_trials=18, sampler=PredictorSampler
    )
    assert len({arch_key(candidate.arch) for candidate in result.candidates}) == 18


def test_bounds_hold_for_every_proposal() -> None:
    bound = TASK.costs(SPACE.smallest())["latency_s"] * 1.5
    task = task_of(latency_s=bound)
    sampler = PredictorSampler.for_task(task, seed=0)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=22)
    assert all(trial.values[1] <= bound for trial in study.trials)


def test_a_space_of_which_everything_was_tried_is_proposed_again() -> None:
    choices = {"resolutions": [8], "kernels": [3], "expansions": [2, 3], "depths": [1], "stage_widths": [8, 8, 8]}
    space = load_space("mobilenet_v3_tiny", **choices)
    task = replace(TASK, space=space, deployed_space=space)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=PredictorSampler.for_task(task, seed=0))
    distributions = {knob: CategoricalDistribution(values) for knob, values in space.choices.items()}
    num_archs = int(np.prod([len(values) for values in space.choices.values()]))
    assert num_archs < 40
    for number in range(num_archs + 8):
        trial = study.ask(distributions)
        assert len({arch_key(space.canonical(each.params)) for each in study.trials}) == min(number + 1, num_archs)
        study.tell(trial, [0.5, 0.1])


# -------------------------------------------------------------------------------------------------------- warm start


def test_an_earlier_study_with_other_errors_helps_at_once() -> None:
    rng = np.random.default_rng(3)
    archs = [SPACE.sample(rng) for _ in range(80)]
    pairs = [(arch, min(1.0, 0.2 + 0.6 * error_of(arch))) for arch in archs]
    volumes = {}
    for name, warm_start in (("cold", []), ("warm", pairs)):
        sampler = PredictorSampler.for_task(TASK, seed=0, warm_start=warm_start)
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        study.optimize(objective, n_trials=12)
        points_NM = np.array([trial.values for trial in study.trials])
        volumes[name] = hypervolume(points_NM, np.array(TASK.reference_point))
    assert volumes["warm"] > volumes["cold"]


# --------------------------------------------------------------------------------------------------------- bad input


def test_other_directions_are_refused() -> None:
    study = optuna.create_study(directions=["minimize"], sampler=PredictorSampler(SPACE, TASK.costs_many, OBJECTIVES))
    with pytest.raises(ValueError, match="directions \\['minimize', 'minimize'\\]; the study has \\['minimize'\\]"):
        study.optimize(objective, n_trials=1)


def test_a_parameter_that_is_no_knob_is_refused() -> None:
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=PredictorSampler(SPACE, TASK.costs_many, OBJECTIVES)
    )
    with pytest.raises(ValueError, match=r"'learning_rate'.*proposes the knobs of space"):
        study.optimize(lambda trial: (trial.suggest_float("learning_rate", 0.0, 1.0), 1.0), n_trials=1)


def test_errors_in_percent_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fractions in 0\.\.1, found 31\.5"):
        PredictorSampler.for_task(TASK, seed=0, warm_start=[(SPACE.smallest(), 31.5)])


@pytest.mark.parametrize("name", ["predictor", "nsga3", "tpe", "gp"])
def test_samplers_of_the_configuration_propose(name: str) -> None:
    sampler = sampler_from_mapping(read_yaml(shipped("sampler") / f"{name}.yaml"))
    result = run_search(
        SPACE, TASK.predictor, lambda arch: 1.0 - error_of(arch), OBJECTIVES, num_trials=12, sampler=sampler
    )
    assert len(result.candidates) == 12
