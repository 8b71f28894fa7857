"""JAX lives here and nowhere else: it compiles, keeps and runs programs, and holds the data."""
