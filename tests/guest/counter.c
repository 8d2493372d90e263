/* A guest that counts and watches its own registers. Bare metal arm64 at EL1, one vCPU, MMU off, for QEMU's
 * virt machine with a GICv2 under TCG (the machine's default).
 *
 * It starts with "start", then prints one line per tick of the virtual timer on the PL011:
 *
 *   1 ok
 *   2 ok
 *   3 MAIR_EL1 VECTORS         registers that no longer hold what the guest put there
 *   4 id:MIDR_EL1           identification registers that read differently from the first tick
 *
 * The count is decimal and lives in RAM, so lines of source and destination put together must go on without a
 * gap, even if the move came in the middle of a line. A tick needs RAM, the virtual timer and the GIC to work
 * (the CPU sleeps in WFI until the timer's interrupt is pending).
 *
 * What it is not: it takes no exception and uses no second vCPU; the kernel lab's guest does. */

#include "board.h"

#define GICD_CTLR 0x08000000ul
#define GICD_ISENABLER0 0x08000100ul
#define GICC_CTLR 0x08010000ul
#define GICC_PMR 0x08010004ul
#define VIRTUAL_TIMER_INTERRUPT 27
#define TICKS_PER_SECOND 50

/* Registers that nothing in this program depends on, and a value for each that all its bits can hold. */
#define COOKIES(X) \
	X(TPIDR_EL0, 0x00c0ffee00000001) \
	X(TPIDRRO_EL0, 0x00c0ffee00000002) \
	X(TPIDR_EL1, 0x00c0ffee00000003) \
	X(CONTEXTIDR_EL1, 0x00000000c0ffee04) \
	X(MAIR_EL1, 0x00440c04ffbb44ff) \
	X(VBAR_EL1, 0x0000000040ff0000) \
	X(TTBR0_EL1, 0x0001000041ff1000) \
	X(TTBR1_EL1, 0x0002000041ff2000) \
	X(FAR_EL1, 0x00c0ffee00000008) \
	X(ELR_EL1, 0x0000000040ff0009) \
	X(SP_EL0, 0x00c0ffee00000010) \
	X(CNTKCTL_EL1, 0x0000000000000003)

/* What tells the guest which CPU it is on; it changes when a rule sets these to the destination's values. */
#define IDENTITY(X) \
	X(MIDR_EL1) X(REVIDR_EL1) X(CTR_EL0) X(CLIDR_EL1) X(ID_AA64PFR0_EL1) X(ID_AA64PFR1_EL1) \
	X(ID_AA64DFR0_EL1) X(ID_AA64ISAR0_EL1) X(ID_AA64ISAR1_EL1) X(ID_AA64MMFR0_EL1) X(ID_AA64MMFR1_EL1)

#define NAME(reg, ...) #reg,
#define VALUE(reg, value) value,
#define GET(reg, ...) READ(reg),
#define SET(reg, value) WRITE(reg, value);
#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const char *const cookie_names[] = { COOKIES(NAME) };
static const u64 cookie_values[] = { COOKIES(VALUE) };
static const char *const identity_names[] = { IDENTITY(NAME) };

/* The program is compiled without floating point, so Q8 and Q31 are free to hold a cookie. */
static void set_vectors(u64 q8, u64 q31)
{
	asm volatile(".arch_extension simd\n\tmov v8.d[0], %0\n\tmov v8.d[1], %1\n\tmov v31.d[0], %1\n\tmov v31.d[1], %0"
		     :: "r"(q8), "r"(q31));
}

static int vectors_kept(u64 q8, u64 q31)
{
	u64 a, b, c, d;

	asm volatile(".arch_extension simd\n\tmov %0, v8.d[0]\n\tmov %1, v8.d[1]\n\tmov %2, v31.d[0]\n\tmov %3, v31.d[1]"
		     : "=r"(a), "=r"(b), "=r"(c), "=r"(d));
	return a == q8 && b == q31 && c == q31 && d == q8;
}

void run(void)
{
	u64 period = READ(CNTFRQ_EL0) / TICKS_PER_SECOND;
	u64 deadline, count = 0;

	WRITE(CPACR_EL1, 3 << 20); /* no trap on vector registers */
	COOKIES(SET)
	set_vectors(0x00c0ffee00000008, 0x00c0ffee00000031);
	const u64 first_identity[] = { IDENTITY(GET) };

	MMIO32(GICD_CTLR) = 1;
	MMIO32(GICD_ISENABLER0) = 1u << VIRTUAL_TIMER_INTERRUPT;
	MMIO32(GICC_PMR) = 0xff;
	MMIO32(GICC_CTLR) = 1;
	print("start\n");
	deadline = READ(CNTVCT_EL0);
	for (;;) {
		deadline += period;
		WRITE(CNTV_CVAL_EL0, deadline);
		WRITE(CNTV_CTL_EL0, 1);
		/* The interrupt stays masked and is never taken: pending, it ends WFI. */
		while (!(READ(CNTV_CTL_EL0) & 4))
			asm volatile("wfi");

		const u64 cookies[] = { COOKIES(GET) };
		const u64 identity[] = { IDENTITY(GET) };
		int clean = 1;

		print_decimal(++count);
		for (u64 i = 0; i < COUNT(cookies); i++)
			if (cookies[i] != cookie_values[i]) {
				put(' ');
				print(cookie_names[i]);
				clean = 0;
			}
		if (!vectors_kept(0x00c0ffee00000008, 0x00c0ffee00000031)) {
			print(" VECTORS");
			clean = 0;
		}
		for (u64 i = 0; i < COUNT(identity); i++)
			if (identity[i] != first_identity[i]) {
				print(" id:");
				print(identity_names[i]);
				clean = 0;
			}
		print(clean ? " ok\n" : "\n");
	}
}
