import numpy as np
import pytest

from nas.objectives import METRICS, check_objectives, losses, metric_named, objectives_from_mapping


def test_what_should_grow_is_negated_in_the_loss() -> None:
    metrics = [{"error": 0.25, "arithmetic_intensity": 8.0}, {"error": 0.5, "arithmetic_intensity": 4.0}]
    np.testing.assert_array_equal(losses(metrics, ["arithmetic_intensity", "error"]), [[-8.0, 0.25], [-4.0, 0.5]])


def test_the_losses_of_no_candidates_keep_their_columns() -> None:
    assert losses([], ["error", "latency_s"]).shape == (0, 2)


def test_an_unknown_objective_is_named_and_all_that_exist_are_listed() -> None:
    with pytest.raises(ValueError, match="unknown objective 'latancy'") as caught:
        check_objectives(["error", "latancy"])
    assert all(name in str(caught.value) for name in METRICS)


@pytest.mark.parametrize("names", [[], ["error", "error"]])
def test_no_objectives_or_one_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one metric and each only once"):
        check_objectives(names)


def test_a_group_of_objectives_gives_its_metrics_in_order() -> None:
    assert objectives_from_mapping({"name": "x", "metrics": ["macs", "error"]}) == ("macs", "error")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "x", "metric": []}, "unknown key 'metric'"),
        ({"name": "x"}, "key 'metrics' is missing"),
        ({"name": "x", "metrics": "error"}, "expected list, found 'error'"),
    ],
)
def test_a_malformed_group_of_objectives_is_refused(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objectives_from_mapping(mapping)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobile_cpu.latency", "and those that differ from device to device also as DEVICE.METRIC"),
        ("mobile_cpu.macs", "; macs does not differ from device to device, so it has none before it"),
        ("mobile_cpu.error", "; error does not differ from device to device"),
    ],
)
def test_a_metric_that_another_device_does_not_have_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"unknown objective '{name}'; there are .*{message}"):
        metric_named(name)


def test_metrics_of_several_devices_are_objectives_side_by_side() -> None:
    names = ("error", "latency_s", "mobile_cpu.latency_s", "mobile_cpu.arithmetic_intensity")
    assert check_objectives(names) == names
    rows = [{"error": 0.25, "latency_s": 1.0, "mobile_cpu.latency_s": 3.0, "mobile_cpu.arithmetic_intensity": 7.0}]
    assert losses(rows, names).tolist() == [[0.25, 1.0, 3.0, -7.0]]
