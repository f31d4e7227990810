from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import nas.compare.__main__  # registers its schema
import nas.search
import nas.train
from nas.cli import plain_mapping
from nas.constraints import CONSTRAINTS, constraints_from_mapping
from nas.objectives import objectives_from_mapping
from nas.proposals import sampler_from_mapping
from nas.storage import storage_from_mapping
from nas.training import recipe_from_mapping
from predictors import DeviceNotMeasuredError, LatencyPredictor, device_from_mapping, load_device, load_runtime
from predictors.fusion import runtime_from_mapping
from predictors.mapping import read_yaml
from predictors.paths import shipped
from search_spaces import load_space, space_from_mapping
from search_spaces.loading import instance_from_mapping

GROUPS = (
    "hw", "runtime", "space", "data", "training", "accuracy", "objectives", "sampler", "storage",
)  # fmt: skip


def options(group: str) -> list[str]:
    return sorted(path.stem for path in shipped(group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def composing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("RIDGELINE_STORAGE_URL", f"sqlite:///{tmp_path / 'study.db'}")
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with initialize_config_module("configs", version_base="1.3"):
        yield


def composed(name: str, *overrides: str) -> dict[str, Any]:
    return plain_mapping(compose(name, [*overrides]))


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_options_and_each_composes_to_the_content_of_its_file(group: str) -> None:
    assert options(group)
    for option in options(group):
        overrides = {"hw": "v100"} | {group: option}
        config = composed("search", *(f"{key}={value}" for key, value in overrides.items()))
        content = OmegaConf.to_container(OmegaConf.create(read_yaml(shipped(group) / f"{option}.yaml")), resolve=True)
        assert config[group] == content


def test_all_files_of_configs_are_in_a_group_or_belong_to_a_command() -> None:
    folder = shipped("hw").parent
    commands = ["compare", "finish", "rank", "search", "train", "verify"]
    assert sorted(path.stem for path in folder.glob("*.yaml")) == commands
    assert {path.parent.name for path in folder.glob("*/**/*.yaml")} == {*GROUPS, "against", "yardstick"}


@pytest.mark.parametrize("option", options("yardstick"))
def test_every_yardstick_composes_and_builds(option: str) -> None:
    mapping = composed("compare", "hw=v100", f"yardstick={option}")["yardstick"]
    assert mapping == read_yaml(shipped("yardstick") / f"{option}.yaml")
    assert instance_from_mapping(mapping, "source", "yardstick") is not None


def test_a_comparison_has_the_groups_and_keys_of_a_search_as_far_as_both_have_them() -> None:
    compare, search = composed("compare", "hw=v100"), composed("search", "hw=v100")
    only = {"yardstick", "strategies", "baseline", "num_seeds", "jobs", "sweep"}
    assert {*compare} - {*search} == only
    assert {*search} - {*compare} == {"objectives", "storage", "num_workers", "warm_start", "study_name"}
    assert {key: compare[key] for key in compare if key not in only} == {
        key: search[key] for key in search if key in compare
    }


@pytest.mark.parametrize("name", options("hw"))
def test_every_device_builds_and_predicts(name: str) -> None:
    mapping = composed("search", f"hw={name}")["hw"]
    assert mapping["name"] == name
    try:
        device = device_from_mapping(mapping)
    except DeviceNotMeasuredError:
        assert name == "host"
        return
    assert device == load_device(name)
    space = load_space("mobilenet_v3_tiny")
    assert LatencyPredictor(device).predict(space.graph(space.smallest())).latency_s > 0.0


@pytest.mark.parametrize("name", options("runtime"))
def test_every_runtime_builds(name: str) -> None:
    assert runtime_from_mapping(composed("search", "hw=v100", f"runtime={name}")["runtime"]) == load_runtime(name)


@pytest.mark.parametrize("name", options("space"))
def test_every_space_builds(name: str) -> None:
    assert space_from_mapping(composed("search", "hw=v100", f"space={name}")["space"]) == load_space(name)


def test_every_other_group_builds(tmp_path: Path) -> None:
    builders = {
        "data": lambda mapping: instance_from_mapping(mapping, "source", "data"),
        "training": recipe_from_mapping,
        "accuracy": lambda mapping: instance_from_mapping(mapping, "source", "accuracy"),
        "objectives": objectives_from_mapping,
        "sampler": sampler_from_mapping,
        "storage": lambda mapping: storage_from_mapping(mapping, tmp_path),
    }
    assert {*builders, "hw", "runtime", "space"} == set(GROUPS)
    for group, build in builders.items():
        for option in options(group):
            assert build(composed("search", "hw=v100", f"{group}={option}")[group]) is not None


def test_objectives_are_named_like_their_files() -> None:
    for name in options("objectives"):
        assert composed("search", "hw=v100", f"objectives={name}")["objectives"]["name"] == name


def test_the_config_of_the_search_lists_every_constraint_and_sets_none() -> None:
    constraints = composed("search", "hw=v100")["constraints"]
    assert list(constraints) == list(CONSTRAINTS)
    assert constraints_from_mapping(constraints) == {}


def test_the_train_command_has_the_supernet_of_the_search_by_default() -> None:
    train, search = composed("train"), composed("search", "hw=v100")
    assert train == {group: search[group] for group in ("space", "data", "training")}


def test_the_schemas_and_the_files_have_the_same_defaults() -> None:
    search = composed("search", "hw=v100")
    compare = composed("compare", "hw=v100")
    for key in ("deploy", "baseline", "num_trials", "num_seeds", "seed", "jobs", "sweep", "run_dir"):
        assert OmegaConf.to_container(OmegaConf.structured(nas.compare.__main__.CompareConfig))[key] == compare[key]  # type: ignore[call-overload,index]
    for key in ("deploy", "num_trials", "seed", "run_dir"):
        assert OmegaConf.to_container(OmegaConf.structured(nas.search.SearchConfig))[key] == search[key]  # type: ignore[call-overload,index]
    assert set(nas.train.TrainConfig.__annotations__) == set(composed("train"))
