"""matrix.toml names every kernel and every pair that it is meant to, and the chosen part each kind of change."""

from pathlib import Path

import pytest

from tests.kvmlab import selection
from tests.kvmlab.catalogue import LabError, catalogue
from tests.kvmlab.selection import every_pair, selected


def test_the_whole_matrix_has_every_pair_on_every_cpu_with_both_qemus() -> None:
    kernels = list(catalogue().kernels)
    assert len(kernels) == 10
    plain = {
        (cell.cpu, cell.guest.qemu, cell.source, cell.destination)
        for cell in selected("all")
        if (cell.guest.vcpus, cell.guest.devices, cell.allow) == (1, "plain", ())
    }
    wanted = {
        (cpu, qemu, source, destination)
        for cpu in ("neoverse-n1", "neoverse-v1", "max")
        for qemu in ("10.0", "11.1")
        for source, destination in every_pair(kernels)
    }
    assert plain == wanted
    assert len(plain) == 540


def test_a_part_of_it_has_two_vcpus_and_the_full_device_set() -> None:
    full = [cell for cell in selected("all") if (cell.guest.vcpus, cell.guest.devices) == (2, "full")]
    assert {(cell.source, cell.destination) for cell in full} >= {("6.12", "7.3"), ("7.3", "6.12"), ("7.2", "7.3")}
    assert {cell.guest.qemu for cell in full} == {"10.0", "11.1"}


def test_the_chosen_part_covers_each_kind_of_change() -> None:
    shown = {what for shows in selected("chosen").values() for what in shows}
    assert shown >= {
        *("remove TCR2_EL1", "remove PIR_EL1", "remove PMMIR_EL1", "remove FW_VENDOR_HYP_BMAP_2"),
        *(
            "set ID_AA64MMFR2_EL1.NV",
            "set ID_AA64MMFR3_EL1.SCTLRX",
            "set ID_AA64ISAR2_EL1.ATS1A",
            "set ID_AA64MMFR2_EL1.CCIDX",
            "set PMCNTENCLR_EL0",
        ),
        *("refuse FW_PSCI_VERSION", "directly: cpreg_vmstate_array_len", "loads as it is"),
    }
    assert {cell.guest.qemu for cell in selected("chosen")} == {"10.0", "11.1"}
    assert all(selected("chosen").values())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('kernels = ["6.12", "9.9"]\n[[all]]\n', "no kernel 9.9"),
        ('kernels = ["6.12"]\n[[all]]\ncpus = ["max"]\nqemus = ["1.0"]\npairs = ["6.12:6.12"]\n', "no qemu 1.0"),
        (
            'kernels = ["6.12"]\n[[all]]\ncpus = ["max"]\nqemus = ["10.0"]\npairs = ["6.12:7.3"]\n',
            "7.3 is none of 6.12",
        ),
    ],
)
def test_what_is_not_there_is_an_error(
    table: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text(table)
    monkeypatch.setattr(selection, "TABLE", path)
    with pytest.raises(LabError, match=message):
        selected("all")
