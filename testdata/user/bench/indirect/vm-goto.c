/* The bytecode machine with computed goto: an indirect jump at the end of every operation. */
#define START                                                                                                         \
    static const void *const labels[] = { &&PUSH_, &&ADD_, &&SUB_, &&MUL_, &&XOR_, &&SHR_, &&AND_, &&LOAD_,            \
                                          &&STORE_, &&GET_, &&SET_, &&LESS_, &&JUMP_, &&JUMPZ_, &&DUP_, &&HALT_ };     \
    NEXT
#define OP(name) name##_:
#define NEXT goto *labels[*pc++];
#define FINISH
#include "vm.h"
