import subprocess
import sys
from pathlib import Path

from nas.files import one_at_a_time

SCRIPT = """
import sys
from pathlib import Path
from nas.files import one_at_a_time

folder = Path(sys.argv[1])
with one_at_a_time(folder / "lock"):
    (folder / f"{sys.argv[2]}.began").touch()
    others = sorted(path.name for path in folder.glob("*.began"))
    import time
    time.sleep(0.3)
    assert sorted(path.name for path in folder.glob("*.began")) == others, "somebody else came in"
    (folder / f"{sys.argv[2]}.began").rename(folder / f"{sys.argv[2]}.ended")
"""


def test_processes_wait_for_each_other(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path / "lock"):
        commands = [[sys.executable, "-c", SCRIPT, str(tmp_path), str(number)] for number in range(3)]
        running = [subprocess.Popen(command) for command in commands]
        assert not list(tmp_path.glob("*.began"))
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert len(list(tmp_path.glob("*.ended"))) == 3
