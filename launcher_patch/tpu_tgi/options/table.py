"""All options of `tpu-tgi`. Those that only the stock launcher knows are in `stock_only`."""

from tpu_tgi.options.model import MODEL
from tpu_tgi.options.requests import ADMISSION, REQUESTS
from tpu_tgi.options.server import LAUNCHER, SERVER
from tpu_tgi.options.shape import SHAPE

OPTIONS = MODEL + SHAPE + ADMISSION + REQUESTS + SERVER + LAUNCHER
