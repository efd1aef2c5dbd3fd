"""Print the commands that run SEUF: `python -m seuf` itself runs nothing."""

import sys

COMMANDS = """\
SEUF is run by Kedro and DVC, in a clone of its repository:

    make repro                    run the sandbox study and print its table
    kedro dvc run --env STUDY     run another study
    kedro show --env STUDY        print its table again
    kedro audit METHOD            prove what a method changed
    kedro --help                  all commands
    seuf-verify --help            check a delta that somebody gave you, without the repository

From Python: import seuf; seuf.load, seuf.capture, seuf.select, seuf.unlearn (docs/api.md)
"""

if __name__ == "__main__":
    sys.exit(sys.stdout.write(COMMANDS) and 0)
