"""A Slurm cluster of one machine for tests: munged, slurmctld and slurmd of Debian's packages, in a folder of its own.

apt-get install slurm-wlm munge
python tests/helpers/slurm_cluster.py FOLDER     # prints what to export, and ends with Ctrl-C
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")


def missing() -> str | None:
    """Why there can be no cluster here; None if there can."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in COMMANDS if shutil.which(name, path=path) is None]
    if absent:
        return f"no {absent[0]}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "a cluster of one's own needs root"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def configuration(folder: Path, munge: Path, cores: int) -> str:
    """slurm.conf: one node, no accounting, no cgroups, requeued jobs start again after seconds."""
    host = socket.gethostname().split(".")[0]
    return f"""\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={munge},cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=60
SlurmdTimeout=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def cluster(folder: Path, cores: int = 2) -> Iterator[dict[str, str]]:
    """Start the three services; the environment in which Slurm's commands find them."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # The path of a socket has to be short, and open to every user.
    sockets = Path(tempfile.mkdtemp(prefix="munge", dir="/tmp"))
    sockets.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(configuration(folder, sockets / "socket", cores))
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    groups = "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n" if unified else "CgroupPlugin=cgroup/v1\n"
    (folder / "cgroup.conf").write_text(groups)  # not used, but slurmd wants one it can load
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    services = [
        ["munged", "--foreground", "--force", f"--socket={sockets / 'socket'}", f"--key-file={key}"]
        + [f"--{name}-file={sockets / name}" for name in ("pid", "seed", "log")],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-c"],
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for service in services:
            with (folder / f"{service[0]}.out").open("wb") as log:
                running.append(subprocess.Popen(service, stdout=log, stderr=log, env=environment))
            _wait_for(service[0], sockets, environment, running[-1], folder)
        try:
            yield environment
        finally:
            _end_jobs(environment)
    finally:
        for service_process in reversed(running):
            service_process.terminate()
            try:
                service_process.wait(30)
            except subprocess.TimeoutExpired:
                service_process.kill()
                service_process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


def _end_jobs(environment: dict[str, str]) -> None:
    """Nothing of a failed test should go on running."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        told = subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True)
        if not told.stdout.strip():
            return
        for how in (["--signal=KILL", "--full"], []):
            command = ["scancel", *how, "--user=root"]
            subprocess.run(command, env=environment, capture_output=True, timeout=120)
        time.sleep(1)


def _wait_for(
    name: str, sockets: Path, environment: dict[str, str], process: subprocess.Popen[bytes], folder: Path
) -> None:
    """Until a service does its work."""
    questions = {"slurmctld": ["scontrol", "ping"], "slurmd": ["sinfo", "--noheader", "--states=idle"]}
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended: {(folder / f'{name}.out').read_text()[-2000:]}")
        if name == "munged":
            if (sockets / "socket").exists():
                return
        else:
            told = subprocess.run(questions[name], env=environment, capture_output=True, text=True)
            if "UP" in told.stdout or "idle" in told.stdout:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{name} did not come up: {(folder / f'{name}.out').read_text()[-2000:]}")


if __name__ == "__main__":
    with cluster(Path(sys.argv[1]).resolve()) as found:
        print(f"export SLURM_CONF={found['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(60)
