"""A storage that may be away for a while: every operation is tried again until it is back, for so long.

An operation whose answer was lost may have been carried out. Tried again, it adds no second trial and finishes none
twice.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

DEFAULT_PATIENCE_S = 120.0
MAX_PAUSE_S = 30.0

_HOPELESS = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "access denied",
    "unknown database",
    "unable to open database file",
    "file is not a database",
    "readonly database",
)
"""What a database says, in lower case, that waiting does not mend."""

_Answer = TypeVar("_Answer")


class StorageAwayError(ValueError):
    """A storage has been away for longer than somebody was willing to wait."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to try, and what the storage is called in messages, which never tell its password."""

    shown: str
    secrets: tuple[str, ...] = ()
    patience_s: float = DEFAULT_PATIENCE_S

    def until_back(self, operation: Callable[[bool], _Answer]) -> _Answer:
        """The answer of an operation, which is told whether it was tried before.

        Pauses are 1, 2, 4 ... at most 30 s, each with a line on stderr.

        Raises:
            StorageAwayError: it is still away after `patience_s`.
            ValueError: the storage refuses.
        """
        started = time.monotonic()
        pause_s = 1.0
        again = False
        while True:
            try:
                return operation(again)
            except Exception as error:
                if not is_away(error):
                    raise
                reason = self.reason(error)
            if any(words in reason.lower() for words in _HOPELESS):
                raise ValueError(f"storage {self.shown}: {reason}")
            left_s = started + self.patience_s - time.monotonic()
            if left_s <= 0.0:
                raise StorageAwayError(
                    f"storage {self.shown} has been away for {self.patience_s:.0f} s: {reason}; "
                    "what is finished is kept: the same command goes on from there"
                )
            pause_s = min(pause_s, left_s)
            print(f"storage {self.shown} is away ({reason}); trying again in {pause_s:.0f} s", file=sys.stderr)
            time.sleep(pause_s)
            pause_s = min(2.0 * pause_s, MAX_PAUSE_S)
            again = True

    def reason(self, error: BaseException) -> str:
        """One line of what the driver says, without the password."""
        cause = _lost_connection(error) or error
        details = getattr(cause, "details", None)
        text = str(details() if callable(details) else getattr(cause, "orig", None) or cause)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        line = lines[0] if lines else type(cause).__name__
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line


def is_away(error: BaseException) -> bool:
    """Whether an error of a storage says that it cannot be reached now, rather than that something is wrong."""
    if isinstance(error, StorageInternalError) and error.__cause__ is None:
        return True
    return _lost_connection(error) is not None


def _patiently(name: str) -> Callable[..., Any]:
    def method(self: "PatientStorage", *args: Any, **kwargs: Any) -> Any:
        return self.patience.until_back(lambda again: getattr(self.inner, name)(*args, **kwargs))

    return method


class PatientStorage(BaseStorage):
    """Another storage, waited for.

    Attributes:
        inner: the storage itself, which raises when it is away.
    """

    def __init__(self, inner: BaseStorage, patience: Patience) -> None:
        self.inner = inner
        self.patience = patience

    create_new_study = _patiently("create_new_study")
    delete_study = _patiently("delete_study")
    set_study_user_attr = _patiently("set_study_user_attr")
    set_study_system_attr = _patiently("set_study_system_attr")
    get_study_id_from_name = _patiently("get_study_id_from_name")
    get_study_name_from_id = _patiently("get_study_name_from_id")
    get_study_directions = _patiently("get_study_directions")
    get_study_user_attrs = _patiently("get_study_user_attrs")
    get_study_system_attrs = _patiently("get_study_system_attrs")
    get_all_studies = _patiently("get_all_studies")
    set_trial_param = _patiently("set_trial_param")
    get_trial_id_from_study_id_trial_number = _patiently("get_trial_id_from_study_id_trial_number")
    get_trial_number_from_id = _patiently("get_trial_number_from_id")
    set_trial_intermediate_value = _patiently("set_trial_intermediate_value")
    set_trial_user_attr = _patiently("set_trial_user_attr")
    set_trial_system_attr = _patiently("set_trial_system_attr")
    get_trial = _patiently("get_trial")
    get_all_trials = _patiently("get_all_trials")
    get_best_trial = _patiently("get_best_trial")

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        def create(again: bool) -> int:
            if again and template_trial is not None:
                for trial in reversed(self.inner.get_all_trials(study_id, deepcopy=False)):
                    if _same(trial, template_trial):
                        return trial._trial_id
            return self.inner.create_new_trial(study_id, template_trial)

        return self.patience.until_back(create)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def change(again: bool) -> bool:
            try:
                return self.inner.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                trial = self.inner.get_trial(trial_id)
                asked = None if values is None else list(values)
                if again and trial.state is state and trial.values == asked:
                    return True
                raise

        return self.patience.until_back(change)

    def remove_session(self) -> None:
        self.inner.remove_session()


# ------------------------------------------------------------------------------------------------------------ private


def _lost_connection(error: BaseException) -> BaseException | None:
    """What the driver said first: Optuna asks once more in the same transaction, which then says something else."""
    grpc = sys.modules.get("grpc")
    is_of_grpc = grpc is not None and isinstance(error, grpc.RpcError)
    if is_of_grpc:
        return error
    found: BaseException | None = None
    each: BaseException | None = error if isinstance(error, (StorageInternalError, SQLAlchemyError)) else None
    while each is not None:
        if isinstance(each, (OperationalError, InterfaceError)):
            found = each
        each = each.__cause__ or each.__context__
    return found


def _same(trial: FrozenTrial, template: FrozenTrial) -> bool:
    """Whether a stored trial was made of a template: they start at the same microsecond, or second on MySQL."""
    start, asked = trial.datetime_start, template.datetime_start
    if start is None or asked is None or abs(start - asked) > timedelta(seconds=0 if start.microsecond else 1):
        return False
    return (
        trial.state is template.state
        and trial.params == template.params
        and _json(trial.user_attrs) == _json(template.user_attrs)
    )


def _json(attrs: dict[str, Any]) -> str:
    return json.dumps(attrs, sort_keys=True)
