"""A process that compiles one grammar and ends with exit code 0, unless that takes too much time or memory.

It is a program of its own and imports nothing of the project, so that it starts at once.
"""

import resource
import sys

SECONDS = 5
MEGABYTES = 1024

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES * 2**20, MEGABYTES * 2**20))

    import llguidance

    # A grammar that is wrong ends as well: what is wrong with it, the one who tries it finds out.
    llguidance.LLMatcher(llguidance.LLTokenizer("byte"), sys.stdin.read(), log_level=0)
