"""What the system counts for this process, in bytes."""


def _kilobytes(file, field):
    with open(file, encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1])
    raise LookupError(f"{file} has no {field}")


def proportional_bytes():
    """Resident pages; one that n processes map counts 1/n."""
    return _kilobytes("/proc/self/smaps_rollup", "Pss:") * 1024


def forget_peak():
    """From here on the peak is a new one."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def peak_proportional_bytes():
    """The most that proportional_bytes has been since forget_peak, if what is shared has not changed since.

    The kernel keeps a peak of resident pages only, where shared ones count whole; what sharing makes of them now is
    subtracted."""
    peak = _kilobytes("/proc/self/status", "VmHWM:") * 1024
    return peak - _kilobytes("/proc/self/smaps_rollup", "Rss:") * 1024 + proportional_bytes()
