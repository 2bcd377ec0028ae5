"""DVC's own remote on the same bucket: what one clone pushes, another pulls. A pipeline of two words, not ours."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.s3 import Server
from tests.workspace import environment

PIPELINE = """\
stages:
  copy:
    cmd: python -c "open('out.bin', 'wb').write(open('in.txt', 'rb').read() * 1000)"
    deps: [in.txt]
    outs: [out.bin]
"""


def dvc(folder: Path, *words: str) -> str:
    """Output of a dvc command, as the documentation gives it."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.email=t@example.org", "-c", "user.name=T", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_remote__push_here_and_pull_in_a_fresh_clone(s3: Server, tmp_path: Path) -> None:
    here, clone = tmp_path / "here", tmp_path / "clone"
    here.mkdir()
    (here / "dvc.yaml").write_text(PIPELINE)
    (here / "in.txt").write_text("tutelage\n")
    git(here, "init", "-q")
    dvc(here, "init", "-q")
    dvc(here, "remote", "add", "--default", "store", f"{s3.uri}/dvc")
    dvc(here, "repro", "-q")
    dvc(here, "push")
    git(here, "add", "-A")
    git(here, "commit", "-qm", "made")
    git(tmp_path, "clone", "-q", str(here), str(clone))
    assert not (clone / "out.bin").exists()
    s3.faults("503", key="dvc/", times=1)
    dvc(clone, "pull")
    assert (clone / "out.bin").read_bytes() == b"tutelage\n" * 1000
    md5 = hashlib.md5(b"tutelage\n" * 1000).hexdigest()
    assert s3.get(f"dvc/files/md5/{md5[:2]}/{md5[2:]}") == b"tutelage\n" * 1000
    assert s3.struck == 1
