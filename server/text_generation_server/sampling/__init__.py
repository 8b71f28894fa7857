"""How the next token is chosen: request parameters, and the maths as pure torch functions."""
