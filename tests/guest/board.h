/* What the bare-metal guests under TCG share: QEMU's virt machine as they see it, the console, and the entry.
 *
 * Arm64 at EL1, one vCPU, MMU off. RAM starts at 0x40000000; the program is loaded at 0x40080000, its stack grows
 * down from 0x40200000, and all RAM above is free. A program includes this once and defines run(). */

typedef unsigned long u64;
typedef unsigned int u32;

#define MMIO32(address) (*(volatile u32 *)(address))
#define UART_DR 0x09000000ul
#define UART_FR 0x09000018ul
#define UART_FR_TXFF 0x20

#define READ(reg) ({ u64 v_; asm volatile("mrs %0, " #reg : "=r"(v_)); v_; })
#define WRITE(reg, value) asm volatile("msr " #reg ", %0\n\tisb" :: "r"((u64)(value)) : "memory")

static void put(char c)
{
	while (MMIO32(UART_FR) & UART_FR_TXFF)
		;
	MMIO32(UART_DR) = c;
}

static void print(const char *s)
{
	while (*s)
		put(*s++);
}

static void print_decimal(u64 n)
{
	if (n > 9)
		print_decimal(n / 10);
	put('0' + n % 10);
}

void run(void);

asm(".section .text.start\n"
    ".global start\n"
    "start:\n"
    "	ldr	x0, =0x40200000\n"
    "	mov	sp, x0\n"
    "	bl	run\n");
