"""Commands of tlm in each process of one launch: accelerate launch ... launched.py commands.json.

commands.json: [[exit code, step before which it is stopped, or null, words], ...]. Prints what part
of the weights the process holds in training, which begins with those of the first process: the
other one's are spoiled before.
"""

import json
import sys
from pathlib import Path

from accelerate import Accelerator

from tlmtool.cli import run
from tlmtool.training.loop import Trainer
from tlmtool.training.sharding import Sharded


class Stopped(Exception):
    pass


def begins(self, accelerator, model, made=Sharded.__init__) -> None:
    for p in model.parameters():
        p.data += accelerator.process_index
    made(self, accelerator, model)
    parts = list(self.parameters())
    share = sum(p.to_local().numel() for p in parts) / sum(p.numel() for p in parts)
    sys.stderr.write(f"share {share:.2f}\n")


def main(commands: list) -> None:
    learn, Accelerator.end_training = Trainer.learn, lambda self: None  # which ends the group
    Sharded.__init__ = begins
    for code, stop, words in commands:

        def stopping(self, *args, stop=stop):
            if self.step == stop:
                raise Stopped
            return learn(self, *args)

        Trainer.learn = stopping
        found = run(words)
        assert found == code, f"{words}: exit code {found}"


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
