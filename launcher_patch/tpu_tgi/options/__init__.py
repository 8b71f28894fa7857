"""The options of `tpu-tgi`: what there is, and how it was given."""
