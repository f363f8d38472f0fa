"""`python -m jaxclf`."""

from jaxclf.cli import main

if __name__ == "__main__":
    main()
