/* Five bodies in doubles on the x87 stack. */
#define REAL double
#define STEPS 9000
#include "nbody.h"
