/* Virtual calls that always reach the same class. */
#define CLASSES 1
#define PASSES 600
#include "shapes.h"
