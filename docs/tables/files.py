"""The tables of sealed and locked files: how fast they are, for many users, and under trial."""

from rows import Results, Row, made, markdown, of

BESIDE = (
    ("safetensors", "plain safetensors"),
    ("cryptotensors", "cryptotensors"),
    ("the cipher alone", "AES-256-GCM into fresh memory"),
)


def speed(results: Results) -> str:
    file = results.file("vault/speed")
    lines = []
    for part in ("save", "load"):
        for place, where in (("tmpfs", "memory"), ("disk", "a disk")):
            for name, beside in BESIDE:
                for row in of(file["rows"], part=part, place=place, name=name):
                    ratio = f"{row['ours_times']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                    lines.append([f"{part}, {where}", beside, ratio, *_aim(row, "{:g}")])
    for row in of(file["rows"], part="rewrite", place="disk", case="250 MB"):
        lines.append([row["name"], "", f"{row['ms']:.1f} ms", *_aim(row, "{:g} ms")])
    for row in of(file["rows"], part="peak of load", place="disk", name="modellock-jax"):
        what = "memory at its peak, load"
        lines.append([what, "the arrays", f"{row['times_arrays']:.2f}", *_aim(row, "{:g}")])
    table = markdown(["250 MB of arrays", "beside", "ratio, or time", "aim", ""], lines, 2)
    return "\n\n".join([table, made(file, "python benchmarks/vault_speed.py")])


def _aim(row: Row, text: str) -> list[str]:
    if "target" not in row:
        return ["", ""]
    return [f"<= {text.format(row['target'])}", "met" if row["met"] else "missed"]


def locking(results: Results) -> str:
    """Write of each scheme the peak of memory, and the seconds beside a plain copy and age."""
    file = results.file("vault/locking")
    lines = []
    for row in file["rows"]:
        age = [row.get(f"age {step} s") for step in ("lock", "unlock")]
        lines.append(
            [
                f"`{row['scheme']}`",
                f"{row['peak'] / 2**20:.0f}",
                f"<= {row['target'] / 2**20:.0f}",
                "met" if row["met"] else "missed",
                f"{row['lock s']:.1f}, {row['unlock s']:.1f}",
                f"{row['copy s']:.1f}",
                ", ".join(f"{one:.1f}" for one in age if one is not None),
            ]
        )
    size = f"{file['rows'][0]['bytes'] / 2**30:.1f} GiB"
    header = [f"a file of {size}", "MiB at the peak", "aim", "", "seconds: lock, unlock"]
    table = markdown([*header, "a plain copy", "age"], lines)
    return "\n\n".join([table, made(file)])


def users(results: Results) -> str:
    file = results.file("vault/users")
    lines = [
        [row["step"], f"{row['count']:,}", f"{row['seconds']:.3f}", f"{row['bytes'] / 1e6:.1f}"]
        for row in file["rows"]
    ]
    header = ["step", "how many", "seconds, all together", "MB written"]
    return "\n\n".join([markdown(header, lines), made(file)])


def trials(results: Results) -> str:
    names = ("mutants", "race", "signals")
    mutants, race, signals = files = [results.file(f"vault/{name}") for name in names]
    lines = [
        [
            f"changed at random: {row['kind']}",
            f"{row['mutants']:,}",
            ", ".join(
                f"{n:,} {what}" for what, n in row.items() if what not in ("kind", "mutants")
            ),
        ]
        for row in mutants["rows"]
    ]
    for asked in (True, False):
        rows = of(race["rows"], **{"signature required": asked})
        runs, signed, refused, other = (
            sum(row[name] for row in rows) for name in ("runs", "signed", "refused", "accepted")
        )
        ends = f"{signed:,} the signed one, {refused:,} refused, {other:,} the swapped"
        name = f"chunks swapped while read, {'with' if asked else 'without'} `--signed-by`"
        lines.append([name, f"{runs:,}", ends])
    for signal in dict.fromkeys(row["signal"] for row in signals["rows"]):
        rows = of(signals["rows"], signal=signal)
        stopped, done, left = (
            sum(row[name] for row in rows) for name in ("stopped", "done", "left")
        )
        faults = sum(len(row["faults"]) for row in rows)
        ends = (
            f"{stopped:,} stopped, {done:,} done first, {left:,} temporary files, {faults:,} faults"
        )
        lines.append([f"command sent {signal}", f"{sum(row['trials'] for row in rows):,}", ends])
    table = markdown(["trial", "how often", "how it ended"], lines, 3)
    return "\n\n".join([table, "\n".join(map(made, files))])
