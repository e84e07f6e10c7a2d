"""Two real processes that connect on loopback and do something together."""

import os
import socket
import subprocess
import sys

# Run by each of two processes once they are connected; each has `devices`, and `index` tells them apart.
MEET = """
import os, signal, sys
from gpt4x.launch import agreement, clusters, supervision
from gpt4x.errors import UserError
index, port, timeout, devices = map(int, sys.argv[1:5])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={{devices}}"
processes = clusters.find() or clusters.Processes(2, index, f"127.0.0.1:{{port}}")
def work(note):
  try:
    agreement.start(processes, note, timeout, 10, preemptible=False)
    {}
    agreement.stop()
  except UserError as error:
    return 1, str(error)
  except Exception as error:
    if supervision.lost_contact(error):
      return 1, None
    raise
  return 0, None
status, message = supervision.supervise(processes, work, None)
print(message or "", end="")
sys.exit(status)
"""


def free_port() -> int:
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


def meet(work: str = "pass", indices=(0, 1), timeout: int = 60, devices=(4, 4), port: int | None = None,
         env=lambda index: {}):
  """[(status, message, standard error)] of processes that do `work`, whose lines are indented by four.

  `env` gives variables by process, in which they may find each other.
  """
  port = port or free_port()
  code = MEET.format(work)
  started = [
      subprocess.Popen([sys.executable, "-c", code, *map(str, (index, port, timeout, devices[index]))], text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | env(index))
      for index in indices]
  outputs = [process.communicate(timeout=120) for process in started]
  return [(process.returncode, *output) for process, output in zip(started, outputs)]
