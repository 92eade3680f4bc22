"""Launchers: run the stacks of a plan somewhere, each by the same worker."""

from harness.launchers.local import launch_local

LAUNCHERS = {"local": launch_local}
