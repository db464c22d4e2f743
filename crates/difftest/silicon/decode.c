/*
 * Length and validity of encodings, told by the CPU this runs on: an i386 program (gcc -m32).
 *
 * usage: decode 16|32    stdin: one encoding per line, in hex, padded to 16 bytes
 *                        stdout: "<length> <outcome>" per line
 *
 * The encoding's first n bytes stand at the end of a page with nothing mapped after it, for n = 1, 2, ... A fetch
 * fault at the page's end means that the CPU wants more bytes; anything else is the outcome: the vector that the
 * instruction raised, or "ok" when it completed (a trap: POPF just before it set TF). General registers are 0. In
 * 16-bit mode the code runs in a 16-bit segment of the local descriptor table.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, BASE = 0x30000000, FETCH = 16, POPF = 0x9d, WIDTH = 16 };

static sigjmp_buf out;
static volatile unsigned vector, ip, address, error;
static unsigned gs;
static struct { unsigned offset; unsigned short selector; } __attribute__((packed)) entry;

static void handler(int sig, siginfo_t *info, void *context)
{
	/* Before anything that may use thread-local storage or an unaligned operand. */
	__asm__ volatile("pushl $0x202; popfl; movw %w0, %%gs" : : "r"(gs) : "memory");
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	vector = regs[REG_TRAPNO];
	ip = regs[REG_EIP];
	error = regs[REG_ERR];
	address = (unsigned)info->si_addr;
	(void)sig;
	siglongjmp(out, 1);
}

static void execute(void)
{
	__asm__ volatile(
		"pushl $0; pushl $0; pushl $0; pushl $0; pushl $0; pushl $0\n\t" /* for RET, IRET, POP: to nowhere, null */
		"pushl $0x302\n\t"
		"xorl %%eax, %%eax; xorl %%ebx, %%ebx; xorl %%ecx, %%ecx; xorl %%edx, %%edx\n\t"
		"xorl %%esi, %%esi; xorl %%edi, %%edi; xorl %%ebp, %%ebp\n\t"
		"ljmp *%0"
		: : "m"(entry) : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory");
}

static const char *name(unsigned v)
{
	static const char *const names[] = {
		"#DE", "ok", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "?", "#TS", "#NP", "#SS", "#GP", "#PF", "?", "#MF",
		"#AC", "#MC", "#XM",
	};
	return v < sizeof names / sizeof *names ? names[v] : "?";
}

int main(int argc, char **argv)
{
	int bits = argc == 2 ? atoi(argv[1]) : 0;
	unsigned char *page = mmap((void *)BASE, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (page == MAP_FAILED || mprotect(page + PAGE, PAGE, PROT_NONE)) {
		perror("decode");
		return 1;
	}
	unsigned base = 0;
	unsigned short cs;
	__asm__ volatile("movw %%cs, %0" : "=r"(cs));
	__asm__ volatile("movl %%gs, %0" : "=r"(gs));
	if (bits == 16) {
		struct user_desc code = { .base_addr = BASE, .limit = 0xffff, .contents = MODIFY_LDT_CONTENTS_CODE };
		if (syscall(SYS_modify_ldt, 1, &code, sizeof code)) {
			perror("decode: modify_ldt");
			return 1;
		}
		base = BASE;
		cs = 7;
	} else if (bits != 32) {
		fputs("usage: decode 16|32\n", stderr);
		return 2;
	}
	static char stack[65536];
	sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof stack }, NULL);
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	static const int signals[] = { SIGSEGV, SIGILL, SIGTRAP, SIGBUS, SIGFPE };
	for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
		sigaction(signals[i], &action, NULL);

	char line[4 * WIDTH];
	while (fgets(line, sizeof line, stdin)) {
		unsigned char bytes[WIDTH];
		for (int i = 0; i < WIDTH; i++) {
			unsigned b;
			if (sscanf(line + 2 * i, "%2x", &b) != 1) {
				fprintf(stderr, "decode: not %d hex bytes: %s", WIDTH, line);
				return 2;
			}
			bytes[i] = b;
		}
		volatile int length = 0;
		do {
			length++;
			unsigned char *at = page + PAGE - length;
			memcpy(at, bytes, length);
			int operand32 = bits == 16; /* POPFD, also from 16-bit code */
			at[-1] = POPF;
			at[-2] = 0x66;
			entry.offset = (unsigned)at - base - 1 - operand32;
			entry.selector = cs;
			if (!sigsetjmp(out, 1))
				execute();
			__asm__ volatile("fninit; cld");
		} while (length < WIDTH && vector == 14 && error & FETCH && address == (unsigned)page + PAGE
			&& ip == (unsigned)page + PAGE - length - base);
		printf("%d %s\n", length, name(vector));
	}
	return 0;
}
