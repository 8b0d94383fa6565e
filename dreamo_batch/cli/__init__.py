"""The command line `dreamo-batch`: each command reads its arguments, makes one call, and prints.

Data goes to standard output, progress and hints to standard error; `exits` says what the exit codes mean.
"""

from __future__ import annotations

import click

from dreamo_batch import __version__
from dreamo_batch.cli import commands, options
from dreamo_batch.cli.process import Door

__all__ = ["main"]


@click.group(cls=Door, context_settings={"max_content_width": 100}, params=options.saying())
@click.version_option(__version__, message="dreamo-batch %(version)s")
def main() -> None:
    """Run tables of image-to-image jobs against the Spark DreamO service, and never pay twice unknowingly.

    The same command again resumes. The API key is taken from DREAMO_API_KEY; with --local none is needed.

    Exit codes: 0 every row done; 1 finished, not all of them; 2 bad usage, table or directory; 3 stopped, run
    again to resume.

    The options below can stand before a command or after it.
    """


for command in (
    commands.validate,
    commands.plan,
    commands.run,
    commands.status,
    commands.results,
    commands.retry,
    commands.resolve,
    commands.costs,
    commands.latency,
    commands.failures,
    commands.gallery,
    commands.report,
    commands.export,
    commands.serve,
    commands.demo,
    commands.check,
):
    main.add_command(command)
