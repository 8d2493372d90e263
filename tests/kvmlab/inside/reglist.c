/* Print, as JSON, which registers this kernel's KVM shows of a vCPU: KVM_GET_REG_LIST, each value as it is
 * after KVM_ARM_VCPU_INIT, and the writable bits of the ID registers (KVM_ARM_GET_REG_WRITABLE_MASKS).
 *
 *   reglist [pmu] [sve] [pauth] [el2]
 *
 * The features are those QEMU's -cpu host asks for; one that the kernel does not have is left out and named
 * under "missing_features". Registers wider than eight bytes (SVE) have the value null. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <linux/kvm.h>

/* Newer than the headers of the compiler's package may be. */
#ifndef KVM_ARM_GET_REG_WRITABLE_MASKS
struct reg_mask_range { __u64 addr; __u32 range; __u32 reserved[13]; };
#define KVM_ARM_GET_REG_WRITABLE_MASKS _IOR(KVMIO, 0xb6, struct reg_mask_range)
#endif
#define MASKS (3 * 8 * 8) /* op1 of 0, 1 and 3, CRm 0-7, op2 0-7; all of op0 3, CRn 0 */

static const struct feature {
	const char *name;
	int capability;
	__u32 bits; /* in kvm_vcpu_init.features[0] */
	int finalize;
} features[] = {
	{ "pmu", 126, 1 << 3, 0 },
	{ "sve", 170, 1 << 4, 4 },
	{ "pauth", 171, 1 << 5 | 1 << 6, 0 },
	{ "el2", 240, 1 << 7, 0 },
};

static void fail(const char *what)
{
	fprintf(stderr, "reglist: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void print_registers(int vcpu)
{
	struct kvm_reg_list count = { .n = 0 }, *list;

	ioctl(vcpu, KVM_GET_REG_LIST, &count); /* E2BIG, and the number */
	list = calloc(1, sizeof(*list) + count.n * sizeof(list->reg[0]));
	if (!list)
		fail("memory");
	list->n = count.n;
	if (ioctl(vcpu, KVM_GET_REG_LIST, list))
		fail("KVM_GET_REG_LIST");
	printf(" \"registers\": {");
	for (__u64 i = 0; i < list->n; i++) {
		unsigned char raw[256] = { 0 };
		struct kvm_one_reg reg = { .id = list->reg[i], .addr = (__u64)(unsigned long)raw };
		unsigned size = 1u << (reg.id >> 52 & 15);
		__u64 value = 0;

		if (ioctl(vcpu, KVM_GET_ONE_REG, &reg))
			fail("KVM_GET_ONE_REG");
		printf("%s\n  \"0x%016llx\": ", i ? "," : "", (unsigned long long)reg.id);
		memcpy(&value, raw, size < 8 ? size : 8);
		if (size > 8)
			printf("null");
		else
			printf("\"0x%llx\"", (unsigned long long)value);
	}
	printf("\n }");
}

static void print_masks(int vm)
{
	__u64 masks[MASKS] = { 0 };
	struct { __u64 addr; __u32 range; __u32 reserved[13]; } range = { .addr = (__u64)(unsigned long)masks };
	static const unsigned op1_of[] = { 0, 1, 3 };
	const char *comma = "";

	if (ioctl(vm, KVM_ARM_GET_REG_WRITABLE_MASKS, &range)) {
		printf(",\n \"writable_masks\": null"); /* before Linux 6.7 */
		return;
	}
	printf(",\n \"writable_masks\": {");
	for (unsigned i = 0; i < MASKS; i++) {
		unsigned encoding = 3u << 14 | op1_of[i / 64] << 11 | (i / 8 % 8) << 3 | i % 8;

		if (masks[i]) {
			printf("%s\n  \"0x%016llx\": \"0x%llx\"", comma, 0x6030000000130000ull | encoding,
			       (unsigned long long)masks[i]);
			comma = ",";
		}
	}
	printf("\n }");
}

int main(int argc, char **argv)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu;
	struct kvm_vcpu_init init = { 0 };
	const char *comma = "";
	struct utsname system;

	if (kvm < 0)
		fail("/dev/kvm");
	if (uname(&system))
		fail("uname");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		fail("KVM_CREATE_VM");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0 || ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init))
		fail("KVM_CREATE_VCPU");
	init.features[0] = 1 << KVM_ARM_VCPU_PSCI_0_2;
	printf("{\"kernel\": \"%s\",\n \"build\": \"%s\",\n \"missing_features\": [", system.release, system.version);
	for (int a = 1; a < argc; a++)
		for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
			if (strcmp(argv[a], features[i].name))
				continue;
			if (ioctl(vm, KVM_CHECK_EXTENSION, features[i].capability) > 0) {
				init.features[0] |= features[i].bits;
			} else {
				printf("%s\"%s\"", comma, argv[a]);
				comma = ", ";
			}
		}
	printf("],\n \"init_features\": %u,\n", init.features[0]);
	if (ioctl(vcpu, KVM_ARM_VCPU_INIT, &init))
		fail("KVM_ARM_VCPU_INIT");
	for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		if (features[i].finalize && init.features[0] & features[i].bits) {
			int feature = features[i].finalize;

			if (ioctl(vcpu, KVM_ARM_VCPU_FINALIZE, &feature))
				fail("KVM_ARM_VCPU_FINALIZE");
		}
	print_registers(vcpu);
	print_masks(vm);
	printf("\n}\n");
	return 0;
}
