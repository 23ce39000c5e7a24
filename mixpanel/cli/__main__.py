"""`python -m mixpanel.cli`, where another package's command is called `mp`, too."""

from mixpanel.cli.main import run

if __name__ == "__main__":
    run()
