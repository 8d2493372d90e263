/* The /init of a Linux guest that works, and watches its own work and what Linux tells it about its machine,
 * across a live migration. One static program, the only one in its initramfs.
 *
 * It loads the modules in /modules/order, remembers the facts (see look_at_machine), and forks workers, each of
 * which does a round of work some three times a second and checks it:
 *
 *   timerN    on vCPU N: a high-resolution timer, never early, never very late; CLOCK_MONOTONIC never goes back,
 *             compared across vCPUs
 *   vectorN   on vCPU N: v0-v31, or with SVE z0-z31 and p0-p15 at the longest vector length, keep their values
 *             through sleep and preemption
 *   cycles    a perf event for all of vCPU 0, which the kernel programs once and then leaves alone, keeps counting
 *   disk      /dev/vda: blocks are read and, each second round, written with what they hold anyway, past the cache
 *   network   raw frames with a number go from eth0 to eth1 and back
 *   machine   collects all facts anew, with a new process that tells its HWCAPs. From time to time it takes a vCPU
 *             other than 0 offline and online again, since only then does Linux read the identification registers
 *             again: what it thinks of a difference is in /proc/sys/kernel/tainted. A round counts as five, since it
 *             takes about as long as five of the others'
 *
 * What is printed, one line each; ticks come about twice a second:
 *
 *   has cycles | lacks cycles: No such file or directory         what this guest can do, at the start
 *   tick timer0=12 timer1=12 vector0=11 ... clean                rounds done, and the verdict of all checks
 *   changed tainted: 0 -> 4                                      once for each; the verdict stays "changed"
 *   identity cpu1.CTR_EL0: 0x8444c004 -> 0x9444c004              the same; does not spoil "clean"
 *
 * What it is not: a load test. It sleeps most of the time. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long u64;

#define MAX_CPUS 8
#define MAX_FACTS 1024
#define SECOND 1000000000ul
#define ROUND (SECOND / 3)
#define TICK (SECOND / 2)
#define VERY_LATE (30 * SECOND) /* a timer: the machine below may be busy */
#define LOST_FRAMES 30          /* in a row, a second each: the network is dead */
#define ROUNDS_PER_OFFLINE 4
#define ROUND_COUNTS 5 /* of machine */
#define BLOCK 4096
#define ETHERTYPE 0x88b5 /* for local experiments */
#define HWCAP_SVE_BIT (1 << 22)

#define READ(reg) ({ u64 v_; asm volatile("mrs %0, " reg : "=r"(v_)); v_; })

struct worker {
	char name[24];
	int cpu;
	void (*work)(struct worker *);
	pid_t pid;
	u64 rounds;
	int found, printed; /* set when finding is complete; when it was printed */
	char finding[256];
};

/* What all processes share. */
static struct {
	u64 latest; /* CLOCK_MONOTONIC, the latest that any worker has seen */
	int spoiled; /* a change was printed */
	int count;
	struct worker workers[2 * MAX_CPUS + 4];
} *shared;

static struct fact {
	const char *kind; /* changed or identity */
	char name[64], was[512], is[512];
	int printed;
} facts[MAX_FACTS];
static int fact_count, started;

static int cpus, cycles_fd = -1, disk_fd = -1, network_fd[2] = { -1, -1 };
static u64 blocks;

/* ---- What every worker uses ---- */

static u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

static void sleep_until(u64 moment)
{
	struct timespec t = { moment / SECOND, moment % SECOND };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
		;
}

/* Fails while that vCPU is offline, which does no harm: then the process runs elsewhere for a round. */
static void run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

__attribute__((format(printf, 2, 3)))
static void wrong(struct worker *w, const char *format, ...)
{
	va_list arguments;

	if (w->found)
		return;
	va_start(arguments, format);
	vsnprintf(w->finding, sizeof(w->finding), format, arguments);
	va_end(arguments);
	__atomic_store_n(&w->found, 1, __ATOMIC_RELEASE);
}

static void next_round(struct worker *w)
{
	__atomic_add_fetch(&w->rounds, 1, __ATOMIC_RELAXED);
	sleep_until(now() + ROUND);
	run_on(w->cpu);
}

/* ---- Timers ---- */

static void timer(struct worker *w)
{
	for (;;) {
		u64 latest = __atomic_load_n(&shared->latest, __ATOMIC_SEQ_CST), start = now(), end;

		if (start < latest)
			wrong(w, "the clock: %lu ns -> %lu ns", latest, start);
		while (start > latest && !__atomic_compare_exchange_n(&shared->latest, &latest, start, 0, __ATOMIC_SEQ_CST,
								      __ATOMIC_SEQ_CST))
			;
		sleep_until(start + ROUND / 2);
		end = now();
		if (end < start + ROUND / 2 || end > start + ROUND / 2 + VERY_LATE)
			wrong(w, "a timer of %lu ns: %lu ns -> %lu ns", ROUND / 2, start, end);
		next_round(w);
	}
}

/* ---- Vector registers: loaded, kept while the process spins (without SVE it also sleeps), stored ---- */

#define EACH_VECTOR(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) \
	X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define EACH_PREDICATE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD_V(i) "ldr q" #i ", [%[in], #16 * " #i "]\n\t"
#define STORE_V(i) "str q" #i ", [%[out], #16 * " #i "]\n\t"
#define LOAD_Z(i) "ldr z" #i ", [%[in], #" #i ", mul vl]\n\t"
#define STORE_Z(i) "str z" #i ", [%[out], #" #i ", mul vl]\n\t"
#define LOAD_P(i) "ldr p" #i ", [%[in_p], #" #i ", mul vl]\n\t"
#define STORE_P(i) "str p" #i ", [%[out_p], #" #i ", mul vl]\n\t"
#define CLOBBER(i) , "v" #i
#define SPIN "1:\tmrs x9, cntvct_el0\n\tsub x9, x9, %[from]\n\tcmp x9, %[length]\n\tb.lo 1b\n\t"
#define NANOSLEEP "mov x0, %[pause]\n\tmov x1, #0\n\tmov x8, #101\n\tsvc #0\n\t"

struct vectors {
	unsigned char z[32 * 256], p[16 * 32];
};

static void keep_vectors(const struct vectors *in, struct vectors *out, int sve)
{
	const struct timespec pause = { 0, 20000000 };
	u64 length = READ("cntfrq_el0") / 50;

	if (sve) /* a system call may take the scalable part away: none here */
		asm volatile(".arch_extension sve\n\t" EACH_VECTOR(LOAD_Z) EACH_PREDICATE(LOAD_P)
			     SPIN EACH_VECTOR(STORE_Z) EACH_PREDICATE(STORE_P)
			     :: [in] "r"(in->z), [in_p] "r"(in->p), [out] "r"(out->z), [out_p] "r"(out->p),
				[from] "r"(READ("cntvct_el0")), [length] "r"(length)
			     : "memory", "cc", "x9" EACH_VECTOR(CLOBBER));
	else
		asm volatile(EACH_VECTOR(LOAD_V) NANOSLEEP SPIN EACH_VECTOR(STORE_V)
			     :: [in] "r"(in->z), [out] "r"(out->z), [pause] "r"(&pause),
				[from] "r"(READ("cntvct_el0")), [length] "r"(length)
			     : "memory", "cc", "x0", "x1", "x8", "x9" EACH_VECTOR(CLOBBER));
}

static void vector(struct worker *w)
{
	static struct vectors in, out;
	int sve = (getauxval(AT_HWCAP) & HWCAP_SVE_BIT) != 0;
	size_t length = sve ? prctl(PR_SVE_SET_VL, 256) & PR_SVE_VL_LEN_MASK : 16; /* the longest there is */

	for (;;) {
		for (size_t i = 0; i < sizeof(in); i++)
			((unsigned char *)&in)[i] = i * 7 + i / 256 + w->rounds + w->cpu * 101;
		memset(&out, 0, sizeof(out));
		keep_vectors(&in, &out, sve);
		for (size_t i = 0; i < 32 * length; i++)
			if (out.z[i] != in.z[i])
				wrong(w, "register %zu byte %zu: %#x -> %#x", i / length, i % length, in.z[i], out.z[i]);
		for (size_t i = 0; sve && i < 16 * length / 8; i++)
			if (out.p[i] != in.p[i])
				wrong(w, "predicates, byte %zu: %#x -> %#x", i, in.p[i], out.p[i]);
		next_round(w);
	}
}

/* ---- Performance counters ---- */

static int open_cycles(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_HARDWARE, .size = sizeof(attr),
					.config = PERF_COUNT_HW_CPU_CYCLES, .pinned = 1 };

	cycles_fd = syscall(SYS_perf_event_open, &attr, -1, 0, -1, 0);
	return cycles_fd >= 0;
}

static void cycles(struct worker *w)
{
	u64 before, after;

	for (;;) {
		if (read(cycles_fd, &before, sizeof(before)) != sizeof(before))
			wrong(w, "the counter: counts -> is in an error state");
		for (volatile int i = 0; i < 100000; i++)
			;
		if (read(cycles_fd, &after, sizeof(after)) == sizeof(after) && after <= before)
			wrong(w, "the counter: %lu -> %lu", before, after);
		next_round(w);
	}
}

/* ---- Disk ---- */

static int open_disk(void)
{
	disk_fd = open("/dev/vda", O_RDWR | O_DIRECT);
	if (disk_fd >= 0)
		blocks = lseek(disk_fd, 0, SEEK_END) / BLOCK;
	return blocks > 0;
}

/* The disk is full of 64-bit words, each made from its number. tests/kvmlab/linux_image.py makes the same. */
static int is_block(const u64 *words, u64 number)
{
	for (u64 i = 0; i < BLOCK / sizeof(u64); i++)
		if (words[i] != (number * (BLOCK / sizeof(u64)) + i) * 0x9e3779b97f4a7c15)
			return 0;
	return 1;
}

static void disk(struct worker *w)
{
	static u64 words[BLOCK / sizeof(u64)] __attribute__((aligned(BLOCK)));

	for (;;) {
		u64 number = w->rounds / 2 * 37 % blocks;
		const char *did = "reads";

		memset(words, 0, sizeof(words));
		errno = 0;
		if (pread(disk_fd, words, BLOCK, number * BLOCK) == BLOCK && is_block(words, number) && w->rounds % 2) {
			did = "writes";
			if (pwrite(disk_fd, words, BLOCK, number * BLOCK) == BLOCK && fsync(disk_fd) == 0)
				errno = 0;
		}
		if (errno || !is_block(words, number))
			wrong(w, "block %lu: %s -> %s", number, did, errno ? strerror(errno) : "has other contents");
		next_round(w);
	}
}

/* ---- Network ---- */

struct frame {
	unsigned char to[6], from[6];
	unsigned short type;
	unsigned char text[486];
};

static int open_network(void)
{
	for (int i = 0; i < 2; i++) {
		struct ifreq request = { .ifr_name = { 'e', 't', 'h', '0' + i } };
		struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE) };
		int fd = network_fd[i] = socket(AF_PACKET, SOCK_RAW, htons(ETHERTYPE));

		if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &request))
			return 0;
		address.sll_ifindex = request.ifr_ifindex;
		if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || ioctl(fd, SIOCGIFFLAGS, &request))
			return 0;
		request.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &request))
			return 0;
	}
	return 1;
}

/* -> 1 when the frame came out at the other side as it went in; what was sent again may come twice. */
static int crosses(const struct frame *sent, int from, int to)
{
	struct pollfd wait = { .fd = to, .events = POLLIN };
	struct frame got;

	if (send(from, sent, sizeof(*sent), 0) != sizeof(*sent))
		return 0;
	while (poll(&wait, 1, 1000) > 0)
		if (recv(to, &got, sizeof(got), MSG_TRUNC) == sizeof(got) && !memcmp(&got, sent, sizeof(got)))
			return 1;
	return 0;
}

static void network(struct worker *w)
{
	struct frame frame = { .to = { 255, 255, 255, 255, 255, 255 }, .type = htons(ETHERTYPE) };

	for (;;) {
		int way = w->rounds % 2, lost = 0;

		frame.from[0] = 2;
		frame.from[5] = way;
		for (size_t i = 0; i < sizeof(frame.text); i++)
			frame.text[i] = w->rounds * 31 + i * 7;
		memcpy(frame.text, &w->rounds, sizeof(w->rounds));
		while (!crosses(&frame, network_fd[way], network_fd[!way]))
			if (++lost == LOST_FRAMES)
				wrong(w, "frame %lu: sent from eth%d -> lost %d times", w->rounds, way, lost);
		next_round(w);
	}
}

/* ---- Facts ---- */

__attribute__((format(printf, 3, 4)))
static void note(const char *kind, const char *name, const char *format, ...)
{
	struct fact *fact = facts;
	va_list arguments;

	while (fact < facts + fact_count && strcmp(fact->name, name))
		fact++;
	if (fact == facts + MAX_FACTS)
		return;
	va_start(arguments, format);
	vsnprintf(fact->is, sizeof(fact->is), format, arguments);
	va_end(arguments);
	if (fact == facts + fact_count) {
		fact_count++;
		fact->kind = kind;
		snprintf(fact->name, sizeof(fact->name), "%s", name);
		strcpy(fact->was, started ? "(absent)" : fact->is);
	}
}

/* One line of a small file, without its end; "(absent)" when there is none. */
static void note_file(const char *kind, const char *name, const char *path)
{
	char line[512] = "(absent)";
	FILE *file = fopen(path, "r");

	if (file) {
		if (fgets(line, sizeof(line), file))
			line[strcspn(line, "\n")] = 0;
		fclose(file);
	}
	note(kind, name, "%s", line);
}

/* Lines "key : value" per processor. */
static void note_cpuinfo(void)
{
	char line[512], name[64];
	int processor = 0;
	FILE *file = fopen("/proc/cpuinfo", "r");

	while (file && fgets(line, sizeof(line), file)) {
		char *value = strstr(line, ": ");

		if (!value || sscanf(line, "processor : %d", &processor) == 1)
			continue;
		line[strcspn(line, "\t:")] = 0;
		value[strcspn(value, "\n")] = 0;
		snprintf(name, sizeof(name), "cpuinfo.%d.%.32s", processor, line);
		note("identity", name, "%s", value + 2);
	}
	if (file)
		fclose(file);
}

/* The HWCAPs of a new process, which has them from the kernel of this moment. */
static void note_hwcaps(void)
{
	char text[64] = "(no process)";
	ssize_t length;
	int ends[2];
	pid_t pid;

	if (pipe(ends))
		return;
	pid = fork();
	if (pid == 0) {
		dup2(ends[1], 1);
		execl("/init", "init", "hwcaps", NULL);
		_exit(1);
	}
	close(ends[1]);
	length = read(ends[0], text, sizeof(text) - 1);
	if (length > 0)
		text[length] = 0;
	close(ends[0]);
	waitpid(pid, NULL, 0);
	note("identity", "hwcaps", "%s", text);
}

static void look_at_machine(void)
{
	static const char *const cache[] = { "level", "type", "size", "coherency_line_size", "ways_of_associativity" };
	char name[64], path[128];

	for (int i = 0; i < fact_count; i++)
		strcpy(facts[i].is, "(absent)");
	note_cpuinfo();
	note_hwcaps();
	for (int cpu = 0; cpu < cpus; cpu++) {
#define NOTE_REGISTER(text, reg) snprintf(name, sizeof(name), "cpu%d." text, cpu); note("identity", name, "%#lx", READ(reg));
		run_on(cpu);
		NOTE_REGISTER("CTR_EL0", "ctr_el0")
		NOTE_REGISTER("DCZID_EL0", "dczid_el0")
		NOTE_REGISTER("CNTFRQ_EL0", "cntfrq_el0")
		for (int index = 0; index < 5; index++)
			for (size_t i = 0; i < sizeof(cache) / sizeof(cache[0]); i++) {
				snprintf(name, sizeof(name), "cpu%d.cache%d.%s", cpu, index, cache[i]);
				snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, cache[i]);
				note_file("identity", name, path);
			}
		snprintf(name, sizeof(name), "cpu%d.MIDR_EL1", cpu);
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/regs/identification/midr_el1", cpu);
		note_file("identity", name, path);
	}
	note_file("changed", "clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
	note_file("changed", "tainted", "/proc/sys/kernel/tainted");
	note_file("changed", "online", "/sys/devices/system/cpu/online");
}

static void take_offline_and_online(int cpu)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	for (int online = 0; online < 2; online++) {
		int fd = open(path, O_WRONLY);

		if (fd < 0 || write(fd, online ? "1" : "0", 1) != 1)
			note("changed", online ? "online again" : "offline", "%s", strerror(errno));
		close(fd);
	}
}

static void print_changes(void)
{
	for (struct fact *fact = facts; fact < facts + fact_count; fact++)
		if (strcmp(fact->was, fact->is) && !fact->printed) {
			fact->printed = 1;
			printf("%s %s: %s -> %s\n", fact->kind, fact->name, fact->was, fact->is);
			if (!strcmp(fact->kind, "changed"))
				shared->spoiled = 1;
		}
}

static void machine(struct worker *w)
{
	for (u64 round = 1;; round++) {
		if (cpus > 1 && round % ROUNDS_PER_OFFLINE == 0)
			take_offline_and_online(1 + round / ROUNDS_PER_OFFLINE % (cpus - 1));
		look_at_machine();
		print_changes();
		__atomic_add_fetch(&w->rounds, ROUND_COUNTS - 1, __ATOMIC_RELAXED);
		next_round(w);
		sleep_until(now() + SECOND);
	}
}

static void load_modules(void)
{
	char line[64], path[96];
	FILE *order = fopen("/modules/order", "r");

	while (order && fgets(line, sizeof(line), order)) {
		int fd;

		line[strcspn(line, "\n")] = 0;
		snprintf(path, sizeof(path), "/modules/%s", line);
		fd = open(path, O_RDONLY);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			printf("lacks %s: %s\n", line, strerror(errno));
		close(fd);
	}
}

static int say(const char *what, int there)
{
	if (there)
		printf("has %s\n", what);
	else
		printf("lacks %s: %s\n", what, errno ? strerror(errno) : "the CPU has none");
	return there;
}

static void start_worker(const char *name, int number, int cpu, void (*work)(struct worker *))
{
	struct worker *w = &shared->workers[shared->count++];

	w->cpu = cpu;
	if (number < 0)
		snprintf(w->name, sizeof(w->name), "%s", name);
	else
		snprintf(w->name, sizeof(w->name), "%s%d", name, number);
	w->pid = fork();
	if (w->pid == 0) {
		run_on(cpu);
		work(w);
	}
}

static void print_findings(void)
{
	int status;
	pid_t pid = waitpid(-1, &status, WNOHANG);

	for (int i = 0; i < shared->count; i++) {
		struct worker *w = &shared->workers[i];

		if (pid > 0 && pid == w->pid)
			wrong(w, "the process: runs -> ended with status %#x", status);
		if (__atomic_load_n(&w->found, __ATOMIC_ACQUIRE) && !w->printed) {
			w->printed = shared->spoiled = 1;
			printf("changed %s, %s\n", w->name, w->finding);
		}
	}
}

static void print_tick(void)
{
	char line[512] = "tick";

	for (int i = 0; i < shared->count; i++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line), " %s=%lu", shared->workers[i].name,
			 __atomic_load_n(&shared->workers[i].rounds, __ATOMIC_RELAXED));
	printf("%s %s\n", line, shared->spoiled ? "changed" : "clean");
}

int main(int count, char **arguments)
{
	if (count > 1 && !strcmp(arguments[1], "hwcaps")) {
		printf("%#lx %#lx", getauxval(AT_HWCAP), getauxval(AT_HWCAP2));
		return 0;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	load_modules();
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (cpus > MAX_CPUS)
		cpus = MAX_CPUS;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	errno = 0;
	say("sve", (getauxval(AT_HWCAP) & HWCAP_SVE_BIT) != 0);
	look_at_machine();
	started = 1;
	say("caches", !access("/sys/devices/system/cpu/cpu0/cache/index0", F_OK));
	for (int cpu = 0; cpu < cpus; cpu++) {
		start_worker("timer", cpu, cpu, timer);
		start_worker("vector", cpu, cpu, vector);
	}
	if (say("cycles", open_cycles()))
		start_worker("cycles", -1, 0, cycles);
	if (say("disk", open_disk()))
		start_worker("disk", -1, 0, disk);
	if (say("network", open_network()))
		start_worker("network", -1, cpus - 1, network);
	start_worker("machine", -1, 0, machine);
	for (;;) {
		sleep_until(now() + TICK);
		print_findings();
		print_tick();
	}
}
