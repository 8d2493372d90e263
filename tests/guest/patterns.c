/* A guest that fills memory with patterns, over and over, and says whether it still holds them. Bare metal arm64 at
 * EL1, one vCPU, MMU off, for QEMU's virt machine under TCG.
 *
 * It starts with "start", then prints one line per round on the PL011:
 *
 *   1 ok
 *   2 ok
 *   3 wrong 0x40812008          the first address, counted from RAM's start, that does not hold what it should
 *
 * A round reads every word of every page and compares it with what the rounds before must have left there; then it
 * writes a quarter of the pages anew. What a page must hold follows from its number and the round alone, so a page
 * that was lost, that came too late, or that came from an older pass of a migration is found in the next round, and
 * the count, which lives in a register or in RAM, must go on from source to destination without a gap.
 *
 * Pages are of four kinds, by their number, so that each way to encode a page has something to do:
 *
 *   full      every word is new each time
 *   sparse    eight words are new, the rest stays (what xbzrle is for)
 *   fleeting  all zeroes every other time (zero pages that come and go)
 *   still     written once; sent once
 *
 * What it is not: it takes no interrupt, watches no register (counter.c does) and never sleeps. */

#include "board.h"

#define FIRST 0x40400000ul
#define PAGE_SIZE 4096ul
#define PAGES 2048ul /* 8 MiB: a round takes under 10 ms, so what a move carries is dirtied faster than it is sent */
#define WORDS (PAGE_SIZE / sizeof(u64))
#define TURN 4ul /* rounds after which a page is written again */

enum { FULL, SPARSE, FLEETING, STILL, KINDS };

/* The round that last wrote a page, seen after *round*; 0 is the first filling. */
static u64 generation(u64 page, u64 round)
{
	u64 since = (page / KINDS + round) % TURN;

	return page % KINDS == STILL || round < since ? 0 : round - since;
}

/* What word *i* of *page* holds. The odd multiplier spreads a change over all bits: no two of these words are alike, none
 * is zero in practice, and a page of them does not compress. */
static u64 stamp(u64 page, u64 generation, u64 i)
{
	return ((generation << 32) + page * WORDS + i + 1) * 0x9e3779b97f4a7c15ul;
}

static void hex(u64 n)
{
	print("0x");
	for (int shift = 28; shift >= 0; shift -= 4)
		put("0123456789abcdef"[n >> shift & 15]);
}

/* Write *page* as *generation* leaves it, or, when only checking, return the first address that is otherwise. */
static u64 visit(u64 page, u64 generation, int check)
{
	volatile u64 *words = (volatile u64 *)(FIRST + page * PAGE_SIZE);
	u64 kind = page % KINDS;

	for (u64 i = 0; i < WORDS; i++) {
		u64 value = stamp(page, kind == SPARSE && i % 64 ? 0 : generation, i);

		if (kind == FLEETING && generation / TURN % 2)
			value = 0;
		if (!check)
			words[i] = value;
		else if (words[i] != value)
			return (u64)&words[i];
	}
	return 0;
}

void run(void)
{
	for (u64 page = 0; page < PAGES; page++)
		visit(page, 0, 0);
	print("start\n");
	for (u64 round = 1;; round++) {
		u64 wrong = 0;

		for (u64 page = 0; page < PAGES && !wrong; page++)
			wrong = visit(page, generation(page, round - 1), 1);
		for (u64 page = 0; page < PAGES; page++)
			if (generation(page, round) == round)
				visit(page, round, 0);
		print_decimal(round);
		if (wrong) {
			print(" wrong ");
			hex(wrong);
			put('\n');
		} else {
			print(" ok\n");
		}
	}
}
