/* The bytecode machine with one switch: a single indirect jump for all operations. */
#define START for (;;) switch (*pc++) {
#define OP(name) case name:
#define NEXT continue;
#define FINISH default: __builtin_unreachable(); }
#include "vm.h"
