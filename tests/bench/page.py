"""The figures as text, and docs/performance.md around them."""

from __future__ import annotations

from typing import Any

from tests.bench.relay import YARDSTICK

HEAD = """# Performance

Written by `python -m tests.bench all --write`; the figures are of the machine below and of nothing else. Run it on your
own hosts before you promise anything. How RAM is moved, and what else was measured, is in
[decision 10](decisions/0010-transport.md).

"""

FOOT = """
## How it is measured

* Loopback; a source and a destination process that do no more than send and take bytes; a legal stream with a return
  path, incompressible pages and the device part of a recorded stream, through `proxyd serve` as an operator starts it.
* All proxies take turns within each round, so that a busy moment of the machine meets all of them. CPU is the proxy
  process's own, from the scheduler's books. With sender and receiver on the same cores, GB/s says who is in the way,
  not what a network would carry.
* haproxy and socat are set up as well as they can be; with their defaults they are slower. The ratio is the median of
  the rounds' ratios.
* The time of the device part has two figures: from its *last* byte to the last byte at the destination, which is what
  plan, rewrite and self-check cost, and from its *first* byte, to compare with no proxy at all.

## What to know when tuning

* What waits in the proxy is downtime that QEMU does not know of, so the receive queue of the source's leg is bounded
  to 2 MiB, unless `net.core.rmem_max` is below 1 MiB (older kernels: 208 KiB): then the kernel's autotuning decides, up
  to the third number of `net.ipv4.tcp_rmem`. Set `net.core.rmem_max = 4194304` to have the bound.
* `net.ipv4.tcp_congestion_control = bbr` paces packets with timers, on loopback too: with it, proxyd's CPU per GB was
  0.36 where it was 0.27 with cubic.
* One process is one core. Many migrations at once share it; several daemons on several ports do not.
"""


def text(results: dict[str, Any]) -> str:
    """The tables of whatever was measured, in Markdown."""
    machine = results["machine"]
    measured_on = (
        f"Measured on {results['date']}: {machine['cpu']}, {machine['memory']}, {machine['kernel']} "
        f"({machine['congestion']}), {machine['python']}, trio {machine['trio']}, proxyd {machine['proxyd']}, "
        f"haproxy {machine['haproxy']}, socat {machine['socat']}.\n"
    )
    parts = [measured_on]
    for name, table in (("walk", _walk), ("relay", _relay), ("tls", _tls), ("memory", _memory), ("tail", _tail)):
        if name in results:
            parts.append(table(results[name], results))
    return "\n".join(parts)


def document(results: dict[str, Any]) -> str:
    """docs/performance.md."""
    return HEAD + text(results) + FOOT


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body, ""])


def _walk(figures: dict[str, Any], _: dict[str, Any]) -> str:
    rows = [(kind, f"{f['guest_gb_per_s']:.0f}", f"{f['ns_per_page']:.0f}") for kind, f in figures.items()]
    return "## Walking RAM\n\nAt least 5 GB/s is wanted.\n\n" + _table(
        ("", "GB of guest memory per CPU second", "ns per page"), *rows
    )


def _relay(figures: dict[str, Any], results: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{f['gb_per_s']:.2f}",
            f"{f['gb_per_s_to_socat']:.2f}",
            f"{f['cpu_s_per_gb']:.2f}" if f["cpu_s_per_gb"] else "",
            f"{f['cpu_to_haproxy']:.2f}" if f["cpu_s_per_gb"] else "",
        )
        for name, f in figures.items()
    ]
    return (
        "## Relaying\n\n"
        f"A stream of {results['gigabytes']:g} GB, {results['rounds']} rounds, medians. Wanted: throughput not below "
        "socat's, CPU per GB at most 1.3 times haproxy's.\n\n"
    ) + _table(("", "GB/s", "to socat's", "CPU s per GB", f"to haproxy's ({YARDSTICK.partition(', ')[2]})"), *rows)


def _tls(figures: dict[str, Any], results: dict[str, Any]) -> str:
    rows = [
        (legs, name, f"{f['gb_per_s']:.2f}", f"{f['cpu_s_per_gb']:.2f}", f"{f['cpu_to_haproxy']:.2f}")
        for legs, proxies in figures.items()
        for name, f in proxies.items()
    ]
    return (
        "## TLS\n\n"
        f"A stream of {results['gigabytes']:g} GB, {results['rounds']} rounds, medians; TLS 1.3, AES-256-GCM "
        "([decision 41](decisions/0041-tls.md)).\n\n"
    ) + _table(("legs", "", "GB/s", "CPU s per GB", "to haproxy's"), *rows)


def _memory(f: dict[str, Any], _: dict[str, Any]) -> str:
    mib = 1 << 20
    return (
        "## Memory\n\n"
        f"While {f['stream_bytes'] / 1e9:.1f} GB pass, proxyd has at most {f['resident_highest'] / mib:.0f} MiB "
        f"resident ({f['resident_before'] / mib:.0f} MiB before the first connection; wanted: below 100 MB). In front "
        f"of a destination that takes {f['slow_destination_bytes_per_s'] / 1e6:.0f} MB/s, at most "
        f"{f['queued_highest'] / mib:.1f} MiB wait in the kernel on both legs together, and at most 2 MiB in "
        "proxyd.\n"
    )


def _tail(figures: dict[str, Any], _: dict[str, Any]) -> str:
    whats = ("last byte to last byte", "device part, through proxyd", "device part, no proxy")
    rows = [
        (
            vcpus,
            f"{f['device_part_bytes'] / 1e3:.0f} kB",
            *(f"{f[what]['median_ms']:.1f} ms ({f[what]['longest_ms']:.1f})" for what in whats),
        )
        for vcpus, f in figures.items()
    ]
    return "## The device part\n\nRewritten for another kernel; medians, in brackets the longest.\n\n" + _table(
        ("vCPUs", "size", "last byte to last byte", "first byte to last byte", "the same, no proxy"), *rows
    )
