"""The process beside `process.LoweringProcess`: answers questions on stdin until it is closed."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from text_generation_server.errors import UnsupportedModelError


def main() -> None:
    # Libraries print; only frames may go where the answers are read.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from text_generation_server.lowering.here import LoweringHere
    from text_generation_server.lowering.request import ProgramOptions
    from text_generation_server.model.description import ModelSource

    def answer(header: dict[str, Any], payload: bytes = b"") -> None:
        answers.write(json.dumps({**header, "bytes": len(payload)}).encode() + b"\n" + payload)
        answers.flush()

    lowering = LoweringHere()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        try:
            if "describe" in question:
                description = lowering.describe(ModelSource.from_json(question["describe"]))
                answer({"description": description.to_json()})
            elif "read_text" in question:
                answer({"text": lowering.read_text(Path(question["read_text"])).to_json()})
            else:
                for program in lowering.lower(ProgramOptions.from_json(question["lower"]), question["names"]):
                    answer({"program": program.name}, program.to_bytes())
        except UnsupportedModelError as error:
            answer({"unsupported": str(error)})


if __name__ == "__main__":
    main()
