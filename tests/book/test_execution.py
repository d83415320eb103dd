"""How a run ends: one chapter's failure is one line, a hanging or dying kernel too, Ctrl-C ends everything within seconds."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from demo import add_chapter, make_checkout
from typer.testing import CliRunner

from dm_utils.base.errors import BuildError
from dm_utils.book import build, site
from dm_utils.book.cli import app

TOC = "format: jb-book\nroot: intro\nparts:\n  - caption: Part\n    chapters:\n"
GOOD = "import os, pathlib\nhere = pathlib.Path(os.environ['DM_TABLES'])\nhere.mkdir(parents=True, exist_ok=True)\n"
GOOD += "(here / 'good.csv').write_text('chapter\\n')"


def checkout(root, **sources):
    """A checkout whose chapters are one cell each."""
    layout = make_checkout(root)
    (layout.root / "notebooks/demo.ipynb").unlink()
    (layout.root / "src").unlink()
    for name, source in sources.items():
        add_chapter(layout, name, source)
    (layout.root / "book/_toc.yml").write_text(TOC + "".join(f"      - file: notebooks/{name}\n" for name in sources))
    return layout


def fail(tmp_path, source, **options):
    """The refusal of a chapter with this cell."""
    layout = checkout(tmp_path, bad=source)
    with pytest.raises(BuildError) as caught:
        build.execute(layout.root / "notebooks/bad.ipynb", tmp_path / "out/bad.ipynb", {}, **options)
    assert not list(tmp_path.glob("out/*running*")) and not (tmp_path / "out/bad.ipynb").exists()
    return str(caught.value).splitlines()[0]


def test_a_kernel_that_dies_is_one_line(tmp_path):
    line = fail(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert line.startswith("bad failed: the kernel died in cell 2, perhaps for lack of memory")


@pytest.mark.parametrize("source", ["exit()", "quit()", "import sys\nsys.exit(0)"])
def test_a_cell_that_leaves_is_a_failure(tmp_path, source):
    assert fail(tmp_path, source).startswith("bad failed: cell 2 left the kernel")


def test_a_cell_that_hangs_is_stopped_at_its_time(tmp_path):
    assert fail(tmp_path, "import time\ntime.sleep(600)", timeout=2) == "bad failed: cell 2 took longer than 2 s"


def test_a_failure_stops_no_other_chapter(tmp_path):
    layout = checkout(tmp_path, first="1 / 0", second=GOOD, third="import os\nos._exit(9)")
    failed = build.execute_chapters(layout, {}, jobs=2)
    assert failed["first"] == "first failed in cell 2: ZeroDivisionError: division by zero"
    assert failed.keys() == {"first", "third"} and "the kernel died" in failed["third"]
    assert (layout.executed / "second.ipynb").exists() and (layout.executed / "second.json").exists()
    site.stage(layout, failed)
    pages = {name: (layout.source / f"notebooks/{name}.ipynb").read_text() for name in ("first", "second")}
    assert "did not run to its end" in pages["first"] and "Its page has no results" in pages["first"]
    assert "did not run to its end" not in pages["second"]


def test_a_chapter_that_ran_before_keeps_its_page_and_says_so(tmp_path):
    layout = checkout(tmp_path, first="print('earlier result')")
    assert not build.execute_chapters(layout, {})
    path = layout.root / "notebooks/first.ipynb"
    path.write_text(path.read_text().replace("print('earlier result')", "1 / 0"))
    site.stage(layout, build.execute_chapters(layout, {}))
    page = (layout.source / "notebooks/first.ipynb").read_text()
    assert "earlier result" in page and "What follows is from an earlier run" in page


def test_the_command_builds_what_it_can_and_lists_the_failures(tmp_path, monkeypatch):
    layout = checkout(tmp_path, first="1 / 0", second=GOOD)
    monkeypatch.setattr(site, "build_site", site.stage)  # Sphinx has tests of its own
    monkeypatch.chdir(layout.root)
    done = CliRunner().invoke(app, ["build"])
    assert done.exit_code == 1
    assert done.stderr.strip().splitlines()[-2].startswith("1 of 2 chapters failed; the rest is in")
    assert done.stderr.strip().splitlines()[-1] == "  first failed in cell 2: ZeroDivisionError: division by zero"
    assert (layout.source / "notebooks/second.ipynb").exists()


@pytest.mark.parametrize("command", [["build", "--jobs", "2"], ["chapter", "slow"]])
def test_ctrl_c_ends_the_kernels_and_leaves_nothing_half_written(tmp_path, command):
    started = tmp_path / "started"
    source = f"import os, pathlib, time\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    layout = checkout(tmp_path / "checkout", slow=source, other="import time\ntime.sleep(600)")
    process = subprocess.Popen(
        [sys.executable, "-m", "dm_utils.book.cli", *command],
        cwd=layout.root,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # even where this process is deaf to it
    )
    while not (started.exists() and started.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGINT)
    gone, alive = psutil.wait_procs(children, timeout=5)
    assert not alive and int(started.read_text()) in {child.pid for child in gone}
    assert not list(layout.build.rglob("*.running.ipynb"))


def test_a_build_sweeps_what_dead_runs_left_and_nothing_else(tmp_path):
    layout = checkout(tmp_path, first="1")
    layout.executed.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (layout.executed / f"first.{dead.pid}.running.ipynb").write_text("{}")
    (layout.executed / f"first.{os.getpid()}.running.ipynb").write_text("{}")
    build.sweep(layout)
    assert [path.name for path in layout.executed.iterdir()] == [f"first.{os.getpid()}.running.ipynb"]


def test_many_kernels_start_at_once_on_channels_of_their_own(tmp_path):
    names = [f"n{i}" for i in range(4)]
    layout = checkout(tmp_path, **dict.fromkeys(names, "1"))
    before = os.getcwd()
    assert not build.execute_chapters(layout, {}, jobs=4)
    assert os.getcwd() == before
    assert all(json.loads((layout.executed / f"{name}.json").read_text()) for name in names)
