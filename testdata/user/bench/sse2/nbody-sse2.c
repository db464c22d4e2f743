/* Five bodies in doubles in XMM registers. */
#define REAL double
#define STEPS 20000
#include "../x87/nbody.h"
