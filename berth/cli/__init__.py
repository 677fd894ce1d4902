"""The `berth` command: a thin face on the SDK and the local stack. Decides nothing that the SDK could not be asked."""


def main() -> None:
    """Entry point of the console script."""
    from berth.cli.app import run

    run()
