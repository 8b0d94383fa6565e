"""The command line `dreamo-batch`: each command reads its arguments, makes one call, and prints.

Data goes to standard output, progress and hints to standard error; `process` explains the exit codes.
"""

from __future__ import annotations

import click

from dreamo_batch import __version__
from dreamo_batch.cli import commands, options
from dreamo_batch.cli.exit_codes import CommandGroup

__all__ = ["main"]


@click.group(cls=CommandGroup, context_settings={"max_content_width": 100}, params=options.verbosity())
@click.version_option(__version__, message="dreamo-batch %(version)s")
def main() -> None:
    """Run tables of image-to-image jobs against the Spark DreamO service, and never pay twice without knowing.

    The same command again resumes. Set the API key in DREAMO_API_KEY; --local needs none.

    Exit codes: 0 every row done; 1 finished, not all of them; 2 bad usage, table or directory; 3 stopped, run
    again to resume.

    The options below may stand before or after a command.
    """


for command in vars(commands).values():
    if isinstance(command, click.Command):
        main.add_command(command)
