"""What stands around the command: its help, signals and exit codes."""

import signal
import sys
from collections.abc import Callable

from harness.compose import MISTAKES, describe_options, explain, register_sweeps
from harness.launchers.local import warm_up

HELP = """Train what a sweep lacks, fit laws to all of it, draw it.

  python -m harness sweep=smoke                            a sweep of seconds
  python -m harness sweep=lr_vs_bs                         the main job
  python -m harness sweep=lr_vs_bs dry_run=true            what it would cost; starts nothing
  python -m harness sweep=lr_vs_bs 'sweep.grid.seed=[0,1,2]'   another axis in place of one of the sweep's
  python -m harness optimizer=sgd optimizer.lr=0.5         one run
  --config-dir DIR    your own YAML: DIR/sweep/NAME.yaml, DIR/model/NAME.yaml, ...
  --cfg job           all values, composed;  --hydra-help  Hydra's own flags"""

FLAGS = (  # Hydra's long ones
    "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--shell-completion", "--config-path",
    "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip


def tell(error: Exception) -> int:
    print(f"error: {explain(error)}", file=sys.stderr)
    return 2


def cli(main: Callable[[], object]) -> int:
    """Run the command.

    Returns: exit code: 0, 1 when a run failed, 2 on a mistake of the user's, 130 when interrupted, 143 by SIGTERM.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP + "\n" + describe_options())
        return 0
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        return tell(ValueError("--multirun is not used here: give an axis, e.g. sweep.grid.optimizer.lr=[0.1,0.2]"))
    for text in sys.argv[1:]:
        if text.startswith("--") and text.partition("=")[0] not in FLAGS:
            key, _, value = text.lstrip("-").partition("=")
            key = key.replace("-", "_")
            cure = f"write {key}={value}" if value else f"write KEY=VALUE, as in {key}=VALUE"
            return tell(ValueError(f"{text} is no flag: settings have no dashes, {cure}"))
    elsewhere = [text for text in sys.argv[1:] if text.startswith("launcher=") and text != "launcher=local"]
    if not elsewhere and all("=" in text and not text.startswith(("-", "dry_run=")) for text in sys.argv[1:]):
        warm_up()  # before all else: it takes three seconds
    register_sweeps(sys.argv[1:])
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except MISTAKES as error:
        return tell(error)
    except KeyboardInterrupt as ending:
        print("\ninterrupted: what was trained is kept; the same command goes on from there", file=sys.stderr)
        return 143 if ending.args == (signal.SIGTERM,) else 130
    return 0


def interrupt(number: int, frame: object) -> None:
    """SIGTERM, of a scheduler or a shutdown, ends the command as Ctrl-C does: workers save what they have."""
    raise KeyboardInterrupt(signal.Signals(number))
