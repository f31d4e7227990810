"""What `import predictors` and `import search_spaces` do not load."""

import subprocess
import sys

import pytest

HEAVY = ("hydra", "omegaconf", "optuna", "torch", "sklearn", "matplotlib", "plotly")


@pytest.mark.parametrize("statement", ["import predictors", "import search_spaces", "import nas"])
def test_importing_a_floor_loads_nothing_heavy(statement: str) -> None:
    check = f"import sys; {statement}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_costing_an_arch_of_a_space_loads_nothing_heavy() -> None:
    check = (
        "import sys; from predictors import LatencyPredictor, load_device; from search_spaces import load_space; "
        "space = load_space('mobilenet_v3'); "
        "LatencyPredictor(load_device('mobile_gpu')).predict(space.graph(space.largest())); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_trace_is_the_function_also_after_its_module_was_imported() -> None:
    check = "import predictors.tracing; from predictors import trace; print(callable(trace))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
