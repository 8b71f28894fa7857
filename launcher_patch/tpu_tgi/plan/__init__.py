"""`tpu-tgi plan`: what fits on a TPU, and how fast it can be at best, before one is rented."""
