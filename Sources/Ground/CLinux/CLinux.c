#include "CLinux.h"
void clinux_placeholder(void) {}
