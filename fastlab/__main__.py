"""`python -m fastlab` is the command `fastlab`."""

from fastlab.cli import main

if __name__ == "__main__":
    main()
