"""The end of `tpu-tgi --help`: what the stock launcher has to say."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from tpu_tgi.stock.programs import LAUNCHER, ROUTER, with_python

HELP_SECONDS = 10.0


def stock_help(environment: Mapping[str, str]) -> str:
    """Its own help, or why there is none."""
    program = shutil.which(LAUNCHER, path=environment.get("PATH", os.defpath))
    if program is None:
        return f"{LAUNCHER} and {ROUTER} are not in PATH: the launcher and router in Python are used."
    try:
        answer = subprocess.run(
            [program, "--help"],
            env=with_python(program, environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=HELP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"`{program} --help` did not answer within {HELP_SECONDS:.0f} s."
    title = f"The stock launcher's own help, {program}. Its options are passed on to it:"
    return f"{title}\n\n{answer.stdout}{answer.stderr}"
