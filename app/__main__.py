"""``python -m app``: the command line; without arguments it serves on CLASSIFIER_HOST and CLASSIFIER_PORT."""

from .cli import main

if __name__ == "__main__":
    main()
