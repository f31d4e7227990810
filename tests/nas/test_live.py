from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState
from small_search import SAMPLERS

from nas.live import LiveStudy
from nas.proposals import DistinctSampler, distributions
from search_spaces import load_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
pytestmark = pytest.mark.filterwarnings("ignore:NSGAIIISampler is experimental")

SPACE = load_space("mobilenet_v3_tiny", resolutions=[32])
DIRECTIONS = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]


def objectives(params: Mapping[str, int]) -> list[float]:
    return [abs(sum(params.values()) - 40.0), float(sum(index * value for index, value in enumerate(params.values())))]


def distinct(name: str) -> DistinctSampler:
    return DistinctSampler(SAMPLERS[name], SPACE, seed=4, start=[SPACE.smallest()])


def live_study(name: str) -> LiveStudy:
    return LiveStudy(DIRECTIONS, distinct(name), SAMPLERS[name](seed=0), distributions(SPACE))


@pytest.mark.parametrize("name", SAMPLERS)
def test_proposals_are_those_of_the_sampler_in_an_ordinary_study(name: str) -> None:
    ordinary = optuna.create_study(directions=DIRECTIONS, sampler=distinct(name))
    live = live_study(name)
    for _ in range(60):
        trial = ordinary.ask(distributions(SPACE))
        proposal = live.propose()
        assert dict(proposal.params) == trial.params
        values = objectives(trial.params)
        trial.set_constraint("small", sum(trial.params.values()) - 60.0)
        ordinary.tell(trial, values)
        live.finish(proposal, values, {}, {"small": sum(trial.params.values()) - 60.0})


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_that_takes_earlier_trials_goes_on_as_if_it_had_run_them(name: str) -> None:
    whole, trials, proposed = live_study(name), [], []
    for _ in range(50):
        proposal = whole.propose()
        proposed.append(dict(proposal.params))
        trials.append(whole.finish(proposal, objectives(proposal.params), {}))
    seen = [SPACE.canonical(params) for params in proposed[:30]]
    sampler = DistinctSampler(SAMPLERS[name], SPACE, seed=4, start=[SPACE.smallest()], seen=seen)
    again = LiveStudy(DIRECTIONS, sampler, SAMPLERS[name](seed=0), distributions(SPACE))
    for trial in trials[:30]:
        again.take(trial)
    for expected in proposed[30:]:
        proposal = again.propose()
        assert dict(proposal.params) == expected
        again.finish(proposal, objectives(proposal.params), {})


def test_finished_trials_are_whole_and_can_be_stored_anywhere(tmp_path: Path) -> None:
    live = live_study("nsga2")
    proposal = live.propose()
    done = live.finish(proposal, [1.0, 2.0], {"arch": dict(proposal.params)}, {"latency_s": -0.5})
    failed = live.finish(live.propose(), None, {"failure": "no memory"})
    assert (done.number, failed.number) == (0, 1)
    stored = optuna.create_study(directions=DIRECTIONS, storage=f"sqlite:///{tmp_path / 'study.db'}")
    for trial in (done, failed):
        stored.add_trial(trial)
    first, second = stored.get_trials()
    assert first.state is TrialState.COMPLETE
    assert first.values == [1.0, 2.0]
    assert first.params == first.user_attrs["arch"] == dict(proposal.params)
    assert first.constraints == {"latency_s": -0.5}
    assert (second.state, second.values, second.user_attrs) == (TrialState.FAIL, None, {"failure": "no memory"})


def test_a_proposal_that_is_dropped_or_fails_to_be_made_leaves_no_trial_that_the_sampler_sees() -> None:
    class Unable(RandomSampler):
        def sample_relative(self, *_: object) -> dict[str, int]:
            raise RuntimeError("no idea")

        def infer_relative_search_space(self, *_: object) -> dict[str, optuna.distributions.BaseDistribution]:
            return distributions(SPACE)

    live = LiveStudy(DIRECTIONS, Unable(), RandomSampler(), distributions(SPACE))
    with pytest.raises(RuntimeError, match="no idea"):
        live.propose()
    assert live._study.get_trials(deepcopy=False) == []
    other = live_study("random")
    other.drop(other.propose())
    assert other._study.get_trials(deepcopy=False) == []
