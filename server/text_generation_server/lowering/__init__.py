"""torch_xla lives here and nowhere else: it records programs as StableHLO, and runs nothing."""
