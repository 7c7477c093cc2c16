"""`python -m ftbc_pl`."""

from ftbc_pl.cli import main

if __name__ == "__main__":
    main()
