"""`python -m tpu_tgi`, the same as `tpu-tgi`."""

from tpu_tgi.cli import app

app()
