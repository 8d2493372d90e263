"""What a kernel does with the PMU's SET and CLR registers, tried on one that does either."""

from __future__ import annotations

import pytest

from proxyd.kvm.features import Feature
from proxyd.kvm.pmu_writes import pmu_writes
from proxyd.kvm.scratch import ScratchVm
from tests.proxyd.kvm.fake_kernel import FakeKernel


@pytest.mark.parametrize(("clears", "expected"), [(False, "stored"), (True, "as-guest")])
def test_it_is_tried(*, clears: bool, expected: str) -> None:
    kernel = FakeKernel(obeys_pmu=clears)
    with ScratchVm(kernel) as vm:
        assert pmu_writes(vm.vcpu([Feature.PSCI, Feature.PMU])) == expected
