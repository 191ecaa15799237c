"""What this processor can do."""

from pathlib import Path

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Of processors that multiply bfloat16 in hardware."""


def bfloat16_flag() -> str | None:
    """The flag by which this processor says that it multiplies bfloat16; None where it does not, or does not say."""
    return next((flag for flag in BFLOAT16_FLAGS if flag in cpu_flags()), None)


def cpu_flags() -> set[str]:
    """The flags of /proc/cpuinfo; none where there is no such file."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():  # not Linux: no portable way to ask
        return set()
    lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())
