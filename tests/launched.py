"""Commands of tlm in each process of one launch: torchrun ... launched.py commands.json.

commands.json: [[step before which it is stopped, or null, words], ...]. Prints what part of the
weights the process holds in training.
"""

import json
import sys
from pathlib import Path

from accelerate import Accelerator

from tlmtool.cli import run
from tlmtool.training.loop import Trainer


class Stopped(Exception):
    pass


def main(commands: list) -> None:
    learn, Accelerator.end_training = Trainer.learn, lambda self: None  # which ends the group
    for stop, words in commands:

        def stopping(self, *args, stop=stop):
            if self.step == stop:
                raise Stopped
            if self.step == 0:
                parts = list(self.live.parameters())
                held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in parts)
                print(f"share {held / sum(p.numel() for p in parts):.2f}", file=sys.stderr)
            return learn(self, *args)

        Trainer.learn = stopping
        code = run(words)
        assert code == (0 if stop is None else 1), f"{words}: exit code {code}"


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
