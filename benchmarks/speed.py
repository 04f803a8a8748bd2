"""How fast the locks are: decryption beside OpenSSL, and forwards beside the plain one.

    python benchmarks/speed.py

The two parts of `modellock-jax bench` that a reader asks for first: GB/s of each lock beside
AES-128-CTR and ChaCha20 of the package `cryptography` (OpenSSL), and the ratios of `owner_forward`.
"""

from modellock_jax.bench import run as bench
from modellock_jax.study import report, terminal

PARTS = ("ciphers", "forwards")


def main() -> None:
    """Measure and print."""
    rows = bench.run(PARTS)
    for part in PARTS:
        terminal.show(bench.grid(rows, part))
    print(f"{bench.today()}, {report.machine()}")


if __name__ == "__main__":
    main()
