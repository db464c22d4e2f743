/*
 * One floating-point or vector instruction at a time, on the CPU this runs on: an i386 program (gcc -m32).
 *
 * stdin: struct request, repeatedly    stdout: a struct reply for each
 *
 * The request's code runs with its registers, its FXSAVE image and its 512 bytes of memory, which end where a mapped page
 * ends; the reply has what all of them are afterwards, the environment that FNSTENV stores, and the vector of the
 * exception that stopped it (or -1).
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ucontext.h>

enum { PAGE = 4096, CODE = 0x20000000, DATA = 0x20010000, MEMORY = 512 };

struct request {
	uint32_t length;
	uint8_t code[16];
	uint32_t eax, ecx, edx, ebx, eflags;
	uint8_t fx[512], memory[MEMORY];
} __attribute__((packed));

struct reply {
	int32_t vector;
	uint32_t eax, ecx, edx, eflags;
	uint32_t environment[7];
	uint8_t fx[512], memory[MEMORY];
} __attribute__((packed));

/* Reached by name from the code below. */
__attribute__((used)) uint8_t fx_in[512] __attribute__((aligned(16))), fx_out[512] __attribute__((aligned(16)));
__attribute__((used)) uint32_t eax, ecx, edx, ebx, eflags, saved_esp, environment[7];
__attribute__((used)) void (*volatile enter)(void) = (void (*)(void))CODE;
extern char after[];
static void *leave = after;
static volatile int vector;

static void handler(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	(void)sig, (void)info;
	vector = regs[REG_TRAPNO];
	regs[REG_EIP] = (greg_t)after;
}

__asm__(
	".text\nexecute:\n\t"
	"pushal\n\t"
	"movl %esp, saved_esp\n\t"
	"fxrstor fx_in\n\t"
	"movl eax, %eax; movl ecx, %ecx; movl edx, %edx; movl ebx, %ebx; movl ebx, %edi\n\t"
	"movl $0, %esi; movl $0, %ebp\n\t"
	"pushl eflags; popfl\n\t"
	"jmp *enter\n"
	"after:\n\t"
	"movl saved_esp, %esp\n\t" /* first: ESP may be the destination */
	"pushfl; popl eflags\n\t"
	"movl %eax, eax; movl %ecx, ecx; movl %edx, edx\n\t"
	"fxsave fx_out\n\t"
	"fnstenv environment\n\t"
	"fninit\n\t"
	"popal\n\t"
	"ret\n");
void execute(void);

int main(void)
{
	int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	uint8_t *code = mmap((void *)CODE, PAGE, prot | PROT_EXEC, flags, -1, 0);
	uint8_t *data = mmap((void *)DATA, PAGE, prot, flags, -1, 0);
	if (code == MAP_FAILED || data == MAP_FAILED) {
		perror("fpu");
		return 1;
	}
	uint8_t *memory = data + PAGE - MEMORY;
	static char stack[65536];
	sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof stack }, NULL);
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	static const int signals[] = { SIGSEGV, SIGILL, SIGTRAP, SIGBUS, SIGFPE };
	for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
		sigaction(signals[i], &action, NULL);

	static struct request in;
	static struct reply out;
	while (fread(&in, sizeof in, 1, stdin) == 1) {
		void **target = &leave;
		memcpy(code, in.code, in.length);
		memcpy(code + in.length, "\xff\x25", 2); /* jmp *target */
		memcpy(code + in.length + 2, &target, 4);
		memcpy(fx_in, in.fx, sizeof fx_in);
		memcpy(memory, in.memory, MEMORY);
		eax = in.eax, ecx = in.ecx, edx = in.edx, ebx = in.ebx, eflags = in.eflags;
		vector = -1;
		execute();
		uint32_t mxcsr = 0x1f80;
		__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
		out.vector = vector;
		out.eax = eax, out.ecx = ecx, out.edx = edx, out.eflags = eflags;
		memcpy(out.environment, environment, sizeof environment);
		memcpy(out.fx, fx_out, sizeof fx_out);
		memcpy(out.memory, memory, MEMORY);
		if (fwrite(&out, sizeof out, 1, stdout) != 1)
			return 1;
	}
	return 0;
}
