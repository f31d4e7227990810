"""What of a study is finished, what runs and where: kept in a storage that several processes may share.

A study of one process gets each trial when it is finished, as one record. In a shared one a trial is created when its
arch is claimed, and whoever reads it then leaves that network alone. Storages number trials in one order for
everybody, so of two claims for one network the earlier stands and the later is withdrawn. Each running claim carries
a counter that its worker raises every few seconds; a worker that sees it stand still for long takes the arch over.
Only counters are compared with this process's own clock, never clocks with each other.

States in a storage: RUNNING is a claim; COMPLETE, or FAIL with the attribute `failure`, is finished; any other FAIL is
a claim that came to nothing, and `ended` says why.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any

from optuna import create_study
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from typing_extensions import Self

from nas.patience import PatientStorage
from nas.proposals import arch_key
from search_spaces.space import Arch

BEAT_S = 5.0
"""Time between two beats of a running claim."""

STALE_S = 60.0
"""A claim whose counter stood still for so long belongs to nobody any more."""

MAX_FAILURE_CHARACTERS = 8_000

_Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """An arch that this process evaluates.

    Attributes:
        trial_id: of the RUNNING trial; None where the study is not shared.
    """

    arch: Arch
    trial_id: int | None


class Ledger:
    """The finished and running trials of one study, as one worker sees them.

    Args:
        shared: whether other processes may work on the study at the same time.
        beat_s, stale_s: see the module; the same for all workers of a study.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_name: str,
        directions: Sequence[StudyDirection],
        *,
        shared: bool,
        beat_s: float = BEAT_S,
        stale_s: float = STALE_S,
    ) -> None:
        self.study = create_study(
            storage=storage, study_name=study_name, directions=list(directions), load_if_exists=True
        )
        self.shared = shared
        self.worker = _worker_name()
        self._storage = storage
        self._study_id = self.study._study_id
        self._stale_s = stale_s
        self._has_read = False
        self._num_settled = 0
        self._settled: set[int] = set()
        self._finished: set[_Key] = set()
        self._mine: set[_Key] = set()
        self._news: list[FrozenTrial] = []
        self._running: dict[int, FrozenTrial] = {}
        self._seen_beats: dict[int, tuple[Any, float]] = {}
        self._heart = _Heart(storage, beat_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def news(self) -> list[FrozenTrial]:
        """Trials that others, or earlier runs, have finished since the last call, by number; each network once."""
        if self.shared or not self._has_read:
            self._read()
        news, self._news = self._news, []
        return [trial for trial in news if _key_of(trial) not in self._mine]

    def claim(
        self,
        arch: Mapping[str, int],
        params: Mapping[str, int],
        distributions: Mapping[str, BaseDistribution],
        user_attrs: Mapping[str, Any] | None = None,
    ) -> Claim | None:
        """The right to evaluate a network, None if somebody has finished it or is evaluating it.

        Args:
            arch: the network in its canonical form.
            params, distributions: what the sampler proposed.
            user_attrs: whatever is known before the evaluation; `finish` need not write it again.
        """
        key = arch_key(arch)
        if not self.shared:
            return Claim(dict(arch), None)
        if self._is_running(key):
            self._read()
        if key in self._finished or self._is_running(key):
            return None
        attrs = {**(user_attrs or {}), "arch": dict(arch), "worker": self.worker, "beat": 0}
        template = _trial(TrialState.RUNNING, params, distributions, attrs)
        trial_id = self._storage.create_new_trial(self._study_id, template)
        self._read()
        own = self._running.get(trial_id)
        if own is None or key in self._finished or self._has_earlier_rival(own):
            self._end(trial_id, "duplicate")
            return None
        self._heart.add(trial_id)
        return Claim(dict(arch), trial_id)

    def finish(self, claim: Claim, trial: FrozenTrial) -> None:
        """Write down a trial that is COMPLETE, or FAIL with the user attribute `failure`; it is written once only.

        A claim that others have meanwhile taken over is finished where it now is, unless the network is finished.
        """
        assert trial.state is TrialState.COMPLETE or "failure" in trial.user_attrs
        key = arch_key(claim.arch)
        attrs = {**trial.user_attrs, "arch": dict(claim.arch)}
        if claim.trial_id is None:
            template = _trial(trial.state, trial.params, trial.distributions, attrs, trial)
            self._storage.create_new_trial(self._study_id, template)
        else:
            self._finish_shared(claim.trial_id, key, trial, attrs)
            self._heart.remove(claim.trial_id)
            self._running.pop(claim.trial_id, None)
        self._mine.add(key)
        self._finished.add(key)

    def fail(self, claim: Claim, trial: FrozenTrial, text: str) -> None:
        """Write down that the evaluation of an arch failed, and why."""
        kept = text if len(text) <= MAX_FAILURE_CHARACTERS else f"...{text[3 - MAX_FAILURE_CHARACTERS :]}"
        failed = _trial(
            TrialState.FAIL, trial.params, trial.distributions, {**trial.user_attrs, "failure": kept}, trial
        )
        self.finish(claim, failed)

    def withdraw(self, claim: Claim) -> None:
        """Give up a claim that will not be finished, so that others may have the arch."""
        if claim.trial_id is not None:
            self._heart.remove(claim.trial_id)
            self._end(claim.trial_id, "withdrawn")

    def stale(self) -> list[Arch]:
        """Archs whose workers were gone when `news` was last asked, to be claimed again.

        Of several workers that ask, one gets each.
        """
        now = time.monotonic()
        archs: list[Arch] = []
        own = self._heart.trial_ids()
        self._seen_beats = {key: seen for key, seen in self._seen_beats.items() if key in self._running}
        for trial_id, trial in list(self._running.items()):
            if trial_id in own:
                continue
            beat = trial.user_attrs.get("beat")
            if self._seen_beats.get(trial_id, (None, 0.0))[0] != beat or trial_id not in self._seen_beats:
                self._seen_beats[trial_id] = (beat, now)
            is_stale = now - self._seen_beats[trial_id][1] >= self._stale_s
            if (is_stale or _is_dead(str(trial.user_attrs["worker"]))) and self._end(trial_id, "stale"):
                archs.append(dict(trial.user_attrs["arch"]))
        taken = self._finished | {_key_of(trial) for trial in self._running.values()}
        return [arch for arch in archs if arch_key(arch) not in taken]

    def num_running_elsewhere(self) -> int:
        """Claims of other workers, as of the last look at the storage."""
        return len(self._running.keys() - self._heart.trial_ids())

    def close(self) -> None:
        """Withdraw what is claimed and not finished, without waiting for a storage that is away."""
        claims = self._heart.trial_ids()
        self._heart.stop()
        storage = _impatient(self._storage)
        for trial_id in claims:
            try:
                _set_ended(storage, trial_id, "withdrawn")
            except Exception as error:  # its claims become stale by themselves
                print(f"a running trial could not be withdrawn ({type(error).__name__})", file=sys.stderr)
                return

    # -------------------------------------------------------------------------------------------------------- private

    def _read(self) -> None:
        """Look at every trial that was not settled when it was last looked at."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self._has_read = True
        self._running = {}
        for trial in trials[self._num_settled :]:
            if trial.number in self._settled:
                continue
            if trial.state.is_finished():
                self._settled.add(trial.number)
                if _is_result(trial) and _key_of(trial) not in self._finished:
                    self._finished.add(_key_of(trial))
                    self._news.append(trial)
            elif trial.state is TrialState.RUNNING and "worker" in trial.user_attrs:
                self._running[trial._trial_id] = trial
        while self._num_settled in self._settled:
            self._settled.discard(self._num_settled)
            self._num_settled += 1

    def _is_running(self, key: _Key) -> bool:
        return any(_key_of(trial) == key for trial in self._running.values())

    def _has_earlier_rival(self, own: FrozenTrial) -> bool:
        key = _key_of(own)
        return any(trial.number < own.number and _key_of(trial) == key for trial in self._running.values())

    def _finish_shared(self, trial_id: int, key: _Key, trial: FrozenTrial, attrs: Mapping[str, Any]) -> None:
        while not self._completed(trial_id, trial, attrs):
            self._read()
            if key in self._finished:
                return
            heirs = [each for each in self._running.values() if _key_of(each) == key]
            if heirs and trial.state is TrialState.FAIL:
                return  # somebody tries it again already
            if heirs:
                trial_id = min(heirs, key=lambda each: each.number)._trial_id
            else:
                claimed = {**attrs, "worker": self.worker, "beat": 0}
                template = _trial(TrialState.RUNNING, trial.params, trial.distributions, claimed, trial)
                trial_id = self._storage.create_new_trial(self._study_id, template)
                self._read()
                own = self._running.get(trial_id)
                if own is None or self._has_earlier_rival(own) or key in self._finished:
                    self._end(trial_id, "duplicate")

    def _completed(self, trial_id: int, trial: FrozenTrial, attrs: Mapping[str, Any]) -> bool:
        """Whether this call has finished a RUNNING trial; False if it is finished already."""
        known = self._running.get(trial_id)
        known_attrs = known.user_attrs if known else {}
        known_system = known.system_attrs if known else {}
        try:
            for name, value in trial.system_attrs.items():
                if name not in known_system or known_system[name] != value:
                    self._storage.set_trial_system_attr(trial_id, name, value)
            for name, value in attrs.items():
                if name not in known_attrs or known_attrs[name] != value:
                    self._storage.set_trial_user_attr(trial_id, name, value)
            return self._storage.set_trial_state_values(trial_id, trial.state, trial.values)
        except UpdateFinishedTrialError:
            return False

    def _end(self, trial_id: int, why: str) -> bool:
        """Whether this call, and nobody else's, has ended a RUNNING trial without a result."""
        self._running.pop(trial_id, None)
        return _set_ended(self._storage, trial_id, why)


class ForgetfulLedger:
    """Of a search that keeps nothing and shares nothing."""

    def news(self) -> list[FrozenTrial]:
        return []

    def claim(
        self, arch: Mapping[str, int], params: Mapping[str, int], distributions: Mapping[str, BaseDistribution]
    ) -> Claim:
        return Claim(dict(arch), None)

    def finish(self, claim: Claim, trial: FrozenTrial) -> None:
        pass

    def fail(self, claim: Claim, trial: FrozenTrial, text: str) -> None:
        pass

    def stale(self) -> list[Arch]:
        return []

    def num_running_elsewhere(self) -> int:
        return 0

    def close(self) -> None:
        pass


# ------------------------------------------------------------------------------------------------------------ private


class _Heart:
    """Raises the counters of the running claims, in a thread that outlives a storage that is away."""

    def __init__(self, storage: BaseStorage, beat_s: float) -> None:
        self._storage = _impatient(storage)
        self._beat_s = beat_s
        self._claims: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, trial_id: int) -> None:
        with self._lock:
            self._claims[trial_id] = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="heart of a ledger", daemon=True)
            self._thread.start()

    def remove(self, trial_id: int) -> None:
        with self._lock:
            self._claims.pop(trial_id, None)

    def trial_ids(self) -> set[int]:
        with self._lock:
            return set(self._claims)

    def stop(self) -> None:
        with self._lock:
            self._claims.clear()
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _beat(self) -> None:
        while not self._stopped.wait(self._beat_s):
            for trial_id in self.trial_ids():
                with self._lock:
                    if trial_id not in self._claims:
                        continue
                    self._claims[trial_id] += 1
                    count = self._claims[trial_id]
                try:
                    self._storage.set_trial_user_attr(trial_id, "beat", count)
                except (UpdateFinishedTrialError, KeyError):
                    pass  # taken over; `finish` finds out
                except Exception:
                    break  # away; the searching thread tells, and the next beat tries again
        self._storage.remove_session()


def _impatient(storage: BaseStorage) -> BaseStorage:
    return storage.inner if isinstance(storage, PatientStorage) else storage


def _set_ended(storage: BaseStorage, trial_id: int, why: str) -> bool:
    try:
        storage.set_trial_user_attr(trial_id, "ended", why)
        return storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False


def _is_result(trial: FrozenTrial) -> bool:
    has_arch = "arch" in trial.user_attrs
    return has_arch and (trial.state is TrialState.COMPLETE or "failure" in trial.user_attrs)


def _key_of(trial: FrozenTrial) -> _Key:
    return arch_key(trial.user_attrs["arch"])


def _trial(
    state: TrialState,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    user_attrs: Mapping[str, Any],
    like: FrozenTrial | None = None,
) -> FrozenTrial:
    trial = create_trial(
        state=state,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs=dict(user_attrs),
        system_attrs=dict(like.system_attrs) if like else {},
        values=like.values if like and state is TrialState.COMPLETE else None,
    )
    trial.datetime_start = like.datetime_start if like and like.datetime_start else datetime.now()
    trial.datetime_complete = None if state is TrialState.RUNNING else datetime.now()
    return trial


def _worker_name() -> str:
    """Host, process and a random text; the first two tell workers on the same host whether the process lives."""
    return f"{_host()}|{os.getpid()}|{token_hex(4)}"


def _host() -> str:
    """Of all that share process ids with this one, and of nobody else."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        return f"{socket.gethostname()}|{boot}|{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()}||"


def _is_dead(worker: str) -> bool:
    host, pid, _ = worker.rsplit("|", 2)
    if host != _host() or not hasattr(os, "fork"):
        return False
    try:
        os.kill(int(pid), 0)
        status = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"  # killed, and nobody has asked for its exit code
