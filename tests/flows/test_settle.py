"""Which flow runs a machine is at work for; tests/e2e/test_settle.py asks a server about the rest."""

import os
import subprocess
import sys
import uuid

from flows import settle


def test_a_run_is_known_by_the_environment_of_its_process() -> None:
    run = str(uuid.uuid4())
    code = "import time; print('up', flush=True); time.sleep(30)"
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": run}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert settle.run_of_process(process.pid) == run
        assert run in settle.local_runs()
        process.kill()
    assert run not in settle.local_runs()
    assert settle.run_of_process(process.pid) is None
    assert settle.run_of_process(os.getpid()) == os.environ.get("PREFECT__FLOW_RUN_ID")
