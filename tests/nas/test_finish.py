"""Chosen subnets, finished: fine-tuned, tested once, exported, and what is refused."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from ended_runs import ended_run
from hydra import compose, initialize_config_module
from safetensors.torch import load_file

import nas.finish
import nas.finishing
import nas.verify
from nas.accuracy import calibration_images
from nas.cli import plain_mapping, run_command
from nas.data import Images, load_data
from nas.data.inputs import evaluation_input
from nas.finishing import Finished, finish_run
from nas.report.after import BEGIN, END, after_search, refresh_page
from nas.run_folder import front_of, read_run
from nas.training import recipe_from_mapping
from predictors.mapping import read_yaml
from predictors.paths import shipped

torch.set_num_threads(1)

RECIPE = recipe_from_mapping({"num_steps": 2, "batch_size": 16, "learning_rate": 0.001, "log_steps": 0})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    return ended_run(tmp_path / "outputs" / "v100" / "ended", "v100")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Images]:
    """The images that accuracies were measured on, in order."""
    seen: list[Images] = []
    measure = nas.finishing.accuracy

    def measured(module: Any, data: Any, images: Images, size: int) -> float:
        seen.append(images)
        return measure(module, data, images, size)

    monkeypatch.setattr(nas.finishing, "accuracy", measured)
    return seen


def finish(run: Path, **options: Any) -> Finished:
    (found,) = finish_run(read_run(run), ["fastest"], **{"recipe": RECIPE, "progress": False, **options})
    return found


class KilledError(Exception):
    pass


def test_a_subnet_is_finetuned_tested_once_and_exported_and_a_killed_run_goes_on(
    run: Path, looks: list[Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    (run / "report.html").write_text(f"before{BEGIN}old{END}after")
    with monkeypatch.context() as patched:
        patched.setattr(nas.finishing, "write_network", killed)
        with pytest.raises(KilledError):
            finish(run)
    num_test = 359  # a fifth of 1,797 digits
    assert [len(images) for images in looks].count(num_test) == 1
    assert not (run / "finished" / "fastest").exists()
    looks.clear()
    found = finish(run)
    assert num_test not in [len(images) for images in looks], "the test images were looked at before the kill"
    assert (found.num_test, found.looked_up) == (num_test, True)
    record = json.loads((run / "test_accuracy.json").read_text())
    assert [entry["accuracy"] for entry in record["entries"]] == [found.test_accuracy]

    looks.clear()
    assert finish(run) == found
    assert not looks, "what is finished is read"

    folder = run / "finished" / "fastest"
    description = json.loads((folder / "arch.json").read_text())
    trained = load_file(folder / "weights.safetensors")
    before = load_file(run / "subnets" / "fastest" / "weights.safetensors")
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    space, data = read_run(run).space, load_data("digits", size=16)
    module = space.build(description["arch"])
    module.load_state_dict(trained)
    images = evaluation_input(data, data.test.read(np.arange(8)).images, 8)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module.eval()(images).numpy()
    for row, image in zip(expected, images.contiguous().numpy()):
        (logits,) = session.run(["logits"], {"image": image[None]})
        np.testing.assert_allclose(logits[0], row, atol=1e-4)
    assert (folder / "model.int8.onnx").is_file()
    assert (found.trained_size, found.deployed_size) == (8, 8)

    page = (run / "report.html").read_text()
    assert page.startswith("before")
    assert page.endswith("after")
    assert f"{100 * found.test_accuracy:.2f} %" in page
    assert "old" not in page


def test_the_test_accuracy_is_that_of_the_weights_with_their_own_statistics(
    run: Path, looks: list[Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[torch.nn.Module] = []
    monkeypatch.setattr(nas.finishing, "write_network", lambda module, *_, **__: written.append(module))
    with pytest.raises(AssertionError):
        finish(run, num_calibration=50)  # nothing was written
    (module,) = written
    data = load_data("digits", size=16)
    x_BCHW = evaluation_input(data, data.test.read(np.arange(len(data.test))).images, 8)
    with torch.no_grad():
        answers = module(x_BCHW).argmax(dim=1).numpy()
    entry = json.loads((run / "test_accuracy.json").read_text())["entries"][0]
    assert entry["accuracy"] == pytest.approx((answers == data.test.labels).mean())
    images = evaluation_input(data, calibration_images(data, 50), 8)
    with torch.no_grad():
        mean_C = module.stem.conv(images).mean(dim=(0, 2, 3))
    torch.testing.assert_close(module.stem.bn.running_mean, mean_C, msg="statistics of the calibration images")


def test_a_run_without_weights_says_so_and_trains_from_scratch_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    run = ended_run(tmp_path / "run", "v100", weights=False, accuracy={"source": "made_up_accuracy.MadeUp"})
    with pytest.raises(ValueError, match=r"made_up_accuracy.MadeUp, which has no weights.* from_scratch=true trains"):
        finish(run)
    written: list[torch.nn.Module] = []
    monkeypatch.setattr(nas.finishing, "write_network", lambda module, *_, **__: written.append(module))
    with pytest.raises(AssertionError):
        finish(run, recipe=None, from_scratch=True)
    assert len(written) == 1
    assert list((run / "finished" / "training").glob("fastest-alone-*.safetensors"))


# ---------------------------------------------------------------------------------------------------------- bad input


def test_what_is_no_run_is_refused_with_what_a_run_has_and_the_runs_there_are(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"'empty' is no run: it has no config.yaml; a run has .*pareto.csv.*ended"):
        read_run("empty")
    with pytest.raises(ValueError, match="'nothing' is no run: it does not exist"):
        read_run("nothing")
    with pytest.raises(ValueError, match=r"no run was given; add run=FOLDER"):
        read_run(None)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", "seed: 0\n", r"config.yaml has no 'hw': it is no search's, or another version's"),
        ("config.yaml", "hw: [", r"config.yaml: not valid YAML"),
        ("subnets/fastest/arch.json", '{"arch": {"a"', r"arch.json is damaged or of another version"),
        ("subnets/fastest/arch.json", '{"arch": {"a": 1}, "input_shape": [1, 1, 8, 8]}', r"arch.json: space .* knob"),
        ("subnets/fastest/arch.json", '{"genotype": {}}', r"another version \(KeyError: 'arch'\)"),
        ("subnets/fastest/weights.safetensors", "torn", r"weights.safetensors is damaged"),
        ("test_accuracy.json", '{"entries": [', r"test_accuracy.json, which says .* is damaged"),
        ("test_accuracy.json", '{"format": 9, "entries": []}', r"format 9, known is 1"),
    ],
)
def test_a_torn_file_or_one_of_another_version_is_named(run: Path, file: str, content: str, message: str) -> None:
    (run / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        finish(run)


def test_a_config_whose_space_this_version_does_not_know_is_named(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("stem_width", "stem_girth"))
    with pytest.raises(ValueError, match=r"config.yaml does not give a space .*stem_girth.*search again"):
        read_run(run)


def test_weights_of_another_arch_are_refused(run: Path) -> None:
    (run / "subnets/fastest/weights.safetensors").write_bytes(
        (run / "subnets/most_accurate/weights.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match=r"holds the weights of another arch than arch\.json"):
        finish(run)


def test_an_unknown_subnet_and_an_unknown_image_size_are_refused_with_those_there_are(run: Path) -> None:
    with pytest.raises(ValueError, match=r"has no subnet 'slowest'; it has \['fastest', 'knee', 'most_accurate'\]"):
        finish_run(read_run(run), ["slowest"])
    with pytest.raises(ValueError, match=r"unknown image_size 'big'; there are \['trained', 'deployed'\]"):
        finish_run(read_run(run), image_size="big")


def test_a_front_with_an_arch_that_is_not_in_the_space_is_named_with_its_line(run: Path) -> None:
    path = run / "pareto.csv"
    lines = path.read_text().splitlines()
    columns = lines[0].split(",")
    cells = lines[1].split(",")
    cells[columns.index("resolution")] = "12"
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    with pytest.raises(ValueError, match=r"pareto.csv:2: .*'resolution' takes \[8, 16\]; the arch has 12"):
        front_of(read_run(run))
    path.write_text("\n".join([*lines[:-1], lines[-1][:12]]))
    with pytest.raises(ValueError, match="a number is missing or none; the file is torn"):
        front_of(read_run(run))
    path.write_text(lines[0])
    with pytest.raises(ValueError, match="none met the constraints"):
        front_of(read_run(run))


def test_the_page_says_how_to_go_on_where_nothing_was_done_yet(run: Path) -> None:
    text = after_search(run)
    assert f"python -m nas.finish run={run}" in text
    assert f"python -m nas.verify run={run}" in text
    refresh_page(run)  # there is no page: nothing happens
    (run / "report.html").write_text("a page of another version")
    refresh_page(run)
    assert (run / "report.html").read_text() == "a page of another version"


def test_the_files_of_the_commands_have_the_keys_and_defaults_of_their_schemas() -> None:
    with initialize_config_module("configs", version_base="1.3"):
        finish, verify = (plain_mapping(compose(name)) for name in ("finish", "verify"))
    recipe = recipe_from_mapping(finish.pop("finetune"))
    assert recipe.learning_rate < recipe_from_mapping(read_yaml(shipped("training") / "default.yaml")).learning_rate
    plain = {name: value for name, value in asdict(nas.finish.FinishConfig()).items() if name != "finetune"}
    assert finish == plain
    assert verify == asdict(nas.verify.VerifyConfig())


def test_the_command_leaves_with_a_sentence_and_its_help_imports_no_torch(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("warnings.formatwarning", lambda *_, **__: "")
    monkeypatch.setattr(sys, "argv", ["finish", "run=elsewhere"])
    with pytest.raises(SystemExit) as left:
        run_command(nas.finish.main)
    assert left.value.code == 2
    assert "error: 'elsewhere' is no run: it does not exist; a run has" in capsys.readouterr().err
    code = "import nas.finish, nas.verify, sys; assert not {'torch', 'optuna', 'onnxruntime'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
