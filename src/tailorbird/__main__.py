"""``python -m tailorbird``."""

from tailorbird.cli.main import main

main()
