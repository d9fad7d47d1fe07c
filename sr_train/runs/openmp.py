"""Setting of OpenMP, whose threads share the work of torch's operations on a CPU.

libgomp, which torch's Linux packages contain, lets a thread that waits for the others spin for some milliseconds. If another
program uses a core, threads spin while the thread that they wait for does not run, so a step takes many times as long
(``scripts/bench/shared_cpu.py``). Threads that sleep at once give the core to the thread that has work.
"""

from __future__ import annotations

import os
import sys

POLICY = "OMP_WAIT_POLICY"

OTHERS = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  #: variables with which a user has chosen how threads wait


def let_threads_sleep() -> bool:
    """Let OpenMP's waiting threads sleep, unless the environment says how they wait. Return true if this has an effect.

    OpenMP reads the environment when torch is loaded. Processes that this one starts inherit the setting.
    """
    if "torch" in sys.modules or any(name in os.environ for name in OTHERS):
        return False
    os.environ[POLICY] = "PASSIVE"
    return True
