"""The command line, one module a group of commands.

Each command imports what it needs when it runs, so that ``--help`` is fast.
"""

import gc

import click

from mergesearch.search.cli import (
    checking,
    comparing,
    demo,
    drafting,
    merging,
    running,
    runs,
    sharing,
    submitting,
    working,
)

COLLECTED = 50_000, 20, 20
"""When Python looks for garbage: 70 times later than by itself. It finds none while torch and others are imported; a
small merge takes 1.8 s instead of 1.9."""
COMMANDS = (
    drafting.init,
    running.run,
    running.soup,
    working.worker,
    checking.check,
    checking.evaluate,
    checking.curve,
    merging.merge,
    merging.align,
    merging.methods,
    merging.remerge,
    comparing.compare,
    comparing.leaderboard,
    runs.list_runs,
    runs.show,
    runs.status,
    runs.stop,
    submitting.submit,
    sharing.push,
    sharing.export,
    demo.demo,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mergesearch")
def main() -> None:
    """Search for the best merge of language models, and prove it on items that the search did not use.

    \b
    Start:   mergesearch demo
    Then:    mergesearch init my.yml && mergesearch run my.yml
    """
    gc.set_threshold(*COLLECTED)


for command in COMMANDS:
    main.add_command(command)
