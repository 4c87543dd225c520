"""The command line as a test calls it."""

from rmt_edge.cli import main


def call(capsys, *arguments):
    """The exit status, the words on stdout, and stderr."""
    status = main([str(x) for x in arguments])
    captured = capsys.readouterr()
    return status, captured.out.split(), captured.err
