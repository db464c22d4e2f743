/* Virtual calls among four classes in random order. */
#define CLASSES 4
#define PASSES 180
#include "shapes.h"
