"""The command ``flaremesh``: all of it, or, where only a site is installed, what a site's own admin needs."""

from importlib.util import find_spec


def main() -> None:
    """Run the command; its arguments are those of the process."""
    if find_spec("typer"):
        from flaremesh.cli.main import app

        app()
    else:
        from flaremesh.p2p.gate.commands import main as of_site

        of_site()


if __name__ == "__main__":
    main()
