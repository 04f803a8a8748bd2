"""The command line, as `python -m modellock_jax`."""

from modellock_jax.cli import main

if __name__ == "__main__":
    main()
