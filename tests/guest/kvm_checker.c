/* A guest that watches itself across a live migration. Bare metal arm64, QEMU's virt machine with a
 * GICv3, EL1, any number of vCPUs up to MAX_CPUS (brought up through PSCI). The MMU is on, with memory and
 * devices mapped where they are: a translation register that is lost shows at the next instruction.
 *
 * Each vCPU takes ten virtual timer interrupts a second and counts them in RAM. On every one it also
 * compares its state with what it was when it started:
 *   - registers that it wrote itself (the table OWN_REGISTERS), each vCPU with values of its own;
 *   - the vector registers v0-v31, FPCR and FPSR; with SVE, all of z0-z31, p0-p15 and FFR;
 *   - what it told the GIC of interrupts that never come (the tables DISTRIBUTOR and REDISTRIBUTOR);
 *   - the virtual counter, which may jump but never go back;
 *   - identification registers (the table IDENTITY), which it can only read.
 * vCPU 0 prints to the PL011, one line a fact:
 *
 *   start cpus=2
 *   tick 00002a 00002b clean          timer interrupts taken by each vCPU, and the verdict of all checks
 *   changed cpu=1 CONTEXTIDR_EL1 00000000c0117e01 0000000000000000      was, is; once for each register
 *   identity cpu=0 ID_AA64MMFR2_EL1 0000000000001011 0000000001001011   the same; does not spoil "clean"
 *   fault cpu=0 esr=... elr=... far=...                                 an exception; the vCPU stops
 *
 * What it is not: it does not use EL0, takes no SPI, and its PMU does not count. */

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

/* 1: leave alone what some kernels do not carry along: the PMU and the physical timer. */
#ifndef PLAIN
#define PLAIN 0
#endif

#define MAX_CPUS 8
#define TICKS_PER_SECOND 10

#define UART_DR 0x09000000ul
#define GICD_BASE 0x08000000ul
#define GICR_BASE 0x080a0000ul
#define GICR_STRIDE 0x20000ul
#define VIRTUAL_TIMER_INTERRUPT 27
#define SPURIOUS_INTERRUPT 1020 /* and above */
#define PSCI_CPU_ON 0xc4000003ul

#define MMIO32(address) (*(volatile u32 *)(address))
#define READ(reg) ({ u64 v_; asm volatile("mrs %0, " reg : "=r"(v_)); v_; })
#define WRITE(reg, value) do { asm volatile("msr " reg ", %0\n\tisb" :: "r"((u64)(value)) : "memory"); } while (0)

/* Registers that newer assemblers only know with an option; older ones not at all. */
#define ICC_PMR "s3_0_c4_c6_0"
#define ICC_IAR1 "s3_0_c12_c12_0"
#define ICC_EOIR1 "s3_0_c12_c12_1"
#define ICC_BPR1 "s3_0_c12_c12_3"
#define ICC_SRE "s3_0_c12_c12_5"
#define ICC_IGRPEN1 "s3_0_c12_c12_7"
#define ID_MMFR3 "s3_0_c0_c7_3"

static u64 field(u64 reg, unsigned shift)
{
	return (reg >> shift) & 15;
}

/* What the CPU must have before a register may be touched. */
#define FP_AND_SVE (sve() ? 0x330000 : 0x300000)
static int always(void) { return 1; }
static int pointer_auth(void)
{
	u64 isar1 = READ("id_aa64isar1_el1");

	return field(isar1, 4) || field(isar1, 8) || field(READ("s3_0_c0_c6_2"), 12);
}
static int pmu(void)
{
	u64 version = field(READ("id_aa64dfr0_el1"), 8);

	return !PLAIN && version && version != 15;
}
static int physical_timer(void) { return !PLAIN; }
static int tcr2(void) { return field(READ(ID_MMFR3), 0) != 0; }
static int permission_indirection(void) { return field(READ(ID_MMFR3), 8) != 0; }
static int sve(void) { return field(READ("id_aa64pfr0_el1"), 32) != 0; }
static int sctlr2(void) { return field(READ(ID_MMFR3), 4) != 0; }

/* X(name, register, value to write, needs). The reference is what reads back right after the write, so
 * bits that a CPU lacks do no harm. Values differ between vCPUs (n) where the register is wide enough, so
 * that a vCPU that got another one's state is found out. The PMU is off (PMCR_EL0.E), so its counters
 * stand still and its enables can be kept without an interrupt. CNTP_CVAL_EL0 comes before CNTP_CTL_EL0:
 * the control register shows whether the timer's moment has come. */
extern char identity_map[];
#define MAIR 0x44ff0c04bb00ff00 /* attribute 0: device, 1: normal memory */
#define TCR 0x00000002b5d93519 /* 39 bits from TTBR0, none from TTBR1, 40 bits of physical address */
#define MMU_AND_CACHES 0x1005

#define OWN_REGISTERS(X) \
	X(TPIDR_EL0, "tpidr_el0", 0x00c0ffee12345678 + n, always) \
	X(TPIDRRO_EL0, "tpidrro_el0", 0x00dec0de87654320 + n, always) \
	X(TPIDR_EL1, "tpidr_el1", 0x00facade0badf00d + n, always) \
	X(CONTEXTIDR_EL1, "contextidr_el1", 0xc0117e00 + n, always) \
	X(PAR_EL1, "par_el1", 0x0000000123456001 + (n << 12), always) \
	X(MAIR_EL1, "mair_el1", MAIR + (n << 56), always) \
	X(AMAIR_EL1, "amair_el1", 0x0000000000000055 + n, always) \
	X(TTBR0_EL1, "ttbr0_el1", 0x0011000000000000 + (n << 48) + (u64)identity_map, always) \
	X(TTBR1_EL1, "ttbr1_el1", 0x0022000040300000 + (n << 48), always) \
	X(TCR_EL1, "tcr_el1", TCR, always) \
	X(SCTLR_EL1, "sctlr_el1", READ("sctlr_el1") | MMU_AND_CACHES, always) \
	X(CPACR_EL1, "cpacr_el1", FP_AND_SVE, always) \
	X(ZCR_EL1, "s3_0_c1_c2_0", 7, sve) \
	X(VBAR_EL1, "vbar_el1", (u64)vectors, always) \
	X(ESR_EL1, "esr_el1", 0x56000bad + n, always) \
	X(FAR_EL1, "far_el1", 0x00000fa0cafe0000 + n, always) \
	X(AFSR0_EL1, "afsr0_el1", 0x0af50000 + n, always) \
	X(AFSR1_EL1, "afsr1_el1", 0x0af51000 + n, always) \
	X(ELR_EL1, "elr_el1", 0x0000000e1f000000 + (n << 2), always) \
	X(SPSR_EL1, "spsr_el1", 0x600003c5, always) \
	X(SP_EL0, "sp_el0", 0x00000000ca11ab00 + (n << 4), always) \
	X(CSSELR_EL1, "csselr_el1", 2, always) \
	X(CNTKCTL_EL1, "cntkctl_el1", 0x203, always) \
	X(CNTP_CVAL_EL0, "cntp_cval_el0", 0x7000000000000000 + n, physical_timer) \
	X(CNTP_CTL_EL0, "cntp_ctl_el0", 2, physical_timer) \
	X(MDSCR_EL1, "mdscr_el1", 0x1000, always) \
	X(DBGBVR0_EL1, "dbgbvr0_el1", 0x0000123456789ab0 + (n << 8), always) \
	X(DBGBCR0_EL1, "dbgbcr0_el1", 0x1e0, always) \
	X(DBGBVR1_EL1, "dbgbvr1_el1", 0x00000dbb12340000 + (n << 8), always) \
	X(DBGBCR1_EL1, "dbgbcr1_el1", 0x1e4, always) \
	X(DBGWVR1_EL1, "dbgwvr1_el1", 0x00000dbb56780000 + (n << 8), always) \
	X(DBGWCR1_EL1, "dbgwcr1_el1", 0x1ff0, always) \
	X(DBGWVR0_EL1, "dbgwvr0_el1", 0x0000456789abcde0 + (n << 8), always) \
	X(DBGWCR0_EL1, "dbgwcr0_el1", 0x1ff8, always) \
	X(ICC_SRE_EL1, ICC_SRE, 7, always) \
	X(ICC_PMR_EL1, ICC_PMR, 0xf0, always) \
	X(ICC_BPR1_EL1, ICC_BPR1, 4, always) \
	X(ICC_IGRPEN1_EL1, ICC_IGRPEN1, 1, always) \
	X(APIAKEYLO_EL1, "s3_0_c2_c1_0", 0xa1a1a1a1a1a1a100 + n, pointer_auth) \
	X(APIAKEYHI_EL1, "s3_0_c2_c1_1", 0xa2a2a2a2a2a2a200 + n, pointer_auth) \
	X(APDBKEYLO_EL1, "s3_0_c2_c2_2", 0xd1d1d1d1d1d1d100 + n, pointer_auth) \
	X(APGAKEYHI_EL1, "s3_0_c2_c3_1", 0x9a9a9a9a9a9a9a00 + n, pointer_auth) \
	X(TCR2_EL1, "s3_0_c2_c0_3", 0, tcr2) \
	X(PIR_EL1, "s3_0_c10_c2_3", 0x1122334455667700 + n, permission_indirection) \
	X(PIRE0_EL1, "s3_0_c10_c2_2", 0x7766554433221100 + n, permission_indirection) \
	X(SCTLR2_EL1, "s3_0_c1_c0_3", 0, sctlr2) \
	X(PMCR_EL0, "pmcr_el0", 0x50, pmu) \
	X(PMSELR_EL0, "pmselr_el0", 0, pmu) \
	X(PMCCNTR_EL0, "pmccntr_el0", 0x00000001c1c1c100 + n, pmu) \
	X(PMCCFILTR_EL0, "pmccfiltr_el0", 0x40000000, pmu) \
	X(PMEVCNTR0_EL0, "pmevcntr0_el0", 0x1c0de000 + n, pmu) \
	X(PMEVTYPER0_EL0, "pmevtyper0_el0", 0x40000011, pmu) \
	X(PMCNTENSET_EL0, "pmcntenset_el0", 0x80000001, pmu) \
	X(PMINTENSET_EL1, "pmintenset_el1", 0x80000001, pmu) \
	X(PMOVSSET_EL0, "pmovsset_el0", 0x80000000, pmu) \
	X(PMUSERENR_EL0, "pmuserenr_el0", 0xd, pmu)

/* X(name, offset, value): what is kept of INTIDs 56 to 63, shared peripherals of the virt machine that it has not got,
 * and of a private one, 20, that nobody raises. The vCPU that gets INTID 56 is the last that there may be. */
#define DISTRIBUTOR(X) \
	X(GICD_IGROUPR1, 0x0084, 0xff000000) X(GICD_ISENABLER1, 0x0104, 0x0f000000) \
	X(GICD_IPRIORITYR14, 0x0438, 0xa0b0c0d0) X(GICD_ICFGR3, 0x0c0c, 0x00aa0000) X(GICD_IROUTER56, 0x61c0, 1)
#define REDISTRIBUTOR(X) \
	X(GICR_ISENABLER0, 0x10100, 1u << VIRTUAL_TIMER_INTERRUPT | 1u << 20) \
	X(GICR_IPRIORITYR5, 0x10414, 0x10203040 + ((u32)n << 12)) X(GICR_ICFGR1, 0x10c04, 0x200)

#define IDENTITY(X) \
	X(MIDR_EL1, "midr_el1") X(REVIDR_EL1, "revidr_el1") X(MPIDR_EL1, "mpidr_el1") \
	X(ID_AA64PFR0_EL1, "id_aa64pfr0_el1") X(ID_AA64PFR1_EL1, "id_aa64pfr1_el1") \
	X(ID_AA64DFR0_EL1, "id_aa64dfr0_el1") X(ID_AA64DFR1_EL1, "id_aa64dfr1_el1") \
	X(ID_AA64ISAR0_EL1, "id_aa64isar0_el1") X(ID_AA64ISAR1_EL1, "id_aa64isar1_el1") \
	X(ID_AA64ISAR2_EL1, "s3_0_c0_c6_2") X(ID_AA64ISAR3_EL1, "s3_0_c0_c6_3") \
	X(ID_AA64MMFR0_EL1, "id_aa64mmfr0_el1") X(ID_AA64MMFR1_EL1, "id_aa64mmfr1_el1") \
	X(ID_AA64MMFR2_EL1, "id_aa64mmfr2_el1") X(ID_AA64MMFR3_EL1, ID_MMFR3) \
	X(ID_AA64MMFR4_EL1, "s3_0_c0_c7_4") X(ID_AA64PFR2_EL1, "s3_0_c0_c4_2") \
	X(ID_AA64ZFR0_EL1, "s3_0_c0_c4_4") X(ID_AA64SMFR0_EL1, "s3_0_c0_c4_5") X(ID_AA64FPFR0_EL1, "s3_0_c0_c4_7") \
	X(ID_PFR0_EL1, "id_pfr0_el1") X(ID_DFR0_EL1, "id_dfr0_el1") X(ID_MMFR4_EL1, "id_mmfr4_el1") \
	X(CTR_EL0, "ctr_el0") X(DCZID_EL0, "dczid_el0") X(CLIDR_EL1, "clidr_el1") X(CCSIDR_EL1, "ccsidr_el1") \
	X(CNTFRQ_EL0, "cntfrq_el0")

#define COUNT_ROW(...) + 1
enum { OWN_COUNT = 0 OWN_REGISTERS(COUNT_ROW), IDENTITY_COUNT = 0 IDENTITY(COUNT_ROW) };
enum { GIC_COUNT = 0 REDISTRIBUTOR(COUNT_ROW) DISTRIBUTOR(COUNT_ROW) };

#define NAME_ROW(name, ...) #name,
static const char *const own_names[] = { OWN_REGISTERS(NAME_ROW) };
static const char *const identity_names[] = { IDENTITY(NAME_ROW) };
static const char *const gic_names[] = { REDISTRIBUTOR(NAME_ROW) DISTRIBUTOR(NAME_ROW) };

/* One value for each of SVE's registers: a sum over its bytes. */
enum { PREDICATES = 32, FFR = PREDICATES + 16, SCALABLE_COUNT };

struct value { u64 was, is; u8 printed; };

/* One vCPU's state. Written by that vCPU; vCPU 0 reads all of them to print. */
static struct cpu {
	struct value own[OWN_COUNT], identity[IDENTITY_COUNT], gic[GIC_COUNT], vector[32][2], fpcr, fpsr, counter;
	struct value scalable[SCALABLE_COUNT];
	volatile u64 ticks;
} cpus[MAX_CPUS];

/* QEMU up to 11.1 carries 1024 bits of a Z register, whatever the vector length (target/arm/machine.c:
 * vmstate_zreg_hi_reg), so ZCR_EL1 asks for no more.
 * What SVE's registers hold, as their own instructions store it: z0 to z31, p0 to p15, FFR. */
static struct scalable { u8 z[32][256], p[17][32]; } scalable[MAX_CPUS] __attribute__((aligned(256)));
u8 stacks[MAX_CPUS][4096] __attribute__((aligned(16)));

extern void start_secondary(void);
extern char vectors[];

static void put(char c) { MMIO32(UART_DR) = (u8)c; }
static void put_text(const char *text) { while (*text) put(*text++); }
static void put_hex(u64 value, int digits) { while (digits--) put("0123456789abcdef"[(value >> (digits * 4)) & 15]); }

/* One vCPU writes, vCPU 0 reads; a value that comes a tick late is no matter, so that volatile is enough. */
static void watch(struct value *v, u64 now)
{
	*(volatile u64 *)&v->is = now;
}

static void start_value(struct value *v, u64 now)
{
	v->was = v->is = now;
}

static u64 psci_cpu_on(u64 cpu, u64 entry)
{
	register u64 x0 asm("x0") = PSCI_CPU_ON, x1 asm("x1") = cpu, x2 asm("x2") = entry, x3 asm("x3") = cpu;

	asm volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) :: "memory", "x4", "x5", "x6", "x7", "x8",
		     "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17");
	return x0;
}

#define EACH_VECTOR(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) \
	X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)

static void fill_vectors(u64 n)
{
#define FILL(i) asm volatile(".arch_extension fp\n\tfmov d" #i ", %0\n\tfmov v" #i ".d[1], %1" \
			     :: "r"(0xf000000000000000 + (i << 8) + n), "r"(0xe000000000000000 + (i << 8) + n));
	EACH_VECTOR(FILL)
}

static void look_at_vectors(struct cpu *cpu, void (*look)(struct value *, u64))
{
	u64 low, high;

#define LOOK(i) asm volatile(".arch_extension fp\n\tfmov %0, d" #i "\n\tfmov %1, v" #i ".d[1]" : "=r"(low), "=r"(high)); \
	look(&cpu->vector[i][0], low); look(&cpu->vector[i][1], high);
	EACH_VECTOR(LOOK)
}

#define EACH_PREDICATE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define SVE ".arch_extension sve\n\t"

static void fill_scalable(struct scalable *s, u64 n)
{
	for (unsigned i = 0; i < 32; i++)
		for (unsigned j = 0; j < 256; j++)
			s->z[i][j] = i * 7 + j * 13 + n;
	for (unsigned i = 0; i < 16; i++)
		for (unsigned j = 0; j < 32; j++)
			s->p[i][j] = i * 5 + j * 11 + n;
	for (unsigned j = 0; j < 32; j++) /* FFR takes ones up to somewhere, then zeros */
		s->p[16][j] = j == 0 ? 0x7f : 0;
	asm volatile(SVE "ldr p0, [%0]\n\twrffr p0.b" :: "r"(s->p[16]) : "memory");
#define LOAD_Z(i) asm volatile(SVE "ldr z" #i ", [%0]" :: "r"(s->z[i]) : "memory");
	EACH_VECTOR(LOAD_Z)
#define LOAD_P(i) asm volatile(SVE "ldr p" #i ", [%0]" :: "r"(s->p[i]) : "memory");
	EACH_PREDICATE(LOAD_P)
}

static u64 sum(const u8 *bytes, unsigned length)
{
	u64 total = 0;

	for (unsigned i = 0; i < length; i++)
		total = total * 31 + bytes[i];
	return total;
}

static void look_at_scalable(struct cpu *cpu, struct scalable *s, void (*look)(struct value *, u64))
{
	u64 length;

#define STORE_Z(i) asm volatile(SVE "str z" #i ", [%0]" :: "r"(s->z[i]) : "memory");
	EACH_VECTOR(STORE_Z)
#define STORE_P(i) asm volatile(SVE "str p" #i ", [%0]" :: "r"(s->p[i]) : "memory");
	EACH_PREDICATE(STORE_P)
	asm volatile(SVE "rdffr p0.b\n\tstr p0, [%0]\n\tldr p0, [%1]" :: "r"(s->p[16]), "r"(s->p[0]) : "memory");
	asm volatile(SVE "rdvl %0, #1" : "=r"(length));
	for (unsigned i = 0; i < 32; i++)
		look(&cpu->scalable[i], sum(s->z[i], length));
	for (unsigned i = 0; i < 17; i++)
		look(&cpu->scalable[PREDICATES + i], sum(s->p[i], length / 8));
}

static void look_at_gic(struct cpu *cpu, u64 n, void (*look)(struct value *, u64))
{
	u64 redistributor = GICR_BASE + n * GICR_STRIDE;
	unsigned i = 0;

#define LOOK_PRIVATE(name, offset, value) look(&cpu->gic[i++], MMIO32(redistributor + offset));
	REDISTRIBUTOR(LOOK_PRIVATE)
#define LOOK_SHARED(name, offset, value) look(&cpu->gic[i++], MMIO32(GICD_BASE + offset));
	if (n == 0) {
		DISTRIBUTOR(LOOK_SHARED)
	}
}

static void set_up_gic(struct cpu *cpu, u64 n)
{
	u64 redistributor = GICR_BASE + n * GICR_STRIDE;

	if (n == 0)
		MMIO32(GICD_BASE) = 0x12;                /* GICD_CTLR: affinity routing, group 1 */
	MMIO32(redistributor + 0x14) = 0;                /* GICR_WAKER: awake */
	MMIO32(redistributor + 0x10080) = ~0u;           /* GICR_IGROUPR0: group 1 */
#define SET_PRIVATE(name, offset, value) MMIO32(redistributor + offset) = value;
	REDISTRIBUTOR(SET_PRIVATE)
#define SET_SHARED(name, offset, value) MMIO32(GICD_BASE + offset) = value;
	if (n == 0) {
		DISTRIBUTOR(SET_SHARED)
	}
	look_at_gic(cpu, n, start_value);
}

static void set_up(struct cpu *cpu, u64 n)
{
	unsigned i = 0;

	asm volatile("tlbi vmalle1\n\tdsb nsh\n\tisb" ::: "memory");
	WRITE("cpacr_el1", FP_AND_SVE); /* before any access to a vector register */
	if (pmu()) { /* the SET registers add to what KVM's reset left there, which is a pattern */
		WRITE("pmcntenclr_el0", ~0u);
		WRITE("pmintenclr_el1", ~0u);
		WRITE("pmovsclr_el0", ~0u);
	}
#define SET_UP(name, reg, value, needs) if (needs()) { WRITE(reg, value); start_value(&cpu->own[i], READ(reg)); } i++;
	OWN_REGISTERS(SET_UP)
	i = 0;
#define IDENTIFY(name, reg) start_value(&cpu->identity[i], READ(reg)); i++;
	IDENTITY(IDENTIFY)
	fill_vectors(n);
	if (sve()) { /* what a z register holds in its low 128 bits is the v register */
		fill_scalable(&scalable[n], n);
		look_at_scalable(cpu, &scalable[n], start_value);
	}
	look_at_vectors(cpu, start_value);
	WRITE("fpcr", 0x00c00000 + ((n & 1) << 24)); /* rounding mode zero, and flush to zero on odd vCPUs */
	WRITE("fpsr", 0x0800001f);
	start_value(&cpu->fpcr, READ("fpcr"));
	start_value(&cpu->fpsr, READ("fpsr"));
	start_value(&cpu->counter, READ("cntvct_el0"));
}

static void check(struct cpu *cpu)
{
	unsigned i = 0;
	u64 now = READ("cntvct_el0");

#define CHECK(name, reg, value, needs) if (needs()) watch(&cpu->own[i], READ(reg)); i++;
	OWN_REGISTERS(CHECK)
	i = 0;
#define CHECK_IDENTITY(name, reg) watch(&cpu->identity[i], READ(reg)); i++;
	IDENTITY(CHECK_IDENTITY)
	look_at_vectors(cpu, watch);
	if (sve())
		look_at_scalable(cpu, &scalable[cpu - cpus], watch);
	look_at_gic(cpu, cpu - cpus, watch);
	watch(&cpu->fpcr, READ("fpcr"));
	watch(&cpu->fpsr, READ("fpsr"));
	if (now >= cpu->counter.was)
		start_value(&cpu->counter, now);
	else
		watch(&cpu->counter, now);
}

/* Prints a difference the first time; -> 1 when the value differs, or did once: a check that failed stays failed. */
static int report(struct value *v, const char *kind, u64 n, const char *name, int index)
{
	if (v->was == *(volatile u64 *)&v->is)
		return v->printed;
	if (!v->printed) {
		v->printed = 1;
		put_text(kind);
		put_text(" cpu=");
		put_hex(n, 1);
		put(' ');
		put_text(name);
		if (index >= 0)
			put_hex(index, 2);
		put(' ');
		put_hex(v->was, 16);
		put(' ');
		put_hex(v->is, 16);
		put('\n');
	}
	return 1;
}

static int report_all(struct cpu *cpu, u64 n)
{
	int bad = 0;

	for (int i = 0; i < OWN_COUNT; i++)
		bad |= report(&cpu->own[i], "changed", n, own_names[i], -1);
	for (int i = 0; i < IDENTITY_COUNT; i++)
		report(&cpu->identity[i], "identity", n, identity_names[i], -1);
	for (int i = 0; i < 32; i++) {
		bad |= report(&cpu->vector[i][0], "changed", n, "V_LOW_", i);
		bad |= report(&cpu->vector[i][1], "changed", n, "V_HIGH_", i);
	}
	for (int i = 0; i < GIC_COUNT; i++)
		bad |= report(&cpu->gic[i], "changed", n, gic_names[i], -1);
	for (int i = 0; i < SCALABLE_COUNT; i++)
		bad |= report(&cpu->scalable[i], "changed", n, i < PREDICATES ? "Z_" : "P_", i % PREDICATES);
	bad |= report(&cpu->fpcr, "changed", n, "FPCR", -1);
	bad |= report(&cpu->fpsr, "changed", n, "FPSR", -1);
	bad |= report(&cpu->counter, "changed", n, "CNTVCT_EL0", -1);
	return bad;
}

static void print_tick(unsigned count)
{
	int bad = 0;

	for (unsigned n = 0; n < count; n++)
		bad |= report_all(&cpus[n], n);
	put_text("tick");
	for (unsigned n = 0; n < count; n++) {
		put(' ');
		put_hex(cpus[n].ticks, 6);
	}
	put_text(bad ? " changed\n" : " clean\n");
}

void fault(u64 n)
{
	put_text("fault cpu=");
	put_hex(n, 1);
	put_text(" esr=");
	put_hex(READ("esr_el1"), 16);
	put_text(" elr=");
	put_hex(READ("elr_el1"), 16);
	put_text(" far=");
	put_hex(READ("far_el1"), 16);
	put('\n');
	for (;;)
		asm volatile("wfi");
}

void run(u64 n)
{
	struct cpu *cpu = &cpus[n];
	u64 period = READ("cntfrq_el0") / TICKS_PER_SECOND;
	unsigned count = 1;

	WRITE("vbar_el1", (u64)vectors);
	set_up_gic(cpu, n);
	set_up(cpu, n);
	WRITE("cntv_tval_el0", period);
	WRITE("cntv_ctl_el0", 1);
	if (n == 0) {
		while (count < MAX_CPUS && psci_cpu_on(count, (u64)start_secondary) == 0)
			count++;
		put_text("start cpus=");
		put_hex(count, 1);
		put('\n');
	}
	for (;;) {
		u64 interrupt;

		asm volatile("wfi");
		interrupt = READ(ICC_IAR1) & 0xffffff;
		if (interrupt >= SPURIOUS_INTERRUPT)
			continue;
		WRITE("cntv_tval_el0", period);
		WRITE(ICC_EOIR1, interrupt);
		cpu->ticks++;
		check(cpu);
		if (n == 0)
			print_tick(count);
	}
}

/* start: vCPU 0. start_secondary: the others, x0 is the number (PSCI's context id).
 * vectors: every exception comes to fault(); the vCPU's number is in MPIDR_EL1. */
asm(".section .text.start, \"ax\"\n"
    ".global start, start_secondary, vectors, identity_map\n"
    "start: mov x0, #0\n"
    "start_secondary:\n"
    "	ldr x1, =stacks + 4096\n"
    "	add x1, x1, x0, lsl #12\n"
    "	mov sp, x1\n"
    "	b run\n"
    "	.ltorg\n"
    ".balign 2048\n"
    "vectors:\n"
    ".rept 16\n"
    "	mrs x0, mpidr_el1\n"
    "	and x0, x0, #7\n"
    "	b fault\n"
    "	.balign 128\n"
    ".endr\n"
    /* Blocks of 1 GiB: devices, then memory (normal, inner shareable), both accessed before. */
    ".balign 4096\n"
    "identity_map:\n"
    ".quad 0x0060000000000401\n" /* from 0: device, never executed */
    ".quad 0x0000000040000705\n" /* from 1 GiB: memory */
    ".fill 510, 8, 0\n");
