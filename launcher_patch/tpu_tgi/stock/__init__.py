"""TGI's own launcher and router: found in PATH, told consistent parameters, and run in place of this process."""
